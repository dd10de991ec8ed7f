"""Gradients, and what is done with them before a step."""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

import numpy as np

from ._arrays import Array, is_array, number
from .parameters import Layout, views

State = TypeVar("State")
AnyGradient = TypeVar("AnyGradient", Array, "Gradients[Any]")


class Gradients(Generic[State]):
    """Derivatives of the loss, as a layer's `backward` and `SequenceModel.loss_and_grad` return them.

    Attributes
    ----------
    flat : ndarray, 1-D
        By every parameter, in the layout of the layer's or the model's own ``flat``.
    parameters : dict of str to ndarray
        The same by name: views into `flat`, with the names and shapes of the layer's or the model's
        ``parameters``.
    input : ndarray, (T, B, D), or None
        dL/dx_t; None for token input, or if it was not asked for.
        0 past a sequence's end.
    state : ndarray, (L K, B, H)
        dL/dh_0 of every layer and direction; for an LSTM the pair (dL/dh_0, dL/dc_0).
    hidden : ndarray, (L K, T, B, H), or None
        dL/dh_t, the total derivative through every later step (in the reverse direction: every earlier one),
        at index t - 1, 0 past a sequence's end; None if it was not asked for.
    unreached : int
        Targets that no window of a truncation reached (`TBPTT` with k2 < k1): they count neither in the loss
        nor in any gradient. For a layer's `backward`, steps of sequences whose `d_output` is not used.

    Examples
    --------
    >>> rnn = pybptt.RNN(2, 3, seed=0)
    >>> output, state, tape = rnn.forward(np.ones((5, 1, 2), dtype=np.float32))
    >>> g = rnn.backward(tape, np.ones_like(output), hidden=True)
    >>> g.flat.shape, g.input.shape, g.state.shape, g.hidden.shape
    ((21,), (5, 1, 2), (1, 1, 3), (1, 5, 1, 3))
    >>> list(g.parameters)
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """

    __slots__ = ("_layout", "_views", "flat", "hidden", "input", "state", "unreached")

    def __init__(
        self,
        flat: Array,
        layout: Layout,
        input: Array | None,
        state: State,
        hidden: Array | None,
        unreached: int = 0,
    ) -> None:
        self.flat = flat
        self.input = input
        self.state = state
        self.hidden = hidden
        self.unreached = unreached
        self._layout = layout
        self._views: dict[str, Array] | None = None

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        # A copy's views are to be those into its own `flat`.
        return None, {name: getattr(self, name) for name in self.__slots__} | {"_views": None}

    @property
    def parameters(self) -> dict[str, Array]:
        """By name: views into `flat`."""
        if self._views is None:
            self._views = views(self.flat, self._layout)
        return self._views

    def _with(self, flat: Array) -> Gradients[State]:
        """The same with other values of `flat`."""
        return Gradients(flat, self._layout, self.input, self.state, self.hidden, self.unreached)

    def __repr__(self) -> str:
        extra = [name for name in ("input", "hidden") if getattr(self, name) is not None]
        return f"Gradients(parameters={list(self.parameters)}, {', '.join(['state', *extra])})"


def clip_by_norm(gradient: AnyGradient, max_norm: float) -> AnyGradient:
    """Scales a gradient down to a 2-norm of at most `max_norm`.

    Pascanu, Mikolov and Bengio 2013, algorithm 1.

    Parameters
    ----------
    gradient : Gradients, or ndarray of float32 or float64, any shape
        It is not changed. Of `Gradients` it is `flat` that counts, the derivatives by the parameters.
    max_norm : float
        The largest norm allowed, positive.

    Returns
    -------
    Gradients or ndarray
        `gradient` itself if its norm is at most `max_norm` or not finite, else a scaled copy of the same
        shape and dtype; new `Gradients` share all but `flat` and `parameters` with those given.

    Raises
    ------
    TypeError
        If `gradient` is neither `Gradients` nor a floating-point array.
    ValueError
        If `max_norm` is not positive.

    Examples
    --------
    >>> pybptt.clip_by_norm(np.array([3.0, 4.0]), 1.0)
    array([0.6, 0.8])
    """
    if isinstance(gradient, Gradients):
        clipped = clip_by_norm(gradient.flat, max_norm)
        return gradient if clipped is gradient.flat else gradient._with(clipped)
    max_norm = _limit("max_norm", max_norm, gradient)
    largest = float(np.max(np.abs(gradient), initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return gradient
    # Scaled by the largest entry, so that squares neither overflow nor vanish.
    norm = largest * math.sqrt(float(np.square(gradient / gradient.dtype.type(largest)).sum()))
    if norm <= max_norm:
        return gradient
    scaled: Array = gradient * gradient.dtype.type(max_norm / norm)
    return scaled


def clip_by_value(gradient: AnyGradient, limit: float) -> AnyGradient:
    """Cuts the values of a gradient off at +-`limit`.

    Parameters
    ----------
    gradient : Gradients, or ndarray of float32 or float64, any shape
        It is not changed. Of `Gradients` it is `flat` that counts, the derivatives by the parameters.
    limit : float
        The largest absolute value allowed, positive.

    Returns
    -------
    Gradients or ndarray
        A copy of the same shape and dtype; new `Gradients` share all but `flat` and `parameters` with those
        given. NaN stays NaN.

    Raises
    ------
    TypeError
        If `gradient` is neither `Gradients` nor a floating-point array.
    ValueError
        If `limit` is not positive.

    Examples
    --------
    >>> pybptt.clip_by_value(np.array([3.0, -0.5, -4.0]), 1.0)
    array([ 1. , -0.5, -1. ])
    """
    if isinstance(gradient, Gradients):
        return gradient._with(clip_by_value(gradient.flat, limit))
    limit = _limit("limit", limit, gradient)
    with np.errstate(over="ignore"):  # a limit beyond the largest number of the dtype is infinite
        bound = gradient.dtype.type(limit)
    cut: Array = np.clip(gradient, -bound, bound)
    return cut


def _limit(name: str, limit: float, gradient: Any) -> float:
    """A positive limit for a gradient, or a TypeError or ValueError."""
    if is_array("gradient", gradient, "floating-point numbers").dtype.kind != "f":
        raise TypeError(f"gradient: expected a numpy array of floating-point numbers, got {gradient.dtype}")
    value = number(name, limit, "a positive number")
    if not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return value
