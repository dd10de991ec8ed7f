"""Schedules of a learning rate: functions of the number of steps taken before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._arrays import above_0, below, positive

Schedule = Callable[[Any], float]


def _decayed(lr: float, factor: float, times: float) -> float:
    """lr factor^times; infinity, which no optimiser takes, where that is beyond the largest float."""
    try:
        return float(lr * factor**times)
    except OverflowError:  # Python's floats say so, NumPy's are infinite by themselves
        return math.inf


@dataclass(frozen=True)
class StepDecay:
    """Schedule: `lr` times `factor` to the power of how often `every` steps are over.

    Parameters
    ----------
    lr : float
        At least 0.
    every : int
    factor : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        For a number of another type or out of range.

    Examples
    --------
    >>> rate = pybptt.optim.StepDecay(1.0, every=10, factor=0.5)
    >>> [rate(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        below("lr", self.lr, math.inf)
        positive("every", self.every)
        below("factor", self.factor, math.inf)

    def __call__(self, step: float) -> float:
        return _decayed(self.lr, self.factor, step // self.every)  # lr factor^floor(t / every)


@dataclass(frozen=True)
class ExponentialDecay:
    """Schedule: `lr` times `factor` to the power of the number of steps.

    Parameters
    ----------
    lr, factor : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        For a number of another type or out of range.

    Examples
    --------
    >>> rate = pybptt.optim.ExponentialDecay(1.0, 0.5)
    >>> [rate(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    lr: float
    factor: float

    def __post_init__(self) -> None:
        below("lr", self.lr, math.inf)
        below("factor", self.factor, math.inf)

    def __call__(self, step: float) -> float:
        return _decayed(self.lr, self.factor, step)  # lr factor^t


@dataclass(frozen=True)
class Cosine:
    """Schedule: from `lr` to `final` along half a cosine; it stays there (Loshchilov and Hutter 2017).

    Parameters
    ----------
    lr : float
        At least 0.
    steps : float
        How many steps it takes, positive.
    final : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        For a number of another type or out of range.

    Examples
    --------
    >>> rate = pybptt.optim.Cosine(1.0, steps=100)
    >>> [round(rate(step), 3) for step in (0, 25, 50, 100, 200)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """

    lr: float
    steps: float
    final: float = 0.0

    def __post_init__(self) -> None:
        below("lr", self.lr, math.inf)
        above_0("steps", self.steps)
        below("final", self.final, math.inf)

    def __call__(self, step: float) -> float:
        done = min(1.0, step / self.steps)
        # final + (lr - final) (1 + cos(pi t / steps)) / 2
        return self.final + (self.lr - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class WarmUp:
    """Schedule: another one, times a factor that rises to 1 along a straight line.

    Parameters
    ----------
    schedule : float or function of the number of steps
    steps : float
        How many steps it rises, positive. They count for the other schedule, too.
    start : float
        The factor of the first step, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        For a number of another type or out of range.

    Examples
    --------
    >>> rate = pybptt.optim.WarmUp(2.0, steps=4, start=0.0)
    >>> [rate(step) for step in range(6)]
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    """

    schedule: float | Schedule
    steps: float
    start: float = 0.1

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            below("schedule", self.schedule, math.inf)
        above_0("steps", self.steps)
        below("start", self.start, 1.0)

    def __call__(self, step: float) -> float:
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        return rate * (self.start + (1 - self.start) * min(1.0, step / self.steps))
