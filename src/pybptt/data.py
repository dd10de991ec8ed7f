"""Partition of a long stream (of tokens, or of vectors) into batches, in order or at random.

Both functions give an iterable with a length; iterating over it once is an epoch. Its items say whether the
state may be carried on to them from the item before:

>>> text = np.arange(1000) % 5
>>> model = pybptt.SequenceModel(pybptt.RNN(5, 8, seed=0), 5, seed=1)
>>> state = None
>>> for batch in pybptt.data.sequential(text, batch_size=4, steps=20):
...     loss, gradients, state = model.loss_and_grad(batch.x, batch.y, state if batch.carry else None)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ._arrays import Array, at_least, generator, is_array, positive

__all__ = ["Batch", "random", "sequential"]


class Batch(NamedTuple):
    """An item of `sequential` and `random`.

    Attributes
    ----------
    x : ndarray, (T, B) or (T, B, ...)
        T consecutive elements of the stream in every column.
    y : ndarray, (T, B) or (T, B, ...)
        The element after each, or its own target.
    carry : bool
        Whether every column goes on where that of the item before ended, so that its state may be carried.

    Examples
    --------
    >>> first, second = pybptt.data.sequential(np.arange(9), batch_size=2, steps=2)
    >>> second.x.T.tolist(), second.y.T.tolist(), second.carry
    ([[2, 3], [6, 7]], [[3, 4], [7, 8]], True)
    """

    x: Array
    y: Array
    carry: bool


class _Partition:
    """What both partitions have in common: the stream with its targets, and how much of it is used."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, offset: int, slack: int
    ) -> None:
        self.batch_size, self.steps = batch_size, steps
        if is_array("stream", stream, "tokens or vectors").ndim == 0:
            raise ValueError("stream: expected shape (N,) or (N, ...), got ()")
        if targets is None:
            self._x, self._y = stream[:-1], stream[1:]
        elif is_array("targets", targets, "one for each element of the stream").shape[:1] != stream.shape[:1]:
            raise ValueError(f"targets: expected shape ({len(stream)}, ...), got {targets.shape}")
        else:
            self._x, self._y = stream, targets
        self._offset, self._slack = offset, slack
        self._usable = len(self._x) - offset - slack  # elements with a target, wherever an epoch begins
        if self._usable < batch_size * steps:
            least = batch_size * steps + offset + slack + (targets is None)
            raise ValueError(
                f"stream: expected at least {least} elements for batch_size = {batch_size} and "
                f"steps = {steps}, got {len(stream)}"
            )


class Sequential(_Partition):
    """What `sequential` returns: an iterable of `Batch` with a length."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, offset: int, seed: int | None
    ) -> None:
        super().__init__(stream, batch_size, steps, targets, offset, 0 if seed is None else steps - 1)
        self._random = None if seed is None else generator(seed)

    def __len__(self) -> int:
        return self._usable // self.batch_size // self.steps

    def __iter__(self) -> Iterator[Batch]:
        begin = self._offset
        if self._random is not None:
            begin += int(self._random.integers(self._slack + 1))
        x, y = (self._columns(array, begin) for array in (self._x, self._y))
        for i in range(len(self)):
            place = slice(i * self.steps, (i + 1) * self.steps)
            yield Batch(x[place], y[place], carry=i > 0)

    def _columns(self, array: Array, begin: int) -> Array:
        """(usable // B, B, ...): column b is the b-th stretch. A view."""
        rows = self._usable // self.batch_size
        used = array[begin : begin + rows * self.batch_size]
        columns: Array = used.reshape(self.batch_size, rows, *array.shape[1:]).swapaxes(0, 1)
        return columns


class Random(_Partition):
    """What `random` returns: an iterable of `Batch` with a length."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, seed: int | None
    ) -> None:
        super().__init__(stream, batch_size, steps, targets, 0, steps - 1)
        self._random = generator(seed)

    def __len__(self) -> int:
        return self._usable // self.steps // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        begin = int(self._random.integers(self._slack + 1))
        starts = begin + self.steps * self._random.permutation(self._usable // self.steps)
        within = np.arange(self.steps)[:, None]
        for i in range(len(self)):
            place = within + starts[i * self.batch_size : (i + 1) * self.batch_size]
            yield Batch(self._x[place], self._y[place], carry=False)


def sequential(
    stream: Array,
    batch_size: int,
    steps: int,
    *,
    targets: Array | None = None,
    offset: int = 0,
    seed: int | None = None,
) -> Sequential:
    """Batches that go on where the ones before ended: the state is carried through an epoch.

    The stream is cut into B stretches of equal length, which are read side by side, T steps at a time
    (Zaremba, Sutskever and Vinyals, Recurrent neural network regularization, arXiv:1409.2329). What remains
    at the end of each stretch, less than T steps, is left out.

    Parameters
    ----------
    stream : ndarray, (N,) or (N, ...)
        Tokens, or vectors; it may be a memory map.
    batch_size, steps : int
        B and T.
    targets : ndarray, (N, ...), optional
        The target of each element; the next element if not given.
    offset : int
        Elements to leave out at the beginning.
    seed : int, optional
        With it every epoch leaves out at random up to T - 1 elements more, so that blocks have different
        borders (and the number of batches is such that there are always enough).

    Returns
    -------
    iterable of Batch, with a length
        ``carry`` is False for the first batch of an epoch alone. x and y, (T, B, ...), are views of the
        stream; for layers with ``batch_first=True``, swap their first two axes.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range, targets of another length, and a stream too short for
        one batch.

    Examples
    --------
    >>> batches = pybptt.data.sequential(np.arange(100), batch_size=3, steps=10)
    >>> len(batches), [batch.carry for batch in batches], next(iter(batches)).x.shape
    (3, [False, True, True], (10, 3))
    """
    batch_size, steps = positive("batch_size", batch_size), positive("steps", steps)
    return Sequential(stream, batch_size, steps, targets, at_least("offset", offset, 0), seed)


def random(
    stream: Array,
    batch_size: int,
    steps: int,
    *,
    targets: Array | None = None,
    seed: int | None = None,
) -> Random:
    """Batches of stretches from anywhere: the state is never carried.

    Every epoch leaves out at random up to T - 1 elements at the beginning, cuts the rest into stretches of T
    steps, and deals them out in random order (Zhang et al., Dive into Deep Learning, 9.3: random sampling).
    The last ones, less than a batch, are left out.

    Parameters
    ----------
    stream, batch_size, steps, targets
        As for `sequential`.
    seed : int, optional
        The same seed gives the same epochs.

    Returns
    -------
    iterable of Batch, with a length
        ``carry`` is always False. x and y are copies, (T, B, ...).

    Raises
    ------
    TypeError, ValueError
        As for `sequential`.

    Examples
    --------
    >>> batches = pybptt.data.random(np.arange(100), batch_size=3, steps=10, seed=0)
    >>> len(batches), any(batch.carry for batch in batches)
    (3, False)
    """
    return Random(stream, positive("batch_size", batch_size), positive("steps", steps), targets, seed)
