"""What the commands share: their error, the types of their options, and tables."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..files import open_regular
from ..recurrent import MAX_LAYERS

__all__ = [
    "MOST",
    "CommandError",
    "count",
    "layers",
    "natural",
    "non_negative",
    "open_text",
    "positive",
    "print_table",
    "probability",
    "reading",
    "require_drawable",
    "require_writable",
    "threads",
    "whole",
]

MOST = (1 << 31) - 1  # of a size or a number of steps


class CommandError(Exception):
    """Ends the command with one line on stderr and an exit code, without a traceback."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def open_text(path: str) -> BinaryIO:
    """The file, to be read; devices and pipes, which may have no end, are a CommandError."""
    with reading(path):
        return open_regular(path)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """An OSError as a CommandError."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None


def require_writable(path: str) -> None:
    """Raise now, before any work, if a file could not be written to `path` later."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise CommandError(f"cannot write {path}: there is no directory {folder}")
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise CommandError(f"cannot write {path}: it is a directory, or its directory is read-only")
    existed = os.path.lexists(path)
    if existed and not os.path.isfile(path):
        raise CommandError(f"cannot write {path}: it is not a regular file")
    try:
        with open(path, "ab"):  # what is there stays
            pass
        if not existed:
            os.unlink(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot write {path}: {getattr(error, 'strerror', error)}") from None


def require_drawable(path: str) -> None:
    """The same for a picture: that there is matplotlib, and that it knows the name's ending."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError("--plot needs matplotlib: pip install 'pybptt[plot]'")
    require_writable(path)
    figure = importlib.import_module("matplotlib.figure").Figure()
    known, ending = figure.canvas.get_supported_filetypes(), Path(path).suffix[1:]
    if ending.lower() not in known:
        raise CommandError(f"cannot draw {path}: expected a name that ends in .{', .'.join(sorted(known))}")


def whole(text: str) -> int:
    """Option type: an integer of at least 0."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2^63, got {text}")
    return value


def natural(text: str) -> int:
    """Option type: an integer of at least 1, a size or a number of steps."""
    value = int(text)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"must be at least 1 and at most {MOST}, got {text}")
    return value


def layers(text: str) -> int:
    """Option type: a number of layers that a network takes."""
    value = natural(text)
    if value > MAX_LAYERS:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_LAYERS}, got {text}")
    return value


def count(text: str) -> int:
    """Option type: 0, or what `natural` takes."""
    return natural(text) if int(text) else 0


def threads(text: str) -> int:
    """Option type: a number of threads that `pybptt.set_num_threads` takes."""
    value = natural(text)
    if value > 1024:
        raise argparse.ArgumentTypeError(f"must be at most 1024, got {text}")
    return value


def positive(text: str) -> float:
    """Option type: a number above 0, and below what no run comes to, in minutes or passes over a text."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1e9, got {text}")
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
