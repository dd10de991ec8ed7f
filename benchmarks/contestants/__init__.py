"""The contestants of the comparison, one file each, behind one small interface.

A contestant's module has a class `Contestant(threads)`; making one imports the library and sets its number
of threads, and raises `Missing` where the library isn't there. A contestant has a `version` to print, says
with `covers(row)` which rows it takes part in, and has

    step, gradients = contestant.prepare(row, problem)

`step()` is what is timed: forward and backward to all parameters, waiting for the end of the work.
`gradients(result)`, with what the last `step()` returned, gives them as NumPy arrays by PyTorch's names.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from rows import Problem, Row

Step = Callable[[], Any]
Gradients = Callable[[Any], dict[str, np.ndarray]]

# The key on the command line and in the results, the name in tables, and how to get it.
CONTESTANTS = {
    "pybptt": ("pybptt", "pip install ."),
    "torch": ("PyTorch", "pip install torch --index-url https://download.pytorch.org/whl/cpu"),
    "torch_loop": ("PyTorch, loop", "pip install torch --index-url https://download.pytorch.org/whl/cpu"),
    "torch_padded": (
        "PyTorch, padded",
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
    ),
    "jax": ("JAX", "pip install jax"),
    "eigen": ("Eigen", "apt install libeigen3-dev g++, or pip install cmeel-eigen"),
    "numpy": ("NumPy", "pip install numpy"),
}
DEFAULT = ("pybptt", "torch", "torch_padded", "jax", "eigen", "numpy")


class Missing(Exception):
    """A contestant that can't take part here; the message says what is missing."""


class Contestant(Protocol):
    """What every `contestants.with_*.Contestant` offers."""

    version: str

    def covers(self, row: Row) -> bool: ...

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]: ...


def load(key: str, threads: int) -> Contestant:
    """The contestant `key`, ready to work on `threads` threads.

    Raises
    ------
    Missing
        Where its library is not installed.
    """
    try:
        return importlib.import_module(f"contestants.with_{key}").Contestant(threads)
    except ImportError as error:
        raise Missing(str(error)) from error
