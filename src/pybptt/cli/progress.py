"""How far a run has got, on stderr: a bar where there are tqdm and a terminal, else a line now and then."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

__all__ = ["Progress", "progress"]


class Progress:
    """Plain lines on stderr, for terminals and log files alike."""

    SECONDS = 5.0  # without a line until `show` prints one

    def __init__(self, total: float, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._last = time.monotonic()

    def show(self, done: float, status: str) -> None:
        """`done` of the total are done; call it as often as you like."""
        if time.monotonic() - self._last >= self.SECONDS:
            self.note(f"{done:,.0f} of {self._total:,.0f} {self._unit}: {status}")

    def note(self, line: str) -> None:
        """Print a line that stays."""
        self._last = time.monotonic()
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The end of it."""


class _Bar(Progress):
    def __init__(self, tqdm: Any, done: float, total: float, unit: str) -> None:
        layout = "{percentage:3.0f}%|{bar}| {n:,.0f}/{total:,.0f} {unit} [{elapsed}<{remaining}{postfix}]"
        self._bar = tqdm(
            initial=done, total=total, unit=unit, bar_format=layout, dynamic_ncols=True, leave=False
        )

    def show(self, done: float, status: str) -> None:
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(done - self._bar.n)

    def note(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


def progress(done: float, total: float, unit: str) -> Progress:
    """A new display of so many units of work, some of which may be done already."""
    if sys.stderr.isatty():
        try:
            return _Bar(importlib.import_module("tqdm").tqdm, done, total, unit)
        except ImportError:
            pass
    return Progress(total, unit)
