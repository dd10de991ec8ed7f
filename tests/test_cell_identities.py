"""What must hold for every cell whatever the figures: linearity, adjoints, sequences alone and cut in two."""

import numpy as np
import pytest
from cell_support import (
    EVERY,
    FEW,
    FLAGS,
    PYTORCHS,
    backward,
    forward,
    parts,
    problem,
    run,
    state_size,
    torch_layer,
)
from support import assert_close, bits

SHAPES = [(9, 5, 7, 13, 1, 1), (20, 18, 3, 17, 2, 2), (600, 1, 4, 9, 1, 1)]
RAGGED = [7, 0, 9, 9, 2]


def mixed(p, q, a, b):
    """a p + b q, of arrays or pairs of them."""
    found = tuple(a * x + b * y for x, y in zip(parts(p), parts(q), strict=True))
    return found if isinstance(p, tuple) else found[0]


def cut(p, steps=slice(None), batch=slice(None)):
    """A part of a problem, with the same layer."""
    q = problem("rnn", 1, 1, 1, 1)
    vars(q).update(vars(p), x=p.x[steps, batch], d_output=p.d_output[steps, batch])
    for name in ("state", "d_state"):
        found = tuple(part[:, batch] for part in parts(getattr(p, name)))
        setattr(q, name, found if p.d_cells is not None else found[0])
    if p.d_cells is not None:
        q.d_cells = p.d_cells[:, steps, batch]
    return q


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_linear_in_the_upstream_gradient(cell, shape):
    p, q = (problem(cell, *shape, seed=seed, mask=True) for seed in (0, 1))
    _, _, tape = forward(p)

    def swept(a, b):
        options = {} if p.d_cells is None else {"d_cells": mixed(p.d_cells, q.d_cells, a, b)}
        d_output, d_state = (mixed(getattr(p, n), getattr(q, n), a, b) for n in ("d_output", "d_state"))
        g = p.layer.backward(tape, d_output, d_state, hidden=True, **options)
        return g.flat, g.input, *parts(g.state), g.hidden

    for sum_, first, second in zip(swept(0.3, -1.7), swept(1, 0), swept(0, 1), strict=True):
        assert_close(sum_, 0.3 * first - 1.7 * second)
    for doubled, once in zip(swept(2, 0), swept(1, 0), strict=True):
        assert bits(doubled) == bits(2 * once)  # a power of two commutes with every rounding


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("tokens", FLAGS)
def test_a_batch_is_its_rows_alone(cell, L, K, tokens):
    p = problem(cell, 9, 18, 4, 13, L, K, tokens=tokens)
    whole, flat = run(p), 0
    for b in range(18):
        alone = run(cut(p, batch=slice(b, b + 1)))
        pairs = [(alone.output[:, 0], whole.output[:, b]), (alone.g.hidden[:, :, 0], whole.g.hidden[:, :, b])]
        for one, all_ in ((alone.state, whole.state), (alone.g.state, whole.g.state)):
            pairs += [(a[:, 0], w[:, b]) for a, w in zip(parts(one), parts(all_), strict=True)]
        if not tokens:
            pairs.append((alone.g.input[:, 0], whole.g.input[:, b]))
        if p.d_cells is not None:
            pairs.append((alone.cells[:, :, 0], whole.cells[:, :, b]))
        for found, expected in pairs:
            assert_close(found, expected)
        flat = flat + alone.g.flat
    assert_close(flat, whole.g.flat)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("T", "B", "at"), [(9, 4, 1), (9, 4, 9), (600, 1, 300), (600, 1, 512), (40, 20, 7)])
@pytest.mark.parametrize("L", [1, 2])
def test_a_sequence_cut_in_two_is_the_whole(cell, T, B, at, L):
    """Forward the state is carried on, backward its derivative."""
    p = problem(cell, T, B, 3, 6, L)
    whole = run(p)
    first, second = cut(p, slice(at)), cut(p, slice(at, None))
    output_1, second.state, tape_1 = forward(first)
    output_2, last, tape_2 = forward(second)
    assert_close(np.concatenate([output_1, output_2]), whole.output)
    g_2 = backward(second, tape_2)
    first.d_state = g_2.state
    g_1 = backward(first, tape_1)
    for found, expected in ((last, whole.state), (g_1.state, whole.g.state)):
        for a, b in zip(parts(found), parts(expected), strict=True):
            assert_close(a, b)
    assert_close(g_1.flat + g_2.flat, whole.g.flat)
    assert_close(np.concatenate([g_1.input, g_2.input]), whole.g.input)
    assert_close(np.concatenate([g_1.hidden, g_2.hidden], axis=1), whole.g.hidden)
    if p.d_cells is not None:
        assert_close(np.concatenate([tape_1.cells, tape_2.cells], axis=1), whole.cells)


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
def test_backward_is_the_adjoint_of_the_jacobian(torch, cell, L, K, lengths):
    """<J v, u> = <v, J^T u>: J v by PyTorch, J^T u by backward, v in the direction of all arguments."""
    p, v = (problem(cell, 9, 5, 4, 9, L, K, seed=seed, lengths=lengths) for seed in (0, 1))

    def network(x, *rest):
        state, parameters = rest[: len(parts(p.state))], rest[len(parts(p.state)) :]
        named = dict(zip(p.layer.parameters, parameters, strict=True))
        output, last = torch_layer(torch, p.layer, named, x, state, lengths)
        return output, *last

    def tensors(q):
        return tuple(map(torch.tensor, (q.x, *parts(q.state), *q.layer.parameters.values())))

    _, ends = torch.autograd.functional.jvp(network, tensors(p), tensors(v))
    upstream = (p.d_output, *parts(p.d_state))
    there = sum((end.numpy() * d).sum() for end, d in zip(ends, upstream, strict=True))
    _, _, tape = forward(p)
    g = p.layer.backward(tape, p.d_output, p.d_state)
    arguments = zip((g.input, g.flat, *parts(g.state)), (v.x, v.layer.flat, *parts(v.state)), strict=True)
    terms = [a * b for a, b in arguments]
    assert abs(there - sum(t.sum() for t in terms)) <= 1e-14 * sum(np.abs(t).sum() for t in terms)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (3, 2)])
def test_backward_is_the_derivative_in_any_direction(cell, L, K):
    """<J v, u> by a difference of two runs; all arguments move at once."""
    p, v = (problem(cell, 9, 5, 4, 9, L, K, seed=seed, lengths=RAGGED, mask=True) for seed in (0, 1))
    p.mask = v.mask
    step, x, state, flat = 1e-6, p.x, p.state, p.layer.flat.copy()
    ends = []
    for h in (step, -step):
        p.x, p.state, p.layer.flat = x + h * v.x, mixed(state, v.state, 1, h), flat + h * v.layer.flat
        output, last, tape = forward(p)
        ends.append([output, *parts(last), *([] if tape.cells is None else [tape.cells])])
    p.x, p.state, p.layer.flat = x, state, flat
    upstream = [p.d_output, *parts(p.d_state), *([] if p.d_cells is None else [p.d_cells])]
    there = sum(((a - b) * u).sum() for a, b, u in zip(*ends, upstream, strict=True)) / (2 * step)
    g = run(p).g
    terms = [g.input * v.x, g.flat * v.layer.flat]
    terms += [a * b for a, b in zip(parts(g.state), parts(v.state), strict=True)]
    assert abs(there - sum(t.sum() for t in terms)) <= 1e-7 * sum(np.abs(t).sum() for t in terms)


@pytest.mark.parametrize("cell", FEW)
def test_units_may_change_places(cell):
    """Those of c_t, and those of h_t, which are the same ones unless there is a projection."""
    p = problem(cell, 6, 3, 4, 19)
    first = run(p)
    P = state_size(p.layer)
    order = np.random.default_rng(0).permutation(19)
    of_h = order if P == 19 else np.random.default_rng(1).permutation(P)
    gates = len(p.layer.parameters["weight_hh_l0"]) // 19
    rows = np.concatenate([g * 19 + order for g in range(gates)])

    def moved(name, w):
        if "peephole" in name:
            return w[:, order]
        if "weight_hr" in name:
            return w[of_h][:, order]
        return w[rows][:, of_h] if "weight_hh" in name else w[rows]

    for name, w in p.layer.parameters.items():
        w[...] = moved(name, w)
    p.d_output = p.d_output[..., of_h]
    for name in ("state", "d_state"):
        found = tuple(part[..., o] for part, o in zip(parts(getattr(p, name)), (of_h, order), strict=False))
        setattr(p, name, found if p.d_cells is not None else found[0])
    if p.d_cells is not None:
        p.d_cells = p.d_cells[..., order]
    second = run(p)
    assert_close(second.output, first.output[..., of_h])
    assert_close(second.g.input, first.g.input)
    assert_close(second.g.hidden, first.g.hidden[..., of_h])
    for name, gradient in second.g.parameters.items():
        assert_close(gradient, moved(name, first.g.parameters[name]))


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("K", [1, 2])
def test_tokens_are_one_hot_vectors(cell, K):
    p = problem(cell, 40, 16, 12, 9, 1, K, tokens=True)
    p.x %= 10
    tokens = run(p)
    p.x = np.eye(12)[p.x]
    dense = run(p)
    assert_close(tokens.output, dense.output)
    assert_close(tokens.g.hidden, dense.g.hidden)
    for a, b in zip(parts(tokens.g.state), parts(dense.g.state), strict=True):
        assert_close(a, b)
    for name, gradient in dense.g.parameters.items():
        assert_close(tokens.g.parameters[name], gradient)
    assert not tokens.g.parameters["weight_ih_l0"][:, 10:].any()


@pytest.mark.parametrize("cell", EVERY)
def test_steps_after_the_last_loss_are_inert(cell):
    p = problem(cell, 30, 3, 4, 9)
    p.d_output[17:] = 0
    if p.d_cells is not None:
        p.d_cells[:, 17:] = 0
    p.d_state = mixed(p.d_state, p.d_state, 0, 0)
    g = run(p).g
    short = run(cut(p, slice(17))).g
    assert_close(g.flat, short.flat)
    assert_close(g.hidden[:, :17], short.hidden)
    assert_close(g.input[:17], short.input)
    assert not g.hidden[:, 17:].any()
    assert not g.input[17:].any()


@pytest.mark.parametrize("cell", EVERY)
def test_losses_add_up(cell):
    """The gradient of all losses is the sum of the gradients of each alone; none reaches steps after it."""
    p = problem(cell, 8, 3, 4, 9, 2)
    _, _, tape = forward(p)
    flat = p.layer.backward(tape, None, p.d_state).flat
    for t in range(8):
        alone = {"d_output": np.zeros_like(p.d_output)}
        alone["d_output"][t] = p.d_output[t]
        if p.d_cells is not None:
            alone["d_cells"] = np.zeros_like(p.d_cells)
            alone["d_cells"][:, t] = p.d_cells[:, t]
        g = p.layer.backward(tape, **alone, hidden=True)
        assert not g.hidden[:, t + 1 :].any()
        assert not g.input[t + 1 :].any()
        flat = flat + g.flat
    assert_close(flat, backward(p, tape).flat)


def test_the_bias_of_an_lstm_acts_through_either_of_its_names():
    """b_ih and b_hh are added: equal gradients. Not so for n of a GRU that resets after the product."""
    for cell in FEW:
        g = run(problem(cell, 6, 5, 4, 9, 2, 2)).g.parameters
        for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
            same = slice(18) if cell == "gru" else slice(None)
            assert bits(g["bias_ih" + end][same]) == bits(g["bias_hh" + end][same])
            assert cell != "gru" or np.abs(g["bias_ih" + end][18:] - g["bias_hh" + end][18:]).max() > 1e-3


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_that_are_shut_carry_the_state(kind):
    """An LSTM that forgets and takes nothing, a GRU with z = 1: c_0 or h_0 lasts, and so do gradients."""
    p = problem(kind.lower(), 50, 3, 4, 9)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        bias = p.layer.parameters[name].reshape(-1, 9)
        bias[...] = [[-1e3], [1e3], [0], [0]] if kind == "LSTM" else [[0], [1e3], [0]]
    found = run(p)
    assert_close(parts(found.state)[-1], parts(p.state)[-1])
    if kind == "GRU":
        assert_close(found.output[20], p.state[0])
        assert_close(found.g.state[0], p.d_output.sum(axis=0) + p.d_state[0])
    else:
        g = p.layer.backward(forward(p)[2], None, (p.d_state[0] * 0, p.d_state[1]), d_cells=p.d_cells)
        assert_close(g.state[1], p.d_state[1] + p.d_cells.sum(axis=1))
