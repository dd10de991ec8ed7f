"""Truncated backpropagation through time while reading: a sequence of any length, window by window."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any, Generic, Protocol

import numpy as np

from ._arrays import Array, flag, generator
from .call import Call
from .gradients import Gradients, State
from .recurrent import RecurrentLayer
from .truncation import TBPTT, Limits, RandomTruncation, Truncation, limits_of

AHEAD = 64  # steps that are run forward at a time where no loss counts, besides k2

Piece = tuple[Array, Array]  # x and y of some steps


class Model(Protocol[State]):
    """What a stream asks of a `SequenceModel`."""

    layer: RecurrentLayer[State]
    dtype: np.dtype[Any]
    reduction: str
    last_only: bool

    def _check_targets(self, name: str, y: Any, steps: int, batch: int) -> None: ...
    def _targets(self, y: Any, call: Call) -> tuple[Array, float]: ...
    def _loss_and_grad(
        self, call: Call, y: Array, scale: float, limits: Limits | None = None
    ) -> tuple[float, Gradients[State], State]: ...


class Step(Generic[State]):
    """What `SequenceModel.stream` yields at a boundary.

    Attributes
    ----------
    loss : float
        Of the steps since the boundary before that the window reaches; the mean is over their targets.
    gradients : Gradients
        Of that loss; its `state` is by the state before the window. The arrays are the caller's: no later
        step changes them.
    state : ndarray, (L K, B, H), or a pair of them for an LSTM
        The state at the boundary, a copy: a stream over what comes next can begin with it.
    start, stop : int
        The steps since the boundary before, counted from 0: those of ``x[start:stop]``.
    count : int
        Targets, of all sequences, that count in `loss`; ``gradients.unreached`` are those that don't.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.RNN(3, 8, seed=0), 3, seed=1)
    >>> tokens = np.array([[0, 1, 2, 0, 1, 2]]).T  # (T + 1, B)
    >>> steps = model.stream(tokens[:-1], tokens[1:], truncation=pybptt.TBPTT(2, 2))
    >>> [(step.start, step.stop, step.count) for step in steps]
    [(0, 2, 2), (2, 4, 2), (4, 5, 1)]
    """

    __slots__ = ("count", "gradients", "loss", "start", "state", "stop")

    def __init__(
        self, loss: float, gradients: Gradients[State], state: State, start: int, stop: int, count: int
    ) -> None:
        self.loss = loss
        self.gradients = gradients
        self.state = state
        self.start = start
        self.stop = stop
        self.count = count

    def __repr__(self) -> str:
        return f"Step(loss={self.loss}, start={self.start}, stop={self.stop}, count={self.count})"


class _Source(Generic[State]):
    """The steps of a sequence that may come in chunks: those from a moving start on, and no others.

    Neither the starts nor the stops that it is asked for ever decrease.
    """

    def __init__(self, model: Model[State], chunks: Iterable[Any] | None) -> None:
        self._model = model
        self._chunks = None if chunks is None else enumerate(chunks)
        self._axis = 1 if model.layer.batch_first else 0
        self._batch: int | None = None
        self._dimensions: int | None = None  # of x
        self._pieces: list[Piece] = []
        self._begin = self._end = 0  # the steps that the pieces hold
        self._borrowed = False  # whether the last piece is in the source's own arrays

    def append(self, x: Any, y: Any, of_chunk: str = "") -> int:
        """Checks x and y and adds them at the end; returns B."""
        steps, batch = self._model.layer._steps_and_batch(f"x{of_chunk}", x)
        if self._batch not in (None, batch):
            raise ValueError(f"x{of_chunk}: expected B = {self._batch}, as before, got {batch}")
        if self._dimensions not in (None, x.ndim):
            kinds = {2: "token ids", 3: "dense input"}
            raise ValueError(f"x{of_chunk}: expected {kinds[5 - x.ndim]}, as before, got {kinds[x.ndim]}")
        self._model._check_targets(f"y{of_chunk}", y, steps, batch)
        self._dimensions = x.ndim
        self._batch = batch
        if steps:
            self._pieces.append((x, y))
            self._end += steps
            self._borrowed = True
        return batch

    def reach(self, start: int, stop: int) -> int:
        """Goes on to step `stop`, or to the end if that comes before; forgets the steps before `start`."""
        while self._end < stop and self._chunks is not None:
            self._forget(start)
            if self._borrowed:  # the source may write the next chunk to the same arrays
                self._own(-1)
                self._borrowed = False
            if self._pieces and self._pieces[0][0].base is not None:  # a view of more than is needed
                self._own(0)
            found = next(self._chunks, None)
            if found is None:
                self._chunks = None
                break
            index, chunk = found
            of_chunk = f" of chunk {index}"
            if not isinstance(chunk, tuple | list) or len(chunk) != 2:
                raise TypeError(f"x{of_chunk}: expected a pair (x, y), got {type(chunk).__name__}")
            self.append(chunk[0], chunk[1], of_chunk)
        return min(stop, self._end)

    def take(self, start: int, stop: int) -> Piece:
        """x and y of the steps [start, stop), `stop` the one last reached; forgets those before `start`."""
        self._forget(start)
        if stop - start <= self._steps(self._pieces[0]):
            return self.cut(self._pieces[0], 0, stop - start)
        # What the last piece has past `stop` stays apart. The others stay together: the next window may
        # overlap with this one, and would put them together again.
        taken = self._steps(self._pieces[-1]) - (self._end - stop)
        rest = self.cut(self._pieces[-1], taken, None)
        self._pieces[-1] = self.cut(self._pieces[-1], 0, taken)
        x, y = (np.concatenate(arrays, self._axis) for arrays in zip(*self._pieces, strict=True))
        self._pieces = [(x, y)]
        if stop < self._end:
            self._pieces.append(rest)
        else:
            self._borrowed = False
        return x, y

    def cut(self, piece: Piece, start: int, stop: int | None) -> Piece:
        """Views of the steps [start, stop) of a piece."""
        x, y = piece
        return (x[:, start:stop], y[:, start:stop]) if self._axis else (x[start:stop], y[start:stop])

    def _steps(self, piece: Piece) -> int:
        steps: int = piece[0].shape[self._axis]
        return steps

    def _own(self, index: int) -> None:
        x, y = self._pieces[index]
        self._pieces[index] = x.copy(), y.copy()

    def _forget(self, start: int) -> None:
        while self._pieces and self._begin + self._steps(self._pieces[0]) <= start:
            self._begin += self._steps(self._pieces.pop(0))
        if self._pieces and self._begin < start:
            self._pieces[0] = self.cut(self._pieces[0], start - self._begin, None)
            self._begin = start
        self._borrowed = self._borrowed and bool(self._pieces)


def stream(
    model: Model[State],
    x: Any,
    y: Array | None,
    truncation: Truncation,
    state: State | None,
    training: bool,
    seed: int | None,
    clip_hidden: tuple[str, float] | None,
) -> Iterator[Step[State]]:
    """Checks what can be checked before the first step; see `SequenceModel.stream`."""
    layer = model.layer
    if not isinstance(truncation, TBPTT | RandomTruncation):
        raise TypeError(
            f"truncation: expected TBPTT, RandomTruncation or ARTBP, got {type(truncation).__name__}"
        )
    if isinstance(truncation, RandomTruncation) and truncation.pi.ndim:
        raise ValueError(
            "truncation: expected one probability for all steps, because a stream has no known end, "
            f"got {truncation}"
        )
    if model.last_only:
        raise ValueError("truncation: expected a model with a loss at every step, got one with last_only")
    if layer.bidirectional:
        raise ValueError("truncation: expected layers of one direction, got bidirectional ones")
    if isinstance(x, np.ndarray):
        source = _Source(model, None)
        layer._given_state("state", state, source.append(x, y))
    elif not isinstance(x, Iterable):
        raise TypeError(f"x: expected a numpy array or an iterable of pairs (x, y), got {type(x).__name__}")
    elif y is not None:
        raise TypeError(f"y: expected None where x is an iterable of pairs (x, y), got {type(y).__name__}")
    else:
        source = _Source(model, x)
    limits = limits_of(None, clip_hidden, 0, None, 0, model.dtype, 1)
    masks = generator(seed)
    dropout = flag("training", training) and layer.dropout > 0
    return _windows(model, source, truncation, _copy(state), masks if dropout else None, limits)


def _windows(
    model: Model[State],
    source: _Source[State],
    truncation: Truncation,
    state: State | None,
    masks: np.random.Generator | None,
    limits: Limits,
) -> Iterator[Step[State]]:
    """Steps are counted from 0, and a state is the one before its step."""
    pi = float(truncation.pi) if isinstance(truncation, RandomTruncation) else None
    window = boundary = 0, state  # where the last window began and ended
    for k1, k2 in _sizes(truncation):
        first, state = window
        before = end = boundary[0]
        while True:
            wanted = min(end + k2 + AHEAD, before + k1)
            end = source.reach(first, wanted)
            if end == before:
                return
            # If the boundary is here, the window begins at end - k2: past the boundary before, or else within
            # the last window (k1 < k2, or a sequence that ends soon after a boundary).
            if first < before <= end - k2:
                first, state = boundary
            if first < end - k2:
                x, _ = source.cut(source.take(first, end), 0, end - k2 - first)
                with _counted_from(first):
                    call = model.layer._call(x, state, None, masks is not None, _draw(masks))
                    _, state = model.layer._infer(call, None)
                del x, call
                first = end - k2
            if end < wanted or end == before + k1:
                break
        x, y = source.take(first, end)
        with _counted_from(first):
            call = model.layer._call(x, state, None, masks is not None, _draw(masks))
            targets, scale = model._targets(y, call)
            counted = None
            if first < before:
                counted = np.zeros((call.steps, call.batch), bool)
                counted[before - first :] = True
                scale *= call.steps / (end - before) if model.reduction == "mean" else 1.0
            factors = None
            if pi is not None:  # xi_t = 1 / pi inside the block; it begins where xi_t is 0
                factors = np.full((call.steps, call.batch), 1 / pi, model.dtype)
                factors[0] = 1  # so that dL/dstate is by the state before the block
            loss, gradients, last = model._loss_and_grad(
                call, targets, scale, limits._replace(counted=counted, factors=factors)
            )
        count = (end - max(first, before)) * call.batch
        gradients.unreached = (end - before) * call.batch - count
        boundary = end, last
        window = boundary if pi is not None else (first, state)
        del x, y, call, targets  # nothing but what the source holds stays
        yield Step(loss, gradients, _copy(last), before, end, count)


def _sizes(truncation: Truncation) -> Iterator[tuple[int, int]]:
    """k1 and k2 of each block, without end."""
    if isinstance(truncation, TBPTT):
        yield from repeat((truncation.k1, truncation.k2))
        return
    draw, cut = generator(truncation.seed), 1 - float(truncation.pi)
    while True:  # the n steps up to the next one that is cut: P(n) = pi^(n-1) (1 - pi)
        n = int(draw.geometric(cut)) if cut else sys.maxsize
        yield n, n


def _draw(masks: np.random.Generator | None) -> int | None:
    """The seed of a call's dropout mask."""
    return None if masks is None else int(masks.integers(1 << 63))


@contextmanager
def _counted_from(first: int) -> Iterator[None]:
    """Says in messages about tokens and classes what their steps are counted from."""
    try:
        yield
    except IndexError as error:
        raise IndexError(f"{error}, steps counted from {first}") from None


def _copy(state: State | None) -> Any:
    if isinstance(state, tuple | list):
        return tuple(_copy(part) for part in state)
    return state.copy() if isinstance(state, np.ndarray) else state
