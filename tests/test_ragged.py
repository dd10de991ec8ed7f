"""Sequences of different lengths in one batch."""

import re

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


def some_lengths(kind, T, B, seed=0):
    rng = np.random.default_rng([seed, T, B])
    lengths = rng.integers(0, T + 1, size=B)
    if kind == "unsorted":
        lengths[: min(B, 3)] = [T, 0, T][: min(B, 3)]
    elif kind == "long":  # most of them of nearly all steps
        lengths = T - rng.integers(0, 2, size=B)
    elif kind == "short":  # one long, many short
        lengths = np.minimum(lengths, rng.integers(0, 3, size=B))
        lengths[B // 2] = T
    elif kind in ("equal", "none"):
        lengths[...] = T // 2 if kind == "equal" else 0
    return lengths


KINDS = ("unsorted", "long", "short", "equal", "none")


def padding(lengths, T):
    return np.arange(T)[:, None] >= np.asarray(lengths)


# ---- PyTorch and the reference --------------------------------------------------------------------------


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("tokens", FLAGS)
def test_agrees_with_pytorchs_packed_sequences(torch, cell, kind, K, tokens):
    for T, B in ((9, 5), (1, 4), (40, 19)):
        p = problem(cell, T, B, 4, 9, 1, K, tokens=tokens, lengths=some_lengths(kind, T, B))
        if p.d_cells is not None:
            p.d_cells[...] = 0  # the modules don't return c_t
        assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize(
    ("T", "B", "L", "K"), [(6, 131, 1, 1), (9, 150, 2, 2), (3, 545, 1, 2), (50, 33, 1, 2)]
)
def test_agrees_with_pytorch_for_large_batches(torch, cell, kind, T, B, L, K):
    p = problem(cell, T, B, 3, 8, L, K, lengths=some_lengths(kind, T, B), mask=True)
    if p.d_cells is not None:
        p.d_cells[...] = 0
    assert_same(run(p), by_torch(torch, p), without=MODULES_LACK)


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference(cell, kind):
    for tokens in FLAGS:
        p = problem(cell, 13, 18, 4, 9, 2, 2, tokens=tokens, lengths=some_lengths(kind, 13, 18), mask=True)
        assert_same(run(p), by_reference(p))


LENGTHS = st.integers(0, 25).flatmap(
    lambda T: st.tuples(st.just(T), st.lists(st.integers(0, T), min_size=0, max_size=40))
)


@settings(max_examples=150)
@given(shape=LENGTHS, H=st.sampled_from([1, 3, 8, 15, 16, 17]), K=st.sampled_from([1, 2]),
       tokens=st.booleans(), cell=st.sampled_from(sorted(EVERY)), seed=st.integers(0, 1000))  # fmt: skip
def test_agrees_with_the_reference_for_any_lengths(shape, H, K, tokens, cell, seed):
    T, lengths = shape[0], np.array(shape[1], dtype=int)
    p = problem(cell, T, len(lengths), 3, H, K=K, tokens=tokens, lengths=lengths, seed=seed)
    assert_same(run(p), by_reference(p), floor=1.0)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("L", [1, 2])
def test_agrees_with_finite_differences(cell, L):
    p = problem(cell, 4, 3, 2, 2, L, 2, lengths=[2, 0, 4], mask=True, seed=4)
    assert_differences(p, run(p).g)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("tokens", FLAGS)
def test_every_sequence_is_as_if_alone(cell, L, K, tokens):
    """Run without lengths, cut to its own steps; the parameters' gradients are the sum over the sequences."""
    T, B = 11, 19
    lengths = some_lengths("unsorted", T, B)
    p = problem(cell, T, B, 4, 9, L, K, tokens=tokens, lengths=lengths, mask=True)
    whole = run(p)
    flat = np.zeros_like(whole.g.flat)
    for b, n in enumerate(lengths):
        q = problem(cell, n, 1, 4, 9, L, K, tokens=tokens)
        own = slice(b, b + 1)
        q.x, q.d_output, q.mask = p.x[:n, own], p.d_output[:n, own], p.mask[:, :n, own]
        for name in ("state", "d_state"):
            cut = tuple(part[:, own] for part in parts(getattr(p, name)))
            setattr(q, name, cut if p.d_cells is not None else cut[0])
        if p.d_cells is not None:
            q.d_cells = p.d_cells[:, :n, own]
        alone = run(q)
        pairs = [(alone.output, whole.output[:n, own]), (alone.g.hidden, whole.g.hidden[:, :n, own])]
        for mine, all_ in ((alone.state, whole.state), (alone.g.state, whole.g.state)):
            pairs += [(m, a[:, own]) for m, a in zip(parts(mine), parts(all_), strict=True)]
        if not tokens:
            pairs.append((alone.g.input, whole.g.input[:n, own]))
        if p.d_cells is not None:
            pairs.append((alone.cells, whole.cells[:, :n, own]))
        for mine, all_ in pairs:
            assert_close(mine, all_)
        flat += alone.g.flat
    assert_close(flat, whole.g.flat)


@pytest.mark.parametrize("cell", FEW)
def test_lengths_that_are_all_t_are_none(cell):
    for lengths in ([7] * 12, np.full(12, 7, np.int8), np.full(12, 7, np.uint64), (7,) * 12):
        p, q = (problem(cell, 7, 12, 4, 9, 2, 2, lengths=given_) for given_ in (lengths, None))
        a, b = run(p), run(q)
        assert bits(a.output, a.state, a.cells, a.g) == bits(b.output, b.state, b.cells, b.g)


@pytest.mark.parametrize("cell", FEW)
def test_shorter_than_t_for_all_is_a_shorter_t(cell):
    p = problem(cell, 9, 12, 4, 9, 2, 2, lengths=[6] * 12)
    whole = run(p)
    p.x, p.d_output, p.lengths = p.x[:6], p.d_output[:6], None
    if p.d_cells is not None:
        p.d_cells = p.d_cells[:, :6]
    cut = run(p)
    assert_close(whole.output[:6], cut.output)
    assert_close(whole.g.flat, cut.g.flat)
    assert_close(whole.g.hidden[:, :6], cut.g.hidden)
    for a, b in zip(parts(whole.g.state), parts(cut.g.state), strict=True):
        assert_close(a, b)
    assert not whole.output[6:].any()
    assert not whole.g.input[6:].any()


@pytest.mark.parametrize("cell", FEW)
def test_sequences_may_change_places(cell):
    lengths = some_lengths("unsorted", 8, 21)
    p = problem(cell, 8, 21, 4, 9, 2, 2, lengths=lengths)
    first = run(p)
    order = np.random.default_rng(0).permutation(21)
    p.x, p.d_output, p.lengths = p.x[:, order], p.d_output[:, order], lengths[order]
    for name in ("state", "d_state"):
        moved = tuple(part[:, order] for part in parts(getattr(p, name)))
        setattr(p, name, moved if p.d_cells is not None else moved[0])
    if p.d_cells is not None:
        p.d_cells = p.d_cells[:, :, order]
    second = run(p)
    assert_close(second.output, first.output[:, order])
    assert_close(second.g.input, first.g.input[:, order])
    assert_close(second.g.hidden, first.g.hidden[:, :, order])
    assert_close(second.g.flat, first.g.flat)


# ---- Padding is inert -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", EVERY)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_in_the_padding_is_read(cell, kind, dtype):
    """NaN, and ids that aren't any, in x and in what comes from above; what comes out there is 0."""
    lengths = some_lengths(kind, 9, 12)
    past = padding(lengths, 9)
    for tokens in FLAGS:
        p = problem(cell, 9, 12, 4, 9, 2, 2, tokens=tokens, lengths=lengths, mask=True, dtype=dtype)
        clean = run(p)
        for array in (p.d_output, p.mask.swapaxes(0, 2).swapaxes(0, 1)):
            array[past] = np.nan
        if tokens:
            p.x[past] = np.random.default_rng(0).choice([-1, 4, 2**62, -(2**63)], size=past.sum())
        else:
            p.x[past] = np.nan
        if p.d_cells is not None:
            p.d_cells[:, past] = np.nan
        dirty = run(p)
        assert bits(dirty.output, dirty.state, dirty.cells, dirty.g) == bits(
            clean.output, clean.state, clean.cells, clean.g
        )
        assert np.isfinite(dirty.g.flat).all()
        zeros = [dirty.output[past], dirty.g.hidden[:, past]]
        zeros += [] if tokens else [dirty.g.input[past]]
        zeros += [] if dirty.cells is None else [dirty.cells[:, past]]
        assert not any(array.any() for array in zeros)
        assert bits(*p.layer(p.x, p.state, lengths=lengths)) == bits(
            *p.layer.forward(p.x, p.state, lengths=lengths)[:2]
        )


def test_ids_in_the_padding_may_be_anything_with_batch_first_and_unsigned():
    lengths = np.array([3, 0, 5, 1])
    p = problem("gru", 5, 4, 4, 9, tokens=True, lengths=lengths)
    clean = run(p)
    past = padding(lengths, 5)
    x = p.x.astype(np.uint64)
    x[past] = 2**64 - 1
    p.x = x
    assert bits(run(p).g) == bits(clean.g)
    q = problem("gru", 5, 4, 4, 9, tokens=True, lengths=lengths, batch_first=True)
    q.x, q.d_output = x.T, q.d_output.swapaxes(0, 1)
    assert bits(run(q).g.flat) == bits(clean.g.flat)


@pytest.mark.parametrize("cell", FEW)
def test_a_sequence_without_steps_keeps_its_state(cell):
    p = problem(cell, 5, 3, 4, 9, 2, 2, lengths=[0, 5, 0])
    found = run(p)
    for b in (0, 2):
        assert not found.output[:, b].any()
        for given_, last in zip(parts(p.state), parts(found.state), strict=True):
            assert bits(last[:, b]) == bits(given_[:, b])
        for d_given, d_first in zip(parts(p.d_state), parts(found.g.state), strict=True):
            assert bits(d_first[:, b]) == bits(d_given[:, b])
    p.state = None
    for last in parts(run(p).state):
        assert not last[:, [0, 2]].any()


@pytest.mark.parametrize("cell", FEW)
def test_the_final_state_is_the_one_at_each_sequences_end(cell):
    """Forwards the output at the last step, in reverse the one at the first."""
    lengths = np.array([3, 7, 1, 5, 2, 7, 4, 6, 3])
    p = problem(cell, 7, 9, 4, 9, K=2, lengths=lengths)
    output, last, _ = forward(p)
    h = parts(last)[0]
    P = state_size(p.layer)
    assert bits(h[0]) == bits(output[lengths - 1, np.arange(9), :P])
    assert bits(h[1]) == bits(output[0, :, P:])


def test_the_lengths_may_change_afterwards():
    lengths = np.array([3, 0, 5, 1])
    p = problem("lstm", 5, 4, 4, 9, lengths=lengths)
    _, _, tape = forward(p)
    before = bits(backward(p, tape))
    lengths[...] = 5
    assert bits(backward(p, tape)) == before


# ---- The tape ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru-before"])
def test_a_tape_of_short_sequences_is_small(cell):
    """One long sequence among many short ones costs little more than itself."""
    layer = problem(cell, 1, 1, 16, 32).layer
    lengths = np.full(64, 5)
    lengths[7] = 1000
    ragged = layer.tape_bytes(1000, 64, lengths=lengths)
    assert ragged < 0.1 * layer.tape_bytes(1000, 64)
    assert ragged < 3 * (layer.tape_bytes(1000, 1) + layer.tape_bytes(5, 63))


# ---- Errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([1, 2], ValueError, "lengths: expected shape (3,), one for each sequence, got (2,)"),
        ([[1, 2, 3]], ValueError, "lengths: expected shape (3,), one for each sequence, got (1, 3)"),
        (4, ValueError, "lengths: expected shape (3,), one for each sequence, got ()"),
        ([1, 6, 7], ValueError, "lengths: expected values in [0, 5], got 6 at [1]"),
        ([1, 2, -1], ValueError, "lengths: expected values in [0, 5], got -1 at [2]"),
        (np.array([1, 2, 2**64 - 1], np.uint64), ValueError, "lengths: expected values in [0, 5], got 18446"),
        ([1.0, 2.0, 3.0], TypeError, "lengths: expected integers, got float64"),
        ([True, True, False], TypeError, "lengths: expected integers, got bool"),
        (["1", "2", "3"], TypeError, "lengths: expected integers, got <U1"),
    ],
)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("batch_first", FLAGS)
def test_bad_lengths(lengths, error, text, cell, batch_first):
    x, y = (np.zeros((3, 5) if batch_first else (5, 3), int) for _ in "xy")
    model = pybptt.SequenceModel(problem(cell, 5, 3, 4, 9, batch_first=batch_first).layer, 6)
    layer = problem(cell, 5, 3, 4, 9, batch_first=batch_first).layer
    before = bits(layer.flat, model.flat)
    for call in (
        lambda: layer(x, lengths=lengths),
        lambda: layer.forward(x, lengths=lengths),
        lambda: layer.tape_bytes(5, 3, lengths=lengths),
        lambda: model(x, lengths=lengths),
        lambda: model.loss(x, y, lengths=lengths),
        lambda: model.loss_and_grad(x, y, lengths=lengths),
    ):
        with pytest.raises(error, match="^" + re.escape(text)):
            call()
    assert bits(layer.flat, model.flat) == before


def test_what_a_call_before_left_in_memory_is_in_no_result():
    """The next call gets the same blocks, and an output layer reads rows past a sequence's end, times 0."""
    T, B = 40, 16
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(T, B, 3)), rng.integers(0, 6, size=(T, B))
    lengths = some_lengths("unsorted", T, B)
    model = pybptt.SequenceModel(pybptt.LSTM(3, 5, dtype="float64", seed=0), 6, seed=1)
    loss, gradients, _ = model.loss_and_grad(x, y, lengths=lengths)
    before = bits(loss, gradients)
    model.loss_and_grad(np.full_like(x, np.nan), y, lengths=lengths)
    loss, gradients, _ = model.loss_and_grad(x, y, lengths=lengths)
    assert np.isfinite(loss)
    assert bits(loss, gradients) == before


def test_ids_before_the_end_are_still_checked():
    p = problem("lstm", 5, 3, 4, 9, tokens=True, lengths=[2, 5, 0])
    p.x[1, 0] = 4
    with pytest.raises(IndexError, match=r"^x: expected ids in \[0, 4\), got 4 at \[1, 0\]"):
        run(p)
    q = problem("lstm", 5, 3, 4, 9, tokens=True, lengths=[2, 5, 0], batch_first=True)
    q.x = p.x.T
    with pytest.raises(IndexError, match=r"^x: expected ids in \[0, 4\), got 4 at \[0, 1\]"):
        run(q)
