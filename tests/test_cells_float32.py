"""float32 against float64 for LSTM and GRU: within the worst case, and on average far closer.

As test_float32.py does it for an RNN, with the bounds of cell_error_bounds.py.
"""

import numpy as np
import pytest
from cell_error_bounds import bounds
from cell_support import EVERY, FLAGS, arrays_of, problem, run
from error_bounds import U, over_time


def rms(a):
    return np.sqrt(np.mean(np.square(a, dtype=np.float64)))


def in_both(*arguments, **options):
    """The same problem in float32 and in float64; W_hh is small, so that errors die away."""
    p, q = (problem(*arguments, dtype=dtype, **options) for dtype in ("float32", "float64"))
    for name, parameter in p.layer.parameters.items():
        parameter *= np.float32(0.3 if "weight_hh" in name else 1)
    q.layer.flat = p.layer.flat.astype(np.float64)
    for name in ("x", "state", "d_output", "d_state", "d_cells", "mask"):
        value = getattr(p, name)
        if isinstance(value, tuple):
            value = tuple(part.astype(np.float64) for part in value)
        elif value is not None and value.dtype == np.float32:
            value = value.astype(np.float64)
        setattr(q, name, value)
    return p, q


def assert_accurate(single, double, n):
    """On average; fewer than ten figures may all be small by cancellation."""
    for name, expected in arrays_of(double).items():
        found = arrays_of(single)[name]
        assert (found.dtype, expected.dtype) == (np.float32, np.float64)
        assert expected.size < 10 or rms(found - expected) <= 10 * np.sqrt(n) * U * rms(expected), name


CELLS = [
    *("lstm", "lstm-peephole", "lstm-coupled", "lstm-peephole-coupled"),
    *("lstm-projected", "lstm-projected-peephole-coupled", "gru", "gru-before"),
]
SIZES = [(1, 1, 1, 1), (3, 2, 5, 9), (20, 8, 28, 64), (100, 13, 3, 33), (1000, 2, 7, 20)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize(("T", "B", "D", "H"), SIZES)
def test_every_figure_is_within_the_worst_case(cell, T, B, D, H, tokens):
    p, q = in_both(cell, T, B, D, H, tokens=tokens)
    single, double = run(p), run(q)
    found, expected, allowed = map(arrays_of, (single, double, bounds(q)))
    assert list(allowed) == list(expected)
    for name, bound in allowed.items():
        assert found[name].shape == expected[name].shape == bound.shape
        assert (np.abs(found[name] - expected[name]) <= bound).all(), name
    assert_accurate(single, double, D + 4 * H + over_time(T * B))


@pytest.mark.parametrize("cell", [c for c in EVERY if "relu" not in c and "clip" not in c])
@pytest.mark.parametrize("K", [1, 2])
def test_stacks_are_as_accurate(cell, K):
    """Ragged, with a mask; without a kink, which a rounding may step over."""
    lengths = np.random.default_rng(0).integers(0, 41, size=11)
    p, q = in_both(cell, 40, 11, 6, 17, 3, K, lengths=lengths, mask=True)
    assert_accurate(run(p), run(q), 3 * (4 * 17 + K * 17) + over_time(40 * 11))


@pytest.mark.parametrize("cell", CELLS)
def test_the_worst_case_is_not_far_off(cell):
    """So that the bounds can fail: of every array, the largest error is over a thousandth of its bound."""
    p, q = in_both(cell, 3, 2, 5, 9)
    found, expected, allowed = map(arrays_of, (run(p), run(q), bounds(q)))
    for name, bound in allowed.items():
        assert (np.abs(found[name] - expected[name]) / bound).max() > 1e-3, name
