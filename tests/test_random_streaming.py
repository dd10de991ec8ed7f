"""SequenceModel.stream with random truncation: blocks against autograd, their sum, their mean."""

import tracemalloc
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
from cell_support import torch_leaves
from support import assert_all_close, assert_close, bits
from test_streaming import CELLS, chunks, problem
from truncation_support import steps_by_torch

import pybptt
from pybptt import ARTBP, TBPTT, RandomTruncation, reference

T, B = 40, 3
TRUNCATIONS = [RandomTruncation(0.8, seed=3), ARTBP(0.1, seed=5), RandomTruncation(0.3, seed=1)]


def factors(steps, pi):
    """xi (T, B) as the blocks show it: 0 between two of them, 1 / pi inside, 1 at the first step."""
    xi = np.full((steps[-1].stop, B), 1 / pi)
    xi[[step.start for step in steps]] = 0
    xi[0] = 1
    return xi


def by_reference(cell, model, x, y, **options):
    return reference.run_loss_and_grad(cell, model.parameters, x, y, num_layers=2, reduction="sum", **options)


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=repr)
@pytest.mark.parametrize("cell", CELLS)
def test_each_block_agrees_with_autograd_while_the_parameters_change(torch, truncation, cell):
    model, x, y, state = problem(T, cell=cell, tokens=False)
    stops = [0]
    for step in model.stream(x, y, truncation=truncation, state=state):
        assert (step.start, step.gradients.unreached) == (stops[-1], 0)
        stops.append(step.stop)
        block = slice(step.start, step.stop)
        p = SimpleNamespace(layer=model.layer, x=x[block], state=state, mask=None)
        leaves, xs, begin = torch_leaves(torch, p, model.parameters)
        n = step.stop - step.start
        xi = np.where(np.arange(n)[:, None] == 0, 1.0, 1 / float(truncation.pi)).repeat(B, axis=1)
        loss = 0.0
        for b in range(B):
            found = steps_by_torch(torch, p, leaves, xs, tuple(s[:, b] for s in begin), b, 1, n, xi)
            h = torch.cat([of_layers[-1][0] for of_layers in found])
            o = torch.nn.functional.linear(h, leaves["output.weight"], leaves["output.bias"])
            loss = loss + torch.nn.functional.cross_entropy(o, torch.tensor(y[block, b]), reduction="sum")
        loss.backward()
        assert step.loss == pytest.approx(loss.item(), rel=1e-11)
        assert step.count == n * B
        assert_all_close(step.gradients.parameters, {k: v.grad.numpy() for k, v in leaves.items()}, 1e-11)
        found_state = step.gradients.state if cell == "lstm" else (step.gradients.state,)
        for a, b in zip(found_state, begin, strict=True):
            assert_close(a, b.grad.numpy(), 1e-11)
        state = step.state
        model.flat -= 0.01 * step.gradients.flat
    assert stops[-1] == T
    assert len(stops) > 3


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=repr)
@pytest.mark.parametrize("cell", CELLS)
def test_the_sum_is_that_of_the_whole_sequence_for_the_same_draws(truncation, cell):
    model, x, y, state = problem(T, cell=cell)
    steps = list(model.stream(x, y, truncation=truncation, state=state))
    xi = factors(steps, float(truncation.pi))
    loss, g, last = by_reference(cell, model, x, y, state=state, xi=xi)
    assert sum(step.loss for step in steps) == pytest.approx(loss, rel=1e-12)
    expected = np.concatenate([g.parameters[name].ravel() for name in model.parameters])
    assert_close(sum(step.gradients.flat for step in steps), expected)
    assert_close(np.array(steps[0].gradients.state), np.array(g.state))
    assert_close(np.array(steps[-1].state), np.array(last))


def test_the_mean_over_the_draws_is_the_full_gradient():
    """By the criterion of test_random_truncation.py; blocks that are not rescaled fail it."""
    model, x, y, _ = problem(8, B=2)
    model.flat *= 2  # so that more of the gradient comes from earlier steps
    full, samples = model.loss_and_grad(x, y)[1].flat, 3000

    def excess(scale):
        drawn = np.zeros((samples, full.size))
        for seed, gradient in enumerate(drawn):
            for step in model.stream(x, y, truncation=ARTBP(0.25, seed)):
                gradient += scale * step.gradients.flat
        error, deviation = np.abs(drawn.mean(axis=0) - full), drawn.std(axis=0, ddof=1)
        random = deviation > 1e-12 * np.abs(full).max()
        assert random.mean() > 0.4
        z = error[random] / deviation[random] * np.sqrt(samples)
        return z.max() / NormalDist().inv_cdf(1 - 1e-6 / (2 * len(z)))

    assert excess(1.0) <= 1
    assert excess(1.02) > 1


def test_the_lengths_of_the_blocks():
    """Geometric: 1 / (1 - pi) in the mean, P(n > k) = pi^k, and no memory of the block before."""
    model = problem(1)[0]
    x = np.zeros((20_000, 1), np.int64)
    stops = [0, *(step.stop for step in model.stream(x, x, truncation=RandomTruncation(0.8, seed=0)))]
    lengths = np.diff(stops)[:-1]  # the last one ends with the sequence
    n = len(lengths)
    assert abs(lengths.mean() - 5) < 5 * np.sqrt(20 / n)  # the variance is pi / (1 - pi)^2
    for k in (1, 5, 10):
        p = 0.8**k
        assert abs((lengths > k).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)
    assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("sizes", [[1], [5, 1, 9], [500]])
@pytest.mark.parametrize("batch_first", [False, True])
def test_chunks_of_any_sizes_are_the_whole(sizes, batch_first):
    """To the last bit: blocks end where the draws say, not where chunks do."""
    model, x, y, state = problem(T, cell="lstm", batch_first=batch_first)
    truncation = ARTBP(0.1, seed=2)
    whole = list(model.stream(x, y, truncation=truncation, state=state))
    source = chunks(x, y, sizes, axis=int(batch_first))
    pieces = list(model.stream(source, truncation=truncation, state=state))
    for a, b in zip(whole, pieces, strict=True):
        assert bits(a.loss, a.gradients, a.state) == bits(b.loss, b.gradients, b.state)
        assert (a.start, a.stop, a.count) == (b.start, b.stop, b.count)


def test_only_a_block_is_held():
    """When a chunk is asked for, no more than the block so far and two chunks are in memory."""
    D, chunk = 1000, 7
    model = pybptt.SequenceModel(pybptt.RNN(D, 2, seed=0), 2, loss="mse", seed=1)
    begin, excess = 0, []

    def source():
        for n in range(100):
            yield np.zeros((chunk, 1, D), np.float32), np.zeros((chunk, 1, 2), np.float32)
            held = chunk * (n + 1) - begin + 2 * chunk
            excess.append(tracemalloc.get_traced_memory()[0] - 4 * D * held)

    steps = model.stream(source(), truncation=ARTBP(1 / 30, seed=0))
    tracemalloc.start()
    try:
        for step in steps:
            begin = step.stop
    finally:
        tracemalloc.stop()
    assert begin == 700
    assert max(excess) < 100_000


def test_what_can_be_said_of_certainty_seeds_and_the_mean():
    model, x, y, state = problem(T)
    for certain in (RandomTruncation(1.0), ARTBP(0)):
        (step,) = model.stream(iter([(x[:7], y[:7]), (x[7:], y[7:])]), truncation=certain, state=state)
        loss, g, last = model.loss_and_grad(x, y, state)
        assert bits(step.loss, step.gradients.flat, step.state) == bits(loss, g.flat, last)

    def stops(truncation):
        return [step.stop for step in model.stream(x, y, truncation=truncation)]

    assert stops(ARTBP(0.3, 0)) == stops(RandomTruncation(0.7, 0)) != stops(ARTBP(0.3, 1))
    endless = ARTBP(0.3)
    assert stops(endless) != stops(endless)
    mean = problem(T, reduction="mean")[0]
    for a, b in zip(
        model.stream(x, y, truncation=ARTBP(0.3, 0)), mean.stream(x, y, truncation=ARTBP(0.3, 0)), strict=True
    ):
        assert_close(b.gradients.flat * b.count, a.gradients.flat)
    assert list(model.stream(x[:0], y[:0], truncation=ARTBP(0.3))) == []


def test_clip_hidden_is_passed_on():
    model, x, y, _ = problem(T)
    truncation, clip = ARTBP(0.2, seed=0), ("value", 0.01)
    steps = list(model.stream(x, y, truncation=truncation, clip_hidden=clip))
    g = by_reference("rnn", model, x, y, xi=factors(steps, 0.8), clip_hidden=clip)[1]
    expected = np.concatenate([g.parameters[name].ravel() for name in model.parameters])
    assert_close(sum(step.gradients.flat for step in steps), expected)


def test_one_probability_a_step_is_refused():
    model, x, y, _ = problem(4)
    for truncation in (RandomTruncation([0.5] * 4), ARTBP([0.5] * 4)):
        with pytest.raises(ValueError, match="^truncation: expected one probability .*array of 4"):
            model.stream(x, y, truncation=truncation)
    with pytest.raises(
        TypeError, match="^truncation: expected TBPTT, RandomTruncation or ARTBP, got NoneType"
    ):
        model.stream(x, y, truncation=None)
    assert list(model.stream(x, y, truncation=TBPTT(2, 2)))
