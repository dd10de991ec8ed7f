"""What was measured, as tables for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from contestants import CONTESTANTS
from rows import ROWS, Row

OURS = "pybptt"
SIZES = "T B D H Q (layers) [k1,k2]"


@dataclass
class Table:
    title: str
    header: list[str]
    lines: list[list[str]]


class Measured:
    """Look-ups in what `compare.compare` returns; None for what was not measured."""

    def __init__(self, measured: dict):
        self.results = {(result["row"], result["threads"]): result for result in measured["results"]}
        self.rows: list[Row] = [ROWS[name] for name in dict.fromkeys(name for name, _ in self.results)]
        self.threads = sorted({threads for _, threads in self.results})
        self.keys = [key for key in CONTESTANTS if key in measured["versions"]]
        # With all cores taken, threads that wait for each other wait for other processes too.
        busy = max(result["neighbours"] for result in measured["results"])
        self.noise = f"Noisy: others kept up to {busy:.2f} cores busy meanwhile" if busy > 0.1 else ""

    def of(self, row: Row, threads: int, key: str, field: str = "median") -> float | None:
        contestants = self.results.get((row.name, threads), {}).get("contestants", {})
        return contestants[key][field] if key in contestants else None

    def speed_up(self, row: Row, threads: int, key: str) -> float | None:
        """How many times faster than `key` pybptt is."""
        return quotient(self.of(row, threads, key), self.of(row, threads, OURS))

    def of_peak(self, row: Row, threads: int) -> float | None:
        """pybptt's flops a second as a fraction of the matrix product's."""
        ours = self.of(row, threads, OURS)
        return ours and row.flops / ours / self.results[row.name, threads]["peak"]

    def scaling(self, row: Row) -> float | None:
        """pybptt's time on one thread over its time on two."""
        return quotient(self.of(row, 1, OURS), self.of(row, 2, OURS))

    def taking_part(self, row: Row) -> list[str]:
        """The contestants other than pybptt that were measured on `row`."""
        counts = self.threads
        return [k for k in self.keys if k != OURS and any(self.of(row, n, k) is not None for n in counts)]

    def floors(self, row: Row) -> Iterator[tuple[float | None, float | None]]:
        """What was measured and what is asked, in the order of the table of floors."""
        yield self.speed_up(row, 1, "torch"), row.floor.torch
        yield self.speed_up(row, 2, "torch"), row.floor.torch_2
        yield self.speed_up(row, 1, "jax"), row.floor.jax
        yield self.speed_up(row, 2, "jax"), row.floor.jax_2
        yield self.of_peak(row, 1), row.floor.peak
        yield self.scaling(row), row.floor.threads


def quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None else None


def number(value: float | None, digits: int = 3) -> str:
    """Three digits that count, without an exponent; "-" for what was not measured."""
    if value is None:
        return "-"
    decimals = next((d for d, limit in ((3, 1), (2, 10), (1, 100)) if abs(value) < limit), 0)
    return f"{value:.{min(decimals, digits)}f}"


def milliseconds(value: float | None) -> str:
    return number(None if value is None else value * 1e3)


def threads_in_words(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def tables(measured: Measured) -> Iterator[Table]:
    names = [CONTESTANTS[key][0] for key in measured.keys]
    peers = [key for key in measured.keys if key != OURS]
    for n in measured.threads:
        yield Table(
            f"Median of a step at {threads_in_words(n)}, ms; GFLOP/s of pybptt and of the peak; "
            "cores that others kept busy",
            ["row", SIZES, *names, "GFLOP/s", "peak", "of peak", "others"],
            [
                [row.name, row.sizes]
                + [milliseconds(measured.of(row, n, key)) for key in measured.keys]
                + [
                    number(quotient(row.flops / 1e9, measured.of(row, n, OURS))),
                    number(measured.results[row.name, n]["peak"] / 1e9),
                    number(measured.of_peak(row, n), 2),
                    number(measured.results[row.name, n]["neighbours"], 2),
                ]
                for row in measured.rows
            ],
        )
    for n in measured.threads:
        yield Table(
            f"First call with a new shape at {threads_in_words(n)}, ms (JAX compiles)",
            ["row", *names],
            [
                [row.name, *(milliseconds(measured.of(row, n, key, "first")) for key in measured.keys)]
                for row in measured.rows
            ],
        )
    if OURS not in measured.keys:
        return
    yield Table(
        "How many times faster pybptt is",
        ["row"]
        + [f"{CONTESTANTS[key][0]}, {n}" for n in measured.threads for key in peers]
        + ["itself, 2 over 1"],
        [
            [row.name]
            + [number(measured.speed_up(row, n, key), 2) for n in measured.threads for key in peers]
            + [number(measured.scaling(row), 2)]
            for row in measured.rows
        ],
    )
    for n in measured.threads:
        versions = {row: measured.results[row.name, n].get("versions") for row in measured.rows}
        lines = [
            [
                row.name,
                row.sizes,
                *(milliseconds(both[key]) for key in ("before", "now")),
                number(both["ratio"]),
            ]
            for row, both in versions.items()
            if both
        ]
        if lines:
            title = f"The version before and this one in turns at {threads_in_words(n)}, medians, ms"
            yield Table(title, ["row", SIZES, "before", "now", "times as fast"], lines)
    yield Table(
        "Floors: what was measured, and what is asked",
        ["row", "vs PyTorch, 1", "vs PyTorch, 2", "vs JAX, 1", "vs JAX, 2", "of peak, 1", "2 threads over 1"]
        + ["met"],
        [floor_line(measured, row) for row in measured.rows],
    )


def floor_line(measured: Measured, row: Row) -> list[str]:
    cells, verdicts = [], []
    for found, asked in measured.floors(row):
        if asked is None or found is None:
            cells.append("" if asked is None else f"- ({asked:g})")
            continue
        verdicts.append(found >= asked)
        cells.append(f"{number(found)} {'>=' if verdicts[-1] else '<'} {asked:g}")
    return [row.name, *cells, "" if not verdicts else "yes" if all(verdicts) else "NO"]


def heading(measured: dict) -> list[str]:
    """The machine, the versions, the peaks."""
    lines = [f"{measured['machine']}; {measured['date']}"]
    # "PyTorch, padded" is PyTorch, whose version stands there already.
    versions = {CONTESTANTS[key][0].split(",")[0]: text for key, text in measured["versions"].items()}
    lines.append(", ".join(f"{name} {text}" for name, text in versions.items()))
    sources = {(ROWS[r["row"]].dtype, r["threads"]): r["peak_source"] for r in measured["results"]}
    best = [f"{dtype} at {threads_in_words(n)} by {source}" for (dtype, n), source in sources.items()]
    lines.append("Peak: matrix product of size 2048, " + ", ".join(best))
    if noise := Measured(measured).noise:
        lines.append(noise)
    return lines


def as_text(measured: dict) -> str:
    parts = ["\n".join(heading(measured))]
    for table in tables(Measured(measured)):
        columns = list(zip(table.header, *table.lines, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in (table.header, *table.lines)
        ]
        parts.append("\n".join([table.title, lines[0], "-" * len(lines[0]), *lines[1:]]))
    return "\n\n".join(parts)


def as_markdown(measured: dict) -> str:
    parts = ["  \n".join(heading(measured))]
    for table in tables(Measured(measured)):
        lines = [
            "| " + " | ".join(line) + " |"
            for line in (table.header, ["---"] + ["---:"] * (len(table.header) - 1), *table.lines)
        ]
        parts.append("\n".join([f"**{table.title}**", "", *lines]))
    return "\n\n".join(parts) + "\n"
