"""What the commands share: their error, the types of their options, and tables."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

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

Number = TypeVar("Number", int, float)

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


def _option(kind: type[Number], least: float, most: float) -> Callable[[str], Number]:
    """Option type: a number in [least, most]."""

    def option(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:  # nor is NaN
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, got {text}")
        return value

    option.__name__ = kind.__name__  # for the message about what is none
    return option


whole = _option(int, 0, (1 << 63) - 1)
count = _option(int, 0, MOST)
natural = _option(int, 1, MOST)  # a size or a number of steps
layers = _option(int, 1, MAX_LAYERS)
threads = _option(int, 1, 1024)  # that `pybptt.set_num_threads` takes
probability = _option(float, 0, 1)
non_negative = _option(float, 0, 1e300)
positive = _option(float, 1e-300, 1e300)  # some times as many are finite, too


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
