"""One layer of every cell, against PyTorch's float64 autograd, pybptt.reference and finite differences."""

import numpy as np
import pytest
from cell_support import (
    CELLS,
    EVERY,
    FEW,
    FLAGS,
    PYTORCHS,
    assert_differences,
    assert_same,
    backward,
    by_reference,
    by_torch,
    forward,
    parts,
    problem,
    run,
    state_size,
    torch_cells,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import assert_close, bits

import pybptt

MODULES_LACK = ("hidden", "cells")
# Time is cut into chunks of 128 to 512 rows (T B): one row less, that many, one more, several, a short last
# one; a batch of 8 and more into slices: two, of unequal size, three, the most that there may be.
CUTS = [(127, 1), (128, 1), (129, 1), (513, 1), (1100, 1), (200, 3), (130, 8), (5, 7), (5, 15), (20, 17),
        (9, 64), (6, 97), (3, 513), (2, 545)]  # fmt: skip


# ---- PyTorch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("with_state", FLAGS)
def test_agrees_with_autograd(torch, cell, bias, tokens, with_state):
    p = problem(cell, 9, 5, 7, 13, bias=bias, tokens=tokens)
    if not with_state:
        p.state = None
    if p.d_cells is not None:
        p.d_cells[...] = 0  # the modules don't return c_t
    d_output, d_state = p.d_output, p.d_state
    for p.d_output, p.d_state in ((d_output, None), (None, d_state), (d_output, d_state)):
        assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


@pytest.mark.parametrize("cell", PYTORCHS[:1] + PYTORCHS[2:])
@pytest.mark.parametrize("tokens", FLAGS)
def test_hidden_and_cells_are_what_autograd_retains(torch, cell, tokens):
    """dL/dh_t, c_t, and losses by c_t, with PyTorch's cells in a loop."""
    p = problem(cell, 8, 3, 4, 9, tokens=tokens)
    assert_same(run(p), torch_cells(torch, p))


@pytest.mark.parametrize(("T", "B"), CUTS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, cell, T, B, tokens):
    p = problem(cell, T, B, 3, 5, tokens=tokens)
    assert_same(run(p), torch_cells(torch, p))


@pytest.mark.parametrize(("D", "H"), [(1, 1), (16, 32), (65, 100), (200, 129), (150, 33), (120, 300)])
@pytest.mark.parametrize("B", [1, 4, 13, 32])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_agrees_with_autograd_for_larger_layers(torch, cell, D, H, B):
    p = problem(cell, 6, B, D, H)
    assert_same(run(p), torch_cells(torch, p))


# ---- The reference --------------------------------------------------------------------------------------

# A panel is 8 or 16 columns, a tile up to 12 rows: each of them, one less, one more; primes; nothing.
SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33])
SIZES_WITH_0 = st.one_of(st.sampled_from([0, 1, 2]), SIZES)


@settings(max_examples=300)
@given(T=SIZES_WITH_0, B=SIZES_WITH_0, D=SIZES, H=SIZES, tokens=st.booleans(), bias=st.booleans(),
       cell=st.sampled_from(sorted(EVERY)), K=st.sampled_from([1, 2]), seed=st.integers(0, 1000))  # fmt: skip
@example(T=17, B=33, D=9, H=17, tokens=False, bias=True, cell="gru-before", K=1, seed=0)
@example(T=17, B=33, D=9, H=17, tokens=False, bias=True, cell="lstm-peephole-coupled-clip", K=2, seed=0)
def test_agrees_with_the_reference_for_any_shape(T, B, D, H, tokens, bias, cell, K, seed):
    p = problem(cell, T, B, D, H, K=K, tokens=tokens, bias=bias, seed=seed)
    assert_same(run(p), by_reference(p), floor=1.0)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_the_reference(cell, tokens):
    """Relative to what there is, not to 1; with weights so large that gates open, close and are clipped."""
    p = problem(cell, 11, 12, 5, 17, tokens=tokens)
    scale = 1.0 if cell.startswith(("rnn-relu", "rnn-identity")) else 3.0
    p.layer.flat *= scale
    assert_same(run(p), by_reference(p))


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("bias", FLAGS)
def test_agrees_with_finite_differences(cell, bias):
    p = problem(cell, 5, 3, 2, 4, bias=bias, seed=3)
    p.layer.flat *= 2
    assert_differences(p, run(p).g)


def test_agrees_with_finite_differences_for_tokens():
    for cell in FEW:
        p = problem(cell, 5, 3, 4, 3, tokens=True, seed=1)
        assert_differences(p, run(p).g)


# ---- Clipping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wide_clip_does_nothing_and_a_narrow_one_something(cell, dtype):
    plain, wide, narrow = (
        run(problem(cell, 7, 5, 4, 9, clip=clip, dtype=dtype)) for clip in (None, 500.0, 0.1)
    )
    for name in ("output", "state", "cells", "g"):
        assert bits(getattr(wide, name)) == bits(getattr(plain, name))
    assert np.abs(narrow.output - plain.output).max() > 1e-2
    assert np.abs(narrow.g.flat - plain.g.flat).max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_slope_of_clipping_is_zero_at_its_edge(dtype):
    rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, clip=1.0, dtype=dtype)
    rnn.flat = np.array([1, 0], dtype=dtype)
    x = np.array([-2, -1, -0.5, 0, 1, 2], dtype=dtype)[None, :, None]
    output, _, tape = rnn.forward(x)
    assert output.ravel().tolist() == [-1.0, -1.0, -0.5, 0.0, 1.0, 1.0]
    assert rnn.backward(tape, np.ones_like(x)).input.ravel().tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_the_cell_state_is_carried_unclipped():
    lstm = pybptt.LSTM(1, 1, bias=False, clip=1.0, dtype="float64")
    lstm.flat = np.array([9.0] * 4 + [0.0] * 4)
    output, (_, c), tape = lstm.forward(np.ones((9, 1, 1)), cells=True)
    gate = 1 / (1 + np.exp(-1.0))
    expected = np.cumsum(gate ** np.arange(9.0)) * gate * np.tanh(1.0)
    assert expected[-1] > 1.5
    assert_close(tape.cells.ravel(), expected)
    assert_close(c.ravel(), expected[-1:])
    assert_close(output.ravel(), gate * np.tanh(np.minimum(expected, 1.0)))


# ---- What options mean ----------------------------------------------------------------------------------


def test_a_coupled_gate_is_a_forget_gate_of_one_minus_i():
    """sigma(-z) = 1 - sigma(z): an LSTM whose rows of f are minus those of i computes the same."""
    p, q = (problem(cell, 6, 5, 3, 9) for cell in ("lstm-peephole-coupled", "lstm-peephole"))
    for name, values in p.layer.parameters.items():
        i, *rest = np.split(values, 2 if "peephole" in name else 3)
        q.layer.parameters[name][...] = np.concatenate([i, -i, *rest])
    q.x, q.state, q.d_output, q.d_state, q.d_cells = p.x, p.state, p.d_output, p.d_state, p.d_cells
    coupled, full = run(p), run(q)
    for name in ("output", "cells", "state"):
        assert_close(getattr(coupled, name), getattr(full, name))
    assert_close(coupled.g.input, full.g.input)
    for name, gradient in full.g.parameters.items():
        i, f, *rest = np.split(gradient, 3 if "peephole" in name else 4)
        assert_close(coupled.g.parameters[name], np.concatenate([i - f, *rest]))


def test_peepholes_of_zero_are_none():
    p, q = (problem(cell, 6, 5, 3, 9) for cell in ("lstm-peephole", "lstm"))
    p.layer.parameters["weight_peephole_l0"][...] = 0
    q.layer.flat = p.layer.flat[: q.layer.flat.size]
    with_, without = run(p), run(q)
    assert_close(with_.output, without.output)
    assert_close(with_.g.flat[: without.g.flat.size], without.g.flat)
    assert np.abs(with_.g.parameters["weight_peephole_l0"]).max() > 1e-2


def test_the_grus_two_forms_differ():
    """But not where the reset gate is open: with r = 1 they are the same."""
    after, before = (problem(cell, 6, 5, 3, 9) for cell in ("gru", "gru-before"))
    assert bits(after.layer.flat, after.x) == bits(before.layer.flat, before.x)
    assert np.abs(run(after).output - run(before).output).max() > 1e-2
    for p in (after, before):
        p.layer.parameters["bias_ih_l0"][:9] = 1000.0
    assert_close(run(after).output, run(before).output)
    assert_close(run(after).g.input, run(before).g.input)


@pytest.mark.parametrize("cell", [c for c in CELLS if c != "rnn-identity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_gates_are_finite(cell, dtype):
    """Pre-activations of a million, of either sign: no overflow, and gradients that are 0 or finite."""
    p = problem(cell, 3, 4, 2, 5, dtype=dtype)
    p.x *= np.asarray(1e6, dtype)
    p.state = None
    found = run(p)
    for array in (found.output, *parts(found.state), found.g.flat, found.g.input, *parts(found.g.state)):
        assert np.isfinite(array).all()
    if "relu" not in cell:
        assert np.abs(found.output).max() <= 1


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_sequence_and_is_not_hidden(cell, dtype, bad):
    """NaN in x[2, 1]: from there on that sequence alone has it. Infinity times 0, and inf - inf, are NaN."""
    p = problem(cell, 6, 3, 4, 9, dtype=dtype)
    p.layer.parameters["weight_ih_l0"][:, 3] = 0
    clean = run(p)
    p.x[2, 1, 3] = bad
    dirty = run(p)
    assert np.isnan(dirty.output[2:, 1]).all()
    assert np.isfinite(clean.output).all()
    others = [0, 2]
    assert bits(dirty.output[:2], dirty.output[:, others]) == bits(clean.output[:2], clean.output[:, others])
    for bad_state, state in zip(parts(dirty.state), parts(clean.state), strict=True):
        assert np.isnan(bad_state[:, 1]).any()
        assert bits(bad_state[:, others]) == bits(state[:, others])
    assert not np.isfinite(dirty.g.flat).all()
    assert bits(dirty.g.input[:, others], dirty.g.hidden[:, :, others]) == bits(
        clean.g.input[:, others], clean.g.hidden[:, :, others]
    )


# ---- Results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("T", "B", "H"), [(7, 2, 5), (60, 13, 17), (530, 1, 5)])
def test_inference_is_forward_to_the_last_bit(cell, T, B, H, dtype):
    for tokens in FLAGS:
        p = problem(cell, T, B, 4, H, tokens=tokens, dtype=dtype)
        for state in (None, p.state):
            output, last, tape = p.layer.forward(p.x, state)
            assert tape.cells is None
            assert bits(*p.layer(p.x, state)) == bits(output, last)
            assert output.dtype == parts(last)[0].dtype == dtype
            assert bits(output[-1]) == bits(parts(last)[0][0])


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("T", "B"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_steps_or_no_sequences(cell, T, B, tokens, dtype):
    p = problem(cell, T, B, 4, 5, tokens=tokens, dtype=dtype)
    found = run(p)
    P = state_size(p.layer)
    assert found.output.shape == (T, B, P)
    assert bits(found.state) == bits(p.state)
    assert not found.g.flat.any()
    assert bits(found.g.state) == bits(p.d_state)
    assert found.g.hidden.shape == (1, T, B, P)
    assert found.g.input is None if tokens else found.g.input.shape == (T, B, 4)
    if p.d_cells is not None:
        assert found.cells.shape == (1, T, B, 5)
    for last, size in zip(parts(p.layer.forward(p.x)[1]), (P, 5), strict=False):
        assert last.shape == (1, B, size)
        assert not last.any()


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("tokens", FLAGS)
def test_what_is_not_asked_for_is_not_there_and_changes_nothing(cell, tokens):
    p = problem(cell, 6, 3, 4, 17, tokens=tokens)
    full = run(p).g
    _, _, tape = forward(p)
    plain = backward(p, tape, hidden=False)
    assert plain.hidden is None
    assert (plain.input is None) == tokens
    least = backward(p, tape, hidden=False, input=False)
    assert least.hidden is None
    assert least.input is None
    for g in (plain, least):
        assert bits(g.flat, g.state) == bits(full.flat, full.state)
    for array in parts(p.layer.backward(tape).state) + (p.layer.backward(tape).flat,):
        assert not array.any()  # nothing upstream


def test_upstream_gradients_that_are_not_given_are_zero():
    p = problem("lstm-peephole", 6, 3, 4, 9)
    _, _, tape = forward(p)
    upstream = {name: getattr(p, name) for name in ("d_output", "d_state", "d_cells")}
    zero = {name: tuple(map(np.zeros_like, parts(value))) for name, value in upstream.items()}
    zero |= {name: value[0] for name, value in zero.items() if name != "d_state"}
    for name in zero:
        given_alone = {name: upstream[name]}
        g = p.layer.backward(tape, **given_alone, hidden=True)
        assert bits(g) == bits(p.layer.backward(tape, **zero | given_alone, hidden=True))
        assert g.flat.any()


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_have_the_layers_layout(cell):
    gates = {"rnn": 1, "gru": 3}.get(cell.split("-")[0], 3 if "coupled" in cell else 4)
    P = 2 if "projected" in cell else 5
    for bias in FLAGS:
        p = problem(cell, 4, 2, 3, 5, bias=bias)
        g = run(p).g
        expected = {"weight_ih_l0": (gates * 5, 3), "weight_hh_l0": (gates * 5, P)}
        if bias:
            expected |= {"bias_ih_l0": (gates * 5,), "bias_hh_l0": (gates * 5,)}
        if "projected" in cell:
            expected |= {"weight_hr_l0": (P, 5)}
        if "peephole" in cell:
            expected |= {"weight_peephole_l0": (gates - 1, 5)}
        for parameters, flat in ((g.parameters, g.flat), (p.layer.parameters, p.layer.flat)):
            assert list(parameters) == list(expected)
            assert {name: a.shape for name, a in parameters.items()} == expected
            assert bits(np.concatenate([a.ravel() for a in parameters.values()])) == bits(flat)
            assert all(np.shares_memory(a, flat) for a in parameters.values())


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize(("T", "B"), [(6, 3), (1, 4), (0, 2), (130, 8)])
def test_batch_first_is_the_same_with_axes_swapped(cell, tokens, T, B):
    p, q = (problem(cell, T, B, 4, 9, tokens=tokens, batch_first=flag) for flag in FLAGS)
    q.x, q.d_output = q.x.swapaxes(0, 1), q.d_output.swapaxes(0, 1)
    straight, swapped = run(p), run(q)
    assert bits(swapped.output.swapaxes(0, 1), swapped.state) == bits(straight.output, straight.state)
    assert bits(swapped.cells) == bits(straight.cells)  # as hidden: time-major always
    assert bits(q.layer(q.x, q.state)[0]) == bits(swapped.output)
    for name in ("flat", "state", "hidden"):
        assert bits(getattr(swapped.g, name)) == bits(getattr(straight.g, name))
    if not tokens:
        assert bits(swapped.g.input.swapaxes(0, 1)) == bits(straight.g.input)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_initial_parameters_are_pytorchs_distribution(kind):
    """Uniform over (-1/sqrt(H), 1/sqrt(H)), and the same again for the same seed."""
    make = getattr(pybptt, kind)
    layer = make(50, 100, seed=3)
    assert layer.flat.dtype == np.float32
    assert np.abs(layer.flat).max() <= np.float32(0.1)
    quantiles = np.quantile(layer.flat * 10, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert_close(quantiles, [-0.9, -0.5, 0, 0.5, 0.9], 0.03, floor=1.0)
    assert bits(make(50, 100, seed=3).flat) == bits(layer.flat)
    assert bits(make(50, 100, seed=4).flat) != bits(layer.flat)
    assert bits(make(50, 100).flat) != bits(make(50, 100).flat)
