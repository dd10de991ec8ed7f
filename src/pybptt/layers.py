"""Recurrent layers: forward over a whole sequence, and backward from a tape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _core
from ._arrays import Array, allocate, ids, is_array, positive, real, real_dtype
from .gradients import Gradients
from .parameters import FlatParameters, layout_of

NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")  # in the order of the core's enum


class Tape:
    """What `RNN.forward` keeps for `RNN.backward`: hidden states, inputs and weights, all copies of its own.

    A tape may be used any number of times, by several threads at once. Changing the input, the output or the
    parameters afterwards does not change it.

    Attributes
    ----------
    steps, batch : int
        T and B.
    nbytes : int
        Memory that it holds: about ``(T + T / S) * B * H + T * B * D`` numbers, with H and D rounded up to a
        cache line and S the steps that a chunk of 256 rows takes, plus the two weight matrices; for tokens
        12 bytes each instead of the D numbers and W_ih.

    Examples
    --------
    >>> output, state, tape = pybptt.RNN(2, 3, seed=0).forward(np.zeros((5, 1, 2), dtype=np.float32))
    >>> tape.steps, tape.batch
    (5, 1)
    """

    __slots__ = ("_core", "_layer")

    def __init__(self, layer: RNN, core: Any) -> None:
        self._layer = layer
        self._core = core

    @property
    def steps(self) -> int:
        """T."""
        return int(self._core.steps)

    @property
    def batch(self) -> int:
        """B."""
        return int(self._core.batch)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return int(self._core.nbytes)

    def __repr__(self) -> str:
        return f"Tape(steps={self.steps}, batch={self.batch}, nbytes={self.nbytes})"


class RNN(FlatParameters):
    """An Elman network (Elman 1990) with PyTorch's parameters.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Parameters
    ----------
    input_size : int
        D: values of a step's input, or the number of distinct token ids.
    hidden_size : int
        H.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        phi.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether the first two axes of input, output and their gradients are (B, T) rather than (T, B). States
        and ``Gradients.hidden`` are not affected, as in PyTorch. Costs a copy.
    dtype : {"float32", "float64"}
        Of parameters, inputs, outputs and gradients.
    seed : int, optional
        For the initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    flat : ndarray, (P,)
        All parameters. Assigning to it copies the values into the same memory, so ``rnn.flat -= step`` works.
    parameters : dict of str to ndarray
        Views into `flat`, in this order: ``weight_ih_l0`` (H, D), ``weight_hh_l0`` (H, H), ``bias_ih_l0``
        (H,), ``bias_hh_l0`` (H,).

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of range.
    MemoryError
        If the parameters can't be allocated.

    Examples
    --------
    >>> rnn = pybptt.RNN(3, 8, seed=0)
    >>> output, state = rnn(np.ones((20, 4, 3), dtype=np.float32))
    >>> output.shape, state.shape
    ((20, 4, 8), (1, 4, 8))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.input_size = D = positive("input_size", input_size)
        self.hidden_size = H = positive("hidden_size", hidden_size)
        if nonlinearity not in NONLINEARITIES:
            known = ", ".join(NONLINEARITIES)
            raise ValueError(f"nonlinearity: expected one of {known}, got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dtype = real_dtype(dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight_ih_l0": (H, D), "weight_hh_l0": (H, H)}
        if self.bias:
            shapes |= {"bias_ih_l0": (H,), "bias_hh_l0": (H,)}
        self._layout = layout_of(shapes)
        self._in_model = False
        self._hold(allocate((self._layout[-1][2].stop,), self.dtype))
        bound = 1 / math.sqrt(H)
        random = np.random.default_rng(seed)
        self._flat[:] = random.uniform(-bound, bound, self._flat.size)
        self._config = _core.LayerConfig(D, H, self.bias, NONLINEARITIES.index(nonlinearity))

    def __repr__(self) -> str:
        return (
            f"RNN({self.input_size}, {self.hidden_size}, nonlinearity={self.nonlinearity!r}, "
            f"bias={self.bias}, batch_first={self.batch_first}, dtype={self.dtype.name!r})"
        )

    def __call__(self, x: Array, state: Array | None = None) -> tuple[Array, Array]:
        """Runs the network and keeps nothing.

        Parameters
        ----------
        x : ndarray, (T, B, D) of the layer's dtype, or (T, B) of integers
            Input, or token ids in [0, D), which select columns of W_ih.
        state : ndarray, (1, B, H), optional
            h_0; zero if not given.

        Returns
        -------
        output : ndarray, (T, B, H)
            h_1 ... h_T.
        state : ndarray, (1, B, H)
            h_T: what the next call takes to go on.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            For a wrong shape, a wrong dtype, a token out of range, and sizes that can't be allocated.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> output, state = rnn(np.array([[0], [2], [1]]))  # three tokens, one sequence
        >>> more, state = rnn(np.array([[2]]), state)
        """
        output, final_state, _ = self._run(x, state, keep_tape=False)
        return output, final_state

    def forward(self, x: Array, state: Array | None = None) -> tuple[Array, Array, Tape]:
        """Runs the network and keeps what `backward` needs.

        Parameters
        ----------
        x, state
            As for calling the layer.

        Returns
        -------
        output : ndarray, (T, B, H)
        state : ndarray, (1, B, H)
        tape : Tape

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the layer.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, dtype="float64", seed=0)
        >>> output, state, tape = rnn.forward(np.ones((20, 4, 3)))
        """
        output, final_state, core = self._run(x, state, keep_tape=True)
        return output, final_state, Tape(self, core)

    def _run(self, x: Array, state: Array | None, keep_tape: bool) -> tuple[Array, Array, Any]:
        x = self._input(x)
        steps, batch = x.shape[0], x.shape[1]
        h_0 = None if state is None else real("state", state, (1, batch, self.hidden_size), self.dtype)
        output = allocate((steps, batch, self.hidden_size), self.dtype)
        final_state = allocate((1, batch, self.hidden_size), self.dtype)
        core = _core.forward(self._flat, self._config, x, h_0, output, final_state, keep_tape)
        return output.swapaxes(0, 1) if self.batch_first else output, final_state, core

    def _input(self, x: Any) -> Array:
        """(T, B, D) of the layer's dtype or (T, B) of int64, C-contiguous."""
        x = is_array("x", x, f"{self.dtype.name} or integers")
        axes = "(B, T" if self.batch_first else "(T, B"
        if x.dtype.kind in "iu":
            if x.ndim != 2:
                raise ValueError(f"x: expected token ids of shape {axes}), got shape {x.shape}")
            return ids("x", x, self.input_size, np.transpose if self.batch_first else None)
        if x.dtype != self.dtype:
            raise TypeError(
                f"x: expected dtype {self.dtype.name}, or integers for token ids, got {x.dtype}; "
                f"convert with x.astype(np.{self.dtype.name})"
            )
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape {axes}, D) with D = {self.input_size}, got {x.shape}")
        return np.ascontiguousarray(x.swapaxes(0, 1) if self.batch_first else x)

    def backward(
        self,
        tape: Tape,
        d_output: Array | None = None,
        d_state: Array | None = None,
        *,
        hidden: bool = False,
        input: bool = True,
    ) -> Gradients:
        """Backpropagation through time (Werbos 1990): the sweep that memoises dL/dh_t.

        With dh_t = dL/dh_t, one product a step carries ``dh_t = d_output_t + dz_{t+1} W_hh`` and
        ``dz_t = phi'(z_t) * dh_t`` from T to 1; the sums over t, ``dW_hh = sum_t dz_t^T h_{t-1}`` and
        ``dW_ih = sum_t dz_t^T x_t``, are one product each.

        Parameters
        ----------
        tape : Tape
            From this layer's `forward`. It is not used up.
        d_output : ndarray, (T, B, H), optional
            Derivative of the loss by the output alone; zero if not given.
        d_state : ndarray, (1, B, H), optional
            Derivative of the loss by the returned state alone; zero if not given.
        hidden : bool
            Whether to return dL/dh_t for all t.
        input : bool
            Whether to compute dL/dx_t (for dense input).

        Returns
        -------
        Gradients

        Raises
        ------
        ValueError, TypeError, MemoryError
            For a tape of another layer or a wrong shape, a wrong dtype, and sizes that can't be allocated.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> output, state, tape = rnn.forward(np.ones((20, 4, 3), dtype=np.float32))
        >>> gradients = rnn.backward(tape, d_output=2 * output)  # of the loss (output ** 2).sum()
        >>> rnn.flat -= 0.01 * gradients.flat
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape from this layer's forward, got {type(tape).__name__}")
        if tape._layer is not self:
            raise ValueError("tape: expected one from this layer's forward, got another layer's")
        core, dtype, H = tape._core, self.dtype, self.hidden_size
        steps, batch = core.steps, core.batch
        if d_output is not None:
            shape = (batch, steps, H) if self.batch_first else (steps, batch, H)
            d_output = real("d_output", d_output, shape, dtype)
            if self.batch_first:
                d_output = np.ascontiguousarray(d_output.swapaxes(0, 1))
        if d_state is not None:
            d_state = real("d_state", d_state, (1, batch, H), dtype)
        flat = allocate(self._flat.shape, dtype)
        dx = allocate((steps, batch, self.input_size), dtype) if input and core.dense else None
        dh_0 = allocate((1, batch, H), dtype)
        dh = allocate((1, steps, batch, H), dtype) if hidden else None
        _core.backward(core, self.bias, d_output, d_state, flat, dx, dh_0, dh)
        if self.batch_first and dx is not None:
            dx = dx.swapaxes(0, 1)
        return Gradients(flat, self._layout, input=dx, state=dh_0, hidden=dh)
