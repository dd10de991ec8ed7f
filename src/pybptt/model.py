"""A recurrent layer with an output layer and a loss: loss and all gradients in one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, allocate, flag, generator, positive, type_name
from .call import Call
from .gradients import Gradients, State
from .memory import Memory, Progress, checked_sizes, choose, id_bytes, listener, made, one_direction
from .parameters import layout_of
from .prediction import Predictor
from .recurrent import RecurrentLayer
from .streaming import Step, stream
from .truncation import TBPTT, Limits, Truncation, limits_of, unreached

LOSSES = ("cross_entropy", "mse")
REDUCTIONS = ("mean", "sum")


class SequenceModel(Predictor[State]):
    """A recurrent layer, an output layer o_t = W_ho h_t + b_o, and a loss over the steps.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        It becomes part of the model: its parameters are views into the model's `flat` from now on. The arrays
        that its own `flat` and `parameters` gave before become read-only: what still has them, such as an
        optimiser, gets an error where it would change what nobody reads.
    output_size : int
        Q: classes, or values of a step's target.
    loss : {"cross_entropy", "mse"}
        ``-log softmax(o_t)[y_t]``, or the squared error ``(o_t - y_t)**2``.
    reduction : {"mean", "sum"}
        The mean is over all targets: T * B classes, or T * B * Q values (B and B * Q with `last_only`), as
        PyTorch's losses do. Targets past a sequence's end are not counted.
    last_only : bool
        Whether each sequence has one output and one target (many-to-one), made from the final states of the
        last layer: its h_T, of both directions side by side if it is bidirectional.
    seed : int, optional
        For the output layer's initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)).

    Attributes
    ----------
    flat : ndarray, 1-D
        All parameters, the layer's first. Assigning to it copies the values into the same memory.
    parameters : dict of str to ndarray
        Views into `flat`: the layer's names, then ``output.weight`` (Q, K H) and ``output.bias`` (Q,).
    layer : RNN, LSTM or GRU
    extra : dict
        What you keep with the model, such as a vocabulary; `save` writes it, too. It is the layer's own.

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

    _fixed = frozenset({"layer", "output_size", "loss_name", "reduction", "last_only", "dtype"})

    def __init__(
        self,
        layer: RecurrentLayer[State],
        output_size: int,
        *,
        loss: str = "cross_entropy",
        reduction: str = "mean",
        last_only: bool = False,
        seed: int | None = None,
    ) -> None:
        if not isinstance(layer, RecurrentLayer):
            raise TypeError(f"layer: expected an RNN, an LSTM or a GRU, got {type_name(layer)}")
        if layer._in_model:
            raise ValueError("layer: expected one of its own, got a layer that belongs to another model")
        self.output_size = Q = positive("output_size", output_size)
        if loss not in LOSSES:
            raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.layer = layer
        self._extra = layer._extra
        self.loss_name = loss
        self.reduction = reduction
        self.last_only = flag("last_only", last_only)
        self.dtype = layer.dtype
        self._batch_first = layer.batch_first
        width = layer._width
        shapes = {name: value.shape for name, value in layer.parameters.items()}
        self._layout = layout_of(shapes | {"output.weight": (Q, width), "output.bias": (Q,)})
        self._output_config = _core.OutputConfig(Q, True, self.last_only)
        self._hold(allocate((self._layout[-1][2].stop,), self.dtype))
        own = layer.flat.size
        bound = 1 / math.sqrt(layer.hidden_size)
        self._flat[own:] = generator(seed).uniform(-bound, bound, self._flat.size - own)
        self._flat[:own] = layer.flat
        for array in (layer.flat, *layer.parameters.values()):
            array.flags.writeable = False
        layer._hold(self._flat[:own])
        layer._in_model = True

    def _hold(self, flat: Array) -> None:
        super()._hold(flat)
        network = _core.ModelFloat32 if self.dtype.itemsize == 4 else _core.ModelFloat64
        classes, mean = self.loss_name == "cross_entropy", self.reduction == "mean"
        self._network = network(self.layer._config, self._output_config, classes, mean, flat)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.layer._hold(self._flat[: self.layer.flat.size])
        self.layer._in_model = True

    def _arguments(self) -> dict[str, Any]:
        """Those of the constructor, but for layer and seed."""
        return {
            "output_size": self.output_size,
            "loss": self.loss_name,
            "reduction": self.reduction,
            "last_only": self.last_only,
        }

    def __repr__(self) -> str:
        (_, size), *named = self._arguments().items()
        options = ", ".join(f"{name}={value!r}" for name, value in named)
        return f"SequenceModel({self.layer!r}, {size}, {options})"

    def loss(
        self,
        x: Array,
        y: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        dropout_mask: Array | None = None,
    ) -> tuple[float, State]:
        """The loss alone; keeps nothing.

        Parameters
        ----------
        x, y, state, lengths, dropout_mask
            As for `loss_and_grad`. There is no dropout without a mask.

        Returns
        -------
        loss : float
        state : ndarray, (L K, B, H), or a pair of them for an LSTM

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for `loss_and_grad`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 5, loss="mse", last_only=True, seed=1)
        >>> loss, state = model.loss(np.array([[0], [2], [1]]), np.zeros((1, 5), dtype=np.float32))
        """
        if lengths is None and dropout_mask is None and not self._batch_first:
            results = self._network.loss(x, y, None, state, None)
            if results is not None:
                return results
        call = self._call(x, state, lengths, dropout_mask=dropout_mask)
        y, scale = self._targets(y, call)
        return self._network.loss(call.x, y, scale, call.state, call.options())

    def loss_and_grad(
        self,
        x: Array,
        y: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        training: bool = True,
        seed: int | None = None,
        dropout_mask: Array | None = None,
        truncation: Truncation | None = None,
        clip_hidden: tuple[str, float] | None = None,
        hidden: bool = False,
        input: bool = False,
        memory_limit: int | str | None = None,
        progress: Progress | None = None,
    ) -> tuple[float, Gradients[State], State]:
        """Loss and gradients by every parameter, by backpropagation through time, all the way or truncated.

        Parameters
        ----------
        x : ndarray, (T, B, D) of the layer's dtype, or (T, B) of integers
            Input, or token ids in [0, D).
        y : ndarray
            Targets. Cross-entropy: integers in [0, Q), (T, B), or (B,) with `last_only`. Squared error: the
            layer's dtype, (T, B, Q), or (B, Q) with `last_only`.
        state, lengths
            As for calling the layer. What `y` holds past a sequence's end is not read and does not count.
        training, seed, dropout_mask
            As for the layer's `forward`, but that dropout is on unless ``training=False``. It has no effect
            on a layer with ``dropout=0``.
        truncation : TBPTT, RandomTruncation or ARTBP, optional
            How far back derivatives go; all the way if not given. Where windows overlap, dL/dh_t and dL/dh_0
            are sums over them. A loss that no window reaches (`TBPTT` with k2 < k1) is neither in the loss
            returned nor in any gradient; ``gradients.unreached`` counts them. The mean divides by all counted
            targets, whether reached or not.
        clip_hidden : ("norm", limit) or ("value", limit), optional
            Clipping of dL/dh_t inside the recurrence, as for the layer's `backward`.
        hidden, input : bool
            Whether to return dL/dh_t for all t, and dL/dx_t for dense input, too.
        memory_limit, progress
            As for the layer's `forward`; the limit is on what the call takes beside the caller's arrays and
            what it returns. `memory` says what one costs.

        Returns
        -------
        loss : float
            0 if there are no targets (T = 0, B = 0, or no sequence has a step; with `last_only` a sequence
            without steps counts, its final state being its initial one).
        gradients : Gradients
        state : ndarray, (L K, B, H), or a pair of them for an LSTM
            The final state, to be carried to the next call; no gradient flows through it.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            For a wrong shape or length, a wrong dtype, a token or class out of range, and sizes that can't be
            allocated; ValueError also for T = 0 with `last_only`, for a limit that is too small, which names
            the smallest that works, and for any limit on a bidirectional layer.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.LSTM(3, 8, seed=0), 3, reduction="sum", seed=1)
        >>> tokens = np.array([[0, 1], [2, 0], [1, 1], [0, 2]])
        >>> loss, gradients, state = model.loss_and_grad(tokens[:-1], tokens[1:], lengths=[3, 2], hidden=True)
        >>> gradients.parameters["output.weight"].shape, gradients.hidden.shape
        ((3, 8), (1, 3, 2, 8))
        """
        if not (self._batch_first or (training and self.layer.dropout)) and (
            lengths is None
            and dropout_mask is None
            and truncation is None
            and clip_hidden is None
            and memory_limit is None
            and progress is None
        ):
            results = self._network.loss_and_grad(x, y, None, state, None, None, input, hidden)
            if results is not None:
                loss, found, final_state = results
                return loss, Gradients(found[0], self._layout, *found[1:]), final_state
        call = self._call(x, state, lengths, training, seed, dropout_mask)
        targets, scale = self._targets(y, call)
        if self.last_only and isinstance(truncation, TBPTT):  # the one boundary with a loss
            truncation = TBPTT(max(truncation.k1, call.steps), truncation.k2)
        limits = None
        if truncation is not None or clip_hidden is not None:
            limits = limits_of(
                truncation,
                clip_hidden,
                call.steps,
                call.lengths,
                call.batch,
                self.dtype,
                self.layer._directions,
            )
        plan = None
        if memory_limit is not None:
            one_direction(self.layer.bidirectional)
            sizes = call.steps, call.batch, call.lengths, call.x.ndim == 2, bool(input)
            plan = choose(
                lambda limit: self._plan(*sizes, limit, limits),
                memory_limit,
                made((x, call.x), (y, targets), (dropout_mask, call.mask))
                + (0 if limits is None else made((None, limits.factors), (None, limits.counted))),
            )
        return self._loss_and_grad(call, targets, scale, limits, hidden, input, plan, listener(progress))

    def _loss_and_grad(
        self,
        call: Call,
        y: Array,
        scale: float,
        limits: Limits | None = None,
        hidden: bool = False,
        input: bool = False,
        plan: _core.MemoryPlan | None = None,
        progress: Progress | None = None,
    ) -> tuple[float, Gradients[State], State]:
        """The same for checked arguments; `limits.counted` says which targets count."""
        loss, (flat, dx, d_state, dh), final_state = self._network.loss_and_grad(
            call.x, y, scale, call.state, call.options(plan, progress), limits, input, hidden
        )
        if self.layer.batch_first and dx is not None:
            dx = dx.swapaxes(0, 1)
        left_out = 0
        if limits is not None and limits.counted is not None and not self.last_only:
            left_out = unreached(limits.counted, call.lengths)
        return loss, Gradients(flat, self._layout, dx, d_state, dh, left_out), final_state

    def stream(
        self,
        x: Array | Iterable[tuple[Array, Array]],
        y: Array | None = None,
        *,
        truncation: Truncation,
        state: State | None = None,
        training: bool = True,
        seed: int | None = None,
        clip_hidden: tuple[str, float] | None = None,
    ) -> Iterator[Step[State]]:
        """Goes over a sequence of any length; yields loss and gradients at every boundary of the truncation.

        The boundaries are t = k1, 2 k1, ... and T. At each, the losses of the steps since the boundary before
        that lie within the last k2 steps go back through the uses t, t-1, ..., t-k2+1 of the parameters
        (Williams and Peng 1990). The parameters may be changed between two steps of the loop; the next step
        uses them as they are then. If they stay, and the reduction is "sum", losses and gradients add up to
        those of ``loss_and_grad(x, y, state, truncation=truncation)``.

        - k1 = k2: every block of k1 steps is one `loss_and_grad`, from the state at the end of the last one.
        - k1 > k2: the first k1 - k2 steps of a block are run forward alone; ``gradients.unreached`` counts
          their targets.
        - k1 < k2: the last k2 steps are run again, from the state before them, with the parameters of now.
          That state has itself been carried on by k1 steps at a time, with the parameters of each time. So it
          is, in all cases, where a sequence ends less than k2 steps after a boundary.

        With random truncation the boundaries are drawn, from `truncation`'s own seed: one draw a step for all
        sequences, so that all are cut at once. A block goes from one cut to the next, 1 / (1 - pi) steps in
        the mean, and inside it every Jacobian is multiplied by 1 / pi (Tallec and Ollivier 2017 train so). If
        the parameters stay, and the reduction is "sum", the mean over the draws of the sum of all steps'
        gradients is the full gradient. With "mean" each block's losses are divided by their own number;
        ``step.gradients.flat * step.count`` undoes it, but for a factor of Q if the loss is "mse".

        Of arrays nothing is held; of an iterable, at most the last 2 k2 + 64 steps, or the block, and one
        chunk.

        Parameters
        ----------
        x : ndarray, or iterable of pairs
            The input, as for `loss_and_grad`; it may be a memory map. Or chunks of any numbers of steps, each
            a pair (x, y) of arrays, which may be the same ones every time, written to anew.
        y : ndarray, optional
            Targets, as for `loss_and_grad`; None if `x` is an iterable.
        truncation : TBPTT, RandomTruncation or ARTBP
            The last two with one probability for all steps.
        state, training, seed, clip_hidden
            As for `loss_and_grad`; steps that are run again get a fresh mask.

        Returns
        -------
        iterator of Step
            The mean of ``reduction="mean"`` is over the targets that count in each step.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for `loss_and_grad`; ValueError also for a model with `last_only`, a bidirectional layer, or
            one probability a step.
            What is wrong with a chunk, or with a token or class, is found when its turn comes.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
        >>> tokens = np.tile([[0], [1], [2], [1]], (500, 4))  # (T + 1, B)
        >>> for step in model.stream(tokens[:-1], tokens[1:], truncation=pybptt.TBPTT(20, 20)):
        ...     model.flat -= 0.5 * pybptt.clip_by_norm(step.gradients.flat, 1.0)
        >>> step.stop, step.loss < 0.1
        (1999, True)
        """
        return stream(self, x, y, truncation, state, training, seed, clip_hidden)

    def memory(
        self,
        steps: int,
        batch: int,
        *,
        lengths: ArrayLike | None = None,
        tokens: bool = False,
        training: bool = True,
        input: bool = False,
    ) -> Memory:
        """What `loss_and_grad` will take, and what each `memory_limit` costs; nothing is run.

        Truncation and `clip_hidden` need some more, which counts under a limit.

        Parameters
        ----------
        steps, batch, lengths, tokens, training
            As for the layer's `memory`.
        input : bool
            Whether dL/dx_t is asked for.

        Returns
        -------
        Memory

        Raises
        ------
        ValueError, TypeError, MemoryError
            As for the layer's `tape_bytes`.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.RNN(65, 128, seed=0), 65, seed=1)
        >>> print(model.memory(1_000_000, 1, tokens=True))
        T = 1000000, B = 1: the tape takes 517.3 MB, everything else 62.3 MB
          memory_limit       takes   forward passes
                  none    579.6 MB             1.00
              258.7 MB    245.0 MB             1.61
              129.4 MB    127.8 MB             1.84
               51.8 MB     51.8 MB             1.98
               41.3 MB     41.3 MB           977.50
        """
        layer = self.layer
        steps, batch, lengths = checked_sizes(steps, batch, lengths)
        tokens, input = flag("tokens", tokens), flag("input", input)
        beside = layer._mask_bytes(steps, batch, flag("training", training))
        beside += id_bytes(steps, batch) if tokens else 0
        if self.loss_name == "cross_entropy":
            beside += id_bytes(1 if self.last_only else steps, batch)
        return Memory(
            steps,
            batch,
            layer._network.tape_bytes(steps, batch, lengths, tokens),
            beside,
            lambda limit: self._plan(steps, batch, lengths, tokens, input, limit, None),
        )

    def _plan(
        self,
        steps: int,
        batch: int,
        lengths: Array | None,
        tokens: bool,
        input: bool,
        limit: int,
        limits: Limits | None,
    ) -> _core.MemoryPlan:
        return self._network.plan(steps, batch, lengths, tokens, input, limits, limit)
