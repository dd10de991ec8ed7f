"""Optimisers on one flat vector of parameters, schedules of their learning rate, and means of gradients.

Each is made from the vector it is to change (``model.flat``) and changes it in place with every
``step``. The vector has to be the model's own memory, so put a layer into its
`pybptt.SequenceModel` first and then give ``model.flat`` to the optimiser: one of a layer's ``flat``
raises ValueError once the layer is in a model.

The learning rate is a number or a schedule: any function of the number of steps taken before, such as the
objects here. Either may be assigned between steps.

>>> model = pybptt.SequenceModel(pybptt.RNN(5, 8, seed=0), 5, seed=1)
>>> rate = pybptt.optim.WarmUp(pybptt.optim.Cosine(0.01, steps=1000), steps=50)
>>> optimiser = pybptt.optim.AdamW(model.flat, rate)
>>> x = np.zeros((20, 4), dtype=int)
>>> loss, gradients, _ = model.loss_and_grad(x, x)
>>> optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
>>> optimiser.steps, round(optimiser.rate, 6)
(1, 0.00118)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ._arrays import DTYPES, Array, above_0, at_least, below, expect, is_array
from .gradients import Gradients
from .parameters import expect_settable
from .schedules import Cosine, ExponentialDecay, Schedule, StepDecay, WarmUp

__all__ = ["SGD", "Accumulator", "Adam", "AdamW", "Cosine", "ExponentialDecay", "StepDecay", "WarmUp"]


def __dir__() -> list[str]:
    return __all__


class _Optimiser:
    """What every optimiser has: the vector, its hyper-parameters, and named arrays of state beside it."""

    def __init__(
        self, flat: Array, lr: float | Schedule, weight_decay: float, buffers: tuple[str, ...]
    ) -> None:
        flat = is_array("flat", flat, "float32 or float64, the model's own vector")
        if flat.dtype not in DTYPES.values():
            raise TypeError(f"flat: expected dtype float32 or float64, got {flat.dtype}")
        if flat.ndim != 1:
            raise ValueError(f"flat: expected shape (N,), got {flat.shape}")
        if not flat.flags.writeable:
            raise ValueError("flat: expected an array to change in place, got a read-only one")
        self.lr = lr
        self.weight_decay = weight_decay
        self._steps = 0
        self._buffers = {name: np.zeros_like(flat) for name in buffers}
        self._scratch = np.empty_like(flat)
        self.flat = flat

    def __setattr__(self, name: str, value: Any) -> None:
        if "flat" in vars(self):  # it is complete
            if name == "flat" and value is not self.flat:
                raise AttributeError("flat: expected to stay the same vector; make a new optimiser")
            if not name.startswith("_") and name not in vars(self):
                expect_settable(self, name)
        super().__setattr__(name, _setting(name, value))

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._steps

    @property
    def rate(self) -> float:
        """The learning rate of the next step: `lr`, or what the schedule says."""
        return below(f"lr({self._steps})", self.lr(self._steps), math.inf) if callable(self.lr) else self.lr

    def step(self, gradient: Array | Gradients[Any]) -> None:
        """Change the parameters in place by one step against a gradient.

        Parameters
        ----------
        gradient : Gradients, or ndarray, (N,), of the parameters' dtype
            It is not changed.

        Raises
        ------
        ValueError, TypeError
            If the shape or dtype is not that of the parameters; for a schedule's rate that is out of range.
        FloatingPointError
            If it is not finite: the message names the parameter, if it is of `Gradients`. After any error
            everything is as it was, so to leave such a step out, catch this one and go on.
        """
        if not self.flat.flags.writeable:
            raise ValueError(
                "flat: expected an array to change in place, got one that is read-only since its layer is in "
                "a model; optimise model.flat instead"
            )
        flat = expect("gradient", _flat(gradient), self.flat.shape, self.flat.dtype)
        _expect_finite(gradient)
        rate = self.rate
        self._steps += 1
        with np.errstate(all="ignore"):  # a vanishing square is no error half-way, whatever np.seterr says
            self._change(flat, rate)

    def _change(self, gradient: Array, rate: float) -> None:
        """A step's own arithmetic; `_steps` counts it already."""
        raise NotImplementedError

    def _with_decay(self, gradient: Array) -> Array:
        """g + weight_decay flat, in the scratch array: the gradient of loss + weight_decay |flat|^2 / 2."""
        if not self.weight_decay:
            return gradient
        np.multiply(self.flat, self.weight_decay, out=self._scratch)
        self._scratch += gradient
        return self._scratch

    def state_dict(self) -> dict[str, Array]:
        """Copies of the arrays that a later `load_state_dict` needs to go on as if never stopped.

        Returns
        -------
        dict of str to ndarray
            Ready for ``model.extra`` or `numpy.savez`; the number of steps is an array of no dimensions.
            The vector of parameters and the hyper-parameters are not in it.
        """
        buffers = {name: buffer.copy() for name, buffer in self._buffers.items()}
        return {**buffers, "steps": np.array(self._steps)}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take up what `state_dict` gave.

        Parameters
        ----------
        state : mapping of str to ndarray
            Copied, so it may be changed afterwards.

        Raises
        ------
        ValueError, TypeError
            If an array is missing, or its shape or dtype is not that of the parameters; nothing has been
            changed then.
        """
        missing = [name for name in (*self._buffers, "steps") if name not in state]
        if missing:
            raise ValueError(f"state: missing: {', '.join(missing)}")
        given = {
            name: expect(f"state[{name!r}]", state[name], self.flat.shape, self.flat.dtype)
            for name in self._buffers
        }
        steps = np.asarray(state["steps"])
        if steps.shape:
            raise ValueError(f"state['steps']: expected shape (), got {steps.shape}")
        self._steps = at_least("state['steps']", steps.item(), 0)
        for name, array in given.items():
            self._buffers[name][...] = array


class SGD(_Optimiser):
    """Gradient descent, with Polyak's momentum if asked for.

    ``velocity = momentum * velocity + g``, then ``flat -= lr * velocity``, with
    ``g = gradient + weight_decay * flat``.

    Parameters
    ----------
    flat : ndarray, 1-D, float32 or float64
        The parameters, changed in place by `step`.
    lr : float or function of the number of steps
        Learning rate, at least 0, or a schedule.
    momentum : float
        In [0, 1); 0 is plain gradient descent and keeps no velocity.
    weight_decay : float
        At least 0: of the penalty ``weight_decay / 2 * (flat ** 2).sum()``, on all parameters.

    Attributes
    ----------
    flat : ndarray
    lr, momentum, weight_decay
        May be assigned between steps.
    steps : int
    rate : float

    Raises
    ------
    TypeError
        If `flat` is not an array of float32 or float64, or a hyper-parameter is no number.
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

    def __init__(
        self, flat: Array, lr: float | Schedule, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.momentum = momentum
        super().__init__(flat, lr, weight_decay, ("velocity",) if momentum else ())

    def _change(self, gradient: Array, rate: float) -> None:
        direction = self._with_decay(gradient)
        if self.momentum:
            if "velocity" not in self._buffers:  # momentum was 0 until now
                self._buffers["velocity"] = np.zeros_like(self.flat)
            velocity = self._buffers["velocity"]
            velocity *= self.momentum
            velocity += direction  # velocity = momentum velocity + g
            direction = velocity
        self.flat -= np.multiply(direction, rate, out=self._scratch)


class Adam(_Optimiser):
    """Adam: each parameter's step is scaled by running means of its gradient and squared gradient.

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g²``, and after t steps
    ``flat -= lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)``, with ``g = gradient + weight_decay * flat``.

    Parameters
    ----------
    flat : ndarray, 1-D, float32 or float64
        The parameters, changed in place by `step`.
    lr : float or function of the number of steps
        Learning rate, at least 0, or a schedule.
    betas : (float, float)
        Decay of the two running means, each in [0, 1).
    eps : float
        Keeps the division finite, at least 1.2e-38, float32's smallest normal number: with 0 a parameter
        whose gradient, or the square of it, has always been 0 would be divided by 0.
    weight_decay : float
        At least 0: of the penalty ``weight_decay / 2 * (flat ** 2).sum()``, on all parameters. Its gradient
        is scaled as the loss's is; `AdamW` keeps them apart.

    Attributes
    ----------
    flat : ndarray
    lr, betas, eps, weight_decay
        May be assigned between steps.
    steps : int
    rate : float

    Raises
    ------
    TypeError
        If `flat` is not an array of float32 or float64, or a hyper-parameter is no number.
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

    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        flat: Array,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.betas = betas
        self.eps = eps
        super().__init__(flat, lr, weight_decay, ("m", "v"))

    def _change(self, gradient: Array, rate: float) -> None:
        beta1, beta2 = self.betas
        m, v, scratch = self._buffers["m"], self._buffers["v"], self._scratch
        if self._decoupled:
            self.flat *= 1 - rate * self.weight_decay

        # m = b1 m + (1-b1) g
        m *= beta1
        m += np.multiply(self._gradient(gradient), 1 - beta1, out=scratch)

        # v = b2 v + (1-b2) g²
        v *= beta2
        np.square(self._gradient(gradient), out=scratch)
        scratch *= 1 - beta2
        v += scratch

        # flat -= lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
        np.sqrt(v, out=scratch)
        scratch /= math.sqrt(1 - beta2**self._steps)
        scratch += self.eps
        np.divide(m, scratch, out=scratch)
        scratch *= rate / (1 - beta1**self._steps)
        self.flat -= scratch

    def _gradient(self, gradient: Array) -> Array:
        """g: a second time after the scratch array has been used."""
        return gradient if self._decoupled else self._with_decay(gradient)


class AdamW(Adam):
    """Adam with decoupled weight decay: ``flat *= 1 - lr * weight_decay`` before each of Adam's steps.

    Parameters
    ----------
    flat, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        At least 0; all parameters shrink by ``lr * weight_decay`` of themselves in a step, whatever their
        gradients' sizes.

    Raises
    ------
    TypeError, ValueError
        As for `Adam`.

    References
    ----------
    I. Loshchilov and F. Hutter, Decoupled weight decay regularization, ICLR 2019; as in PyTorch the learning
    rate multiplies the decay.

    Examples
    --------
    >>> flat = np.array([1.0, -2.0])
    >>> pybptt.optim.AdamW(flat, lr=0.5, weight_decay=0.1).step(np.array([1e-3, 0.0]))
    >>> flat.round(3)
    array([ 0.45, -1.9 ])
    """

    _decoupled = True

    def __init__(
        self,
        flat: Array,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(flat, lr, betas, eps, weight_decay)


class Accumulator:
    """The mean of gradients: of a batch that is computed in parts, because it is too large at once.

    Examples
    --------
    With ``reduction="mean"`` a part's weight is the number of its targets; with "sum" leave it out, and
    multiply the mean by the number of parts.

    >>> model = pybptt.SequenceModel(pybptt.RNN(5, 8, dtype="float64", seed=0), 5, seed=1)
    >>> optimiser = pybptt.optim.SGD(model.flat, lr=0.1)
    >>> x, y = np.random.default_rng(0).integers(5, size=(2, 20, 12))
    >>> whole = pybptt.optim.Accumulator()
    >>> for part in (slice(0, 8), slice(8, 12)):
    ...     loss, gradients, _ = model.loss_and_grad(x[:, part], y[:, part])
    ...     whole.add(gradients, weight=y[:, part].size)
    >>> np.allclose(whole.mean(), model.loss_and_grad(x, y)[1].flat)
    True
    >>> optimiser.step(pybptt.clip_by_norm(whole.mean(), 1.0))
    """

    __slots__ = ("_sum", "_weight")

    def __init__(self) -> None:
        self._sum: Array | None = None
        self._weight = 0.0

    def add(self, gradient: Array | Gradients[Any], weight: float = 1.0) -> None:
        """Take one into the mean.

        Parameters
        ----------
        gradient : Gradients, or ndarray of float32 or float64
            Of the shape and dtype of the first.
        weight : float
            Positive.

        Raises
        ------
        TypeError, ValueError
            For another shape, dtype or weight.
        FloatingPointError
            If it is not finite, as of an optimiser's `step`.
        """
        flat = _flat(gradient)
        if self._sum is None:
            if is_array("gradient", flat, "float32 or float64").dtype not in DTYPES.values():
                raise TypeError(f"gradient: expected dtype float32 or float64, got {flat.dtype}")
        else:
            flat = expect("gradient", flat, self._sum.shape, self._sum.dtype)
        weight = above_0("weight", weight)
        _expect_finite(gradient)
        part = flat * flat.dtype.type(weight)
        self._sum = part if self._sum is None else np.add(self._sum, part, out=self._sum)
        self._weight += weight

    def mean(self) -> Array:
        """Sum of weight times gradient over the sum of weights.

        Returns
        -------
        ndarray
            Of the gradients' shape and dtype.

        Raises
        ------
        ValueError
            If there are none.
        """
        if self._sum is None:
            raise ValueError("mean: expected at least one gradient, got none; add some first")
        mean: Array = self._sum / self._sum.dtype.type(self._weight)
        return mean


LIMITS = {"lr": math.inf, "weight_decay": math.inf, "momentum": 1.0, "eps": math.inf}
LEAST_EPS = float(np.finfo(np.float32).tiny)


def _setting(name: str, value: Any) -> Any:
    """An attribute's value, a hyper-parameter's checked."""
    if name == "betas":
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise ValueError(f"betas: expected two numbers, got {value!r}")
        return tuple(below(f"betas[{i}]", beta, 1.0) for i, beta in enumerate(value))
    if name not in LIMITS or (name == "lr" and callable(value)):
        return value
    setting = below(name, value, LIMITS[name])
    if name == "eps" and setting < LEAST_EPS:
        raise ValueError(f"eps: expected at least {LEAST_EPS:.2g}, got {value}")
    return setting


def _flat(gradient: Array | Gradients[Any]) -> Array:
    return gradient.flat if isinstance(gradient, Gradients) else gradient


def _expect_finite(gradient: Array | Gradients[Any]) -> None:
    """A FloatingPointError unless all of it is finite, which names the first parameter that is not."""
    flat = _flat(gradient)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(flat.sum()):  # quick, and makes no array; it may overflow where no number is infinite
            return
    wrong = np.flatnonzero(~np.isfinite(flat))
    if not wrong.size:
        return
    place = f"[{wrong[0]}]"
    if isinstance(gradient, Gradients):
        place = next(name for name, array in gradient.parameters.items() if not np.isfinite(array).all())
    raise FloatingPointError(
        f"gradient: expected finite numbers, got {flat[wrong[0]]} in {place} ({wrong.size} of {flat.size} "
        "are not finite); nothing has been changed"
    )
