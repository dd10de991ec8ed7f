"""The recurrent layers."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, DTypeLike

from ._arrays import Array, at_least, flag, positive
from .gradients import Gradients
from .memory import Progress
from .recurrent import RecurrentLayer
from .tape import Tape
from .truncation import Truncation

NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")  # in the order of the core's enum


class RNN(RecurrentLayer[Array]):
    """Layers of Elman cells (Elman 1990) with PyTorch's parameters.

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Parameters
    ----------
    input_size : int
        D: values of a step's input, or the number of distinct token ids.
    hidden_size : int
        H.
    num_layers : int
        L. Each layer reads the output of the one before.
    nonlinearity : {"tanh", "relu", "sigmoid", "identity"}
        phi.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether the first two axes of input, output and their gradients are (B, T) rather than (T, B). States
        and ``Gradients.hidden`` are not affected, as in PyTorch. Costs a copy.
    dropout : float
        Probability, in [0, 1], of a zero in the mask between layers: see `forward`. It has no effect on a
        single layer, and a UserWarning says so.
    bidirectional : bool
        Whether every layer also reads the sequence from its end, with parameters of its own; the output has
        both directions side by side.
    clip : float, optional
        Bound of what phi receives, z_t clipped to [-clip, clip] (ONNX's attribute ``clip``); the derivative
        is 0 outside.
    dtype : {"float32", "float64"}
        Of parameters, inputs, outputs and gradients.
    seed : int, optional
        For the initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    flat : ndarray, 1-D
        All parameters. Assigning to it copies the values into the same memory, so ``rnn.flat -= step`` works.
    parameters : dict of str to ndarray
        Views into `flat`, in this order: ``weight_ih_l0`` (H, D), ``weight_hh_l0`` (H, H), ``bias_ih_l0``
        (H,), ``bias_hh_l0`` (H,); then the same with ``_l0_reverse`` if bidirectional, and so on with
        ``_l1``, whose ``weight_ih`` is (H, K H).
    extra : dict
        What you keep with the layer; `save` writes it, too.

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

    _cell = "rnn"
    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        clip: float | None = None,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        if nonlinearity not in NONLINEARITIES:
            known = ", ".join(NONLINEARITIES)
            raise ValueError(f"nonlinearity: expected one of {known}, got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            clip=clip,
            dtype=dtype,
            seed=seed,
            nonlinearity=NONLINEARITIES.index(nonlinearity),
        )

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}


class LSTM(RecurrentLayer[tuple[Array, Array]]):
    """Layers of LSTM cells (Hochreiter and Schmidhuber 1997; Gers et al. 2000) with PyTorch's parameters.

    With z = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, in four runs of H rows, i f g o::

        i = sigma(z_i)    f = sigma(z_f)    g = tanh(z_g)    o = sigma(z_o)
        c_t = f c_{t-1} + i g               h_t = o tanh(c_t)

    A state is the pair (h, c). With a projection h_t has P entries, not H: P stands for H in every shape of
    h, of outputs and of their derivatives.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As for `RNN`.
    peephole : bool
        Peephole connections (Gers, Schraudolph and Schmidhuber 2002), diagonal as in ONNX: i and f also
        receive p_i c_{t-1} and p_f c_{t-1}, and o receives p_o c_t.
    coupled : bool
        Coupled input and forget gates: f = 1 - i (CIFG in Greff et al. 2017; ONNX's ``input_forget``). There
        are three gates then, i g o.
    proj_size : int
        P, less than H, of a recurrent projection (Sak, Senior and Beaufays 2014), h_t = W_hr (o tanh(c_t)),
        as in PyTorch; 0 for none, and P is H.
    clip : float, optional
        Bound of what sigma and tanh receive (ONNX's attribute ``clip``): z with the peephole terms, and c_t
        as the argument of h_t's tanh; c_t itself is carried on as it is. The derivative is 0 outside.

    Attributes
    ----------
    flat : ndarray, 1-D
        All parameters.
    parameters : dict of str to ndarray
        Views into `flat`, names and order as for `RNN`; the weights have 4 H rows (coupled: 3 H), gates in
        the order i f g o (i g o). After a layer's biases come ``weight_hr_l0`` (P, H), if there is a
        projection, ``weight_hh`` having P columns then, and ``weight_ih`` of the layers above K P; and
        ``weight_peephole_l0`` (3, H), rows i f o (coupled: (2, H), rows i o), if there are peepholes.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of range.
    MemoryError
        If the parameters can't be allocated.

    Examples
    --------
    >>> lstm = pybptt.LSTM(3, 8, num_layers=2, bidirectional=True, seed=0)
    >>> output, (h, c) = lstm(np.ones((20, 4, 3), dtype=np.float32), lengths=[20, 3, 11, 7])
    >>> output.shape, h.shape, c.shape
    ((20, 4, 16), (4, 4, 8), (4, 4, 8))
    >>> output, (h, c) = pybptt.LSTM(3, 8, proj_size=2, seed=0)(np.ones((20, 4, 3), dtype=np.float32))
    >>> output.shape, h.shape, c.shape
    ((20, 4, 2), (1, 4, 2), (1, 4, 8))
    """

    _cell = "lstm"
    _has_cells = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        peephole: bool = False,
        coupled: bool = False,
        proj_size: int = 0,
        clip: float | None = None,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.peephole = flag("peephole", peephole)
        self.coupled = flag("coupled", coupled)
        self._gates = 3 if self.coupled else 4
        self.proj_size = at_least("proj_size", proj_size, 0)
        if self.proj_size >= positive("hidden_size", hidden_size):
            raise ValueError(f"proj_size: expected less than hidden_size = {hidden_size}, got {proj_size}")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            clip=clip,
            dtype=dtype,
            seed=seed,
            peephole=self.peephole,
            coupled=self.coupled,
            proj_size=self.proj_size,
        )

    def _options(self) -> dict[str, Any]:
        return {"peephole": self.peephole, "coupled": self.coupled, "proj_size": self.proj_size}

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, H)
        if self.peephole:
            shapes["weight_peephole"] = (self._gates - 1, H)
        return shapes

    def forward(
        self,
        x: Array,
        state: tuple[Array, Array] | None = None,
        *,
        lengths: ArrayLike | None = None,
        training: bool = False,
        seed: int | None = None,
        dropout_mask: Array | None = None,
        cells: bool = False,
        memory_limit: int | str | None = None,
        progress: Progress | None = None,
    ) -> tuple[Array, tuple[Array, Array], Tape]:
        """Runs the network and keeps what `backward` needs.

        Parameters
        ----------
        x, state, lengths, training, seed, dropout_mask, memory_limit, progress
            As for `RNN.forward`.
        cells : bool
            Whether ``tape.cells`` is to be c_t of every layer and direction, (L K, T, B, H) at index t - 1, 0
            past a sequence's end. In the reverse direction, too, t is the step of the input.

        Returns
        -------
        output : ndarray, (T, B, K P)
        state : pair of ndarray, (L K, B, P) and (L K, B, H)
        tape : Tape

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for `RNN.forward`.

        Examples
        --------
        >>> lstm = pybptt.LSTM(3, 8, seed=0)
        >>> output, state, tape = lstm.forward(np.ones((20, 4, 3), dtype=np.float32), cells=True)
        >>> tape.cells.shape
        (1, 20, 4, 8)
        """
        return self._forward(
            x, state, lengths, training, seed, dropout_mask, bool(cells), memory_limit, progress
        )

    def backward(
        self,
        tape: Tape,
        d_output: Array | None = None,
        d_state: tuple[Array, Array] | None = None,
        *,
        d_cells: Array | None = None,
        truncation: Truncation | None = None,
        clip_hidden: tuple[str, float] | None = None,
        hidden: bool = False,
        input: bool = True,
    ) -> Gradients[tuple[Array, Array]]:
        """Backpropagation through time, as for `RNN.backward`; dc_t = dL/dc_t is carried beside dh_t.

        Parameters
        ----------
        tape, d_output, truncation, clip_hidden, hidden, input
            As for `RNN.backward`. Truncation ends dL/dc_t and dL/dh_t alike; dL/dc_t is not clipped.
        d_state : pair of ndarray, (L K, B, P) and (L K, B, H), optional
            Derivatives of the loss by h_T and by c_T alone.
        d_cells : ndarray, (L K, T, B, H), optional
            Derivative of the loss by every c_t alone; zero if not given. Not read past a sequence's end.

        Returns
        -------
        Gradients
            Its `state` is a pair: dL/dh_0 and dL/dc_0.

        Raises
        ------
        ValueError, TypeError, MemoryError
            As for `RNN.backward`.

        Examples
        --------
        >>> lstm = pybptt.LSTM(3, 8, seed=0)
        >>> output, state, tape = lstm.forward(np.ones((20, 4, 3), dtype=np.float32), cells=True)
        >>> gradients = lstm.backward(tape, output, d_cells=0.1 * tape.cells)
        """
        return self._backward(tape, d_output, d_state, d_cells, hidden, input, truncation, clip_hidden)


class GRU(RecurrentLayer[Array]):
    """Layers of GRU cells (Cho et al. 2014) in either published form, with PyTorch's parameters.

    With a gate's x-part W_ih x_t + b_ih and h-part, gates r z n::

        r = sigma(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)    z = sigma(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        reset_after=True:   n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))
        reset_after=False:  n = tanh(W_in x_t + b_in + W_hn (r h_{t-1}) + b_hn)
        h_t = (1 - z) n + z h_{t-1}

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As for `RNN`.
    reset_after : bool
        True: r is applied after the product with W_hn, as in PyTorch and cuDNN (ONNX's
        ``linear_before_reset`` = 1). False: before it, as in Cho et al. 2014, Keras's ``reset_after=False``
        and ONNX's default. Weights trained in one form do not fit the other.
    clip : float, optional
        Bound of what sigma and tanh receive (ONNX's attribute ``clip``); the derivative is 0 outside.

    Attributes
    ----------
    flat : ndarray, 1-D
        All parameters.
    parameters : dict of str to ndarray
        Views into `flat`, names and order as for `RNN`; the weights have 3 H rows, gates in the order r z n.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type, or out of range.
    MemoryError
        If the parameters can't be allocated.

    Examples
    --------
    >>> gru = pybptt.GRU(3, 8, seed=0)
    >>> output, state, tape = gru.forward(np.ones((20, 4, 3), dtype=np.float32))
    >>> gru.backward(tape, output).parameters["weight_hh_l0"].shape
    (24, 8)
    """

    _cell = "gru"
    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        reset_after: bool = True,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        clip: float | None = None,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.reset_after = flag("reset_after", reset_after)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            clip=clip,
            dtype=dtype,
            seed=seed,
            reset_after=self.reset_after,
        )

    def _options(self) -> dict[str, Any]:
        return {"reset_after": self.reset_after}


LAYERS: dict[str, type[RNN | LSTM | GRU]] = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
