"""Training steps of PyTorch programs, with torch.nn's layers and with pybptt.torch's.

A step is Embedding, recurrent layer, Linear, cross-entropy, backward, SGD. Each side has a process of its own
on the same cores, and they take turns, so that neither's idle threads are in the other's way and noise hits
both. Times are lower quintiles. Beside them: the layer's share of the time, forward and backward, as
PyTorch's profiler sees it. Run as `python benchmarks/programs.py`; the exit status is 1 where a floor is not
met.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine

SIDES = ("torch.nn", "pybptt.torch")
TURN_SECONDS, PAUSE_SECONDS = 0.25, 0.05  # idle threads spin for some milliseconds
PROFILED_STEPS = 5


@dataclass(frozen=True)
class Program:
    cell: str
    vocabulary: int
    E: int
    H: int
    classes: int
    T: int
    B: int
    layers: int
    last_only: bool  # one class a sequence, of the last h, or one a step
    packed: bool  # lengths uniform in 1 to T
    floors: tuple[float, float]  # times as fast as torch.nn on one thread, on two

    @property
    def sizes(self) -> str:
        layers = f" ({self.layers})" if self.layers > 1 else ""
        return f"{self.cell} {self.vocabulary} {self.E} {self.H} {self.classes}, {self.T} {self.B}{layers}"


PROGRAMS = {
    "char": Program("LSTM", 65, 64, 128, 65, 50, 32, 1, False, False, (1.15, 1.2)),
    "word": Program("LSTM", 10_000, 200, 200, 10_000, 35, 20, 2, False, False, (1.0, 1.0)),
    "reviews": Program("LSTM", 20_000, 128, 128, 2, 200, 64, 1, True, False, (1.4, 1.5)),
    "reviews, packed": Program("LSTM", 20_000, 128, 128, 2, 200, 64, 1, True, True, (5, 5)),
    "chargru": Program("GRU", 65, 64, 128, 65, 100, 32, 1, False, False, (2.0, 2.8)),
    "rl": Program("LSTM", 65, 64, 128, 8, 128, 8, 1, False, False, (1.15, 1.2)),
}


class Worker:
    """One side of all programs, in this process."""

    def __init__(self, side: str, threads: int) -> None:
        machine.pin(threads)
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.layers = importlib.import_module(side)
        self.steps: dict[str, Callable[[], None]] = {}

    def step_of(self, name: str) -> Callable[[], None]:
        """The same parameters and data on both sides."""
        torch, program = self.torch, PROGRAMS[name]
        torch.manual_seed(0)
        tokens = torch.randint(program.vocabulary, (program.T, program.B))
        rows = (program.B,) if program.last_only else (program.T, program.B)
        classes = torch.randint(program.classes, rows)
        lengths = torch.randint(1, program.T + 1, (program.B,))
        embedding = torch.nn.Embedding(program.vocabulary, program.E)
        layer = getattr(self.layers, program.cell)(program.E, program.H, program.layers)
        output = torch.nn.Linear(program.H, program.classes)
        parameters = [p for module in (embedding, layer, output) for p in module.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.1)

        def step() -> None:
            x = embedding(tokens)
            if program.packed:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            with torch.profiler.record_function("the layer"):
                h, state = layer(x)
            if program.last_only:
                h = (state[0] if program.cell == "LSTM" else state)[-1]
            loss = torch.nn.functional.cross_entropy(output(h).flatten(0, -2), classes.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    def turn(self, name: str) -> list[float]:
        """Seconds of each step."""
        if name not in self.steps:
            self.steps = {name: self.step_of(name)}
        step = self.steps[name]
        time.sleep(PAUSE_SECONDS)
        for _ in range(3):
            step()
        times = []
        end = time.perf_counter() + TURN_SECONDS
        while (start := time.perf_counter()) < end:
            step()
            times.append(time.perf_counter() - start)
        return times

    def share(self, name: str) -> float:
        """Of a step's time, the layer's: what runs within it, and the backward of that."""
        step = self.steps[name]
        with self.torch.profiler.profile() as profile:
            for _ in range(PROFILED_STEPS):
                with self.torch.profiler.record_function("the step"):
                    step()
        events = profile.events()
        ranges = {key: [e.time_range for e in events if e.name == key] for key in ("the layer", "the step")}
        own = {
            e.sequence_nr
            for e in events
            if e.sequence_nr >= 0
            and any(r.start <= e.time_range.start and e.time_range.end <= r.end for r in ranges["the layer"])
        }
        node = "autograd::engine::evaluate_function: "
        backward = [e for e in events if e.name.startswith(node) and e.sequence_nr in own]
        seconds = sum(r.elapsed_us() for r in ranges["the layer"]) + sum(e.cpu_time_total for e in backward)
        return seconds / sum(r.elapsed_us() for r in ranges["the step"])

    def serve(self) -> None:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to standard error
        for line in sys.stdin:
            what, name = line.strip().split(" ", 1)
            print(json.dumps(getattr(self, what)(name)), file=answers, flush=True)


class WorkerProcess:
    def __init__(self, side: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--worker", side, "--threads", str(threads)],
            env=machine.environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str, name: str):
        print(what, name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker ended early, see above")
        return json.loads(line)


@dataclass
class Result:
    seconds: dict[str, float]
    shares: dict[str, float]

    @property
    def speed_up(self) -> float:
        return self.seconds["torch.nn"] / self.seconds["pybptt.torch"]

    @property
    def layer_speed_up(self) -> float:
        """Of the layer's share alone."""
        nn, ours = (self.seconds[side] * self.shares[side] for side in SIDES)
        return nn / ours


def lower_quintile(times: list[float]) -> float:
    return sorted(times)[len(times) // 5]


def measure(workers: dict[str, WorkerProcess], name: str, turns: int) -> Result:
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(turns):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            times[side] += workers[side].ask("turn", name)
    shares = {side: worker.ask("share", name) for side, worker in workers.items()}
    return Result({side: lower_quintile(values) for side, values in times.items()}, shares)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", default=list(PROGRAMS), metavar="program", help="default: all")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=12, help="of a quarter of a second (default: 12)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.programs:
        if name not in PROGRAMS:
            parser.error(f"program: expected one of {', '.join(map(repr, PROGRAMS))}, got {name!r}")
    if options.worker:
        Worker(options.worker, options.threads[0]).serve()
        return 0
    header = ["program", "cell V E H classes, T B (layers)", "threads", "torch.nn, ms", "pybptt.torch, ms"]
    header += [
        "times as fast",
        "floor",
        "layer's share, torch.nn",
        "pybptt.torch",
        "layer alone, times as fast",
    ]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    all_met = True
    for threads in options.threads:
        workers = {side: WorkerProcess(side, threads) for side in SIDES}
        for name in options.programs:
            program = PROGRAMS[name]
            found = measure(workers, name, options.turns)
            floor = program.floors[min(threads, 2) - 1]
            all_met &= found.speed_up >= floor
            nn, ours = (found.seconds[side] * 1e3 for side in SIDES)
            shares = " | ".join(f"{found.shares[side]:.0%}" for side in SIDES)
            print(f"| {name} | {program.sizes} | {threads} | {nn:.2f} | {ours:.2f} | {found.speed_up:.2f} |"
                  f" {floor:g} | {shares} | {found.layer_speed_up:.2f} |", flush=True)  # fmt: skip
        for worker in workers.values():
            worker.process.stdin.close()
            worker.process.wait()
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
