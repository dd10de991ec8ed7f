"""Optimisers on one flat vector of parameters.

Each is made from the vector it is to change (``model.flat``) and changes it in place with every
``step``. The vector has to be the model's own memory, so put a layer into its
`pybptt.SequenceModel` first and then give ``model.flat`` to the optimiser: one of a layer's ``flat``
raises ValueError once the layer is in a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arrays import at_least, unmasked

__all__ = ["SGD", "Adam"]

_Array = npt.NDArray[Any]


class _Optimiser:
    """What every optimiser has: the vector, a learning rate, and named arrays of state beside it."""

    def __init__(self, flat: _Array, lr: float, buffers: tuple[str, ...]) -> None:
        if not isinstance(flat, np.ndarray):
            raise TypeError(f"flat must be a NumPy array, the model's own vector; got {type(flat).__name__}")
        unmasked("flat", flat)
        if flat.dtype not in (np.float32, np.float64):
            raise TypeError(f"flat must be float32 or float64, got {flat.dtype}")
        if flat.ndim != 1:
            raise ValueError(f"flat must have one dimension, got shape {flat.shape}")
        if not flat.flags.writeable:
            raise ValueError("flat is read-only, but the optimiser changes it in place")
        _require("lr", lr, 0.0, math.inf)
        self.flat = flat
        self.lr = lr
        self._buffers = {name: np.zeros_like(flat) for name in buffers}
        self._scratch = np.empty_like(flat)

    def _check(self, name: str, array: _Array) -> None:
        """Raise unless `array` has the vector's shape and dtype."""
        if not self.flat.flags.writeable:
            raise ValueError("flat is read-only since its layer is in a model; optimise model.flat instead")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array, got {type(array).__name__}")
        unmasked(name, array)
        if array.dtype != self.flat.dtype:
            raise TypeError(
                f"{name} must be {self.flat.dtype} as the parameters are, got {array.dtype}; "
                f"convert it with {name}.astype({str(self.flat.dtype)!r})"
            )
        if array.shape != self.flat.shape:
            raise ValueError(f"{name} must have shape {self.flat.shape}, got {array.shape}")

    def state_dict(self) -> dict[str, _Array]:
        """Copies of the arrays that a later `load_state_dict` needs to go on as if never stopped.

        Returns
        -------
        dict of str to ndarray
            Ready for `numpy.savez`. The vector of parameters and the hyper-parameters are not in it.
        """
        return {name: buffer.copy() for name, buffer in self._buffers.items()}

    def load_state_dict(self, state: Mapping[str, _Array]) -> None:
        """Take up what `state_dict` gave.

        Parameters
        ----------
        state : mapping of str to ndarray
            Copied, so it may be changed afterwards.

        Raises
        ------
        KeyError
            If an array is missing; nothing has been changed then, nor after the other errors.
        ValueError, TypeError
            If an array's shape or dtype is not that of the parameters.
        """
        for name in self.state_dict():
            if name not in state:
                raise KeyError(f"the optimiser's state lacks {name!r}")
        for name in self._buffers:
            self._check(name, state[name])
        for name, buffer in self._buffers.items():
            buffer[...] = state[name]


class SGD(_Optimiser):
    """Gradient descent, with Polyak's momentum if asked for.

    ``velocity = momentum * velocity + gradient``, then ``flat -= lr * velocity``.

    Parameters
    ----------
    flat : ndarray, 1-D, float32 or float64
        The parameters, changed in place by `step`.
    lr : float
        Learning rate, at least 0. The attribute ``lr`` may be assigned between steps.
    momentum : float
        In [0, 1); 0 is plain gradient descent and keeps no velocity.

    Raises
    ------
    TypeError
        If `flat` is not an array of float32 or float64.
    ValueError
        If `flat` is not one-dimensional and writeable, or a hyper-parameter is out of range.

    References
    ----------
    B. T. Polyak, Some methods of speeding up the convergence of iteration methods, USSR
    Computational Mathematics and Mathematical Physics 4(5), 1964. The learning rate multiplies the
    whole velocity, as in PyTorch; with a constant rate that is Polyak's heavy ball.

    Examples
    --------
    >>> import numpy as np
    >>> from pybptt.optim import SGD
    >>> flat = np.array([1.0, -2.0])
    >>> optimiser = SGD(flat, lr=0.5)
    >>> optimiser.step(np.array([1.0, 2.0]))
    >>> flat
    array([ 0.5, -3. ])
    """

    def __init__(self, flat: _Array, lr: float, momentum: float = 0.0) -> None:
        _require("momentum", momentum, 0.0, 1.0)
        super().__init__(flat, lr, ("velocity",) if momentum else ())
        self.momentum = momentum

    def step(self, gradient: _Array) -> None:
        """Change the parameters in place by one step against `gradient`.

        Parameters
        ----------
        gradient : ndarray, 1-D, the parameters' dtype

        Raises
        ------
        ValueError, TypeError
            If the shape or dtype is not that of the parameters; nothing has been changed then.
        """
        self._check("gradient", gradient)
        direction = gradient
        if self.momentum:
            direction = self._buffers["velocity"]
            direction *= self.momentum
            direction += gradient
        np.multiply(direction, self.lr, out=self._scratch)
        self.flat -= self._scratch


class Adam(_Optimiser):
    """Adam: each parameter's step is scaled by running means of its gradient and squared gradient.

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g²``, and after t steps
    ``flat -= lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)``.

    Parameters
    ----------
    flat : ndarray, 1-D, float32 or float64
        The parameters, changed in place by `step`.
    lr : float
        Learning rate, at least 0. The attribute ``lr`` may be assigned between steps.
    betas : (float, float)
        Decay of the two running means, each in [0, 1).
    eps : float
        Keeps the division finite, at least 0.

    Raises
    ------
    TypeError
        If `flat` is not an array of float32 or float64.
    ValueError
        If `flat` is not one-dimensional and writeable, or a hyper-parameter is out of range.

    References
    ----------
    D. P. Kingma and J. Ba, Adam: a method for stochastic optimization, ICLR 2015, algorithm 1.

    Examples
    --------
    The first step is as long as the learning rate in every direction, whatever the gradient's size:

    >>> import numpy as np
    >>> from pybptt.optim import Adam
    >>> flat = np.array([1.0, -2.0])
    >>> optimiser = Adam(flat, lr=0.5)
    >>> optimiser.step(np.array([1e-3, 1e3]))
    >>> flat.round(3)
    array([ 0.5, -2.5])
    """

    def __init__(
        self,
        flat: _Array,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {len(betas)}")
        for i, beta in enumerate(betas):
            _require(f"betas[{i}]", beta, 0.0, 1.0)
        _require("eps", eps, 0.0, math.inf)
        super().__init__(flat, lr, ("m", "v"))
        self.betas = betas
        self.eps = eps
        self._steps = 0

    def step(self, gradient: _Array) -> None:
        """Change the parameters in place by one step against `gradient`.

        Parameters
        ----------
        gradient : ndarray, 1-D, the parameters' dtype

        Raises
        ------
        ValueError, TypeError
            If the shape or dtype is not that of the parameters; nothing has been changed then.
        """
        self._check("gradient", gradient)
        self._steps += 1
        beta1, beta2 = self.betas
        m, v, scratch = self._buffers["m"], self._buffers["v"], self._scratch

        m *= beta1
        m += np.multiply(gradient, 1 - beta1, out=scratch)

        v *= beta2
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - beta2
        v += scratch

        np.sqrt(v, out=scratch)
        scratch /= math.sqrt(1 - beta2**self._steps)
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= self.lr / (1 - beta1**self._steps)
        self.flat -= scratch

    def state_dict(self) -> dict[str, _Array]:
        """As the other optimisers' `state_dict`, with the number of steps as an array of no dimensions."""
        return {**super().state_dict(), "steps": np.array(self._steps)}

    def load_state_dict(self, state: Mapping[str, _Array]) -> None:
        """As the other optimisers' `load_state_dict`."""
        steps = at_least("steps", np.asarray(state["steps"]).item(), 0)
        super().load_state_dict(state)
        self._steps = steps


def _require(name: str, value: float, low: float, high: float) -> None:
    """Raise unless ``low <= value < high`` (NaN is in no range)."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}), got {value}")
