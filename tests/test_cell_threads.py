"""Every cell on any number of threads, and on every tier: the same bits, and the reference's figures."""

import itertools
import os
import threading
from functools import cache, partial

import numpy as np
import pytest
from cell_support import FEW, arrays_of, by_reference, problem, run
from support import assert_close, bits, run_python

import pybptt

AVAILABLE = pybptt.config()["tiers_available"]


def lengths_of(T, B):
    return np.random.default_rng([T, B]).integers(0, T + 1, size=B)


def layer(cell, *sizes, ragged=False, **options):
    """Everything that a layer computes."""
    lengths = lengths_of(*sizes[:2]) if ragged else None
    p = problem(cell, *sizes, lengths=lengths, mask=True, **options)
    found = run(p)
    inferred = p.layer(p.x, p.state, lengths=lengths)
    return bits(found.output, found.state, found.cells, found.g, *inferred)


def model(cell, T, B, D, H, Q, L=1, K=1, *, ragged=False, last_only=False, **options):
    """Everything that a model computes."""
    lengths = lengths_of(T, B) if ragged else None
    p = problem(cell, T, B, D, H, L, K, tokens=True, lengths=lengths, mask=True, **options)
    m = pybptt.SequenceModel(p.layer, Q, seed=1, last_only=last_only)
    y = np.random.default_rng(0).integers(Q, size=(T, B))
    y = y[0] if last_only else y
    gradients = m.loss_and_grad(p.x, y, p.state, lengths=lengths, dropout_mask=p.mask, hidden=True)
    return bits(*gradients, *m.loss(p.x, y, p.state, lengths=lengths), *m(p.x, p.state, lengths=lengths))


# ---- Threads --------------------------------------------------------------------------------------------

# T is the least: `compute` makes it enough for seven threads, and the test after the next sees to that.
CELLS = ("lstm-peephole", "lstm-projected", "gru", "gru-before", "rnn")
LAYERS = {
    "rows": partial(layer, sizes=(12, 48, 17, 40)),
    "rows of tokens": partial(layer, sizes=(12, 48, 300, 40), tokens=True),
    "rows, several chunks": partial(layer, sizes=(60, 24, 9, 40)),
    "columns for one sequence": partial(layer, sizes=(20, 1, 33, 288)),
    "columns for a few": partial(layer, sizes=(12, 5, 20, 136)),
    "columns for tokens, two chunks": partial(layer, sizes=(90, 3, 40, 150), tokens=True),
    "more threads than panels": partial(layer, sizes=(30, 64, 500, 20)),
    "a stack": partial(layer, sizes=(10, 32, 20, 33, 3, 2)),
    "a stack in columns": partial(layer, sizes=(10, 2, 20, 136, 2, 2)),
    "a stack one way, in columns": partial(layer, sizes=(10, 2, 20, 136, 3, 1)),
    "ragged": partial(layer, sizes=(24, 48, 17, 40, 1, 2), ragged=True),
    "a ragged stack": partial(layer, sizes=(20, 40, 9, 24, 2, 2), ragged=True),
    "ragged tokens": partial(layer, sizes=(24, 48, 99, 40, 1, 2), ragged=True, tokens=True),
    "ragged in columns": partial(layer, sizes=(30, 5, 20, 136, 1, 2), ragged=True),
    "many ragged": partial(layer, sizes=(12, 300, 9, 24), ragged=True),
}
MODELS = {
    "a model": partial(model, sizes=(20, 16, 30, 40, 300, 1, 1)),
    "a model both ways": partial(model, sizes=(20, 20, 30, 40, 300, 2, 2)),
    "a ragged model": partial(model, sizes=(24, 32, 30, 40, 50, 1, 1), ragged=True),
    "a ragged model both ways": partial(model, sizes=(24, 32, 30, 40, 50, 1, 2), ragged=True),
    "the last step": partial(model, sizes=(24, 32, 30, 40, 50, 2, 2), ragged=True, last_only=True),
}
CASES = {
    f"{name}, {cell}": (case, cell)
    for (name, case), cell in itertools.product((LAYERS | MODELS).items(), CELLS)
    if name in LAYERS or cell in ("lstm-peephole", "gru-before")
}

COUNTED = [name for name, (_, cell) in CASES.items() if cell in ("rnn", "lstm-peephole")]


def compute(name, dtype):
    case, cell = CASES[name]
    options = dict(case.keywords)
    T, B, D, H, *rest = options.pop("sizes")
    gates = {"rnn": 1, "gru": 3, "gru-before": 3}.get(cell, 4 - ("coupled" in cell))
    H = 2 * H if cell == "rnn" else H  # else it is too little for columns
    L, K = rest[-2:] if len(rest) >= 2 else (1, 1)
    depth = H + D * ("tokens" not in options and case.func is layer) + (L - 1) * (H + K * H)
    T = max(T, int(7.1 * 4e6 / (6 * B * gates * H * K * depth)) + 1)  # engine/division.hpp
    return case.func(cell, T, B, D, H, *rest, dtype=dtype, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, set_threads):
    set_threads(1)
    expected = compute(name, dtype)
    for threads in (2, 3, 7) if dtype == "float32" else (7,):
        set_threads(threads)
        assert compute(name, dtype) == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_these_cases_do_use_seven_threads():
    """Each in a child of its own, which begins with one thread; for the cells of least and of most work."""
    counts = run_python("""
        import os, warnings, pybptt
        from test_cell_threads import COUNTED, compute
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside threads
        for name in COUNTED:
            child = os.fork()
            if child == 0:
                pybptt.set_num_threads(7)
                compute(name, "float32")
                os._exit(len(os.listdir("/proc/self/task")))
            print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep=": ")
    """)
    assert counts.splitlines() == [f"{name}: 7" for name in COUNTED]


def test_python_threads_may_share_a_layer_and_a_tape(set_threads):
    """A ragged stack: forward on one layer, backward on tapes of their own and on a common one."""
    p = problem("lstm", 20, 24, 8, 32, 2, 2, lengths=lengths_of(20, 24), dtype="float32")
    _, _, common = p.layer.forward(p.x, p.state, lengths=p.lengths)

    def work(scale):
        scale = np.float32(scale)
        output, last, tape = p.layer.forward(p.x * scale, p.state, lengths=p.lengths)
        own = p.layer.backward(tape, p.d_output, p.d_state, hidden=True)
        other = p.layer.backward(common, p.d_output * scale, p.d_state, hidden=True)
        return bits(output, last, own, other)

    set_threads(3)
    scales = (1, 2, 3, -1)
    expected = [work(scale) for scale in scales]
    found = [[] for _ in scales]
    barrier = threading.Barrier(len(scales))

    def repeat(i):
        barrier.wait()
        for _ in range(6):
            found[i].append(work(scales[i]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(scales))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in enumerate(found):
        assert len(results) == 6
        assert all(result == expected[i] for result in results)


# ---- Tiers ----------------------------------------------------------------------------------------------

# Every width of the last vector and of the last panel of every tier; rows of one tile, and of more than one.
SHAPES = [(3, 1, 3, 1), (3, 2, 3, 2), (3, 3, 3, 3), (3, 5, 3, 4), (3, 7, 9, 7), (3, 8, 8, 8), (3, 12, 15, 9),
          (3, 4, 16, 15), (3, 11, 5, 16), (3, 1, 17, 17), (3, 25, 8, 23), (3, 9, 31, 32), (2, 3, 70, 100),
          (70, 17, 5, 24)]  # fmt: skip
EVERY_TIERS = (*FEW, "lstm-coupled", "lstm-clip", "gru-clip", "rnn-relu-clip")
PROBLEMS = [
    *({"cell": cell, "sizes": sizes, "tokens": flag}
      for cell, sizes, flag in itertools.product(EVERY_TIERS, SHAPES, (False, True))),
    *({"cell": cell, "sizes": (9, B, 5, 9, 2, 2), "tokens": False, "lengths": lengths_of(9, B), "mask": True}
      for cell, B in itertools.product(EVERY_TIERS, (3, 18))),
]  # fmt: skip


def tiers_problem(dtype, cell, sizes, **options):
    return problem(cell, *sizes, dtype=dtype, **options)


def save(dtype, path):
    """What this process's tier makes of all problems."""
    found = [arrays_of(run(tiers_problem(dtype, **arguments))) for arguments in PROBLEMS]
    np.savez(path, *(array for arrays in found for array in arrays.values()))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """results(tier, dtype): what `save` saved in a process of that tier."""

    @cache
    def computed(tier, dtype):
        path = tmp_path_factory.mktemp("results") / "results.npz"
        program = """
            import sys, pybptt, test_cell_threads
            test_cell_threads.save(*sys.argv[1:])
            print(pybptt.config()["tier"])
        """
        assert run_python(program, dtype, path, PYBPTT_TIER=tier) == f"{tier}\n"
        with np.load(path) as file:
            return list(file.values())

    return computed


@pytest.fixture(scope="module")
def expected():
    """Of every array: its problem and name, what the reference says, and from the same inputs in float32."""
    found = {}
    for dtype in ("float32", "float64"):
        found[dtype] = []
        for arguments in PROBLEMS:
            p = tiers_problem(dtype, **arguments)
            arrays = arrays_of(by_reference(p))
            found[dtype] += [((arguments["cell"], arguments["sizes"], name), a) for name, a in arrays.items()]
    return found


@pytest.mark.parametrize("tier", AVAILABLE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tier_agrees_with_the_reference(tier, dtype, results, expected):
    """To 1e-12 in float64, and in float32 to 100 u, u = 2^-24."""
    tolerance = 1e-12 if dtype == "float64" else 100 * 2**-24
    for actual, (where, wanted) in zip(results(tier, dtype), expected[dtype], strict=True):
        assert actual.dtype == dtype, where
        assert_close(actual, wanted, tolerance, floor=1.0)


@pytest.mark.parametrize("tier", AVAILABLE[1:])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tier_agrees_with_the_slowest(tier, dtype, results):
    tolerance = 1e-13 if dtype == "float64" else 100 * 2**-24
    for actual, wanted in zip(results(tier, dtype), results(AVAILABLE[0], dtype), strict=True):
        assert_close(actual, wanted, tolerance, floor=1.0)
