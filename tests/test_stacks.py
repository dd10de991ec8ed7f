"""Several layers, two directions and the dropout between layers."""

import gc
import itertools

import numpy as np
import pytest
from cell_support import (
    EVERY,
    FEW,
    FLAGS,
    PYTORCHS,
    assert_differences,
    assert_same,
    backward,
    by_reference,
    by_torch,
    directions,
    drawn_mask,
    forward,
    parts,
    problem,
    run,
    state_size,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, bits

import pybptt

MODULES_LACK = ("hidden", "cells")
SHAPES = [(1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
RAGGED = [4, 0, 7, 7, 1]


# ---- PyTorch and the reference --------------------------------------------------------------------------


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize(("L", "K"), SHAPES)
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("mask", FLAGS)
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
def test_agrees_with_autograd(torch, cell, L, K, tokens, mask, lengths):
    p = problem(cell, 7, 5, 4, 9, L, K, tokens=tokens, mask=mask, lengths=lengths)
    if p.d_cells is not None:
        p.d_cells[...] = 0  # the modules don't return c_t
    assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("which", ["d_output", "d_state"])
@pytest.mark.parametrize("H", [8, 16, 17])
def test_every_parameter_of_three_layers_both_ways(torch, cell, bias, which, H):
    """From the output alone, and from the final states of all layers alone; with no initial state."""
    p = problem(cell, 6, 9, 5, H, 3, 2, bias=bias)
    p.state = None
    setattr(p, which, None)
    if p.d_cells is not None:
        p.d_cells[...] = 0
    found = run(p)
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bias + ["weight_hr"] * ("projected" in cell)
    ends = [f"_l{k}{end}" for k in range(3) for end in ("", "_reverse")]
    assert list(found.g.parameters) == [name + end for end in ends for name in names]
    assert all(gradient.any() for gradient in found.g.parameters.values())
    assert_same(found, by_torch(torch, p), without=MODULES_LACK)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize(("L", "K"), SHAPES)
def test_agrees_with_the_reference(cell, L, K):
    for tokens, lengths in itertools.product(FLAGS, (None, RAGGED)):
        p = problem(cell, 7, 5, 4, 9, L, K, tokens=tokens, mask=True, lengths=lengths)
        assert_same(run(p), by_reference(p))


SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17])
SIZES_WITH_0 = st.one_of(st.sampled_from([0, 1, 2]), SIZES)


@settings(max_examples=150)
@given(T=SIZES_WITH_0, B=SIZES_WITH_0, D=SIZES, H=SIZES, L=st.integers(1, 4), K=st.sampled_from([1, 2]),
       cell=st.sampled_from(sorted(EVERY)), tokens=st.booleans(), mask=st.booleans(), ragged=st.booleans(),
       seed=st.integers(0, 1000))  # fmt: skip
def test_agrees_with_the_reference_for_any_shape(T, B, D, H, L, K, cell, tokens, mask, ragged, seed):
    lengths = np.random.default_rng(seed).integers(0, T + 1, size=B) if ragged else None
    p = problem(cell, T, B, D, H, L, K, tokens=tokens, mask=mask, lengths=lengths, seed=seed)
    assert_same(run(p), by_reference(p), floor=1.0)


@pytest.mark.parametrize(("T", "B"), [(1100, 1), (200, 3), (130, 8), (3, 545), (40, 17)])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, cell, T, B):
    p = problem(cell, T, B, 3, 7, 2, 2, mask=True)
    if p.d_cells is not None:
        p.d_cells[...] = 0
    assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


# ---- Equal to what can be put together from single layers -----------------------------------------------


def single(cell, p, unit, x):
    """A layer of its own with the parameters of one layer and direction, and that direction's arrays."""
    K = directions(p.layer)
    end = f"_l{unit // K}" + ("_reverse" if unit % K else "")
    q = problem(cell, *x.shape, p.layer.hidden_size)
    for parameter in q.layer.parameters:
        q.layer.parameters[parameter][...] = p.layer.parameters[parameter.removesuffix("_l0") + end]
    q.x, q.lengths = x, p.lengths
    own = [tuple(part[unit : unit + 1] for part in parts(state)) for state in (p.state, p.d_state)]
    q.state, q.d_state = own if p.d_cells is not None else (own[0][0], own[1][0])
    if p.d_cells is not None:
        q.d_cells = p.d_cells[unit : unit + 1]
    return q, end


@pytest.mark.parametrize("cell", ["rnn", "lstm-peephole-coupled", "lstm-peephole", "gru", "gru-before"])
@pytest.mark.parametrize("mask", FLAGS)
@pytest.mark.parametrize("K", [1, 2])
def test_a_stack_is_single_layers_one_after_another(cell, mask, K):
    """By hand: each direction a layer of its own, the reverse one fed the time backwards."""
    p = problem(cell, 7, 5, 4, 9, 3, K, mask=mask)
    whole = run(p)
    x, made = p.x, []
    for layer in range(3):
        outputs = []
        for k in range(K):
            q, end = single(cell, p, layer * K + k, x[:: -1 if k else 1])
            if q.d_cells is not None and k:
                q.d_cells = q.d_cells[:, ::-1]
            output, state, tape = forward(q)
            made.append((q, end, tape))
            for found, expected in zip(parts(state), parts(whole.state), strict=True):
                assert_close(found[0], expected[layer * K + k])
            outputs.append(output[:: -1 if k else 1])
        x = np.concatenate(outputs, axis=2)
        if mask and layer < 2:
            x = x * p.mask[layer]
    assert_close(x, whole.output)

    above = p.d_output
    for layer in (2, 1, 0):
        d_x = 0
        for k in range(K):
            unit = layer * K + k
            q, end, tape = made[unit]
            step = -1 if k else 1
            q.d_output = np.ascontiguousarray(above[::step, :, 9 * k : 9 * k + 9])
            if q.d_cells is not None:
                q.d_cells = np.ascontiguousarray(q.d_cells)
            g = backward(q, tape)
            d_x = d_x + g.input[::step]
            assert_close(g.hidden[0, ::step], whole.g.hidden[unit])
            for name, gradient in g.parameters.items():
                assert_close(gradient, whole.g.parameters[name.removesuffix("_l0") + end])
            for found, expected in zip(parts(g.state), parts(whole.g.state), strict=True):
                assert_close(found[0], expected[unit])
        above = d_x * p.mask[layer - 1] if mask and layer else d_x
    assert_close(above, whole.g.input)


@pytest.mark.parametrize("cell", FEW)
def test_the_reverse_direction_is_the_forward_one_on_time_reversed(cell):
    p = problem(cell, 8, 5, 4, 9, K=2)
    forwards = run(p)
    q = problem(cell, 8, 5, 4, 9, K=2)
    half, P = p.layer.flat.size // 2, state_size(p.layer)
    q.layer.flat = np.concatenate([p.layer.flat[half:], p.layer.flat[:half]])
    q.x, q.d_output = p.x[::-1].copy(), np.concatenate([p.d_output[::-1, :, P:], p.d_output[::-1, :, :P]], 2)
    q.state, q.d_state = (
        tuple(s[::-1].copy() for s in state) if isinstance(state, tuple) else state[::-1].copy()
        for state in (p.state, p.d_state)
    )
    q.d_cells = None if p.d_cells is None else p.d_cells[::-1, ::-1].copy()
    backwards = run(q)
    assert bits(backwards.output[::-1, :, P:]) == bits(forwards.output[:, :, :P])
    assert bits(backwards.output[::-1, :, :P]) == bits(forwards.output[:, :, P:])
    assert bits(backwards.g.flat[half:], backwards.g.flat[:half]) == bits(
        forwards.g.flat[:half], forwards.g.flat[half:]
    )
    assert bits(backwards.g.hidden[::-1, ::-1]) == bits(forwards.g.hidden)
    assert_close(backwards.g.input[::-1], forwards.g.input)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize(("T", "B"), [(7, 5), (530, 1), (60, 13)])
@pytest.mark.parametrize("lengths", FLAGS)
def test_inference_is_forward_to_the_last_bit(cell, T, B, dtype, lengths):
    lengths = np.random.default_rng(T).integers(0, T + 1, size=B) if lengths else None
    for tokens in FLAGS:
        p = problem(cell, T, B, 4, 9, 3, 2, tokens=tokens, dtype=dtype, dropout=0.5, lengths=lengths)
        output, state, _ = p.layer.forward(p.x, p.state, lengths=lengths)
        assert bits(*p.layer(p.x, p.state, lengths=lengths)) == bits(output, state)


@pytest.mark.parametrize("cell", FEW)
def test_batch_first_is_the_same_with_axes_swapped(cell):
    for tokens in FLAGS:
        options = {"tokens": tokens, "mask": True, "lengths": RAGGED}
        p, q = (problem(cell, 7, 5, 4, 9, 2, 2, batch_first=flag, **options) for flag in FLAGS)
        q.x, q.d_output = q.x.swapaxes(0, 1), q.d_output.swapaxes(0, 1)
        straight, swapped = run(p), run(q)
        assert bits(swapped.output.swapaxes(0, 1), swapped.state) == bits(straight.output, straight.state)
        assert bits(swapped.cells, swapped.g.flat, swapped.g.state, swapped.g.hidden) == bits(
            straight.cells, straight.g.flat, straight.g.state, straight.g.hidden
        )
        if not tokens:
            assert bits(swapped.g.input.swapaxes(0, 1)) == bits(straight.g.input)


# ---- Dropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("lengths", [None, [3, 0, 4]], ids=["equal", "ragged"])
def test_gradients_with_a_mask_agree_with_finite_differences(cell, lengths):
    p = problem(cell, 4, 3, 2, 2, 3, 2, mask=True, lengths=lengths, seed=2)
    assert_differences(p, run(p).g)


def all_of(layer, x, **options):
    """Everything that does or does not depend on the mask."""
    output, state, tape = layer.forward(x, **options)
    return bits(output, state, layer.backward(tape, np.ones_like(output), hidden=True))


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.3, 0.5, 1.0])
def test_a_drawn_mask_is_what_is_multiplied_by(cell, dtype, rate):
    """Forward and backward; the same from the same seed, another from another."""
    p = problem(cell, 6, 5, 4, 9, 2, dtype=dtype, dropout=rate)
    mask = drawn_mask(p.layer, 6, 5, seed=7)
    assert set(np.unique(mask)) == ({0} if rate == 1 else {0, mask.dtype.type(1 / (1 - rate))})
    by_seed = all_of(p.layer, p.x, training=True, seed=7)
    assert by_seed == all_of(p.layer, p.x, training=True, seed=7)
    assert by_seed == all_of(p.layer, p.x, dropout_mask=mask)
    assert by_seed == all_of(p.layer, p.x, dropout_mask=mask, training=True, seed=8)
    if rate < 1:
        assert by_seed != all_of(p.layer, p.x, training=True, seed=8)
        assert all_of(p.layer, p.x, training=True) != all_of(p.layer, p.x, training=True)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.filterwarnings("ignore:dropout. expected 0 for a single layer")
def test_dropout_of_0_one_layer_and_inference_have_none(cell, K):
    options = {"training": True, "seed": 1}
    for L, rate in ((3, 0.0), (1, 0.9)):
        p = problem(cell, 6, 5, 4, 9, L, K, dropout=rate)
        plain = problem(cell, 6, 5, 4, 9, L, K)
        assert all_of(p.layer, p.x, **options) == all_of(plain.layer, plain.x)
    p, plain = (problem(cell, 6, 5, 4, 9, 3, K, dropout=rate) for rate in (0.9, 0.0))
    assert all_of(p.layer, p.x, seed=1) == all_of(plain.layer, plain.x)
    assert all_of(p.layer, p.x, training=False) == all_of(plain.layer, plain.x)
    assert bits(*p.layer(p.x)) == bits(*plain.layer(plain.x))
    assert all_of(p.layer, p.x, **options) != all_of(plain.layer, plain.x)
    ones = np.ones((2, 6, 5, K * state_size(p.layer)))
    assert all_of(p.layer, p.x, dropout_mask=ones) == all_of(plain.layer, plain.x)


@pytest.mark.parametrize("cell", FEW)
def test_dropout_of_1_cuts_the_layers_apart(cell):
    """The second layer reads zeros, and nothing comes back from it."""
    p = problem(cell, 6, 5, 4, 9, 2, dropout=1.0)
    output, _, tape = p.layer.forward(p.x, training=True)
    g = p.layer.backward(tape, p.d_output)
    P = state_size(p.layer)
    zeros = problem(cell, 6, 5, P, 9)
    for name in zeros.layer.parameters:
        zeros.layer.parameters[name][...] = p.layer.parameters[name.replace("l0", "l1")]
    assert_close(output, zeros.layer(np.zeros((6, 5, P)))[0])
    assert not g.input.any()
    for name, gradient in g.parameters.items():
        assert gradient.any() == (name.endswith("l1") and "weight_ih" not in name), name


def test_the_masks_entries_are_independent_and_of_the_right_frequency():
    """A count of n draws lies within 5 standard deviations; also of neighbours, over every axis."""
    for rate in (0.1, 0.5, 0.8):
        layer = pybptt.RNN(2, 16, 2, dropout=rate, bidirectional=True)
        mask = drawn_mask(layer, 60, 40, seed=3)[0]
        assert mask.shape == (60, 40, 32)
        assert set(np.unique(mask)) == {0, np.float32(1 / (1 - rate))}
        kept, both = mask != 0, (1 - rate) ** 2
        deviation = np.sqrt(rate * (1 - rate) / kept.size)
        assert abs(kept.mean() - (1 - rate)) < 5 * deviation
        for axis in range(3):
            first, second = (np.take(kept, range(a, kept.shape[axis] + a - 1), axis) for a in (0, 1))
            assert abs((first & second).mean() - both) < 5 * np.sqrt(2 * both / first.size)
            means = kept.mean(axis=tuple(a for a in range(3) if a != axis))
            assert np.abs(means - (1 - rate)).max() < 5 * deviation * np.sqrt(kept.shape[axis])
        # Layers have masks of their own: an entry is kept by both with the product of the probabilities.
        through_two = drawn_mask(layer, 60, 40, seed=3, L=3) != 0
        assert abs(through_two.mean() - both) < 5 * np.sqrt(both * (1 - both) / kept.size)


def test_every_layer_but_the_last_is_masked():
    """Zeroing all that one layer gives the next leaves it no input."""
    p = problem("lstm", 5, 3, 4, 7, 4, 2)
    for k in range(3):
        mask = np.ones((3, 5, 3, 14))
        mask[k] = 0
        _, _, tape = p.layer.forward(p.x, dropout_mask=mask)
        g = p.layer.backward(tape, p.d_output)
        without = [f"weight_ih_l{k + 1}", f"weight_ih_l{k + 1}_reverse"]
        for name, gradient in g.parameters.items():
            reached = int(name.split("_l")[1][0]) > k and name not in without
            assert gradient.any() == reached, name


# ---- A tape owns what it needs --------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm-peephole", "gru", "gru-before"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_changes_after_forward_does_not_change_backward(cell, dtype):
    lengths = np.array(RAGGED)
    p = problem(cell, 7, 5, 4, 16, 3, 2, mask=True, dtype=dtype, lengths=lengths)
    output, state, tape = forward(p)
    kept = bits(output, state, tape.cells)
    before = bits(backward(p, tape))
    other = bits(p.layer.backward(tape, p.d_output * 2))
    for array in (p.x, *parts(p.state), p.mask, p.layer.flat):
        array += 1
    lengths[...] = 7
    p.layer.forward(p.x)
    assert bits(backward(p, tape)) == before
    assert bits(p.layer.backward(tape, p.d_output * 2)) == other != before
    assert bits(output, state, tape.cells) == kept
    for array in (output, *parts(state)):
        array += 1
    if tape.cells is not None:
        tape.cells[...] = 0
    assert bits(backward(p, tape)) == before


@pytest.mark.parametrize("cell", FEW)
def test_what_lies_in_memory_does_not_matter(cell):
    """The core uses memory again as it finds it: here full of NaN, of a run of the same shape."""
    for K, lengths in itertools.product((1, 2), (None, np.arange(12) % 8)):
        options = {"mask": True, "lengths": lengths}
        p, poison = (problem(cell, 30, 12, 4, 9, 2, K, **options) for _ in range(2))
        expected = run(p)
        poison.layer.flat[...] = np.nan
        for array in (poison.x, poison.d_output, poison.mask):
            array[...] = np.nan
        poison.lengths = None
        for _ in range(3):
            run(poison)
        gc.collect()  # dear among thousands of tests
        found = run(p)
        assert bits(found.output, found.state, found.cells, found.g) == bits(
            expected.output, expected.state, expected.cells, expected.g
        )
