"""TBPTT(k1, k2) and clipping inside the recurrence: every cell against pybptt.reference, and identities."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from cell_support import FEW, PYTORCHS, parts, problem
from error_bounds import U
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, bits
from truncation_support import (
    CELLS,
    RAGGED,
    STYLES,
    T,
    assert_gradients,
    assert_same,
    backward,
    backward_by_reference,
    by_torch,
    loss_and_grad,
    loss_by_reference,
    model_problem,
)

import pybptt
from pybptt import TBPTT

FLAGS = (False, True)
CLIPS = (("norm", 0.7), ("value", 0.4))


def assert_layer(p, k1, k2, clip_hidden=None, **options):
    """A layer's gradients, dL/dh_t and d_cells included, against the reference's, window by window."""
    found = backward(p, TBPTT(k1, k2), clip_hidden)
    assert_same(found, backward_by_reference(p, k1, k2, clip_hidden=clip_hidden), **options)


def assert_model(p, k1, k2, clip_hidden=None, **options):
    """A model's loss, gradients and unreached targets against the reference's."""
    found = loss_and_grad(p, TBPTT(k1, k2), clip_hidden)
    assert_same(found, loss_by_reference(p, k1, k2, clip_hidden=clip_hidden), **options)


# ---- Against autograd and the reference -----------------------------------------------------------------


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize(("k1", "k2"), STYLES)
def test_agrees_with_autograd(torch, cell, k1, k2):
    """A layer against PyTorch's cells run window by window from detached states."""
    p = problem(cell, T, 4, 3, 9, 2, lengths=[13, 5, 0, 12], mask=True)
    assert_gradients(backward(p, TBPTT(k1, k2)).g, by_torch(torch, p, k1, k2).g)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize(("k1", "k2"), STYLES)
def test_every_style(cell, k1, k2):
    """Stacks of 1 to 3 layers, ragged or not, dense or tokens, with a dropout mask."""
    i = STYLES.index((k1, k2)) + FEW.index(cell)
    lengths = (None, RAGGED)[i // 2 % 2]
    p = problem(cell, T, len(RAGGED), 5, 9, 1 + i % 3, lengths=lengths, mask=True, tokens=i % 2 == 1)
    assert_layer(p, k1, k2)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in FEW])
def test_every_cell(cell):
    """Those that the test before left out, with clipped activations and without."""
    for (k1, k2), lengths in zip([(3, 7), (4, 4), (5, 2)], (RAGGED, None, RAGGED), strict=True):
        assert_layer(problem(cell, T, len(RAGGED), 3, 8, 2, lengths=lengths), k1, k2)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("last_only", FLAGS)
def test_models(loss, reduction, last_only):
    """Every style of truncation under both losses and reductions: loss, gradients, unreached."""
    for i, (k1, k2) in enumerate(STYLES):
        cell, lengths = FEW[i % len(FEW)], (None, RAGGED)[i // 2 % 2]
        options = {"loss": loss, "reduction": reduction, "last_only": last_only, "lengths": lengths}
        p = model_problem(cell, T, 9, 5, 7, 6, 1 + i % 2, tokens=i % 2 == 0, mask=True, **options)
        assert_model(p, k1, k2)


@pytest.mark.parametrize("B", [1, 2, 7, 8, 31, 33, 70])
def test_batches_and_widths(B):
    """Batches around slices and tiles, H around vectors and panels."""
    styles = itertools.cycle([(3, 7), (4, 4), (5, 2), (1, 6)])
    for cell, H, (k1, k2) in zip(itertools.cycle(FEW), (1, 7, 8, 15, 16, 17, 33), styles, strict=False):
        lengths = None if H % 2 else np.random.default_rng(B).integers(0, T + 1, size=B)
        assert_layer(problem(cell, T, B, 3, H, lengths=lengths), k1, k2)
        assert_model(model_problem(cell, T, B, 3, H, 5, 2, lengths=lengths, tokens=True), k1, k2)


SEVERAL_CHUNKS = [  # T, B, k1, k2, L
    (300, 7, 9, 20, 2),
    (300, 7, 40, 150, 1),  # windows of several chunks
    (140, 20, 10, 10, 2),
    (300, 9, 50, 33, 1),
    (700, 3, 101, 250, 1),
]


@pytest.mark.parametrize(("T", "B", "k1", "k2", "L"), SEVERAL_CHUNKS)
@pytest.mark.parametrize("ragged", FLAGS)
def test_several_chunks_of_time(T, B, k1, k2, L, ragged):
    """More than 512 rows, so that windows go on from one chunk to the next."""
    lengths = np.random.default_rng(T).integers(0, T + 1, size=B) if ragged else None
    cell = FEW[(k1 + ragged) % len(FEW)]
    assert_layer(problem(cell, T, B, 3, 5, L, lengths=lengths, mask=True), k1, k2, tolerance=1e-11)
    assert_model(model_problem(cell, T, B, 9, 5, 4, L, lengths=lengths, tokens=True), k1, k2, tolerance=1e-11)


@pytest.mark.parametrize("cell", ["lstm-peephole", "gru-before"])
def test_more_windows_than_the_cache_holds(cell):
    """Copies of the batch taken some at a time: more than 384 kB of dz for all of them."""
    p = problem(cell, 34, 16, 3, 100, 2, lengths=np.random.default_rng(0).integers(0, 35, size=16))
    assert 34 / 2 * 16 * 300 * 8 > 384 << 10
    assert_layer(p, 2, 30)


sizes = st.integers(1, 20)


@settings(max_examples=100)
@given(
    cell=st.sampled_from(FEW), T=st.integers(0, 14), B=st.integers(0, 10), D=st.integers(1, 9), H=sizes,
    L=st.integers(1, 3), k1=st.integers(1, 16), k2=st.integers(1, 16), data=st.data(),
)  # fmt: skip
def test_any_sizes(cell, T, B, D, H, L, k1, k2, data):
    """Random shapes, windows and lengths; layer and model."""
    lengths = data.draw(st.none() | st.lists(st.integers(0, T), min_size=B, max_size=B))
    tokens, mask, last_only = (data.draw(st.booleans()) for _ in range(3))
    clip = data.draw(st.none() | st.sampled_from(CLIPS))
    options = {"lengths": lengths, "tokens": tokens, "mask": mask}
    assert_layer(problem(cell, T, B, D, H, L, **options), k1, k2, clip, floor=1e-3)
    p = model_problem(cell, T, B, D, H, 3, L, last_only=last_only and T > 0, **options)
    assert_model(p, k1, k2, clip, floor=1e-3)


@pytest.mark.parametrize("last_only", FLAGS)
def test_unreached_targets(last_only):
    """TBPTT(5, 2) of 13 steps reaches 4, 5, 9, 10, 12, 13; the others are in no gradient, nor in the loss."""
    p = model_problem("gru", 13, 1, 3, 4, 5, reduction="sum", last_only=last_only)
    _, g, _ = p.model.loss_and_grad(p.x, p.y, p.state, truncation=TBPTT(5, 2))
    assert g.unreached == (0 if last_only else 7)
    assert p.model.loss_and_grad(p.x, p.y, p.state)[1].unreached == 0
    if last_only:
        return
    reached = np.isin(np.arange(1, 14), [4, 5, 9, 10, 12, 13])
    loss, g, _ = p.model.loss_and_grad(p.x, p.y, p.state, truncation=TBPTT(5, 2), hidden=True, input=True)
    assert_close(g.hidden[0][~reached & (np.arange(1, 14) != 11)], np.zeros((6, 1, 4)))
    alone = [p.model.loss_and_grad(p.x[: t + 1], p.y[: t + 1], p.state)[0] for t in range(13)]
    assert_close(loss, np.diff([0, *alone])[reached].sum())
    p.y[~reached] = (p.y[~reached] + 1) % 5
    other = p.model.loss_and_grad(p.x, p.y, p.state, truncation=TBPTT(5, 2), hidden=True, input=True)
    assert bits(loss, g) == bits(other[0], other[1])


def test_nothing_passes_where_a_window_begins():
    """Not even an infinity: the loss of step 3 alone, of which 0 times W_hh's infinities would make NaN."""
    rnn = pybptt.RNN(1, 2, nonlinearity="identity", dtype="float64", seed=0)
    rnn.parameters["weight_hh_l0"][...] = np.inf
    output, _, tape = rnn.forward(np.ones((4, 1, 1)), np.ones((1, 1, 2)))
    d_output = np.ones_like(output)
    for truncation, hidden in ((TBPTT(1, 1), [1, 1, 1, 1]), (TBPTT(2, 1), [0, 1, 0, 1])):
        g = rnn.backward(tape, d_output, truncation=truncation, hidden=True)
        np.testing.assert_array_equal(g.hidden[0, :, 0], np.transpose([hidden, hidden]))


# ---- Identities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
def test_whole_windows_are_the_full_gradient(cell, lengths):
    """TBPTT(T, T) to the last bit; TBPTT(1, T), which adds up in another order, to 1e-12."""
    p = model_problem(cell, T, 9, 5, 9, 6, 2, lengths=lengths)
    full = loss_and_grad(p)
    for k in (T, T + 1, 1000):
        same = loss_and_grad(p, TBPTT(k, k))
        assert bits(same.output, same.g, same.state) == bits(full.output, full.g, full.state)
    for k1 in (1, 2, T - 1):
        assert_same(loss_and_grad(p, TBPTT(k1, T)), full)
        assert_same(loss_and_grad(p, TBPTT(k1, 2**62)), full)


@pytest.mark.parametrize("cell", FEW)
def test_blocks(cell):
    """TBPTT(k, k) is separate calls for blocks of k steps, each from the state that the last one returned."""
    k, blocks, options = 4, 3, {"reduction": "sum"}
    p = model_problem(cell, k * blocks, 9, 5, 9, 6, 2, **options)
    found = loss_and_grad(p, TBPTT(k, k))
    state, loss, flat, hidden, first = p.state, 0.0, 0.0, [], None
    for i in range(blocks):
        block = slice(i * k, (i + 1) * k)
        value, g, state = p.model.loss_and_grad(p.x[block], p.y[block], state, hidden=True)
        loss, flat = loss + value, flat + g.flat
        hidden.append(g.hidden)
        first = g.state if i == 0 else first
    assert_close(found.output, loss)
    assert_close(found.g.flat, flat)
    assert_close(found.g.hidden, np.concatenate(hidden, axis=1))
    for a, b in zip(parts(found.g.state), parts(first), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("truncate", [0, 1, 4, 11, 12, 40])
def test_the_textbooks_truncation(truncate):
    """TBPTT(1, k + 1) is pybptt.bptt(bptt_truncate=k)."""
    p = model_problem("rnn", T, 1, 5, 9, 6, tokens=True, reduction="sum", bias=False)
    p.model.parameters["output.bias"][...] = 0
    _, g, _ = p.model.loss_and_grad(p.x, p.y, truncation=TBPTT(1, truncate + 1))
    names = ("weight_ih_l0", "output.weight", "weight_hh_l0")
    weights = [p.model.parameters[name] for name in names]
    found = pybptt.bptt(*weights, p.x[:, 0], p.y[:, 0], bptt_truncate=truncate)
    for name, dW in zip(names, found, strict=True):
        assert_close(g.parameters[name], dW)


@pytest.mark.parametrize(("k1", "k2"), [(3, 7), (4, 4), (5, 2)])
@pytest.mark.parametrize("cell", FEW)
def test_linear_in_the_upstream_gradient(cell, k1, k2):
    """The gradients for 2 a - 3 b, where a and b are each d_output, d_state and d_cells."""
    p, q = (problem(cell, T, 9, 3, 9, 2, lengths=RAGGED, seed=seed) for seed in (0, 1))
    both = SimpleNamespace(**vars(p))
    alone = []
    for r in (p, q):
        r = SimpleNamespace(**vars(p) | {n: getattr(r, n) for n in ("d_output", "d_state", "d_cells")})
        alone.append(backward(r, TBPTT(k1, k2)).g)
    both.d_output = 2 * p.d_output - 3 * q.d_output
    both.d_state = tuple(2 * a - 3 * b for a, b in zip(parts(p.d_state), parts(q.d_state), strict=True))
    both.d_state = both.d_state if isinstance(p.d_state, tuple) else both.d_state[0]
    both.d_cells = None if p.d_cells is None else 2 * p.d_cells - 3 * q.d_cells
    found = backward(both, TBPTT(k1, k2)).g
    assert_close(found.flat, 2 * alone[0].flat - 3 * alone[1].flat)
    assert_close(found.hidden, 2 * alone[0].hidden - 3 * alone[1].hidden)
    assert_close(found.input, 2 * alone[0].input - 3 * alone[1].input)


def test_a_batch_first_layer():
    """The same arrays with the axes swapped, to the last bit."""
    p = problem("gru", T, 9, 3, 9, 2, lengths=RAGGED)
    q = problem("gru", T, 9, 3, 9, 2, lengths=RAGGED, batch_first=True)
    q.x, q.d_output = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (q.x, q.d_output))
    for k1, k2 in ((3, 7), (5, 2)):
        expected, found = backward(p, TBPTT(k1, k2)).g, backward(q, TBPTT(k1, k2)).g
        assert bits(found.flat, found.state, found.hidden) == bits(
            expected.flat, expected.state, expected.hidden
        )
        assert bits(found.input.swapaxes(0, 1)) == bits(expected.input)


# ---- float32, threads -----------------------------------------------------------------------------------


def in_float32(p, seed):
    """The same problem rounded to float32, and that one in float64 again."""
    q = problem(*p[0], **p[1], dtype="float32", seed=seed)
    r = problem(*p[0], **p[1], seed=seed)
    r.layer.flat = q.layer.flat.astype(np.float64)
    for name in ("x", "state", "d_output", "d_state", "d_cells"):
        value = getattr(q, name)
        if isinstance(value, tuple):
            setattr(r, name, tuple(part.astype(np.float64) for part in value))
        elif value is not None:
            setattr(r, name, value.astype(np.float64))
    return q, r


@pytest.mark.parametrize("cell", ["rnn", "lstm-peephole-coupled", "lstm-projected", "gru", "gru-before"])
@pytest.mark.parametrize(("k1", "k2"), [(7, 16), (8, 8), (9, 4), (1, 5)])
def test_float32(cell, k1, k2):
    """Against float64: a root mean square error of at most 10 sqrt(n) 2^-24, n the terms of the longest sum.

    These are T B rows for each of the windows over a step, and the products before them.
    """
    T, B, D, H = 60, 8, 5, 33
    single, double = in_float32(((cell, T, B, D, H, 2), {}), seed=1)
    for p in (single, double):
        for name, parameter in p.layer.parameters.items():
            parameter *= np.float32(0.3 if "weight_hh" in name else 1)  # so that errors die away
    n = T * B * -(-k2 // k1) + 2 * (4 * H + D)
    found, expected = (backward(p, TBPTT(k1, k2)).g for p in (single, double))
    for name in ("flat", "input", "hidden"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == np.float32
        error, size = (np.sqrt(np.mean(np.square(v))) for v in (a - b, b))
        assert error <= 10 * np.sqrt(n) * U * size, name
        assert error > 0


THREADED = {
    "rows": ("rnn", 40, 48, 17, 64),
    "rows, ragged": ("gru", 24, 48, 17, 40),
    "a stack": ("lstm-peephole", 20, 32, 20, 33, 2),
    "columns": ("rnn", 30, 1, 33, 320),
    "columns of a few": ("lstm", 24, 5, 20, 136),
    "columns, ragged stack": ("gru-before", 14, 3, 20, 150, 2),
    "columns, ragged stack, projected": ("lstm-projected", 14, 3, 20, 150, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", THREADED)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, set_threads):
    """Of layer and model; overlapping windows taken all at once or some at a time, blocks, norms of rows."""
    cell, T, B, *sizes = THREADED[name]
    lengths = np.random.default_rng(1).integers(0, T + 1, size=B) if "ragged" in name else None
    p = problem(cell, T, B, *sizes, lengths=lengths, dtype=dtype)
    q = model_problem(cell, T, B, *sizes[:2], 30, *sizes[2:], lengths=lengths, tokens=True, dtype=dtype)

    def compute():
        found = []
        for k1, k2, clip in ((1, 12, None), (4, 10, CLIPS[0]), (5, 5, CLIPS[0]), (7, 3, CLIPS[1])):
            r = backward(p, TBPTT(k1, k2), clip)
            found += bits(r.g)
            r = loss_and_grad(q, TBPTT(k1, k2), clip)
            found += bits(r.output, r.g)
        return found

    set_threads(1)
    expected = compute()
    for threads in (2, 3, 7) if dtype == "float32" else (2,):
        set_threads(threads)
        assert compute() == expected


# ---- Clipping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_hidden", CLIPS, ids=["norm", "value"])
@pytest.mark.parametrize("cell", FEW)
def test_clipping_inside_the_recurrence(cell, clip_hidden):
    """Without truncation, of both directions too, and with it: against the reference, layer and model."""
    for (L, K), lengths in zip([(1, 1), (2, 1), (2, 2)], (None, RAGGED, RAGGED), strict=True):
        p = problem(cell, T, 9, 3, 9, L, K, lengths=lengths, mask=True)
        found = backward(p, None, clip_hidden)
        assert_same(found, backward_by_reference(p, clip_hidden=clip_hidden))
        assert not np.allclose(found.g.hidden, backward(p).g.hidden, rtol=1e-3)
        h = found.g.hidden
        largest = np.sqrt((h**2).sum(axis=-1)) if clip_hidden[0] == "norm" else np.abs(h)
        assert_close(largest.max(), clip_hidden[1])
        q = model_problem(cell, T, 9, 3, 9, 4, L, K, lengths=lengths, reduction="sum")
        assert_same(loss_and_grad(q, None, clip_hidden), loss_by_reference(q, clip_hidden=clip_hidden))
        for k1, k2 in [(3, 7), (4, 4), (5, 2)] if K == 1 else []:
            assert_layer(p, k1, k2, clip_hidden)
            assert_model(q, k1, k2, clip_hidden)


@pytest.mark.parametrize("clip_hidden", CLIPS, ids=["norm", "value"])
@pytest.mark.parametrize(("k1", "k2"), [(1, 13), (4, 13), (3, 20), (12, 12)])
def test_every_window_is_clipped_by_itself(clip_hidden, k1, k2):
    """Also where each reaches step 1, so that without clipping TBPTT(k1, k2) would be the full gradient."""
    for lengths in (None, RAGGED):
        assert_layer(problem("rnn", T, 9, 3, 9, 2, lengths=lengths), k1, k2, clip_hidden)


@pytest.mark.parametrize("k2", [2**63, 2**64 - 1, 10**30])
def test_any_k2_beyond_the_end_is_the_same(k2):
    """To the last bit, clipped or not, whatever the core's integers hold."""
    p = problem("rnn", T, 9, 3, 9)
    for clip_hidden in (None, *CLIPS):
        expected = bits(backward(p, TBPTT(1, T), clip_hidden).g)
        assert bits(backward(p, TBPTT(1, k2), clip_hidden).g) == expected


@pytest.mark.parametrize("kind", ["norm", "value"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_limit_does_not_clip(kind, dtype):
    """To the last bit."""
    p = problem("lstm", T, 9, 3, 9, 2, dtype=dtype)
    for truncation in (None, TBPTT(3, 7), TBPTT(4, 4)):
        expected = bits(backward(p, truncation).g)
        for limit in (1e30, 1e300, np.inf):
            assert bits(backward(p, truncation, (kind, limit)).g) == expected


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_norm_of_tiny_and_huge_derivatives(scale):
    """Their squares are beyond float32; the loss and the limit scaled alike, the gradients are."""
    rnn = pybptt.RNN(3, 9, seed=0)
    rng = np.random.default_rng(0)
    output, _, tape = rnn.forward(rng.normal(size=(5, 2, 3)).astype(np.float32))
    d_output = rng.normal(size=output.shape).astype(np.float32)
    expected = rnn.backward(tape, d_output, clip_hidden=("norm", 1.0)).flat
    found = rnn.backward(tape, d_output * np.float32(scale), clip_hidden=("norm", scale)).flat
    assert_close(found / np.float32(scale), expected, 1e-5)


def test_clip_by_value():
    """Entries alone, a copy, of the same dtype; NaN and infinities as numpy.clip has them."""
    g = np.array([[3.0, -0.5], [-4.0, np.nan], [np.inf, -np.inf]], dtype=np.float32)
    before = g.copy()
    found = pybptt.clip_by_value(g, 0.75)
    expected = np.array([[0.75, -0.5], [-0.75, np.nan], [0.75, -0.75]], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(g, before)
    for dtype in (np.float32, np.float64):
        flat = np.random.default_rng(0).normal(size=100).astype(dtype)
        assert bits(pybptt.clip_by_value(flat, 0.3)) == bits(np.clip(flat, dtype(-0.3), dtype(0.3)))
        assert bits(pybptt.clip_by_value(flat, np.inf)) == bits(flat)
        assert bits(pybptt.clip_by_value(flat, 1e300)) == bits(flat)
    assert pybptt.clip_by_value(np.zeros((0,)), 1.0).shape == (0,)
    assert "clip_by_value" in pybptt.__all__


# ---- Errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_limits_that_are_none(limit, error):
    with pytest.raises(error, match="limit: expected a positive number, got"):
        pybptt.clip_by_value(np.zeros(3), limit)
    p = model_problem("rnn", 3, 2, 3, 4, 5)
    for kind in ("norm", "value"):
        for run in (backward, loss_and_grad):
            with pytest.raises(error, match="clip_hidden: expected a positive limit, got"):
                run(p, None, (kind, limit))


@pytest.mark.parametrize("flat", [[1.0, 2.0], np.arange(3), None])
def test_a_gradient_that_is_none(flat):
    with pytest.raises(TypeError, match="gradient: expected a numpy array of floating-point numbers, got"):
        pybptt.clip_by_value(flat, 1.0)


@pytest.mark.parametrize(
    ("clip_hidden", "error"),
    [
        (("max", 1.0), ValueError),
        ((1, 1.0), (TypeError, ValueError)),
        (("norm",), (TypeError, ValueError)),
        (("norm", 1.0, 2.0), (TypeError, ValueError)),
        ("norm", (TypeError, ValueError)),
        (1.0, TypeError),
        ({"norm": 1.0}, TypeError),
    ],
)
@pytest.mark.parametrize("run", [backward, loss_and_grad])
def test_clip_hidden_that_is_wrong(run, clip_hidden, error):
    with pytest.raises(
        error, match=r"clip_hidden: expected None, \('norm', limit\) or \('value', limit\), got"
    ):
        run(model_problem("rnn", 3, 2, 3, 4, 5), None, clip_hidden)


@pytest.mark.parametrize("name", ["k1", "k2"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-3, ValueError),
        (1.0, TypeError),
        ("2", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_windows_that_are_wrong(name, value, error):
    with pytest.raises(error, match=f"{name}: expected"):
        TBPTT(**{"k1": 1, "k2": 1} | {name: value})
    assert TBPTT(np.int64(3), k2=np.uint8(4)) == TBPTT(3, 4) != TBPTT(4, 3)
    assert (repr(TBPTT(3, 4)), hash(TBPTT(3, 4))) == ("TBPTT(3, 4)", hash(TBPTT(3, 4)))


@pytest.mark.parametrize("run", [backward, loss_and_grad])
def test_truncation_that_is_wrong(run):
    """Before any work, with the argument's name; two directions have no order in time."""
    p = model_problem("gru", 3, 2, 3, 4, 5)
    for wrong in ((1, 2), 5, "full", TBPTT):
        with pytest.raises(
            TypeError, match="truncation: expected TBPTT, RandomTruncation, ARTBP or None, got"
        ):
            run(p, wrong)
    p = model_problem("gru", 3, 2, 3, 4, 5, 1, 2)
    for truncation in (TBPTT(1, 2), TBPTT(3, 3), pybptt.RandomTruncation(0.5), pybptt.ARTBP(0.5)):
        with pytest.raises(
            ValueError, match="truncation: expected layers of one direction, got bidirectional"
        ):
            run(p, truncation)
