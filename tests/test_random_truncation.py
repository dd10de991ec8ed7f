"""RandomTruncation and ARTBP: the reference's gradient for the factors drawn, the full one in the mean."""

import pickle
from statistics import NormalDist

import numpy as np
import pytest
from cell_support import FEW, parts, problem
from support import bits
from truncation_support import (
    RAGGED,
    T,
    assert_same,
    backward,
    backward_by_reference,
    loss_and_grad,
    loss_by_reference,
    model_problem,
)

from pybptt import ARTBP, RandomTruncation

SLOPE = np.linspace(0.4, 1.0, T)


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize("truncation", [RandomTruncation(0.6, 1), RandomTruncation(SLOPE, 2), ARTBP(0.3, 3)])
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["equal", "ragged"])
def test_agrees_with_the_reference(cell, truncation, lengths):
    """Given the xi drawn, the reference's sweep with these factors: layer and model, clipped or not."""
    p = problem(cell, T, 9, 5, 9, 3, lengths=lengths, mask=True)
    xi = truncation.factors(T, 9)
    assert 0 < np.count_nonzero(xi[0]) < 9  # J_1 is cut for some: dL/dh_0 is 0 there
    for clip_hidden in (None, ("norm", 0.7), ("value", 0.4)):
        found = backward(p, truncation, clip_hidden)
        assert_same(found, backward_by_reference(p, xi=xi, clip_hidden=clip_hidden))
        for d in parts(found.g.state):
            np.testing.assert_array_equal(
                d.any(axis=(0, 2)), (xi[0] > 0) | (np.asarray(lengths or [T] * 9) == 0)
            )
    q = model_problem(cell, T, 9, 5, 9, 4, 2, lengths=lengths, tokens=True, last_only=cell == "gru")
    found = loss_and_grad(q, truncation)
    assert_same(found, loss_by_reference(q, xi=xi))
    assert found.unreached == 0


def test_several_chunks():
    """More rows than a chunk has: 300 x 9."""
    truncation = RandomTruncation(0.9, seed=4)
    p = problem("lstm", 300, 9, 3, 5, 2)
    assert_same(backward(p, truncation), backward_by_reference(p, xi=truncation.factors(300, 9)), 1e-11)


def test_factors():
    """1 / pi_t or 0, with the frequency pi_t; of every step and sequence by itself; either dtype."""
    pi = np.array([0.1, 0.5, 0.9, 1.0])
    xi = RandomTruncation(pi, seed=0).factors(4, 10_000)
    for row, p in zip(xi, pi, strict=True):
        assert set(row) <= {0.0, 1 / p}
        assert abs((row > 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / 10_000)
    kept = xi[:3] > 0
    assert np.abs(np.corrcoef(kept) - np.eye(3)).max() < 0.05
    assert np.abs(np.corrcoef(kept[1, :-1], kept[1, 1:])[0, 1]) < 0.05
    single = RandomTruncation(pi, seed=0).factors(4, 10_000, np.float32)
    assert bits(single) == bits(xi.astype(np.float32))


@pytest.mark.parametrize("cls", [RandomTruncation, ARTBP])
def test_reproducible_from_the_seed(cls):
    """The same seed, the same bits, in every call; other seeds, and none, others."""
    p = problem("gru", T, 9, 5, 9, 2)

    def run(seed):
        return bits(backward(p, cls(0.5, seed)).g)

    again = cls(0.5, seed=7)
    assert run(7) == run(7) == bits(backward(p, again).g) == bits(backward(p, again).g)
    assert bits(backward(p, pickle.loads(pickle.dumps(again))).g) == run(7)
    assert run(7) != run(8)
    assert run(None) != run(None)
    endless = cls(0.5)
    assert bits(backward(p, endless).g) != bits(backward(p, endless).g)


@pytest.mark.parametrize("sizes", [("rnn", 40, 48, 17, 64), ("lstm", 24, 5, 20, 136, 2)])
def test_any_number_of_threads_gives_the_same_bits(sizes, set_threads):
    p = problem(*sizes, dtype="float32")
    found = []
    for threads in (1, 2, 3, 7):
        set_threads(threads)
        found.append(bits(backward(p, RandomTruncation(0.8, seed=1)).g))
    assert found == found[:1] * 4


@pytest.mark.parametrize("cell", FEW)
@pytest.mark.parametrize(
    "certain", [RandomTruncation(1.0), RandomTruncation(np.ones(T)), ARTBP(0), ARTBP(0.0)]
)
def test_certainty_is_the_full_gradient(cell, certain):
    """pi = 1, or never to cut, to the last bit."""
    p = model_problem(cell, T, 9, 5, 9, 4, 2, lengths=RAGGED)
    assert bits(loss_and_grad(p, certain).g) == bits(loss_and_grad(p).g)


# ---- The mean -------------------------------------------------------------------------------------------


class Unscaled(RandomTruncation):
    """1 in the place of 1 / pi: a wrong scale."""

    def factors(self, steps, batch, dtype=np.float64):
        return np.minimum(super().factors(steps, batch), 1).astype(dtype)


class TooLarge(ARTBP):
    """1 / (1 - c) where 1 / (1 - c / 2) would be right."""

    def factors(self, steps, batch, dtype=np.float64):
        kept = ARTBP(0.5 * self.cut, self.seed).factors(steps, batch) > 0
        return (kept / (1 - self.cut)).astype(dtype)


SAMPLES = 3000
LEVEL = 1e-6  # the chance that the test is red although the mean is right


def excess(truncation_of):
    """The largest |z| of all components of the mean over many seeds, over what LEVEL allows.

    A component is one parameter's derivative, or one of dL/dh_0 and dL/dh_t; z = (mean - full gradient) /
    (standard deviation / sqrt(SAMPLES)) is nearly normal. Of m components the largest |z| is beyond the
    quantile 1 - LEVEL / (2 m) with a probability of at most LEVEL (Bonferroni).
    """
    p = model_problem("gru", 5, 2, 2, 3, 2, 2, tokens=True, reduction="sum", lengths=[5, 3])
    p.model.flat *= 2  # so that more of the gradient comes from earlier steps

    def gradient(truncation):
        _, g, _ = p.model.loss_and_grad(
            p.x, p.y, p.state, lengths=p.lengths, truncation=truncation, hidden=True
        )
        return np.concatenate([g.flat, g.state.ravel(), g.hidden.ravel()])

    full = gradient(None)
    drawn = np.array([gradient(truncation_of(seed)) for seed in range(SAMPLES)])
    error, deviation = np.abs(drawn.mean(axis=0) - full), drawn.std(axis=0, ddof=1)
    random = deviation > 1e-12 * np.abs(full).max()  # else it depends on no factor
    assert random.mean() > 0.4
    assert error[~random].max() <= 1e-12 * np.abs(full).max()
    z = error[random] / deviation[random] * np.sqrt(SAMPLES)
    return z.max() / NormalDist().inv_cdf(1 - LEVEL / (2 * len(z)))


UNBIASED = {
    "one probability": lambda seed: RandomTruncation(0.7, seed),
    "one a step": lambda seed: RandomTruncation([0.9, 0.8, 0.7, 0.6, 0.5], seed),
    "ARTBP": lambda seed: ARTBP(0.25, seed),
    "ARTBP, one a step": lambda seed: ARTBP([0.5, 0.0, 0.2, 0.3, 0.1], seed),
}
BIASED = {
    "not rescaled": lambda seed: Unscaled(0.7, seed),
    "rescaled too much": lambda seed: TooLarge(0.25, seed),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_is_the_full_gradient(name):
    assert excess(UNBIASED[name]) <= 1


@pytest.mark.parametrize("name", BIASED)
def test_a_wrong_scale_would_be_seen(name):
    """By the same criterion, and far beyond what it allows."""
    assert excess(BIASED[name]) > 2


# ---- Errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-0.1, ValueError),
        (1.1, ValueError),
        (np.nan, ValueError),
        ([0.5, 2.0], ValueError),
        ([[0.5, 0.5]], ValueError),
        ("0.5", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([0.5, [0.5]], (TypeError, ValueError)),
        (0.5j, TypeError),
    ],
)
def test_probabilities_that_are_none(value, error):
    for cls, name in ((RandomTruncation, "pi"), (ARTBP, "cut")):
        with pytest.raises(error, match=f"{name}: expected"):
            cls(value)


def test_probabilities_at_the_ends():
    """A step can't always be cut."""
    for value in (0, 0.0, [0.5, 0.0]):
        with pytest.raises(ValueError, match=r"pi: expected probabilities in \(0, 1\], got 0"):
            RandomTruncation(value)
    for value in (1, 1.0, [0.5, 1.0]):
        with pytest.raises(ValueError, match=r"cut: expected probabilities in \[0, 1\), got 1"):
            ARTBP(value)


@pytest.mark.parametrize("run", [backward, loss_and_grad])
def test_another_number_of_steps(run):
    p = model_problem("rnn", 3, 2, 3, 4, 5)
    for truncation, name in ((RandomTruncation([0.5] * 4), "pi"), (ARTBP([0.5]), "cut")):
        with pytest.raises(ValueError, match=f"{name}: expected .* 3 steps, got [14]"):
            run(p, truncation)
    run(p, RandomTruncation([0.5] * 3))


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.0, TypeError), ("1", TypeError)])
def test_seeds_that_are_wrong(seed, error):
    for cls in (RandomTruncation, ARTBP):
        with pytest.raises(error, match="seed: expected"):
            cls(0.5, seed)


def test_probabilities_are_copied():
    pi = np.full(T, 0.5)
    truncation = RandomTruncation(pi, seed=0)
    before = bits(truncation.factors(T, 3))
    pi[:] = 1
    assert bits(truncation.factors(T, 3)) == before


def test_representations():
    assert repr(RandomTruncation(0.5, 3)) == "RandomTruncation(0.5, seed=3)"
    assert repr(ARTBP(0.25)) == "ARTBP(0.25, seed=None)"
    assert repr(RandomTruncation(np.full(4, 0.5))) == "RandomTruncation(array of 4, seed=None)"


def test_no_steps_and_no_sequences():
    for sizes in ((0, 2), (3, 0), (0, 0)):
        p = problem("lstm", *sizes, 3, 4)
        for truncation in (RandomTruncation(0.5, seed=0), ARTBP(0.5)):
            g = backward(p, truncation).g
            assert not g.flat.any()
            for a, b in zip(parts(g.state), parts(p.d_state), strict=True):
                np.testing.assert_array_equal(a, b)
