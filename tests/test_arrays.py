"""What arrays a user may pass: any strides, any integers, read-only, unaligned; never cast, never changed."""

import numpy as np
import pytest
from support import bits, layer_problem, model_problem, run_layer

import pybptt


def fortran(a):
    return np.asfortranarray(a)


def every_second(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 77, dtype=a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def backwards(a):
    return a[::-1].copy()[::-1]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, dtype=np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


LAYOUTS = [fortran, every_second, backwards, read_only, unaligned]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_takes_any_layout(layout, tokens, dtype):
    p = layer_problem(7, 3, 5, 17, tokens=tokens, dtype=dtype)
    expected = bits(*run_layer(p))
    p.x, p.state, p.d_output, p.d_state = arrays = [layout(a) for a in (p.x, p.state, p.d_output, p.d_state)]
    before = bits(*arrays)
    assert bits(*run_layer(p)) == expected
    assert bits(*p.rnn(p.x, p.state)) == expected[:2]
    assert bits(*arrays) == before


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("last_only", [False, True])
def test_a_model_takes_any_layout(layout, loss, last_only):
    p = model_problem(7, 3, 5, 17, 9, tokens=False, loss=loss, last_only=last_only)
    expected = bits(*p.model.loss_and_grad(p.x, p.y, p.state))
    x, y, state = arrays = [layout(a) for a in (p.x, p.y, p.state)]
    before = bits(*arrays)
    assert bits(*p.model.loss_and_grad(x, y, state)) == expected
    assert bits(p.model.loss(x, y, state)[0]) == expected[:1]
    assert bits(*arrays) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bptt_takes_any_layout(layout):
    rng = np.random.default_rng(0)
    arguments = [*(rng.normal(size=s) for s in ((9, 5), (6, 9), (9, 9))), *rng.integers(5, size=(2, 20))]
    for truncate in (None, 3):
        expected = bits(*pybptt.bptt(*arguments, truncate))
        assert bits(*pybptt.bptt(*map(layout, arguments), truncate)) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_else_takes_any_layout(layout):
    rng = np.random.default_rng(0)
    lstm = pybptt.LSTM(3, 5, 2, dtype="float64", seed=0)
    x, mask, d_cells = (rng.normal(size=s) for s in ((7, 2, 3), (1, 7, 2, 5), (2, 7, 2, 5)))
    state = tuple(rng.normal(size=(2, 2, 2, 5)))

    def run(change):
        pair = tuple(map(change, state))
        output, last, tape = lstm.forward(
            change(x), pair, dropout_mask=change(mask), lengths=change(np.array([7, 4]))
        )
        return bits(output, *last), lstm.backward(tape, None, pair, d_cells=change(d_cells)).flat.tobytes()

    assert run(layout) == run(np.copy)
    b, c, a0 = rng.normal(size=(3, 4, 3)), rng.normal(size=(3, 4, 3)), rng.normal(size=(4, 3))
    scan, back = pybptt.recurrence.linear_scan, pybptt.recurrence.linear_scan_backward
    assert bits(scan(*map(layout, (b, c, a0)))) == bits(scan(b, c, a0))
    assert bits(*back(*map(layout, (b, c, b, a0)))) == bits(*back(b, c, b, a0))
    lstm.flat = layout(np.arange(lstm.flat.size) * 1.0)
    assert np.array_equal(lstm.flat, np.arange(lstm.flat.size))


@pytest.mark.parametrize("dtype", ["b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", ">i4", ">u2"])
def test_ids_may_be_any_integers(dtype):
    p = model_problem(7, 3, 5, 9, 6)
    expected = bits(*p.model.loss_and_grad(p.x, p.y), *p.model(p.x))
    x, y = p.x.astype(dtype), p.y.astype(dtype)
    assert bits(*p.model.loss_and_grad(x, y), *p.model(x)) == expected
    assert bits(*p.model.layer(x)) == bits(*p.model.layer(p.x))
    U, V, W = (p.model.parameters[name] for name in ("weight_ih_l0", "output.weight", "weight_hh_l0"))
    assert bits(*pybptt.bptt(U, V, W, x[:, 0], y[:, 0])) == bits(*pybptt.bptt(U, V, W, p.x[:, 0], p.y[:, 0]))


def test_a_repeated_row_may_be_a_broadcast():
    p = layer_problem(7, 3, 5, 9)
    row = p.x[:1, :1]
    p.x = np.broadcast_to(row, p.x.shape)
    found = bits(*run_layer(p))
    p.x = p.x.copy()
    assert found == bits(*run_layer(p))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_result_has_the_layers_dtype(dtype):
    p = layer_problem(4, 2, 3, 5, dtype=dtype)
    q = model_problem(4, 2, 3, 5, 6, dtype=dtype)
    output, last, g = run_layer(p)
    loss, q_g, q_last = q.model.loss_and_grad(q.x, q.y, hidden=True)
    logits, _ = q.model(q.x)
    ours = [output, last, g.flat, g.input, g.state, g.hidden]
    assert {a.dtype.name for a in (*ours, q_g.flat, q_g.state, q_g.hidden, q_last, logits)} == {dtype}
    assert type(loss) is type(q.model.loss(q.x, q.y)[0]) is float
    matrix = np.ones((3, 3), dtype=dtype)
    ids = np.array([0, 1, 2])
    assert {a.dtype.name for a in pybptt.bptt(matrix, matrix, matrix, ids, ids)} == {dtype}
