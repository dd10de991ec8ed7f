"""Single figures that pybptt promises besides the rows of compare.py, each held against its floor.

Run as `python benchmarks/checks.py`, or with the names of some of the checks. Everything is on one thread.
The exit status is 1 where a figure misses its floor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import compare
import numpy as np
import report
from contestants import with_numpy, with_pybptt
from rows import ROWS, Problem, make_problem

import pybptt


@dataclass
class Figure:
    """One measured number; `asked` is the least or most allowed, by the sign in `relation`, or None."""

    what: str
    value: float
    unit: str = ""
    relation: str = "<="
    asked: float | None = None

    @property
    def met(self) -> bool:
        if self.asked is None:
            return True
        return self.value <= self.asked if self.relation == "<=" else self.value >= self.asked

    def __str__(self) -> str:
        text = f"  {self.what:<58} {report.number(self.value):>7} {self.unit:<2}"
        if self.asked is not None:
            text += f" {self.relation} {self.asked:g}: {'yes' if self.met else 'NO'}"
        return text.rstrip()


def interleaved(calls: dict[str, Callable], rounds: int, seconds_a_turn: float = 0.02) -> dict[str, float]:
    """Median seconds of each call, taking turns."""
    usual = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        usual[name] = time.perf_counter() - start
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(max(1, round(seconds_a_turn / usual[name]))):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def step(rnn: pybptt.RNN, x: np.ndarray, d_output: np.ndarray) -> Callable:
    def call():
        _, _, tape = rnn.forward(x)
        return rnn.backward(tape, d_output, input=False)

    return call


def textbook() -> Iterator[Figure]:
    """The textbook's two nested loops against pybptt.bptt, T = 1000, H = 100, 65 tokens."""
    T, H, Q = 1000, 100, 65
    rng = np.random.default_rng(0)
    U, V, W = (rng.uniform(-0.1, 0.1, shape) for shape in ((H, Q), (Q, H), (H, H)))
    x, y = rng.integers(0, Q, (2, T))
    fast = interleaved({"bptt": lambda: pybptt.bptt(U, V, W, x, y)}, rounds=20)["bptt"]
    start = time.perf_counter()
    expected = pybptt.reference.bptt(U, V, W, x, y)
    slow = time.perf_counter() - start
    error = max(
        float(np.abs(found - wanted).max() / np.abs(wanted).max())
        for found, wanted in zip(pybptt.bptt(U, V, W, x, y), expected, strict=True)
    )
    yield Figure("pybptt.reference.bptt, once", slow, "s")
    yield Figure("pybptt.bptt, float64", fast * 1e3, "ms")
    yield Figure("times faster", slow / fast, "x", ">=", 2000)
    yield Figure("largest relative difference, in units of 1e-12", error / 1e-12, "", "<=", 1)


def overhead() -> Iterator[Figure]:
    """What a call costs when there is next to nothing to compute: T = B = D = H = 1."""
    rnn = pybptt.RNN(1, 1, seed=0)
    x = d_output = np.ones((1, 1, 1), np.float32)

    def both():
        _, _, tape = rnn.forward(x)
        rnn.backward(tape, d_output)

    median = interleaved({"both": both}, rounds=100, seconds_a_turn=0.005)["both"]
    yield Figure("forward + backward at T = B = D = H = 1", median * 1e6, "us", "<=", 15)


def flat() -> Iterator[Figure]:
    """Time a step of the sequence from T = 100 to T = 100,000 (needs 2 GB of memory)."""
    lengths = (100, 1000, 10_000, 100_000)
    rng = np.random.default_rng(0)
    for B, H in ((1, 32), (1, 128), (8, 32), (8, 128)):
        rnn = pybptt.RNN(32, H, seed=0)
        x = rng.standard_normal((lengths[-1], B, 32), np.float32)
        d_output = rng.standard_normal((lengths[-1], B, H), np.float32)
        medians = interleaved({str(T): step(rnn, x[:T], d_output[:T]) for T in lengths}, rounds=5)
        per_step = [medians[str(T)] / T * 1e6 for T in lengths]
        for T, value in zip(lengths, per_step, strict=True):
            yield Figure(f"B = {B}, H = {H}, T = {T:,}: a step", value, "us")
        # The shortest carries the cost of the call itself, so each longer one is held against the best.
        yield Figure(f"B = {B}, H = {H}: longest over best", per_step[-1] / min(per_step), "x", "<=", 1.25)


def denormals() -> Iterator[Figure]:
    """Inputs, states and gradients too small to be normal numbers, against ordinary ones."""
    T, B, D, H = 200, 8, 32, 128
    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(D, H, bias=False, seed=0)
    parameters = dict(rnn.parameters) | dict.fromkeys(("bias_ih_l0", "bias_hh_l0"), np.zeros(H, np.float32))
    x = rng.standard_normal((T, B, D), np.float32)
    d_output = rng.standard_normal((T, B, H), np.float32)
    last_only = np.zeros_like(d_output)
    last_only[-1] = d_output[-1]
    cases = {
        "ordinary": (x, d_output),
        # Gradients that vanish on their way back pass through the denormal numbers: random weights of this
        # size shrink them about twofold a step.
        "a gradient that vanishes": (x, last_only),
        "denormal input and upstream gradient": (x * np.float32(1e-39), d_output * np.float32(1e-39)),
    }
    core = interleaved({name: step(rnn, *case) for name, case in cases.items()}, rounds=20)
    by_hand = {name: Problem(parameters, case[0], d_output=case[1]) for name, case in cases.items()}
    plain = interleaved(
        {name: lambda problem=problem: with_numpy.layer_step(problem) for name, problem in by_hand.items()},
        rounds=5,
    )
    yield Figure("ordinary", core["ordinary"] * 1e3, "ms")
    for name in list(cases)[1:]:
        yield Figure(f"{name}, over ordinary", core[name] / core["ordinary"], "x", "<=", 1.15)
        yield Figure("  the same in NumPy, which does not flush", plain[name] / plain["ordinary"], "x")


def float64() -> Iterator[Figure]:
    """The fractions of dgemm that the rows reach in float64: those asked of sgemm."""
    names = [name for name, row in ROWS.items() if row.dtype == "float64" and row.floor.peak]
    measured = report.Measured(compare.compare(names, [1], ["pybptt"], seconds=2.0))
    for row in measured.rows:
        yield Figure(
            f"{row.name} ({row.sizes}), of dgemm", measured.of_peak(row, 1), "", ">=", row.floor.peak
        )


def imports() -> Iterator[Figure]:
    """What `import pybptt` takes where NumPy is imported already."""
    code = (
        "import time, numpy; start = time.perf_counter(); import pybptt; print(time.perf_counter() - start)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(21)]
    yield Figure("import pybptt over import numpy", float(np.median(times)) * 1e3, "ms", "<=", 30)


def truncation() -> Iterator[Figure]:
    """TBPTT(k, k) against full BPTT, which does the same work."""
    # 32 does not divide 400: the last window goes 16 steps back into the one before, 1.5% more work.
    for name, blocks in (("adding", (10, 50, 32)), ("lstm-long", (50,))):
        row = ROWS[name]
        problem = make_problem(row)
        layer = with_pybptt.make_layer(row, problem)
        rows = {"full": row} | {f"TBPTT({k}, {k})": replace(row, truncation=(k, k)) for k in blocks}
        steps = {what: with_pybptt.layer_step(layer, one, problem) for what, one in rows.items()}
        medians = interleaved(steps, rounds=40)
        full = medians.pop("full")
        yield Figure(f"{row.cell} {row.sizes}, full", full * 1e3, "ms")
        for what, seconds in medians.items():
            yield Figure(f"  {what}, over full", seconds / full, "x", "<=", 1.03)


def streaming() -> Iterator[Figure]:
    """T = 100,000 read as a stream against the same truncation in memory (needs 1 GB of memory)."""
    T, B, D, H, Q, k = 100_000, 8, 32, 128, 10, 100
    rng = np.random.default_rng(0)
    model = pybptt.SequenceModel(pybptt.RNN(D, H, seed=0), Q, reduction="sum", seed=1)
    x, y = rng.standard_normal((T, B, D), np.float32), rng.integers(0, Q, (T, B))
    truncation = pybptt.TBPTT(k, k)

    def stream():
        # What the sum of the gradients would cost is the user's: parameters may change between them.
        for _ in model.stream(x, y, truncation=truncation):
            pass

    calls = {"memory": lambda: model.loss_and_grad(x, y, truncation=truncation), "stream": stream}
    medians = interleaved(calls, rounds=5)
    yield Figure(f"RNN {T:,} {B} {D} {H} {Q}, TBPTT({k}, {k}), in memory", medians["memory"] * 1e3, "ms")
    yield Figure("  as a stream, over in memory", medians["stream"] / medians["memory"], "x", "<=", 1.05)


def ragged() -> Iterator[Figure]:
    """A batch with lengths uniform in 1..200 against the same shape without padding."""
    for cell in ("lstm", "gru"):
        steps = {}
        for name in (f"{cell}-small", f"{cell}-ragged"):
            row = ROWS[name]
            problem = make_problem(row)
            steps[name] = with_pybptt.layer_step(with_pybptt.make_layer(row, problem), row, problem)
        dense, uneven = interleaved(steps, rounds=30).values()
        row = ROWS[f"{cell}-ragged"]
        yield Figure(f"{cell}-ragged, steps that are no padding", row.lengths.sum() / (row.T * row.B))
        yield Figure(f"{cell}-ragged over {cell}-small", uneven / dense, "x", "<=", 0.62)


# Run with a row's name. Resident memory is what the allocator holds, so it is told to give back every large
# block at once, and the system to hand out no huge pages, of which a block would fill the last only in part.
MEMORY_OF_BACKWARD = """
import ctypes, json, sys
from contestants import with_pybptt
from rows import ROWS, Row, make_problem

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) * 1024

row = ROWS[sys.argv[1]]
for one in (Row("warm-up", 3, 2, 5, 7, cell=row.cell), row):  # the first one loads the code itself
    problem = make_problem(one)
    layer = with_pybptt.make_layer(one, problem)
    empty = resident("VmRSS")
    output, state, tape = layer.forward(problem.x)
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    gradients = layer.backward(tape, problem.d_output, input=False)
    peak = resident("VmHWM")
kept = output.nbytes + tape.nbytes
print(json.dumps({"tape": tape.nbytes, "kept": before - empty - kept,
                  "backward": peak - before - gradients.flat.nbytes}))
"""


def memory() -> Iterator[Figure]:
    """What backward allocates beside the tape and the gradients (Linux only)."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        print("  left out: this system can't tell the peak of a part of a run")
        return
    block = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name in ("lstm-long", "lstm-mid"):
        answer = subprocess.check_output(
            [sys.executable, "-c", MEMORY_OF_BACKWARD, name],
            env={**os.environ, **block, "NUMPY_MADVISE_HUGEPAGE": "0", "PYBPTT_NUM_THREADS": "1"},
            cwd=os.path.dirname(os.path.abspath(__file__)),
        )
        figures = json.loads(answer)
        yield Figure(f"{name} ({ROWS[name].sizes}), the tape", figures["tape"] / 1e6, "MB")
        yield Figure("  left by forward beside tape and output", figures["kept"] / 1e6, "MB")
        yield Figure("  backward, beside tape and gradients", figures["backward"] / 1e6, "MB")
        yield Figure("  its part of the tape", figures["backward"] / figures["tape"], "", "<=", 0.1)


def scan() -> Iterator[Figure]:
    """linear_scan against the copy of an array and JAX's associative_scan, float32 (needs 3 GB of memory)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})  # JAX takes as many threads as it finds cores when it starts
    import jax

    def jax_scan(b, c):
        def combine(first, second):
            return first[0] * second[0], second[0] * first[1] + second[1]

        return jax.lax.associative_scan(combine, (c, b))[1]

    rng = np.random.default_rng(0)
    for shape in ((65536, 8, 128), (8192, 32, 256), (1024, 64, 1000), (600_000, 1, 100), (16_000_000, 1, 4)):
        b, c = rng.random((2, *shape), np.float32)
        a = np.empty_like(b)
        pybptt.recurrence.linear_scan(b, c, out=a)
        on_device, compiled = (jax.device_put(b), jax.device_put(c)), jax.jit(jax_scan)
        calls = {
            "copy": lambda: np.copyto(a, b),  # noqa: B023
            "scan": lambda: pybptt.recurrence.linear_scan(b, c, out=a),  # noqa: B023
            "jax": lambda: jax.block_until_ready(compiled(*on_device)),  # noqa: B023
        }
        times = interleaved(calls, rounds=9)
        of_copy = (3 / times["scan"]) / (2 / times["copy"])
        asked = 0.8 if shape[1] * shape[2] > 16 else None  # a few columns wait for their chain of operations
        yield Figure(f"{shape}: copy, read and written", 2 * b.nbytes / times["copy"] / 1e9, "GB/s")
        yield Figure("  linear_scan, of the copy's bytes a second", of_copy, "", ">=", asked)
        yield Figure("  times as fast as associative_scan", times["jax"] / times["scan"], "x", ">=", 5)
    os.sched_setaffinity(0, before)


# A million tokens in one call with a limit, and the peak of resident memory beside the text.
MEMORY_OF_A_MILLION = """
import json, time
import numpy as np
import pybptt

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) * 1024

model = pybptt.SequenceModel(pybptt.RNN(65, 128, seed=0), 65, seed=1)
text = np.random.default_rng(0).integers(65, size=(1_000_001, 1))
told = []
before = resident("VmRSS")
start = time.perf_counter()
model.loss_and_grad(text[:-1], text[1:], memory_limit="200MB", progress=lambda *of: told.append(of))
seconds = time.perf_counter() - start
assert told[-1][0] == told[-1][1]
print(json.dumps({"peak": resident("VmHWM") - before, "seconds": seconds, "told": len(told)}))
"""


def limit() -> Iterator[Figure]:
    """What a memory_limit costs in time, and that it holds (Linux only)."""
    T, B, D, H = 10_000, 8, 32, 128
    rng = np.random.default_rng(0)
    lstm = pybptt.LSTM(D, H, seed=0)
    x = rng.standard_normal((T, B, D), np.float32)
    d_output = rng.standard_normal((T, B, H), np.float32)
    tenth = lstm.tape_bytes(T, B) // 10

    def call(memory_limit: int | None) -> Callable:
        def both():
            _, _, tape = lstm.forward(x, memory_limit=memory_limit)
            return lstm.backward(tape, d_output, input=False)

        return both

    for threads in (1, 2):
        pybptt.set_num_threads(threads)
        plain, limited = interleaved({"plain": call(None), "limited": call(tenth)}, rounds=11).values()
        name = f"LSTM, T = {T:,}, B = {B}, H = {H}, {threads} thread{'s' * (threads > 1)}"
        yield Figure(f"{name}: plain", plain * 1e3, "ms")
        yield Figure(
            f"  {tenth / 1e6:.1f} MB, a tenth of the tape, over plain", limited / plain, "x", "<=", 1.45
        )
    pybptt.set_num_threads(1)
    answer = subprocess.check_output(
        [sys.executable, "-c", MEMORY_OF_A_MILLION], env={**os.environ, "PYBPTT_NUM_THREADS": "1"}
    )
    figures = json.loads(answer)
    yield Figure("RNN, 1,000,000 tokens, H = 128, limit 200 MB", figures["seconds"], "s")
    yield Figure("  calls of progress", figures["told"])
    yield Figure("  resident beside the text", figures["peak"] / 1e6, "MB", "<=", 256)


ALL = (
    overhead,
    imports,
    denormals,
    flat,
    truncation,
    streaming,
    ragged,
    scan,
    memory,
    limit,
    float64,
    textbook,
)
CHECKS = {check.__name__: check for check in ALL}


def main() -> int:
    listing = "\n".join(f"  {name:<10} {check.__doc__}" for name, check in CHECKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"checks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", metavar="check", help="names from the list below (default: all)")
    names = parser.parse_args().checks or list(CHECKS)
    for name in names:
        if name not in CHECKS:
            parser.error(f"{name!r} is none of {', '.join(CHECKS)}")
    pybptt.set_num_threads(1)
    all_met = True
    for name in names:
        print(f"{name}: {CHECKS[name].__doc__}", flush=True)
        for figure in CHECKS[name]():
            print(figure, flush=True)
            all_met &= figure.met
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
