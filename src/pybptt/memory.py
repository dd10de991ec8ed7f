"""Limits on memory, and what a call takes under each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, at_least, sequence_lengths

UNITS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
MOST = 1 << 60  # bytes; as good as no limit
FRACTIONS = (2, 4, 10)  # of the tape, in the table of `Memory`

Progress = Callable[[int, int], object]


def memory_bytes(limit: Any) -> int:
    """A `memory_limit` in bytes, or a TypeError or ValueError."""
    if not isinstance(limit, str):
        if isinstance(limit, float | np.floating):
            raise TypeError(f"memory_limit: expected bytes or text such as '256MB', got {limit!r}")
        return min(MOST, at_least("memory_limit", limit, 1))
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]?)(i?)B\s*", limit, re.ASCII)
    prefix = found[2].replace("K", "k") if found else ""
    if not found or (found[3] and not prefix):
        raise ValueError(
            f"memory_limit: expected bytes or text such as '256MB', '1.5GB' or '1GiB', got {limit!r}"
        )
    size = int(min(float(found[1]) * (1024 if found[3] else 1000) ** UNITS[prefix], MOST))
    if size == 0:
        raise ValueError(f"memory_limit: expected at least 1 byte, got {limit!r}")
    return size


def readable(size: int) -> str:
    """Bytes for a reader: ``"24.6 MB"``, rounded up: as a limit it is large enough."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{-(-size * 10 // scale) / 10:.1f} {unit}"
    return f"{size} bytes"


def listener(progress: Any) -> Progress | None:
    """`progress` itself, or a TypeError."""
    if progress is None:
        return None
    if not callable(progress):
        got = type(progress).__name__
        raise TypeError(f"progress: expected a function of (done, total) or None, got {got}")
    return cast(Progress, progress)


def one_direction(bidirectional: bool) -> None:
    """A ValueError for a layer that has two."""
    if bidirectional:
        raise ValueError(
            "memory_limit: expected a layer of one direction; of two, each must be complete before "
            "the next layer begins, so that all steps are kept"
        )


def checked_sizes(steps: Any, batch: Any, lengths: ArrayLike | None) -> tuple[int, int, Array | None]:
    """T, B and the lengths of arrays that are not there yet."""
    steps, batch = at_least("steps", steps, 0), at_least("batch", batch, 0)
    if max(steps, batch, 1) * max(batch, 1) >= 1 << 62 or steps >= 1 << 62:
        raise MemoryError(f"a tape of T = {steps} and B = {batch} is too large for this machine")
    return steps, batch, sequence_lengths(lengths, steps, batch)


def made(*pairs: tuple[Any, Array | None]) -> int:
    """Bytes of the arrays that are not the caller's own: of pairs, what was given and what is used of it."""
    return sum(
        used.nbytes
        for given, used in pairs
        if used is not None and (given is None or not np.may_share_memory(given, used))
    )


def id_bytes(steps: int, batch: int) -> int:
    """Of the copy of token or class ids, which the call keeps for itself."""
    return 8 * steps * batch


def choose(make_plan: Callable[[int], _core.MemoryPlan], limit: Any, beside: int) -> _core.MemoryPlan:
    """The plan for a `memory_limit`, of which arrays take the bytes `beside`, or a ValueError."""
    size = memory_bytes(limit)
    plan = make_plan(max(0, size - beside))
    if plan.bytes + beside > size:
        smallest = plan.bytes + beside
        raise ValueError(
            f"memory_limit: expected at least {smallest} bytes ({readable(smallest)}) for this call, "
            f"got {size} ({limit!r})"
        )
    return plan


class MemoryChoice(NamedTuple):
    """What a call takes under a limit.

    Attributes
    ----------
    limit : int or None
        In bytes; None for no limit.
    bytes : int
        That the call takes of it.
    passes : float
        Forward passes over the whole sequence, in all: 1.0 if nothing is run again.

    Examples
    --------
    >>> pybptt.RNN(3, 8, seed=0).memory(20_000, 1).choices[0].passes
    1.0
    """

    limit: int | None
    bytes: int
    passes: float


class Memory:
    """What a layer's `forward` and `backward`, or a model's `loss_and_grad`, take; `str` of it is a table.

    All figures count what is allocated beside the caller's arrays, the results and the gradients: the tape or
    what there is of it, weights and states in the core's layout, what the sweep works in, a mask that is
    drawn, the copies of token and class ids. Other arrays that must be copied first (those of a layer with
    ``batch_first``, what is not contiguous) come on top, and count under a limit, too.

    Attributes
    ----------
    tape : int
        Bytes of the plain tape: the layer's `tape_bytes`.
    working : int
        Bytes of everything else, without a limit.
    smallest : int
        The smallest `memory_limit` that works, in bytes. Equal to ``tape + working`` where nothing can be
        saved: with two directions, or if the sequence is too short to be cut.
    choices : tuple of MemoryChoice
        Without a limit, with a half, a quarter and a tenth of the tape as far as that works, and with the
        smallest.

    Examples
    --------
    >>> memory = pybptt.LSTM(32, 128, seed=0).memory(10_000, 8)
    >>> [round(choice.passes, 1) for choice in memory.choices]
    [1.0, 1.6, 1.9, 2.0, 79.0]
    """

    __slots__ = ("batch", "choices", "smallest", "steps", "tape", "working")

    def __init__(
        self, steps: int, batch: int, tape: int, beside: int, make_plan: Callable[[int], _core.MemoryPlan]
    ) -> None:
        def choice(limit: int | None) -> MemoryChoice:
            plan = make_plan(MOST if limit is None else max(0, limit - beside))
            return MemoryChoice(limit, plan.bytes + beside, plan.runs / max(1, plan.chunks))

        plain = choice(None)
        self.steps, self.batch, self.tape = steps, batch, tape
        self.working = plain.bytes - tape
        self.smallest = choice(0).bytes
        limits: Iterable[int] = (tape // part for part in FRACTIONS)
        some = [choice(limit) for limit in limits if limit >= self.smallest]
        least = [choice(self.smallest)] if self.smallest < plain.bytes else []
        self.choices = (plain, *some, *least)

    def __str__(self) -> str:
        lines = [
            f"T = {self.steps}, B = {self.batch}: the tape takes {readable(self.tape)}, "
            f"everything else {readable(self.working)}",
            f"{'memory_limit':>14}{'takes':>12}{'forward passes':>17}",
        ]
        for choice in self.choices:
            limit = "none" if choice.limit is None else readable(choice.limit)
            lines.append(f"{limit:>14}{readable(choice.bytes):>12}{choice.passes:>17.2f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Memory(steps={self.steps}, batch={self.batch}, tape={self.tape}, working={self.working}, "
            f"smallest={self.smallest})"
        )
