"""Weights that are packed once for many calls."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from numpy.typing import ArrayLike

from . import _core
from ._arrays import Array, flag
from .call import Call
from .gradients import State
from .memory import Progress
from .parameters import FlatParameters
from .tape import Tape

if TYPE_CHECKING:
    from .recurrent import RecurrentLayer

Handle = TypeVar("Handle", bound="Packed[Any]")


class Network(FlatParameters, Generic[State]):
    """A layer or a model, as it is run: with a handle's weights or without."""

    _network: _core.LayerFloat32 | _core.ModelFloat32
    _batch_first: bool

    @abstractmethod
    def _call(self, x: Any, state: State | None, lengths: ArrayLike | None) -> Call: ...
    @abstractmethod
    def _infer(self, call: Call, packed: _core.PackedFloat32 | None) -> tuple[Array, State]: ...

    def _run(
        self, x: Any, state: State | None, lengths: ArrayLike | None, handle: Packed[State] | None
    ) -> tuple[Array, State]:
        """Output and final state of what a user passes; without a handle, of the parameters as they are."""
        packed = None if handle is None else handle._weights
        if lengths is None and not self._batch_first and (handle is None or packed is not None):
            results = self._network.infer(x, state, None, packed)
            if results is not None:
                return results
        call = self._call(x, state, lengths)
        return self._infer(call, None if handle is None else handle._checked(call.x.ndim == 2))


class Packed(Generic[State]):
    """Weights in the layout that steps read, for many calls: what a layer's or a model's `packed` returns.

    A call packs all weights before its first step. Where calls are short (control loops, reinforcement
    learning, sampling text) that takes longer than the steps; a handle has it done once. Its results are, to
    the last bit, those of the layer or model as it was when the handle was made: parameters that change
    later are seen after `repack`. Any number of threads may use a handle at once.

    Examples
    --------
    >>> lstm = pybptt.LSTM(3, 8, seed=0)
    >>> state = None
    >>> with lstm.packed() as run:
    ...     for x_t in np.ones((100, 1, 1, 3), dtype=np.float32):
    ...         output, state = run(x_t, state)
    """

    __slots__ = ("_owner", "_tokens", "_weights")

    def __init__(self, owner: Network[State], tokens: bool) -> None:
        self._owner = owner
        self._tokens = flag("tokens", tokens)
        self.repack()

    def repack(self) -> None:
        """Takes the parameters as they are now: one pass over them.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> run = rnn.packed()
        >>> rnn.flat *= 0.5
        >>> run.repack()
        """
        self._weights: _core.PackedFloat32 | None = self._owner._network.pack(self._tokens)

    def __call__(
        self, x: Array, state: State | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """What calling the layer or the model itself gives, with the same arguments.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the layer; ValueError also for token ids where the handle is for dense input, or
            the other way, and after the handle's ``with`` has ended.

        Examples
        --------
        >>> gru = pybptt.GRU(3, 8, seed=0)
        >>> output, state = gru.packed()(np.ones((1, 1, 3), dtype=np.float32))
        """
        return self._owner._run(x, state, lengths, self)

    def _checked(self, tokens: bool) -> _core.PackedFloat32:
        """The weights, for an input of tokens or a dense one."""
        weights = self._weights
        if weights is None:
            raise ValueError("packed: expected a handle in use, got one whose `with` has ended")
        if tokens != self._tokens:
            kinds = ("dense input", "token ids")
            raise ValueError(
                f"x: expected {kinds[self._tokens]}, which the weights are packed for, got {kinds[tokens]}; "
                f"make a handle with packed(tokens={tokens})"
            )
        return weights

    def __enter__(self: Handle) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self._weights = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._owner!r}, tokens={self._tokens})"


class PackedLayer(Packed[State]):
    """A layer's: `Packed` with a forward pass for `backward`.

    Examples
    --------
    >>> rnn = pybptt.RNN(3, 8, seed=0)
    >>> total = np.zeros_like(rnn.flat)
    >>> with rnn.packed() as run:  # gradients of several batches, added up
    ...     for x in np.ones((4, 20, 2, 3), dtype=np.float32):
    ...         output, state, tape = run.forward(x)
    ...         total += rnn.backward(tape, output).flat
    """

    _owner: RecurrentLayer[State]
    __slots__ = ()

    def forward(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: ArrayLike | None = None,
        training: bool = False,
        seed: int | None = None,
        dropout_mask: Array | None = None,
        progress: Progress | None = None,
    ) -> tuple[Array, State, Tape]:
        """As the layer's `forward`; the layer's `backward` takes the tape, which shares the packed weights.

        Raises
        ------
        ValueError, TypeError, IndexError, MemoryError
            As for calling the handle.

        Examples
        --------
        >>> rnn = pybptt.RNN(3, 8, seed=0)
        >>> output, state, tape = rnn.packed().forward(np.ones((20, 4, 3), dtype=np.float32))
        """
        tokens = getattr(x, "ndim", 3) == 2
        weights = self._checked(tokens)
        return self._owner._forward(
            x, state, lengths, training, seed, dropout_mask, False, None, progress, weights
        )
