"""Activations: their values, their slopes, and the clipping of what goes into them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, one_of


def sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))  # at most 1: cannot overflow
    return np.where(z >= 0, 1.0, e) / (1.0 + e)  # 1 / (1 + exp(-z)) = exp(z) / (1 + exp(z))


# phi(z), and phi'(z) written through h = phi(z): so backward needs h_t only and forward may forget z_t.
_PHI: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda h: 1.0 - h * h),
    "relu": (lambda z: np.maximum(z, 0.0), lambda h: np.where(h > 0.0, 1.0, 0.0)),
    "sigmoid": (sigmoid, lambda h: h * (1.0 - h)),
    "identity": (np.positive, np.ones_like),
}
NONLINEARITIES = tuple(_PHI)


def phi(z: ArrayLike, nonlinearity: str = "tanh") -> Array:
    """Return h = phi(z) for "tanh", "relu", "sigmoid" or "identity"; any shape, float64.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.phi([-1.0, 0.0, 2.0], "relu")
    array([0., 0., 2.])
    """
    one_of("nonlinearity", nonlinearity, _PHI)
    return _PHI[nonlinearity][0](np.asarray(z, dtype=np.float64))


def phi_prime(h: ArrayLike, nonlinearity: str = "tanh") -> Array:
    """Return phi'(z) given the value h = phi(z); any shape, float64. At its kink relu has slope 0.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.phi_prime([0.0, 0.5, 1.0], "tanh")
    array([1.  , 0.75, 0.  ])
    """
    one_of("nonlinearity", nonlinearity, _PHI)
    return _PHI[nonlinearity][1](np.asarray(h, dtype=np.float64))


def clipped(z: Array, clip: float | None) -> Array:
    """What an activation takes in place of z: z itself, or the nearest number in [-clip, clip]."""
    return z if clip is None else np.clip(z, -clip, clip)


def clipped_prime(z: Array, clip: float | None) -> Array:
    """The derivative of `clipped`: 0 where it has cut, and at the edge, where |z| = clip."""
    return np.ones_like(z) if clip is None else np.where(np.abs(z) < clip, 1.0, 0.0)
