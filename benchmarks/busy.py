"""Two threads where another process wants the same cores, against one thread.

Run as `python benchmarks/busy.py`; `--before DIRECTORY` puts another version's figures beside them (a source
tree whose core is built). A spinning process is pinned to each core, or to one of them, while the rows are
timed. The exit status is 1 where two threads take more than 1.3 times what one takes with both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

FLOOR = 1.3
T, H = 400, 128
ROWS = {"LSTM": [(1, 32), (4, 32), (32, 32)], "RNN": [(32, 2)]}  # (B, D)


@contextlib.contextmanager
def spinning(processors: set[int]) -> Iterator[None]:
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", code, str(one)]) for one in processors]
    try:
        time.sleep(0.5)
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def step(cell: str, B: int, D: int) -> Callable:
    import pybptt

    rng = np.random.default_rng(0)
    layer = getattr(pybptt, cell)(D, H, seed=0)
    x = rng.standard_normal((T, B, D), np.float32)
    d_output = rng.standard_normal((T, B, H), np.float32)

    def call():
        _, _, tape = layer.forward(x)
        return layer.backward(tape, d_output, input=False)

    return call


def mean_ms(
    call: Callable, threads: tuple[int, ...], seconds: float, between: Callable = lambda: None
) -> list:
    """Of each number of threads, in turns of half a second."""
    import pybptt

    spent, calls = dict.fromkeys(threads, 0.0), dict.fromkeys(threads, 0)
    while min(spent.values()) < seconds:
        for n in threads:
            pybptt.set_num_threads(n)
            end = time.perf_counter() + 0.5
            while time.perf_counter() < end:
                between()
                start = time.perf_counter()
                call()
                spent[n] += time.perf_counter() - start
                calls[n] += 1
    return [spent[n] / calls[n] * 1e3 for n in threads]


def after_product(seconds: float) -> list:
    """Directly after a product of NumPy's, whose threads may go on spinning."""
    a = np.random.default_rng(0).standard_normal((1500, 1500), np.float32)
    return mean_ms(step("RNN", 32, 2), (1, 2), seconds, lambda: a @ a)


def measure(seconds: float) -> Iterator[tuple[str, str, list]]:
    """(case, row, mean milliseconds with fewer and with more threads)."""
    processors = os.sched_getaffinity(0)
    shapes = [(cell, *shape) for cell, shapes in ROWS.items() for shape in shapes]
    spun = {"spinning": processors, "one spinning": {max(processors)}, "no spinners": set()}
    for case, where in spun.items():
        with spinning(where):
            for cell, B, D in shapes:
                yield case, f"{cell} {T} {B} {D} {H}", mean_ms(step(cell, B, D), (1, 2), seconds)
    yield "after x @ x", f"RNN {T} 32 2 {H}", after_product(seconds)
    os.sched_setaffinity(0, {min(processors)})
    for cell, B, D in shapes:
        yield "8 threads, 1 core", f"{cell} {T} {B} {D} {H}", mean_ms(step(cell, B, D), (1, 8), seconds)
    os.sched_setaffinity(0, processors)


def measure_elsewhere(tree: str, seconds: float) -> dict[tuple[str, str], list]:
    command = [sys.executable, os.path.abspath(__file__), "--json", "--seconds", str(seconds)]
    path = os.path.join(os.path.abspath(tree), "src")
    answer = subprocess.check_output(command, env={**os.environ, "PYTHONPATH": path})
    return {(case, row): times for case, row, times in json.loads(answer)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="DIRECTORY", help="another version's source tree, measured too")
    parser.add_argument("--seconds", type=float, default=3, help="of calls for a figure (default: 3)")
    parser.add_argument("--json", action="store_true", help="figures alone")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(list(measure(options.seconds))))
        return 0
    before = measure_elsewhere(options.before, options.seconds) if options.before else {}
    print("| case | row | one thread, ms | more, ms | ratio |" + " before |" * bool(before))
    print("|---|---|---|---|---|" + "---|" * bool(before))
    all_met = True
    for case, row, (one, more) in measure(options.seconds):
        all_met &= case != "spinning" or more <= FLOOR * one
        line = f"| {case} | {row} | {one:.1f} | {more:.1f} | {more / one:.2f} |"
        if before:
            b_one, b_more = before[case, row]
            line += f" {b_one:.1f}, {b_more:.1f}: {b_more / b_one:.2f} |"
        print(line, flush=True)
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
