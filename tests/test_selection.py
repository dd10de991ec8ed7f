"""Inputs of which a few rows return again and again: each is multiplied by W_ih once.

What a call finds is what it finds for any other input. That the short way was taken is seen by its tape,
which does not keep such an input.
"""

import itertools

import numpy as np
import pytest
from cell_support import (
    FEW,
    FLAGS,
    PYTORCHS,
    arrays_of,
    assert_same,
    backward,
    by_reference,
    by_torch,
    forward,
    problem,
    run,
)
from support import bits

import pybptt

T, B, D, ROWS = 40, 16, 33, 20  # 640 rows of 33 columns, 20 of them distinct


def repeated(cell, *, rows=ROWS, T=T, B=B, D=D, H=9, **options):
    """A problem whose x has few distinct rows."""
    p = problem(cell, T, B, D, H, **options)
    rng = np.random.default_rng(7)
    p.x = rng.normal(size=(rows, D)).astype(p.x.dtype)[rng.integers(rows, size=(T, B))]
    return p


def all_bits(result):
    return bits(*arrays_of(result).values())


def keeps_x(p):
    """Whether the tape of a call holds as much as with rows that all differ."""
    other = type(p)(**vars(p) | {"x": np.random.default_rng(9).normal(size=p.x.shape).astype(p.x.dtype)})
    return forward(p)[2].nbytes >= forward(other)[2].nbytes


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize(("L", "K"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("ragged", FLAGS)
def test_all_results_are_those_of_the_reference(cell, L, K, ragged):
    lengths = [T - i % 7 for i in range(B - 2)] + [3, 0] if ragged else None
    p = repeated(cell, T=T + 8 * ragged, L=L, K=K, lengths=lengths, mask=L > 1)
    assert_same(run(p), by_reference(p))
    assert not keeps_x(p)


@pytest.mark.parametrize("cell", PYTORCHS)
@pytest.mark.parametrize("K", [1, 2])
def test_all_results_are_those_of_pytorch(torch, cell, K):
    p = repeated(cell, K=K, D=64, H=20, L=2)
    p.d_cells = None
    assert_same(run(p), by_torch(torch, p), without=("hidden", "cells"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru-before"])
def test_outputs_are_those_of_calls_that_are_too_short_for_it(cell, dtype):
    p = repeated(cell, dtype=dtype, H=21)
    whole, last, _ = forward(p)
    outputs, state = [], p.state
    for t in range(0, T, 10):  # 160 rows
        output, state, tape = p.layer.forward(p.x[t : t + 10], state)
        assert tape.nbytes > p.x[t : t + 10].nbytes
        outputs.append(output)
    assert bits(whole, last) == bits(np.concatenate(outputs), state)
    assert bits(*p.layer(p.x, p.state)) == bits(whole, last)
    with p.layer.packed() as packed:
        assert bits(*packed(p.x, p.state)) == bits(whole, last)
        output, last, tape = packed.forward(p.x, p.state)
    p.d_cells = None
    assert bits(output, backward(p, tape)) == bits(whole, backward(p, forward(p)[2]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "lstm-projected", "gru-before"])
def test_bits_depend_neither_on_threads_nor_on_the_limit(set_threads, cell, dtype):
    for (T, B, H), ragged in itertools.product([(170, 9, 24), (60, 40, 17), (1200, 1, 130)], FLAGS):
        lengths = [T, *np.random.default_rng(T).integers(T // 2, T + 1, size=B - 1)] if ragged else None
        p = repeated(cell, T=T, B=B, H=H, lengths=lengths, dtype=dtype)
        set_threads(1)
        expected = all_bits(run(p))
        memory = p.layer.memory(T, B, lengths=lengths)
        plain = memory.tape + memory.working
        for threads, limit in itertools.product(
            (1, 2, 3, 5), (None, memory.smallest, (memory.smallest + plain) // 2)
        ):
            set_threads(threads)
            output, state, tape = forward(p, memory_limit=limit)
            g = backward(p, tape)
            assert all_bits(type(p)(output=output, state=state, cells=tape.cells, g=g)) == expected


@pytest.mark.parametrize("options", [
    {"truncation": pybptt.TBPTT(5, 20)}, {"truncation": pybptt.TBPTT(10, 10)}, {"clip_hidden": ("norm", 0.1)},
])  # fmt: skip
def test_models_with_truncation_and_clipping(set_threads, options):
    p = repeated("lstm", L=2)
    model = pybptt.SequenceModel(p.layer, 5, seed=1)
    y = np.random.default_rng(3).integers(5, size=(T, B))
    set_threads(1)
    loss, g, _ = model.loss_and_grad(p.x, y, input=True, **options)
    apart = p.x + 1e-12 * np.random.default_rng(4).normal(size=p.x.shape)  # no row twice
    other_loss, other, _ = model.loss_and_grad(apart, y, input=True, **options)
    assert abs(loss - other_loss) <= 1e-9
    assert np.abs(g.flat - other.flat).max() <= 1e-9 * np.abs(g.flat).max()
    assert np.abs(g.input - other.input).max() <= 1e-9 * np.abs(g.input).max()
    assert model.loss(p.x, y)[0] == pytest.approx(loss, rel=1e-12)
    for threads in (2, 3):
        set_threads(threads)
        assert bits(*model.loss_and_grad(p.x, y, input=True, **options)[:2]) == bits(loss, g)


@pytest.mark.parametrize(("T", "B", "D", "rows", "short"), [
    (32, 16, 32, 42, True), (32, 16, 32, 43, False), (31, 16, 32, 2, False), (32, 16, 31, 2, False),
    (200, 32, 32, 256, True), (200, 32, 32, 257, False),
])  # fmt: skip
def test_it_is_for_many_rows_and_columns_and_few_distinct_ones(T, B, D, rows, short):
    p = problem("lstm", T, B, D, 5, dtype="float32")
    p.x.reshape(T * B, D)[...] = p.x.reshape(T * B, D)[np.arange(T * B) % rows]
    assert keeps_x(p) != short
    p.d_cells = None  # which the tape would hold as well
    assert forward(p)[2].nbytes <= p.layer.tape_bytes(T, B)


def test_one_row_alone_and_rows_that_differ_in_a_bit():
    p = problem("gru", 64, 16, 40, 12)
    p.x[...] = 1
    assert_same(run(p), by_reference(p))
    p.x[::2, :, -1] = np.nextafter(1, 2)
    p.x[::3, :, 7] = -0.0
    assert_same(run(p), by_reference(p))
    assert not keeps_x(p)


def test_sums_of_dz_do_not_stall():
    """dz = 1 would be lost beside 2^24, beyond the integers that float32 has."""
    T, B = 100, 16
    layer = pybptt.RNN(32, 1, nonlinearity="identity", bias=False, dtype="float32", seed=0)
    layer.flat[...] = 0
    _, _, tape = layer.forward(np.ones((T, B, 32), np.float32))
    d_output = np.ones((T, B, 1), np.float32)
    d_output[-1, 0] = 2**24  # the sweep meets it first
    g = layer.backward(tape, d_output)
    assert (g.parameters["weight_ih_l0"] == np.float32(2**24 + T * B - 1)).all()


@pytest.mark.parametrize(("n", "rows"), [(2000, 160), (4000, 256)])
def test_float32_is_as_accurate_as_pytorch(torch, n, rows):
    """Of rows and derivatives of one sign, where rounding errors of a long sum add up."""
    errors = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        layer = pybptt.RNN(48, 24, nonlinearity="identity", bias=False, dtype="float32", seed=0)
        layer.flat[...] = 0
        x = rng.normal(3, 1, size=(rows, 48)).astype("f4")[rng.integers(rows, size=(n // 8, 8))]
        d_output = rng.normal(3, 1, size=(n // 8, 8, 24)).astype("f4")
        found = layer.backward(layer.forward(x)[2], d_output).parameters["weight_ih_l0"]
        dz, xs = d_output.reshape(n, 24), x.reshape(n, 48)
        exact = dz.T.astype("f8") @ xs.astype("f8")
        theirs = (torch.tensor(dz).T @ torch.tensor(xs)).numpy()
        errors.append([np.linalg.norm(a - exact) / np.linalg.norm(exact) for a in (found, theirs)])
    ours, theirs = np.mean(errors, axis=0)
    assert ours <= 1.2 * theirs


def test_a_tape_under_a_limit_has_no_copy_of_x():
    p = repeated("lstm", T=300, B=8, D=256, H=4, dtype="float32")
    limit = p.layer.memory(300, 8).smallest
    p.d_cells = None
    assert forward(p, memory_limit=limit)[2].nbytes < p.x.nbytes / 4


def test_a_tape_owns_its_rows():
    p = repeated("lstm", lengths=[T] * (B - 1) + [T - 5])
    expected = all_bits(run(p))
    for limit in (None, p.layer.memory(T, B, lengths=p.lengths).smallest):
        output, state, tape = forward(p, memory_limit=limit)
        x, p.x[...] = p.x.copy(), np.nan
        for _ in range(2):
            assert (
                all_bits(type(p)(output=output, state=state, cells=tape.cells, g=backward(p, tape)))
                == expected
            )
        p.x = x
