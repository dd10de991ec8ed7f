"""What forward keeps for backward."""

from __future__ import annotations

from typing import Any

from . import _core
from ._arrays import Array


class Tape:
    """What a layer's `forward` keeps for `backward`: states, inputs and weights, all copies of its own.

    A tape may be used any number of times, by several threads at once. Changing the input, the output, the
    mask or the parameters afterwards does not change it. With a `memory_limit` it keeps a part of that, and
    copies of input, parameters and initial state to run the network again: threads then take turns, and every
    sweep but the first takes one forward pass more.

    Attributes
    ----------
    steps, batch : int
        T and B.
    nbytes : int
        Memory that it holds; without a limit no more than the layer's `tape_bytes` says beforehand.
    cells : ndarray, (L K, T, B, H), or None
        c_t of every layer and direction, with ``forward(..., cells=True)`` of an LSTM.

    Examples
    --------
    >>> output, state, tape = pybptt.RNN(2, 3, seed=0).forward(np.zeros((5, 1, 2), dtype=np.float32))
    >>> tape.steps, tape.batch
    (5, 1)
    """

    __slots__ = ("_core", "_layer", "_lengths", "_mask", "cells")

    def __init__(
        self,
        layer: Any,
        core: _core.TapeFloat32 | _core.TapeFloat64,
        mask: Array | None = None,
        lengths: Array | None = None,
        cells: Array | None = None,
    ) -> None:
        self._layer = layer
        self._core = core
        self._mask = mask
        self._lengths = lengths
        self.cells = cells

    @property
    def steps(self) -> int:
        """T."""
        return self._core.steps

    @property
    def batch(self) -> int:
        """B."""
        return self._core.batch

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self._core.nbytes + sum(a.nbytes for a in (self._mask, self.cells) if a is not None)

    def __repr__(self) -> str:
        return f"Tape(steps={self.steps}, batch={self.batch}, nbytes={self.nbytes})"
