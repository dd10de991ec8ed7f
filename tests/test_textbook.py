"""pybptt.bptt against the two nested loops that it replaces, and against autograd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_close, bits

import pybptt
from pybptt import reference


def problem(T, D, H, Q, seed=0):
    rng = np.random.default_rng([seed, T, D, H, Q])
    U, V, W = rng.normal(size=(H, D)), rng.normal(size=(Q, H)), rng.normal(size=(H, H)) / np.sqrt(H)
    return U, V, W, rng.integers(D, size=T), rng.integers(Q, size=T)


def assert_agrees(arguments, truncate, **tolerance):
    found = pybptt.bptt(*arguments, bptt_truncate=truncate)
    expected = reference.bptt(*arguments, bptt_truncate=truncate)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, **tolerance)


@pytest.mark.parametrize("T", [1, 2, 7, 16, 17])
@pytest.mark.parametrize(("D", "H", "Q"), [(5, 9, 6), (1, 1, 2), (12, 17, 1), (40, 16, 33)])
def test_agrees_with_the_two_loops_for_every_truncation(T, D, H, Q):
    arguments = problem(T, D, H, Q)
    for truncate in (*range(T + 3), 10**6, None):
        assert_agrees(arguments, truncate)


@pytest.mark.parametrize("truncate", [0, 1, 20, 300, 513, None])
def test_agrees_with_the_two_loops_over_several_chunks_of_time(truncate):
    assert_agrees(problem(530, 7, 10, 8), truncate)


SIZES = st.sampled_from([1, 2, 3, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33])


@settings(max_examples=150)
@given(T=st.one_of(st.just(0), SIZES), D=SIZES, H=SIZES, Q=SIZES, seed=st.integers(0, 1000),
       truncate=st.one_of(st.none(), st.integers(0, 35)))  # fmt: skip
def test_agrees_with_the_two_loops_for_any_shape(T, D, H, Q, seed, truncate):
    assert_agrees(problem(T, D, H, Q, seed), truncate, floor=1.0)


def test_agrees_with_autograd(torch):
    U, V, W, x, y = problem(30, 8, 12, 9)
    u, v, w = tensors = [torch.tensor(a, requires_grad=True) for a in (U, V, W)]
    s, losses = torch.zeros(12, dtype=torch.float64), []
    for x_t, y_t in zip(x, y, strict=True):
        s = torch.tanh(u[:, x_t] + w @ s)
        losses.append(-torch.log_softmax(v @ s, 0)[y_t])
    sum(losses).backward()
    for actual, tensor in zip(pybptt.bptt(U, V, W, x, y), tensors, strict=True):
        assert_close(actual, tensor.grad)


def test_no_steps():
    U, V, W, x, y = problem(0, 3, 4, 5)
    for truncate in (None, 0, 2):
        for gradient, weight in zip(pybptt.bptt(U, V, W, x, y, truncate), (U, V, W), strict=True):
            assert gradient.shape == weight.shape
            assert not gradient.any()


@pytest.mark.parametrize(("D", "H", "Q"), [(3, 0, 4), (0, 3, 4), (3, 4, 0), (0, 0, 0)])
def test_no_units_no_tokens_no_classes(D, H, Q):
    T = 5 if D and Q else 0
    arguments = problem(T, max(D, 1), H, max(Q, 1))
    U, V, W, x, y = (np.zeros((H, D)), np.zeros((Q, H)), np.zeros((H, H)), *arguments[3:])
    assert [g.shape for g in pybptt.bptt(U, V, W, x, y)] == [U.shape, V.shape, W.shape]


def test_truncating_past_the_start_changes_nothing():
    arguments = problem(40, 6, 9, 7)
    full = bits(*pybptt.bptt(*arguments))
    for truncate in (39, 40, 1000, 2**63, 2**64 - 1, 2**64, 2**100):
        assert bits(*pybptt.bptt(*arguments, truncate)) == full
    assert bits(*pybptt.bptt(*arguments, 38)) != full
    assert bits(*pybptt.bptt(*arguments, np.int32(39))) == full


def test_the_arguments_are_not_changed():
    arguments = problem(20, 6, 9, 7)
    before = bits(*arguments)
    for truncate in (None, 3):
        results = pybptt.bptt(*arguments, truncate)
        assert bits(*arguments) == before
        for i, a in enumerate(results):
            assert not any(np.shares_memory(a, b) for b in (*arguments, *results[i + 1 :]))


@pytest.mark.parametrize("truncate", [None, 4])
def test_it_is_the_model_without_biases(truncate):
    """The same core: a SequenceModel with sum reduction, its biases zero."""
    U, V, W, x, y = problem(50, 6, 9, 7)
    model = pybptt.SequenceModel(pybptt.RNN(6, 9, bias=False, dtype="float64"), 7, reduction="sum")
    model.flat = np.concatenate([U.ravel(), W.ravel(), V.ravel(), np.zeros(7)])
    g = model.loss_and_grad(x[:, None], y[:, None])[1].parameters
    dLdU, dLdV, dLdW = pybptt.bptt(U, V, W, x, y, truncate)
    assert_close(dLdV, g["output.weight"])
    if truncate is None:
        assert_close(dLdU, g["weight_ih_l0"])
        assert_close(dLdW, g["weight_hh_l0"])
    else:
        assert np.abs(dLdW - g["weight_hh_l0"]).max() > 1e-3
