"""What the commands share: their error, the types of their options, and tables."""

from __future__ import annotations

import argparse
import math
import os
import stat
from collections.abc import Iterable, Sequence
from typing import BinaryIO

__all__ = [
    "CommandError",
    "natural",
    "non_negative",
    "open_regular",
    "positive",
    "print_table",
    "probability",
    "threads",
    "whole",
]


class CommandError(Exception):
    """Ends the command with one line on stderr and an exit code, without a traceback."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def open_regular(path: str) -> BinaryIO:
    """The file, to be read; devices and pipes, which may have no end, are a CommandError."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CommandError(f"cannot read {path}: it is not a regular file")
    return file


def whole(text: str) -> int:
    """Option type: an integer of at least 0."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2^63, got {text}")
    return value


def natural(text: str) -> int:
    """Option type: an integer of at least 1."""
    value = int(text)
    if not 1 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"must be at least 1 and below 2^63, got {text}")
    return value


def threads(text: str) -> int:
    """Option type: a number of threads that `pybptt.set_num_threads` takes."""
    value = natural(text)
    if value > 1024:
        raise argparse.ArgumentTypeError(f"must be at most 1024, got {text}")
    return value


def positive(text: str) -> float:
    """Option type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def probability(text: str) -> float:
    """Option type: a number in [0, 1]."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


def non_negative(text: str) -> float:
    """Option type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite, got {text}")
    return value


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns on stdout: the first to the left, the others to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  " + "   ".join(cells).rstrip())
