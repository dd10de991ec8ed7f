"""What all recurrent layers have in common: forward over a whole sequence, and backward from a tape."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _core
from ._arrays import (
    Array,
    allocate,
    flag,
    fraction,
    generator,
    ids,
    number,
    plain,
    positive,
    real,
    real_dtype,
    sequence_lengths,
    steps_and_batch,
)
from .call import Call
from .gradients import Gradients, State
from .memory import Memory, Progress, checked_sizes, choose, id_bytes, listener, made, one_direction
from .packed import Network, PackedLayer
from .parameters import layout_of
from .tape import Tape
from .truncation import Truncation, limits_of, unreached

CELLS = ("rnn", "lstm", "gru")  # in the order of the core's enum
MAX_LAYERS = 10_000  # each has a handful of names, which are made before anything else


class RecurrentLayer(Network[State]):
    """Layers of recurrent cells: `RNN`, `LSTM` and `GRU` say which."""

    _fixed = frozenset(  # the core's layer is made for these
        ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "clip", "dtype"]
    ) | frozenset(["nonlinearity", "peephole", "coupled", "proj_size", "reset_after"])
    _cell: ClassVar[str]
    _gates: int
    _has_cells: ClassVar[bool] = False
    _network: _core.LayerFloat32

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        clip: float | None,
        dtype: DTypeLike,
        seed: int | None,
        proj_size: int = 0,
        **cell: Any,
    ) -> None:
        self._extra = {}
        self.input_size = D = positive("input_size", input_size)
        self.hidden_size = H = positive("hidden_size", hidden_size)
        self.num_layers = positive("num_layers", num_layers)
        if self.num_layers > MAX_LAYERS:
            raise ValueError(f"num_layers: expected at most {MAX_LAYERS}, got {num_layers}")
        self.bias = flag("bias", bias)
        self.batch_first = self._batch_first = flag("batch_first", batch_first)
        self.dropout = dropout
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout: expected 0 for a single layer, because it acts between layers; got {dropout} with "
                "num_layers = 1, which has no effect",
                UserWarning,
                stacklevel=3,  # whoever makes an RNN, an LSTM or a GRU
            )
        self.bidirectional = flag("bidirectional", bidirectional)
        self._directions = 2 if self.bidirectional else 1
        self._units = self.num_layers * self._directions
        self._state_size = P = proj_size or H  # of h_t
        self._width = self._directions * P  # of an output
        self.clip = None if clip is None else number("clip", clip, "a positive number or None")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip: expected a positive number or None, got {clip}")
        self.dtype = real_dtype(dtype)
        shapes: dict[str, tuple[int, ...]] = {}
        rows = self._gates * H
        for layer in range(self.num_layers):
            inputs = D if layer == 0 else self._width
            for suffix in (f"l{layer}", f"l{layer}_reverse")[: self._directions]:
                shapes |= {f"weight_ih_{suffix}": (rows, inputs), f"weight_hh_{suffix}": (rows, P)}
                if self.bias:
                    shapes |= {f"bias_ih_{suffix}": (rows,), f"bias_hh_{suffix}": (rows,)}
                shapes |= {f"{name}_{suffix}": shape for name, shape in self._own_shapes().items()}
        self._layout = layout_of(shapes)
        flat = allocate((self._layout[-1][2].stop,), self.dtype)
        self._config = _core.LayerConfig(
            D,
            H,
            self.num_layers,
            self._directions,
            self.bias,
            CELLS.index(self._cell),
            clip=self.clip or 0.0,
            proj_size=proj_size,
            **cell,
        )
        self._in_model = False
        self._hold(flat)
        bound = 1 / math.sqrt(H)
        self._flat[:] = generator(seed).uniform(-bound, bound, self._flat.size)

    def _hold(self, flat: Array) -> None:
        super()._hold(flat)
        network = _core.LayerFloat32 if self.dtype.itemsize == 4 else _core.LayerFloat64
        self._network = network(self._config, flat)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, fraction(name, value) if name == "dropout" else value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._in_model = False  # a copy's memory is its own; that of a model's layer is told by the model

    def _own_shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters that the cell has beside weights and biases, of each layer and direction."""
        return {}

    def _options(self) -> dict[str, Any]:
        """The keyword arguments of the cell."""
        return {}

    def _arguments(self) -> dict[str, Any]:
        """Those of the constructor, but for the seed."""
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            **self._options(),
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "clip": self.clip,
            "dtype": self.dtype.name,
        }

    def __repr__(self) -> str:
        (_, D), (_, H), (_, L), *named = self._arguments().items()
        options = ", ".join(f"{name}={value!r}" for name, value in named)
        return f"{type(self).__name__}({D}, {H}, {L}, {options})"

    def __call__(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Runs the network and keeps nothing.

        L is the number of layers, K of directions: 2 if the layer is bidirectional, else 1.

        Parameters
        ----------
        x : ndarray, (T, B, D) of the layer's dtype, or (T, B) of integers
            Input, or token ids in [0, D), which select columns of W_ih.
        state : ndarray, (L K, B, H), optional
            h_0 of every layer and direction, in PyTorch's order; for an LSTM the pair (h_0, c_0). Zero if not
            given.
        lengths : integers, (B,), optional
            Steps of each sequence, in [0, T] and in any order; all have T if not given. Steps past a
            sequence's end are not computed and whatever `x` holds there is not read. The semantics are those
            of PyTorch's packed sequences: the output there is 0, the state returned is the one at each
            sequence's own end, and the reverse direction starts there.

        Returns
        -------
        output : ndarray, (T, B, K H)
            h_1 ... h_T of the last layer, the forward direction first.
        state : ndarray, (L K, B, H)
            h_T (LSTM: (h_T, c_T)): what the next call takes to go on.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            For a wrong shape or length, a wrong dtype, a token out of range, and sizes that can't be
            allocated.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> output, state = rnn(np.array([[0], [2], [1]]))  # three tokens, one sequence
        >>> more, state = rnn(np.array([[2]]), state)
        """
        return self._run(x, state, lengths, None)

    def forward(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        training: bool = False,
        seed: int | None = None,
        dropout_mask: Array | None = None,
        memory_limit: int | str | None = None,
        progress: Progress | None = None,
    ) -> tuple[Array, State, Tape]:
        """Runs the network and keeps what `backward` needs.

        Parameters
        ----------
        x, state, lengths
            As for calling the layer.
        training : bool
            Whether the outputs of all layers but the last are multiplied by a mask of zeros (with probability
            `dropout`) and 1 / (1 - `dropout`) (Srivastava et al. 2014), as PyTorch's layers do.
        seed : int, optional
            For the mask: the same seed draws the same mask.
        dropout_mask : ndarray, (L - 1, T, B, K H) of the layer's dtype, optional
            Factors to multiply by in place of a drawn mask, whatever `training` says; time-major even with
            `batch_first`.
        memory_limit : int or str, optional
            Bytes, or text such as ``"256MB"`` or ``"1GiB"``, that the tape and then `backward` may take
            together, beside the caller's arrays, the output and the gradients. The tape then keeps the states
            between chunks of steps and some of the chunks, and `backward` runs the others again, by the
            schedule with the fewest runs (Griewank and Walther 2000; Chen et al. 2016; Gruslys et al. 2016).
            Not one bit of a result depends on it. `memory` says what a limit costs. What `backward` needs for
            truncation by overlapping windows or for `clip_hidden` comes on top.
        progress : callable, optional
            ``progress(done, total)`` is called a few times a second, and at the end. What it raises ends the
            call and is raised from it; so is KeyboardInterrupt, with a limit also if there is no `progress`.

        Returns
        -------
        output : ndarray, (T, B, K H)
        state : ndarray, (L K, B, H), or a pair of them for an LSTM
        tape : Tape

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the layer; ValueError also for a limit that is too small, which names the smallest
            that works, and for any limit on a bidirectional layer.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, dtype="float64", seed=0)
        >>> output, state, tape = rnn.forward(np.ones((20, 4, 3)))
        >>> output, state, tape = rnn.forward(np.ones((20_000, 4, 3)), memory_limit="4MB")
        """
        return self._forward(x, state, lengths, training, seed, dropout_mask, False, memory_limit, progress)

    def _forward(
        self,
        x: Array,
        state: State | None,
        lengths: ArrayLike | None,
        training: bool,
        seed: int | None,
        dropout_mask: Array | None,
        cells: bool,
        memory_limit: int | str | None,
        progress: Progress | None,
        packed: _core.PackedFloat32 | None = None,
    ) -> tuple[Array, State, Tape]:
        if not (self.batch_first or (training and self.dropout) or cells) and (
            lengths is None and dropout_mask is None and memory_limit is None and progress is None
        ):
            results = self._network.forward(x, state, None, packed)
            if results is not None:
                output, final_state, _, core = results
                return output, final_state, Tape(self, core)
        call = self._call(x, state, lengths, training, seed, dropout_mask)
        if dropout_mask is not None and made((dropout_mask, call.mask)) == 0:
            call = call._replace(mask=dropout_mask.copy())  # the tape's own
        plan = None
        if memory_limit is not None:
            plan = self._plan(call, memory_limit, made((x, call.x), (dropout_mask, call.mask)))
        options = call.options(plan, None if progress is None else listener(progress), cells)
        output, final_state, kept, core = self._network.forward(call.x, call.state, options, packed)
        tape = Tape(self, core, call.mask, call.lengths, kept)
        return output.swapaxes(0, 1) if self.batch_first else output, final_state, tape

    def _infer(self, call: Call, packed: _core.PackedFloat32 | None) -> tuple[Array, State]:
        """Output and final state of checked arguments; None for the parameters as they are now."""
        output, final_state = self._network.infer(call.x, call.state, call.options(), packed)
        return output.swapaxes(0, 1) if self.batch_first else output, final_state

    def packed(self, *, tokens: bool = False) -> PackedLayer[State]:
        """A handle that runs the layer with weights packed once, for many short calls.

        Parameters
        ----------
        tokens : bool
            Whether its input is token ids: there is a row for each of the D.

        Returns
        -------
        PackedLayer
            To be called as the layer is; its `forward` is the layer's. In a ``with`` it lets the weights go
            at the end.

        Raises
        ------
        TypeError, MemoryError
            For `tokens` of another type, and weights that can't be allocated.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> with rnn.packed() as run:
        ...     output, state = run(np.ones((1, 1, 3), dtype=np.float32))
        ...     rnn.flat *= 0.5
        ...     run.repack()  # until then, results are those of the parameters as they were
        """
        return PackedLayer(self, tokens)

    def _plan(self, call: Call, memory_limit: int | str, beside: int) -> _core.MemoryPlan:
        one_direction(self.bidirectional)
        sizes = call.steps, call.batch, call.lengths, call.x.ndim == 2
        return choose(lambda limit: self._network.plan(*sizes, limit), memory_limit, beside)

    def tape_bytes(
        self, steps: int, batch: int, *, lengths: ArrayLike | None = None, tokens: bool = False
    ) -> int:
        """Memory that a tape will hold; nothing is allocated.

        For each layer and direction of N inputs (D, above the first layer K H) about ``T B (S H + N)``
        numbers plus the two weight matrices, G H (H + N). S is 1 for an RNN (h), 6 for an LSTM (i, f, g, o,
        c, h; 5 if coupled) and 5 for a GRU (r, z, n, h, and W_hn h_{t-1} + b_hn or r h_{t-1}). With a
        projection h has P numbers a row beside the S H, its weights are G H (P + N) + P H, and the layers
        above read K P. H, P and N count rounded up to a cache line of 64 bytes; T B up to whole chunks of 128
        to 512 rows, each with B rows more of h and c; T B is the sum of the lengths, if they are given. A
        dropout mask and ``cells=True`` come on top. Of a dense input, rows that repeat are kept once.

        `backward` takes, beside the gradients, one chunk of dz_t (G H numbers a row; GRU: 4 H) and of dx_t.
        Chunks are whole steps; for T of at least 10 and T B of at least 1280, dz_t is a tenth of the tape or
        less. Two directions take also 2 T B H numbers for two layers, twice that for more; input of tokens or
        of repeating rows 2 to 4 G H for each distinct one. `memory` has all of it, and what can be saved.

        Parameters
        ----------
        steps, batch : int
            T and B.
        lengths : integers, (B,), optional
        tokens : bool
            Whether the input is token ids: 4 bytes each, and 8 for each id that there can be, instead of the
            D numbers and W_ih.

        Returns
        -------
        int

        Raises
        ------
        ValueError, TypeError
            For an argument of another type or out of range.
        MemoryError
            For more than the machine can address.

        Examples
        --------
        >>> lstm = pybptt.LSTM(16, 64, seed=0)
        >>> output, state, tape = lstm.forward(np.ones((100, 32, 16), dtype=np.float32))
        >>> lstm.tape_bytes(100, 32) == tape.nbytes
        True
        """
        return self._network.tape_bytes(*checked_sizes(steps, batch, lengths), bool(tokens))

    def _mask_bytes(self, steps: int, batch: int, training: bool) -> int:
        """Of a mask that is drawn."""
        if not training or self.dropout == 0:
            return 0
        return (self.num_layers - 1) * steps * batch * self._width * self.dtype.itemsize

    def memory(
        self,
        steps: int,
        batch: int,
        *,
        lengths: ArrayLike | None = None,
        tokens: bool = False,
        training: bool = False,
    ) -> Memory:
        """What `forward` and `backward` will take, and what each `memory_limit` costs; nothing is run.

        Parameters
        ----------
        steps, batch, lengths, tokens
            As for `tape_bytes`.
        training : bool
            Whether a dropout mask is drawn, if the layer has dropout: it counts.

        Returns
        -------
        Memory

        Raises
        ------
        ValueError, TypeError, MemoryError
            As for `tape_bytes`.

        Examples
        --------
        >>> gru = pybptt.GRU(16, 64, seed=0)
        >>> memory = gru.memory(5000, 4)
        >>> memory.tape == gru.tape_bytes(5000, 4)
        True
        >>> output, state, tape = gru.forward(
        ...     np.ones((5000, 4, 16), dtype=np.float32), memory_limit=memory.smallest
        ... )
        """
        steps, batch, lengths = checked_sizes(steps, batch, lengths)
        tokens = flag("tokens", tokens)
        beside = self._mask_bytes(steps, batch, flag("training", training))
        beside += id_bytes(steps, batch) if tokens else 0
        return Memory(
            steps,
            batch,
            self._network.tape_bytes(steps, batch, lengths, tokens),
            beside,
            lambda limit: self._network.plan(steps, batch, lengths, tokens, limit),
        )

    def backward(
        self,
        tape: Tape,
        d_output: Array | None = None,
        d_state: State | None = None,
        *,
        truncation: Truncation | None = None,
        clip_hidden: tuple[str, float] | None = None,
        hidden: bool = False,
        input: bool = True,
    ) -> Gradients[State]:
        """Backpropagation through time (Werbos 1990): the sweep that memoises dL/dh_t.

        With dh_t = dL/dh_t, the products of a step carry ``dh_t = d_output_t + dz_{t+1} W_hh`` (and what the
        cell itself carries) from T to 1, and the cell makes dz_t from dh_t; the sums over t,
        ``dW_hh = sum_t dz_t^T h_{t-1}`` and ``dW_ih = sum_t dz_t^T x_t``, are one product each.

        Parameters
        ----------
        tape : Tape
            From this layer's `forward`. It is not used up; but one with a `memory_limit` has to run the whole
            network again for a second sweep, and threads take turns with it.
        d_output : ndarray, (T, B, K H), optional
            Derivative of the loss by the output alone; zero if not given. Not read past a sequence's end.
        d_state : ndarray, (L K, B, H), optional
            Derivative of the loss by the returned state alone (LSTM: a pair, of h_T and of c_T); zero if not
            given.
        truncation : TBPTT, RandomTruncation or ARTBP, optional
            How far back derivatives go; all the way if not given. `d_output` counts as the losses of its
            steps, `d_state` belongs to the last boundary. Where windows overlap, dL/dh_t and dL/dh_0 are sums
            over them.
        clip_hidden : ("norm", limit) or ("value", limit), optional
            Clipping of dL/dh_t inside the recurrence, before dz_t is made of it: every row is scaled down to
            a 2-norm of `limit`, or its values are cut off at +-`limit` (as Graves 2013 and Lasagne's
            ``grad_clipping`` did with dz_t).
        hidden : bool
            Whether to return dL/dh_t for all t, of every layer and direction.
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
        return self._backward(tape, d_output, d_state, None, hidden, input, truncation, clip_hidden)

    def _backward(
        self,
        tape: Tape,
        d_output: Array | None,
        d_state: State | None,
        d_cells: Array | None,
        hidden: bool,
        input: bool,
        truncation: Truncation | None,
        clip_hidden: tuple[str, float] | None,
    ) -> Gradients[State]:
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape from this layer's forward, got {type(tape).__name__}")
        if tape._layer is not self:
            raise ValueError("tape: expected one from this layer's forward, got another layer's")
        left_out, results = 0, None
        if not self.batch_first and d_cells is None and truncation is None and clip_hidden is None:
            results = self._network.backward(
                tape._core, tape._mask, d_output, d_state, None, None, input, hidden
            )
        if results is None:
            dtype, steps, batch, limits = self.dtype, tape.steps, tape.batch, None
            if d_output is not None:
                axes = (batch, steps) if self.batch_first else (steps, batch)
                d_output = real("d_output", d_output, (*axes, self._width), dtype)
                d_output = plain(d_output.swapaxes(0, 1)) if self.batch_first else d_output
            if d_state is not None:
                d_state = self._as_state(*self._given_state("d_state", d_state, batch))
            if d_cells is not None:
                d_cells = real("d_cells", d_cells, (self._units, steps, batch, self.hidden_size), dtype)
            if truncation is not None or clip_hidden is not None:
                limits = limits_of(
                    truncation, clip_hidden, steps, tape._lengths, batch, dtype, self._directions
                )
                if limits.counted is not None:
                    left_out = unreached(limits.counted, tape._lengths)
                    counted = limits.counted[:, :, None]
                    d_output = None if d_output is None else np.where(counted, d_output, dtype.type(0))
                    d_cells = None if d_cells is None else np.where(counted, d_cells, dtype.type(0))
            results = self._network.backward(
                tape._core, tape._mask, d_output, d_state, d_cells, limits, input, hidden
            )
            assert results is not None
        flat, dx, d_state_0, dh = results
        if self.batch_first and dx is not None:
            dx = dx.swapaxes(0, 1)
        return Gradients(flat, self._layout, dx, d_state_0, dh, left_out)

    def _new_state(self, batch: int) -> tuple[Array, Array | None]:
        """Room for a state: h, and c if the cell has one."""
        h = allocate((self._units, batch, self._state_size), self.dtype)
        return h, allocate((self._units, batch, self.hidden_size), self.dtype) if self._has_cells else None

    def _as_state(self, h: Array | None, c: Array | None = None) -> State:
        return cast(State, h if c is None else (h, c))

    def _given_state(self, name: str, state: State | None, batch: int) -> tuple[Array | None, Array | None]:
        """h and c of a state that a user passes, checked."""
        if state is None:
            return None, None
        pair = isinstance(state, tuple | list) and len(state) == 2
        if self._has_cells and not pair:
            got = f"{len(state)} values" if isinstance(state, tuple | list) else type(state).__name__
            raise TypeError(f"{name}: expected the pair (h, c), got {got}")
        h, c = cast(tuple[Array, Array], state) if self._has_cells else (cast(Array, state), None)
        h_shape, c_shape = ((self._units, batch, size) for size in (self._state_size, self.hidden_size))
        if not self._has_cells:
            return real(name, h, h_shape, self.dtype), None
        return real(f"{name}[0]", h, h_shape, self.dtype), real(f"{name}[1]", c, c_shape, self.dtype)

    def _call(
        self,
        x: Any,
        state: State | None,
        lengths: ArrayLike | None,
        training: bool = False,
        seed: int | None = None,
        dropout_mask: Array | None = None,
    ) -> Call:
        """Checks what a user passes."""
        steps, batch = self._steps_and_batch("x", x)
        checked_lengths = sequence_lengths(lengths, steps, batch)
        axis = 1 if self.batch_first else 0
        if x.dtype.kind in "iu":
            x = ids("x", x, self.input_size, time_axis=axis, lengths=checked_lengths)
        else:
            x = plain(x.swapaxes(0, 1) if axis else x)
        h_0, c_0 = self._given_state("state", state, batch)
        mask = None
        if training or dropout_mask is not None:
            mask = self._mask(steps, batch, training, seed, dropout_mask)
        return Call(x, h_0, c_0, checked_lengths, mask)

    def _steps_and_batch(self, name: str, x: Any) -> tuple[int, int]:
        """T and B of an input."""
        return steps_and_batch(name, x, self.input_size, self.dtype, self.batch_first)

    def _mask(
        self, steps: int, batch: int, training: bool, seed: int | None, given: Array | None
    ) -> Array | None:
        """What the outputs of all layers but the last are multiplied by; None for ones. It may be `given`."""
        if given is None and (not training or self.dropout == 0 or self.num_layers == 1):
            return None
        shape = (self.num_layers - 1, steps, batch, self._width)
        if given is not None:
            return real("dropout_mask", given, shape, self.dtype)
        mask = allocate(shape, self.dtype)
        factor = self.dtype.type(0 if self.dropout == 1 else 1 / (1 - self.dropout))
        random, values = generator(seed), mask.reshape(-1)
        for begin in range(0, values.size, 1 << 16):  # some at a time: no other array of this size
            some = values[begin : begin + (1 << 16)]
            drawn = random.random(some.size, dtype=np.float32)
            np.multiply(drawn >= np.float32(self.dropout), factor, out=some, dtype=self.dtype)
        return mask
