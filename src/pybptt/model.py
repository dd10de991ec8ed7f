"""A recurrent layer with an output layer and a loss: loss and all gradients in one call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, allocate, ids, is_array, positive, real
from .gradients import Gradients
from .layers import RNN
from .parameters import FlatParameters, layout_of

LOSSES = ("cross_entropy", "mse")
REDUCTIONS = ("mean", "sum")


class SequenceModel(FlatParameters):
    """A recurrent layer, an output layer o_t = W_ho h_t + b_o, and a loss over the steps.

    Parameters
    ----------
    layer : RNN
        It becomes part of the model: its parameters are views into the model's `flat` from now on.
    output_size : int
        Q: classes, or values of a step's target.
    loss : {"cross_entropy", "mse"}
        ``-log softmax(o_t)[y_t]``, or the squared error ``(o_t - y_t)**2``.
    reduction : {"mean", "sum"}
        The mean is over all targets: T * B classes, or T * B * Q values (B and B * Q with `last_only`), as
        PyTorch's losses do.
    last_only : bool
        Whether only the last step has an output and a target (many-to-one).
    seed : int, optional
        For the output layer's initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    flat : ndarray, (P,)
        All parameters, the layer's first. Assigning to it copies the values into the same memory.
    parameters : dict of str to ndarray
        Views into `flat`: the layer's names, then ``output.weight`` (Q, H) and ``output.bias`` (Q,).
    layer : RNN

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range, or a layer that belongs to another model.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.RNN(65, 100, seed=0), 65, seed=1)
    >>> text = np.random.default_rng(0).integers(65, size=(26, 8))  # (T + 1, B)
    >>> loss, gradients, state = model.loss_and_grad(text[:-1], text[1:])
    >>> model.flat -= 0.1 * pybptt.clip_by_norm(gradients.flat, 1.0)
    """

    def __init__(
        self,
        layer: RNN,
        output_size: int,
        *,
        loss: str = "cross_entropy",
        reduction: str = "mean",
        last_only: bool = False,
        seed: int | None = None,
    ) -> None:
        if not isinstance(layer, RNN):
            raise TypeError(f"layer: expected an RNN, got {type(layer).__name__}")
        if layer._in_model:
            raise ValueError("layer: expected one of its own, got a layer that belongs to another model")
        self.output_size = Q = positive("output_size", output_size)
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.layer = layer
        self.loss_name = loss
        self.reduction = reduction
        self.last_only = bool(last_only)
        self.dtype = layer.dtype
        H = layer.hidden_size
        shapes = {name: value.shape for name, value in layer.parameters.items()}
        self._layout = layout_of(shapes | {"output.weight": (Q, H), "output.bias": (Q,)})
        self._hold(allocate((self._layout[-1][2].stop,), self.dtype))
        own = layer.flat.size
        bound = 1 / math.sqrt(H)
        self._flat[own:] = np.random.default_rng(seed).uniform(-bound, bound, self._flat.size - own)
        self._flat[:own] = layer.flat
        layer._hold(self._flat[:own])
        layer._in_model = True
        self._output_config = _core.OutputConfig(Q, True, self.last_only)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.layer._hold(self._flat[: self.layer.flat.size])

    def __repr__(self) -> str:
        return (
            f"SequenceModel({self.layer!r}, {self.output_size}, loss={self.loss_name!r}, "
            f"reduction={self.reduction!r}, last_only={self.last_only})"
        )

    def __call__(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """Runs the model and keeps nothing.

        Parameters
        ----------
        x, state
            As for calling the layer.

        Returns
        -------
        output : ndarray, (T, B, Q), or (B, Q) with `last_only`
            o_t: predictions, or logits (softmax has not been applied).
        state : ndarray, (1, B, H)
            h_T.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the layer; ValueError also for T = 0 with `last_only`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 5, seed=1)
        >>> logits, state = model(np.array([[0], [2], [1]]))
        >>> logits.shape
        (3, 1, 5)
        """
        x, h_0 = self._input(x, state)
        steps, batch = x.shape[:2]
        shape = (batch, self.output_size) if self.last_only else (steps, batch, self.output_size)
        output = allocate(shape, self.dtype)
        final_state = allocate((1, batch, self.layer.hidden_size), self.dtype)
        _core.predict(self._flat, self.layer._config, self._output_config, x, h_0, output, final_state)
        if self.layer.batch_first and not self.last_only:
            output = output.swapaxes(0, 1)
        return output, final_state

    def loss(self, x: Array, y: Array, state: Array | None = None) -> tuple[float, Array]:
        """The loss alone; keeps nothing.

        Parameters
        ----------
        x, y, state
            As for `loss_and_grad`.

        Returns
        -------
        loss : float
        state : ndarray, (1, B, H)

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for `loss_and_grad`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 5, loss="mse", last_only=True, seed=1)
        >>> loss, state = model.loss(np.array([[0], [2], [1]]), np.zeros((1, 5), dtype=np.float32))
        """
        x, h_0 = self._input(x, state)
        y, scale = self._targets(y, x)
        final_state = allocate((1, x.shape[1], self.layer.hidden_size), self.dtype)
        loss = _core.loss(self._flat, self.layer._config, self._output_config, x, y, scale, h_0, final_state)
        return loss, final_state

    def loss_and_grad(
        self, x: Array, y: Array, state: Array | None = None, *, hidden: bool = False, input: bool = False
    ) -> tuple[float, Gradients, Array]:
        """Loss and gradients by every parameter, by backpropagation through time over all T steps.

        Parameters
        ----------
        x : ndarray, (T, B, D) of the layer's dtype, or (T, B) of integers
            Input, or token ids in [0, D).
        y : ndarray
            Targets. Cross-entropy: integers in [0, Q), (T, B), or (B,) with `last_only`. Squared error: the
            layer's dtype, (T, B, Q), or (B, Q) with `last_only`.
        state : ndarray, (1, B, H), optional
            h_0; zero if not given.
        hidden, input : bool
            Whether to return dL/dh_t for all t, and dL/dx_t for dense input, too.

        Returns
        -------
        loss : float
            0 if there are no targets (T = 0 or B = 0).
        gradients : Gradients
        state : ndarray, (1, B, H)
            h_T, to be carried to the next call; no gradient flows through it.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            For a wrong shape, a wrong dtype, a token or class out of range, and sizes that can't be
            allocated; ValueError also for T = 0 with `last_only`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, reduction="sum", seed=1)
        >>> tokens = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
        >>> loss, gradients, state = model.loss_and_grad(tokens[:-1], tokens[1:], hidden=True)
        >>> gradients.parameters["output.weight"].shape, gradients.hidden.shape
        ((3, 8), (1, 3, 2, 8))
        """
        x, h_0 = self._input(x, state)
        y, scale = self._targets(y, x)
        layer, dtype = self.layer, self.dtype
        steps, batch, H = x.shape[0], x.shape[1], layer.hidden_size
        final_state = allocate((1, batch, H), dtype)
        flat = allocate(self._flat.shape, dtype)
        dx = allocate(x.shape, dtype) if input and x.ndim == 3 else None
        dh_0 = allocate((1, batch, H), dtype)
        dh = allocate((1, steps, batch, H), dtype) if hidden else None
        loss = _core.loss_and_grad(
            self._flat,
            layer._config,
            self._output_config,
            x,
            y,
            scale,
            h_0,
            final_state,
            flat,
            dx,
            dh_0,
            dh,
            None,
        )
        if layer.batch_first and dx is not None:
            dx = dx.swapaxes(0, 1)
        return loss, Gradients(flat, self._layout, input=dx, state=dh_0, hidden=dh), final_state

    def _input(self, x: Any, state: Array | None) -> tuple[Array, Array | None]:
        x = self.layer._input(x)
        if self.last_only and x.shape[0] == 0:
            raise ValueError(
                "x: expected at least one step, because last_only counts the last one; got T = 0"
            )
        if state is None:
            return x, None
        return x, real("state", state, (1, x.shape[1], self.layer.hidden_size), self.dtype)

    def _targets(self, y: Any, x: Array) -> tuple[Array, float]:
        """Targets, time-major and C-contiguous, and the factor of the loss's reduction."""
        swap = self.layer.batch_first and not self.last_only
        shape = x.shape[1:2] if self.last_only else (x.shape[1], x.shape[0]) if swap else x.shape[:2]
        if self.loss_name == "mse":
            shape = (*shape, self.output_size)
            y = real("y", y, shape, self.dtype)
            y = np.ascontiguousarray(y.swapaxes(0, 1)) if swap else y
        else:
            y = is_array("y", y, "integers")
            if y.dtype.kind not in "iu":
                raise TypeError(
                    f"y: expected integer class ids, got {y.dtype}; convert with y.astype(np.int64)"
                )
            if y.shape != shape:
                raise ValueError(f"y: expected shape {shape}, got {y.shape}")
            y = ids("y", y, self.output_size, np.transpose if swap else None)
        return y, 1.0 if self.reduction == "sum" else 1.0 / max(1, y.size)
