"""pybptt.data.ragged: what the batches hold, which sequences share one, and that padding is never read."""

import numpy as np
import pytest
from support import bits

import pybptt
from pybptt import data


def lines(count=57, longest=40, shape=(), dtype=np.int16, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 9, (n, *shape)).astype(dtype) for n in rng.integers(1, longest + 1, count)]


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_an_epoch_has_every_sequence_once(seed, shape):
    sequences = lines(shape=shape)
    marks = np.arange(len(sequences)) * 10
    for make, of_steps in (
        (lambda: data.ragged(sequences, 8, seed=seed), True),
        (lambda: data.ragged(sequences, 8, targets=[2 * s for s in sequences], seed=seed), True),
        (lambda: data.ragged(sequences, 8, targets=marks, seed=seed), False),
    ):
        batches = make()
        items = list(batches)
        assert len(items) == len(batches) == 8
        assert sorted(i for item in items for i in item.indices) == list(range(len(sequences)))
        assert sorted(len(item.lengths) for item in items) == [1, *[8] * 7]
        for item in items:
            assert item.x.shape == (item.lengths.max(), len(item.lengths), *shape)
            assert item.x.dtype == np.int16
            assert item.lengths.dtype == item.indices.dtype == np.int64
            for column, (n, i) in enumerate(zip(item.lengths, item.indices, strict=True)):
                whole = sequences[i]
                assert bits(item.x[:n, column]) == bits(whole[:n])
                assert not item.x[n:, column].any()
                if not of_steps:
                    assert item.y[column] == marks[i]
                    assert n == len(whole)
                elif n == len(whole):
                    assert bits(item.y[:n, column]) == bits(2 * whole)
                else:
                    assert n == len(whole) - 1
                    assert bits(item.y[:n, column]) == bits(whole[1:])
                    assert not item.y[n:, column].any()


def padding(batches):
    """Its share of all places."""
    return 1 - sum(b.lengths.sum() for b in batches) / sum(b.lengths.max() * b.lengths.size for b in batches)


def test_similar_lengths_share_a_batch():
    sequences = lines(1000)
    shares = [padding(list(data.ragged(sequences, 8, pool=pool, seed=0))) for pool in (1, 5, 1000)]
    assert shares[0] > 0.3 > shares[1] > 0.03 > shares[2]
    fixed = [item.lengths.tolist() for item in data.ragged(sequences, 8, pool=1000)]
    assert sum(fixed, []) == sorted(len(s) - 1 for s in sequences)


def test_the_order_comes_from_the_seed():
    sequences = lines(200)

    def epochs(**options):
        batches = data.ragged(sequences, 8, **options)
        return [[item.indices.tolist() for item in batches] for _ in range(3)]

    one = epochs(seed=1, pool=3)
    assert one == epochs(seed=1, pool=3) != epochs(seed=2, pool=3)
    assert one[0] != one[1]
    # Pools are drawn anew: who shares a batch changes, and batches do not come by length.
    assert {tuple(sorted(b)) for b in one[0]}.isdisjoint(tuple(sorted(b)) for b in one[1] if len(b) == 8)
    longest = [max(len(sequences[i]) for i in b) for b in epochs(seed=1)[0]]
    assert longest != sorted(longest)
    fixed = epochs(pool=3)
    assert fixed[0] == fixed[1]
    assert sorted(sum(fixed[0][:3], [])) == list(range(24))


def test_losses_and_gradients_are_those_of_the_sequences():
    sequences = lines(20, longest=12)
    model = pybptt.SequenceModel(pybptt.LSTM(9, 5, dtype="float64", seed=0), 9, reduction="sum", seed=1)
    total, flat = 0.0, np.zeros_like(model.flat)
    for s in sequences:
        loss, gradients, _ = model.loss_and_grad(s[:-1, None], s[1:, None])
        total += loss
        flat += gradients.flat
    for item in data.ragged(sequences, 6, seed=0):
        loss, gradients, _ = model.loss_and_grad(item.x, item.y, lengths=item.lengths)
        total -= loss
        flat -= gradients.flat
    assert abs(total) < 1e-10
    assert np.abs(flat).max() < 1e-12


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (([], 2), {}, ValueError, "sequences: expected at least one, got none"),
        ((3, 2), {}, TypeError, "sequences: expected numpy arrays, got int"),
        (([np.ones(2)], 1), {"targets": 3}, TypeError, "targets: expected numpy arrays, got int"),
        (([np.ones(2), np.ones((2, 2))], 2), {}, ValueError, r"sequences\[1\]: expected shape \(T,\) as of"),
        (([[1, 2]], 2), {}, TypeError, r"sequences\[0\]: expected a numpy array of one sequence, got list"),
        (([np.ones(2), np.array(1.0)], 2), {}, ValueError, r"sequences\[1\]: expected at least 1 steps"),
        (([np.ones(2), np.ones(0)], 2), {}, ValueError, r"sequences\[1\]: expected at least 1 steps"),
        (
            ([np.ones(2), np.ones(2, int)], 2),
            {},
            TypeError,
            r"sequences\[1\]: expected dtype float64 as of sequences\[0\], got int64",
        ),
        (
            ([np.ones((2, 3)), np.ones((2, 4))], 2),
            {},
            ValueError,
            r"sequences\[1\]: expected shape \(T, 3\) as of sequences\[0\], got \(2, 4\)",
        ),
        (([np.ones(2)], 0), {}, ValueError, "batch_size: expected at least 1, got 0"),
        (([np.ones(2)], 1), {"pool": 0}, ValueError, "pool: expected at least 1, got 0"),
        (([np.ones(2)], 1), {"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        (
            ([np.ones(2)], 1),
            {"targets": np.ones(3)},
            ValueError,
            "targets: expected 1, one for each sequence; got 3",
        ),
        (
            ([np.ones(2), np.ones(3)], 1),
            {"targets": [np.ones(2), np.ones(2)]},
            ValueError,
            r"targets\[1\]: expected length 3, that of its sequence; got 2",
        ),
        (([np.ones(2)], 1), {"targets": [1]}, TypeError, r"targets\[0\]: expected a numpy array"),
    ],
)
def test_what_is_wrong_is_told(arguments, options, error, text):
    with pytest.raises(error, match=text):
        data.ragged(*arguments, **options)
