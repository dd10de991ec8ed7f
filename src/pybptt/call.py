"""What a call reads, once it is checked."""

from __future__ import annotations

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
    def state(self) -> Any:
        """h_0, or the pair (h_0, c_0)."""
        return self.h_0 if self.c_0 is None else (self.h_0, self.c_0)

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
    ) -> tuple[Any, ...]:
        """What the core is told beside x and the state."""
        return self.lengths, self.mask, cells, plan, progress
