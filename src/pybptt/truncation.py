"""How far back derivatives go: truncation of backpropagation through time, and clipping inside it.

All of it changes the gradient, at fixed parameters, and nothing else: the forward pass, the losses that count
and the final state are those of the whole sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, allocate, at_least, generator, number, positive, unmasked

CLIPS = ("norm", "value")  # in the order of the core's enum, after none


class TBPTT:
    """Truncated backpropagation through time, TBPTT(k1, k2) (Williams and Peng 1990; Sutskever 2013).

    At every boundary t = k1, 2 k1, ... and at a sequence's end, the losses of the steps since the previous
    boundary that lie within the last k2 steps are sent back through the parameter uses t, t-1, ..., t-k2+1 of
    every layer, and no further. The gradient is the sum over these windows. The published styles:

    ===================  ===============================================================================
    ``TBPTT(T, T)``      full backpropagation through time
    ``TBPTT(1, T)``      the same: every window gets to the first step
    ``TBPTT(k, k)``      blocks of k steps, the carried state detached: what most programs do
    ``TBPTT(1, k + 1)``  every loss goes back k steps past its own: `bptt` with ``bptt_truncate=k``
    ``TBPTT(k, 1)``      no step back at all, and only the losses at the boundaries
    ``TBPTT(k1, k2)``    k1 < k2: Williams and Peng's BPTT(h; h'); k2 < k1: some losses are left out
    ===================  ===============================================================================

    With k1 < k2 the windows overlap: the sweep does about k2 / k1 times the work, and keeps k2 / k1 times the
    rows of dL/dh_t, some 2 k2 / k1 B H numbers a layer. Otherwise it costs what the full one costs, but for a
    last window that reaches back into the one before, where T is no multiple of k1.

    Parameters
    ----------
    k1 : int
        Steps between boundaries, at least 1.
    k2 : int
        Steps that a window goes back, at least 1.

    Raises
    ------
    TypeError, ValueError
        For an argument that is no positive integer.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
    >>> text = np.random.default_rng(0).integers(3, size=(101, 4))
    >>> loss, g, state = model.loss_and_grad(text[:-1], text[1:], truncation=pybptt.TBPTT(10, 25))
    """

    __slots__ = ("k1", "k2")

    def __init__(self, k1: int, k2: int) -> None:
        self.k1 = positive("k1", k1)
        self.k2 = positive("k2", k2)

    def __repr__(self) -> str:
        return f"TBPTT({self.k1}, {self.k2})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TBPTT) and (self.k1, self.k2) == (other.k1, other.k2)

    def __hash__(self) -> int:
        return hash((self.k1, self.k2))


class RandomTruncation:
    """Random truncation: the Jacobian of each step is multiplied by xi_t, whose mean is 1.

    xi_t = 1 / pi_t with probability pi_t, else 0, drawn for every step of every sequence: the derivative of
    the state at step t by the state before it (h, and c of an LSTM, of all layers) is multiplied by it. The
    mean over the draws is the full gradient, because E[xi_t] = 1 and the draws are independent.

    Parameters
    ----------
    pi : float, or array of floats (T,)
        Probabilities in (0, 1] that a step is not cut.
    seed : int, optional
        The same seed draws the same xi for the same T and B, for any number of threads. Without one, every
        call draws anew.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.LSTM(3, 8, seed=0), 3, seed=1)
    >>> text = np.random.default_rng(0).integers(3, size=(101, 4))
    >>> loss, g, state = model.loss_and_grad(
    ...     text[:-1], text[1:], truncation=pybptt.RandomTruncation(0.9, seed=5))
    """

    __slots__ = ("pi", "seed")

    def __init__(self, pi: ArrayLike, seed: int | None = None) -> None:
        self.pi = _probabilities("pi", pi)
        if (self.pi == 0).any():
            raise ValueError("pi: expected probabilities in (0, 1], got 0")
        self.seed = None if seed is None else at_least("seed", seed, 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_shown(self.pi)}, seed={self.seed})"

    def factors(self, steps: int, batch: int, dtype: Any = np.float64) -> Array:
        """Draw xi.

        Parameters
        ----------
        steps, batch : int
            T and B.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        ndarray, (T, B)
            xi_t of each sequence: 1 / pi_t or 0.

        Raises
        ------
        ValueError
            For another number of steps than `pi` has.

        Examples
        --------
        >>> pybptt.RandomTruncation(0.5, seed=0).factors(3, 2)
        array([[0., 2.],
               [2., 2.],
               [0., 0.]])
        """
        pi = self._column(steps)
        drawn = generator(self.seed).random((steps, batch)) < pi
        result: Array = np.divide(drawn, pi, dtype=np.float64).astype(dtype)
        return result

    def _column(self, steps: int) -> Array:
        """pi_t of each step, (T, 1)."""
        if self.pi.ndim and self.pi.size != steps:
            name = "cut" if isinstance(self, ARTBP) else "pi"
            raise ValueError(
                f"{name}: expected one probability, or one for each of {steps} steps, got {self.pi.size}"
            )
        return np.broadcast_to(self.pi, (steps,))[:, None]


class ARTBP(RandomTruncation):
    """Anticipated reweighted truncated backpropagation (Tallec and Ollivier 2017).

    The sequence is cut before each step with probability c_t; where it is not, the derivative is rescaled by
    1 / (1 - c_t), which makes the mean over the draws the full gradient. It is `RandomTruncation` with
    pi_t = 1 - c_t, in the paper's terms.

    Parameters
    ----------
    cut : float, or array of floats (T,)
        c_t, probabilities in [0, 1).
    seed : int, optional
        As for `RandomTruncation`.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
    >>> text = np.random.default_rng(0).integers(3, size=(101, 4))
    >>> loss, g, state = model.loss_and_grad(text[:-1], text[1:], truncation=pybptt.ARTBP(1 / 25, seed=5))
    """

    __slots__ = ("cut",)

    def __init__(self, cut: ArrayLike, seed: int | None = None) -> None:
        self.cut = _probabilities("cut", cut)
        if (self.cut == 1).any():
            raise ValueError("cut: expected probabilities in [0, 1), got 1")
        super().__init__(1 - self.cut, seed)

    def __repr__(self) -> str:
        return f"ARTBP({_shown(self.cut)}, seed={self.seed})"


Truncation = TBPTT | RandomTruncation


class Limits(NamedTuple):
    """What the core is told: see SweepLimits in the C++ interface."""

    factors: Array | None = None  # (T, B)
    windows: tuple[int, int] = (0, 0)
    clip: int = 0
    clip_limit: float = 0.0
    counted: Array | None = None  # (T, B): the losses that some window reaches


def check_truncation(truncation: Any, directions: int) -> None:
    """Or a TypeError or ValueError."""
    if not isinstance(truncation, TBPTT | RandomTruncation):
        raise TypeError(
            "truncation: expected TBPTT, RandomTruncation, ARTBP or None, got " + type(truncation).__name__
        )
    if directions != 1:
        raise ValueError("truncation: expected layers of one direction, got bidirectional ones")


def limits_of(
    truncation: Truncation | None,
    clip_hidden: tuple[str, float] | None,
    steps: int,
    lengths: Array | None,
    batch: int,
    dtype: np.dtype[Any],
    directions: int,
) -> Limits:
    """Check the two arguments and translate them."""
    if truncation is None and clip_hidden is None:
        return Limits()
    clip, clip_limit = checked_clip(clip_hidden)
    if truncation is None:
        return Limits(clip=clip, clip_limit=clip_limit)
    check_truncation(truncation, directions)
    if isinstance(truncation, RandomTruncation):
        return Limits(truncation.factors(steps, batch, dtype), clip=clip, clip_limit=clip_limit)
    k1, k2 = min(truncation.k1, max(1, steps)), min(truncation.k2, steps)
    if k2 >= steps and (k1 >= steps or not clip):  # all windows get to step 1, and none is clipped alone
        return Limits(clip=clip, clip_limit=clip_limit)
    if k1 < k2:
        return Limits(windows=(k1, k2), clip=clip, clip_limit=clip_limit)
    # (T, 1), or (T, B) if the sequences end at different steps
    t = np.arange(1, steps + 1)[:, None]
    T_b = np.array([steps]) if lengths is None else lengths
    reach = np.minimum(-(-t // k1) * k1, T_b) - k2  # the last step that the window of loss t does not get to
    counted = np.ascontiguousarray(np.broadcast_to(t > reach, (steps, batch))) if k2 < k1 else None
    rest = T_b % k1
    if ((rest > 0) & (rest < k2) & (rest < T_b)).any():  # the last window reaches into the one before
        return Limits(None, (k1, k2), clip, clip_limit, counted)
    # Nothing passes into a window's first step or between windows, but h_0 to the first one.
    factors = allocate((steps, batch), dtype)
    factors[:] = t > reach + 1
    factors[:1] = reach[:1] <= 0
    return Limits(factors, (0, 0), clip, clip_limit, counted)


def unreached(counted: Array, lengths: Array | None) -> int:
    """Steps of sequences, no padding, that do not count."""
    out = ~counted
    if lengths is not None:
        out &= np.arange(len(out))[:, None] < lengths
    return int(np.count_nonzero(out))


def checked_clip(clip_hidden: Any) -> tuple[int, float]:
    """As the core has it, or a TypeError or ValueError."""
    if clip_hidden is None:
        return 0, 0.0
    wanted = "clip_hidden: expected None, ('norm', limit) or ('value', limit)"
    if not isinstance(clip_hidden, tuple) or len(clip_hidden) != 2:
        raise TypeError(f"{wanted}, got {clip_hidden!r}")
    kind, limit = clip_hidden
    if not isinstance(kind, str) or kind not in CLIPS:
        raise ValueError(f"{wanted}, got {clip_hidden!r}")
    value = number("clip_hidden", limit, "a positive limit")
    if not value > 0:
        raise ValueError(f"clip_hidden: expected a positive limit, got {limit}")
    return 1 + CLIPS.index(kind), value


def _probabilities(name: str, value: ArrayLike) -> Array:
    """A scalar or (T,) of float64 in [0, 1], owned."""
    try:
        array = np.array(unmasked(name, value))
    except ValueError:  # rows of different lengths
        raise TypeError(f"{name}: expected a probability or an array of them, got {value!r}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a probability or an array of them, got {array.dtype}")
    if array.ndim > 1:
        raise ValueError(f"{name}: expected one probability or one a step, got shape {array.shape}")
    array = array.astype(np.float64)
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise ValueError(f"{name}: expected probabilities in [0, 1], got {array[wrong].flat[0]}")
    return array


def _shown(probabilities: Array) -> str:
    return str(float(probabilities)) if probabilities.ndim == 0 else f"array of {probabilities.size}"
