"""One process on one number of threads: prepares, checks and times the contestants, a row at a time.

`compare.py` starts one for each number of threads, because most libraries fix theirs once a process, and asks
it for a row with a line on standard input; the answer is a line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import machine

# A contestant's turn: a pause in which the last one's idle threads stop spinning, a call that isn't counted,
# and then calls for this long. Turns of one or two calls were tried: they measure, by up to 40%, how cold the
# others have left the caches and the heap.
TURN_SECONDS = 0.03
PAUSE_SECONDS = 0.003
# A step longer than this has no call that isn't counted: it is warm after its own first hundredth.
LONG_STEP_SECONDS = 0.1
FEWEST_ROUNDS = 5
PEAK_SAMPLES = 6

# Largest difference from the float64 gradient, over the largest gradient of that parameter.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


class Mismatch(Exception):
    """A contestant's gradients are wrong."""


def timed(call: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def check(name: str, row, found: dict, expected: dict) -> float:
    """Compare a contestant's gradients with the expected ones.

    Returns
    -------
    float
        The largest difference of any parameter's gradient, relative to the largest entry of that gradient.

    Raises
    ------
    Mismatch
        Where a gradient is missing, of another shape, or further off than `TOLERANCE`.
    """
    import numpy as np

    worst = 0.0
    for parameter, wanted in expected.items():
        if parameter not in found or found[parameter].shape != wanted.shape:
            raise Mismatch(f"{name}, row {row.name}: no gradient of {parameter} with shape {wanted.shape}")
        error = float(np.abs(found[parameter] - wanted).max() / np.abs(wanted).max())
        if not error <= TOLERANCE[row.dtype]:  # so that NaN fails too
            raise Mismatch(
                f"{name}, row {row.name}: the gradient of {parameter} is off by {error:.1e} of its largest "
                f"entry, more than {TOLERANCE[row.dtype]:.0e}"
            )
        worst = max(worst, error)
    return worst


def rounds(steps: dict[str, Callable], seconds: float, sample_peak: Callable) -> dict[str, list[float]]:
    """Times of every contestant's calls, the contestants taking turns so that noise hits all alike."""
    usual = {name: timed(step)[0] for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    start = time.perf_counter()
    done = peaks = 0
    while done < FEWEST_ROUNDS or time.perf_counter() - start < seconds:
        if peaks < PEAK_SAMPLES and time.perf_counter() - start >= peaks * seconds / PEAK_SAMPLES:
            sample_peak()
            peaks += 1
        for name in names:
            step = steps[name]
            time.sleep(PAUSE_SECONDS)
            if usual[name] < LONG_STEP_SECONDS:
                step()
            times[name] += [timed(step)[0] for _ in range(max(1, round(TURN_SECONDS / usual[name])))]
        names.append(names.pop(0))  # nobody always follows the same neighbour
        done += 1
    return times


class Worker:
    def __init__(self, threads: int, peers: list[str]):
        # Only now, pinned and with the environment set, may anything that counts cores be imported.
        import contestants

        self.threads = threads
        self.peaks = {}  # by dtype
        self.ready: dict[str, contestants.Contestant] = {}
        self.missing: dict[str, str] = {}
        self.warm: set[tuple] = set()  # kinds of rows that every contestant has had
        self.posed: dict[str, tuple] = {}  # the last row's problem and its gradients
        for key in peers:
            try:
                self.ready[key] = contestants.load(key, threads)
            except contestants.Missing as error:
                self.missing[key] = str(error)

    def warm_up(self, row) -> None:
        """Have a small row of the same kind, so that a first call is one with a shape, not with a library."""
        from rows import make_problem

        truncation = row.truncation and (min(row.truncation[0], 2), 2)
        kind = (row.cell, row.dtype, row.layers, row.ragged, bool(row.Q), truncation)
        if kind in self.warm:
            return
        self.warm.add(kind)
        small = replace(row, name="warm-up", T=4, B=2, D=5, H=7, Q=min(row.Q, 4), truncation=truncation)
        problem = make_problem(small)
        for contestant in self.ready.values():
            if contestant.covers(small):
                contestant.prepare(small, problem)[0]()

    def measure(self, name: str, seconds: float) -> dict:
        """Everything about one row: of each contestant the first call, median and spread, and the peak."""
        import numpy as np
        from contestants import with_numpy
        from peak import Peak
        from rows import ROWS, make_problem

        row = ROWS[name]
        self.warm_up(row)
        if name not in self.posed:
            problem = make_problem(row)
            self.posed = {name: (problem, with_numpy.expected_gradients(row, problem))}
        problem, expected = self.posed[name]
        if row.dtype not in self.peaks:
            self.peaks[row.dtype] = Peak(row.dtype, self.threads)
        peak = self.peaks[row.dtype]
        steps, firsts, errors = {}, {}, {}
        for key, contestant in self.ready.items():
            if not contestant.covers(row):
                continue
            steps[key], gradients = contestant.prepare(row, problem)
            time.sleep(PAUSE_SECONDS)
            firsts[key], result = timed(steps[key])
            errors[key] = check(key, row, gradients(result), expected)
        peak_samples: list[float] = []
        neighbours = machine.Neighbours()
        gc.collect()
        gc.disable()
        try:
            times = rounds(steps, seconds, lambda: peak_samples.append(peak.measure()))
        finally:
            gc.enable()
        return {
            "row": row.name,
            "threads": self.threads,
            "flops": row.flops,
            "peak": float(np.median(peak_samples)),
            "peak_source": peak.source,
            "neighbours": neighbours.cores(),
            "contestants": {
                key: {
                    "median": float(np.median(values)),
                    "low": float(np.quantile(values, 0.1)),
                    "high": float(np.quantile(values, 0.9)),
                    "first": firsts[key],
                    "calls": len(values),
                    "error": errors[key],
                }
                for key, values in times.items()
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    # Answers have the real standard output to themselves; what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    worker = Worker(arguments.threads, arguments.peers.split(","))
    answer(versions={key: one.version for key, one in worker.ready.items()}, missing=worker.missing)
    for line in sys.stdin:
        try:
            answer(result=worker.measure(line.strip(), arguments.seconds))
        except Mismatch as error:
            answer(mismatch=str(error))


if __name__ == "__main__":
    main()
