"""pybptt.data: what the batches hold, against the stream itself, and whether the state may be carried."""

import itertools

import numpy as np
import pytest
from support import bits

import pybptt
from pybptt import data


def columns(batches):
    """The columns of all items of an epoch as lists of (x, y)."""
    return [list(zip(b.x[:, j], b.y[:, j], strict=True)) for b in batches for j in range(b.x.shape[1])]


@pytest.mark.parametrize(("N", "B", "T"), [(7, 1, 3), (8, 3, 2), (8, 2, 3), (101, 4, 5), (101, 5, 5)])
@pytest.mark.parametrize("offset", [0, 1])
def test_sequential_reads_stretches_side_by_side(N, B, T, offset):
    batches = data.sequential(np.arange(N), B, T, offset=offset)
    items = list(batches)
    rows = (N - 1 - offset) // B
    assert len(items) == len(batches) == rows // T
    x = np.concatenate([item.x for item in items])
    assert [item.carry for item in items] == [False] + [True] * (len(items) - 1)
    for b in range(B):
        assert x[:, b].tolist() == list(range(offset + b * rows, offset + b * rows + len(items) * T))
    assert all(item.x.shape == (T, B) and bits(item.y) == bits(item.x + 1) for item in items)


def test_sequential_gives_views(tmp_path):
    stream = np.memmap(tmp_path / "tokens", np.uint16, "w+", shape=(1000,))
    vectors = np.zeros((50, 3), np.float32)
    for array in (stream, vectors):
        for item in data.sequential(array, 3, 4, targets=array):
            assert np.shares_memory(item.x, array)
            assert np.shares_memory(item.y, array)
            assert item.x.shape == (4, 3, *array.shape[1:])


def test_sequential_begins_anywhere_with_a_seed():
    batches = data.sequential(np.arange(40), 2, 5, offset=2, seed=0)
    epochs = [list(batches) for _ in range(60)]
    assert {int(epoch[0].x[0, 0]) for epoch in epochs} == set(range(2, 7))
    assert {len(epoch) for epoch in epochs} == {len(batches)} == {3}
    again = data.sequential(np.arange(40), 2, 5, offset=2, seed=0)
    assert bits(*(i.x for e in epochs for i in e)) == bits(*(i.x for _ in epochs for i in again))


@pytest.mark.parametrize(("N", "B", "T"), [(8, 1, 3), (102, 4, 5), (101, 5, 4)])
def test_random_deals_out_stretches(N, B, T):
    batches = data.random(np.arange(N), B, T, seed=0)
    begins = set()
    for _ in range(40):
        items = list(batches)
        assert len(items) == len(batches) == (N - 1 - (T - 1)) // T // B
        assert not any(item.carry for item in items)
        found = columns(items)
        starts = sorted(int(column[0][0]) for column in found)
        begins |= {start % T for start in starts}
        assert {(b - a) % T for a, b in itertools.pairwise(starts)} <= {0}  # cut once, and none twice:
        assert len(set(starts)) == len(starts)
        for column, start in zip(sorted(found), starts, strict=True):
            assert column == [(start + t, start + t + 1) for t in range(T)]
    assert begins == set(range(T))


def test_random_is_in_random_order_from_its_seed():
    def epochs(seed):
        batches = data.random(np.arange(200), 2, 5, seed=seed)
        return [np.concatenate([item.x for item in batches]).tolist() for _ in range(3)]

    assert epochs(0) == epochs(0) != epochs(1)
    assert epochs(0)[0] != epochs(0)[1]
    starts = [start for item in data.random(np.arange(200), 2, 5, seed=0) for start in item.x[0]]
    assert starts != sorted(starts)


@pytest.mark.parametrize("make", [data.sequential, data.random])
def test_targets_of_ones_own(make):
    rng = np.random.default_rng(0)
    stream, targets = rng.normal(size=(40, 3)), np.arange(40)
    for item in make(stream, 2, 5, targets=targets, seed=3):
        assert item.y.shape == (5, 2)
        assert bits(item.x) == bits(stream[item.y])


def test_a_carried_state_is_the_one_of_the_whole_stream():
    """Going through an epoch with `carry` is going through each stretch at once."""
    stream = np.random.default_rng(0).integers(5, size=103)
    layer = pybptt.RNN(5, 4, dtype="float64", seed=0)
    state, states = None, []
    for _ in range(2):
        for item in data.sequential(stream, 2, 10):
            _, state = layer(np.ascontiguousarray(item.x), state if item.carry else None)
        states.append(state)
    whole = np.stack([stream[:50], stream[51:101]], axis=1)
    assert bits(layer(whole)[1]) == bits(states[0]) == bits(states[1])


@pytest.mark.parametrize("make", [data.sequential, data.random])
def test_bad_input(make):
    good = np.arange(50)
    for error, message, arguments, options in [
        (TypeError, "stream: expected a numpy array", ([1, 2, 3], 1, 1), {}),
        (ValueError, r"stream: expected shape \(N,\)", (np.array(3), 1, 1), {}),
        (TypeError, "targets: expected a numpy array", (good, 1, 1), {"targets": [1]}),
        (
            ValueError,
            r"targets: expected shape \(50, ...\), got \(49,\)",
            (good, 1, 1),
            {"targets": good[1:]},
        ),
        (ValueError, "batch_size: expected at least 1, got 0", (good, 0, 1), {}),
        (ValueError, "steps: expected at least 1, got -1", (good, 1, -1), {}),
        (TypeError, "steps: expected an integer, got float", (good, 1, 2.0), {}),
        (ValueError, "seed: expected at least 0, got -1", (good, 1, 2), {"seed": -1}),
        (ValueError, "stream: expected at least 2 elements .* got 0", (good[:0], 1, 1), {}),
    ]:
        with pytest.raises(error, match=message):
            make(*arguments, **options)
    with pytest.raises(ValueError, match="offset: expected at least 0"):
        data.sequential(good, 1, 1, offset=-1)


def test_the_shortest_stream():
    for make, least in ((data.sequential, 11), (data.random, 15)):
        assert len(make(np.arange(least), 2, 5)) == 1
        with pytest.raises(
            ValueError, match=f"stream: expected at least {least} elements .* got {least - 1}"
        ):
            make(np.arange(least - 1), 2, 5)
    assert len(data.sequential(np.arange(10), 2, 5, targets=np.arange(10))) == 1
