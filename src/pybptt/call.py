"""What a call reads, once it is checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from . import _core
from ._arrays import Array
from .memory import Progress


class Call(NamedTuple):
    """The checked arguments of one call, time-major and as the core reads them."""

    x: Array
    h_0: Array | None
    c_0: Array | None
    lengths: Array | None
    mask: Array | None

    @property
    def steps(self) -> int:
        """T."""
        return len(self.x)

    @property
    def batch(self) -> int:
        """B."""
        batch: int = self.x.shape[1]
        return batch

    def options(
        self, plan: _core.MemoryPlan | None = None, progress: Progress | None = None, cells: bool = False
    ) -> tuple[Any, ...] | None:
        """What the core is told beside x and the state; None for nothing."""
        if self.lengths is None and self.mask is None and plan is None and progress is None and not cells:
            return None
        return self.lengths, self.mask, cells, plan, progress


# A Call of its fields, without the Python function that a named tuple has in between.
made_call: Callable[[tuple[Any, ...]], Call] = partial(tuple.__new__, Call)
