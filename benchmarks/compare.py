"""pybptt side by side with PyTorch, JAX, Eigen, NumPy and the machine's own matrix product, in one run.

A step is forward + backward to all parameters, from plain arrays to plain arrays, packing included. Each
number of threads has a process of its own, pinned to as many cores; in it the contestants take turns, so that
noise hits all alike, and their gradients are compared before anything is timed.
Run as `python benchmarks/compare.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

import machine
import report
from contestants import CONTESTANTS, DEFAULT
from rows import DEFAULT as DEFAULT_ROWS
from rows import GROUPS, ROWS

QUICK_SECONDS = 1.0
BEFORE_TURNS = 4


class WorkerProcess:
    """A `worker.py` on its number of threads; with `source`, of the pybptt that lies built in that folder."""

    def __init__(self, threads: int, peers: list[str], seconds: float, source: Path | None = None):
        self.threads = threads
        environment = machine.environment(threads)
        if source is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(source), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), f"--threads={threads}"]
            + [f"--peers={','.join(peers)}", f"--seconds={seconds}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the worker on {self.threads} thread(s) ended early, see above")
        return json.loads(line)

    def measure(self, row: str) -> dict:
        print(row, file=self.process.stdin, flush=True)
        answer = self.read()
        if "mismatch" in answer:
            sys.exit(f"error: {answer['mismatch']}")
        return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class BeforeAndNow:
    """Two versions of pybptt on the same number of threads, each in a process that has nothing else."""

    def __init__(self, threads: int, seconds: float, before: Path):
        share = seconds / (2 * BEFORE_TURNS)
        sources = {"before": before, "now": None}
        self.workers = {key: WorkerProcess(threads, ["pybptt"], share, sources[key]) for key in sources}
        for worker in self.workers.values():
            worker.read()

    def measure(self, row: str) -> dict:
        """Medians over the turns of both, and the median ratio of turns that lie side by side."""
        times: dict[str, list[float]] = {"before": [], "now": []}
        for turn in range(BEFORE_TURNS):
            for key in sorted(times, reverse=turn % 2 == 1):
                measured = self.workers[key].measure(row)["contestants"]
                if "pybptt" not in measured:  # the version before has no such row
                    return {}
                times[key].append(measured["pybptt"]["median"])
        ratios = [before / now for before, now in zip(*times.values(), strict=True)]
        medians = {key: statistics.median(values) for key, values in times.items()}
        return {**medians, "ratio": statistics.median(ratios)}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def compare(
    row_names: list[str], threads: list[int], peers: list[str], seconds: float, before: Path | None = None
) -> dict:
    """Measure the rows and give everything that the reports need, as `--json` writes it.

    The rows go to the workers in turn, row by row, so that one thread and two are measured close together.
    """
    workers = [WorkerProcess(n, peers, seconds) for n in threads]
    pairs = {n: BeforeAndNow(n, seconds, before) for n in threads if before is not None}
    try:
        greetings = [worker.read() for worker in workers]
        hello = greetings[0]
        for key, reason in hello["missing"].items():
            name, how = CONTESTANTS[key]
            print(f"{name} is left out ({reason}). To have it: {how}")
        if not hello["versions"]:
            sys.exit("no contestant is left")
        results = []
        for row in row_names:
            for worker in workers:
                show_progress(f"{row}, {worker.threads} thread(s) ...")
                results.append(worker.measure(row))
                if worker.threads in pairs:
                    results[-1]["versions"] = pairs[worker.threads].measure(row)
        show_progress("")
    finally:
        for worker in [*workers, *pairs.values()]:
            worker.close()
    return {
        "machine": machine.describe(),
        "date": date.today().isoformat(),
        "versions": hello["versions"],
        "results": results,
    }


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<40}", end="" if text else "\r", file=sys.stderr, flush=True)


def names_from(allowed: Iterable[str], groups: dict[str, list[str]] | None = None) -> Callable:
    """An argparse type: names from `allowed` or of groups of them, separated by commas."""
    groups = groups or {}

    def parse(text: str) -> list[str]:
        names: list[str] = []
        for name in map(str.strip, text.split(",")):
            if name not in allowed and name not in groups:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join([*groups, *allowed])}")
            names += groups.get(name, [name])
        return list(dict.fromkeys(names))

    return parse


def thread_counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 1,2") from None
    for count in counts:
        if not 1 <= count <= machine.number_of_cores():
            raise argparse.ArgumentTypeError(f"{count} threads, on {machine.number_of_cores()} cores")
    return counts


def source_folder(text: str) -> Path:
    folder = Path(text).resolve()
    if not list(folder.glob("pybptt/_core*")):
        raise argparse.ArgumentTypeError(f"{text!r} has no built package pybptt")
    return folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default_rows = [row.name for row in DEFAULT_ROWS]
    default_threads = [1, 2] if machine.number_of_cores() > 1 else [1]
    extra = ",".join(name for name in ROWS if name not in default_rows)
    parser.add_argument(
        "--rows", type=names_from(ROWS, GROUPS), default=default_rows, metavar="NAMES",
        help=f"rows to measure (default: {','.join(default_rows)}; there are also {extra}; "
        f"{', '.join(GROUPS)} stand for all rows of that kind in the default)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=thread_counts, default=default_threads, metavar="COUNTS",
        help="numbers of threads (default: 1,2)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=names_from(CONTESTANTS), default=list(DEFAULT), metavar="NAMES",
        help="contestants besides pybptt, which always takes part (default: all but "
        "torch_loop, PyTorch with a loop over time in Python in place of nn.RNN)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="to spend on a row and number of threads (default: 6)"
    )
    parser.add_argument(
        "--before", type=source_folder, metavar="FOLDER",
        help="measure another version of pybptt in turns with this one, too: the folder of its built package "
        "(another checkout's src)",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help=f"spend {QUICK_SECONDS:g} second only: rough figures"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured as JSON too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart (.png, .svg, .pdf) too")
    arguments = parser.parse_args()
    if arguments.chart and importlib.util.find_spec("matplotlib") is None:
        parser.error("--chart needs matplotlib: pip install matplotlib")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    peers = ["pybptt"] + [key for key in arguments.peers if key != "pybptt"]
    seconds = QUICK_SECONDS if arguments.quick else arguments.seconds
    measured = compare(arguments.rows, arguments.threads, peers, seconds, arguments.before)
    print(report.as_text(measured))
    if arguments.markdown:
        arguments.markdown.write_text(report.as_markdown(measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    if arguments.chart:
        import chart

        chart.draw(measured, arguments.chart)


if __name__ == "__main__":
    main()
