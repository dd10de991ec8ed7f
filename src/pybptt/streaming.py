"""Truncated backpropagation through time while reading: loss and gradients at every boundary of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from ._arrays import Array, flag, generator, is_array
from .gradients import Gradients, State
from .truncation import TBPTT, Limits, limits_of

if TYPE_CHECKING:
    from .model import SequenceModel

AHEAD = 64  # steps that are run forward at a time where no loss counts


@dataclass(frozen=True, eq=False)
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

    loss: float
    gradients: Gradients[State]
    state: State
    start: int
    stop: int
    count: int


class _Source(Generic[State]):
    """The steps of a sequence that may come in chunks: those from a moving start on, and no others."""

    def __init__(self, model: SequenceModel[State], chunks: Iterable[Any]) -> None:
        self._model = model
        self._chunks = enumerate(chunks)
        self._axis = 1 if model.layer.batch_first else 0
        self._batch: int | None = None
        self._pieces: list[tuple[Array, Array]] = []
        self._begin = self._end = 0  # the steps that the pieces hold

    def append(self, x: Any, y: Any, of_chunk: str = "") -> int:
        """Checks x and y and adds them at the end; returns B."""
        steps, batch = self._model.layer._steps_and_batch(f"x{of_chunk}", x)
        if self._batch not in (None, batch):
            raise ValueError(f"x{of_chunk}: expected B = {self._batch}, as in those before, got {batch}")
        self._model._check_targets(f"y{of_chunk}", y, steps, batch)
        self._batch = batch
        if steps:
            self._pieces.append((x, y))
            self._end += steps
        return batch

    def reach(self, start: int, stop: int) -> int:
        """Goes on to step `stop`, or to the end if that comes before; forgets the steps before `start`."""
        while self._end < stop:
            index, chunk = next(self._chunks, (0, None))
            if chunk is None:
                break
            of_chunk = f" of chunk {index}"
            if not isinstance(chunk, tuple | list) or len(chunk) != 2:
                raise TypeError(f"x{of_chunk}: expected the pair (x, y), got {type(chunk).__name__}")
            self.append(*chunk, of_chunk)
            if self._end < stop:
                self._keep(start)
        return min(stop, self._end)

    def _keep(self, start: int) -> None:
        """Copies what the last chunk has of the steps from `start` on: the source may write to its arrays again."""
    def read(self, start: int, stop: int) -> tuple[Array, Array] | None:
        """x and y of the steps [start, stop), fewer at the end, None past it; forgets those before `start`.

        Neither `start` nor `stop` ever decreases, so only the last piece holds steps past `stop`.
        """
        while self._pieces and self._begin + self.steps(self._pieces[0]) <= start:
            self._begin += self.steps(self._pieces.pop(0))
        while self._end < stop:
            if self._pieces:  # A source may write its next chunk into the same arrays.
                if len(self._pieces) == 1:
                    self._pieces = [self.cut(self._pieces[0], start - self._begin, None)]
                    self._begin = start
                x, y = self._pieces[-1]
                self._pieces[-1] = (x.copy(), y.copy())
            if not self._pull():
                break
        stop = min(stop, self._end)
        if stop <= start:
            return None
        skip = start - self._begin
        if len(self._pieces) == 1:
            return self.cut(self._pieces[0], skip, skip + stop - start)
        # They stay together: overlapping windows would put them together again, and hold more than their steps.
        taken = self.steps(self._pieces[-1]) - (self._end - stop)
        rest = self.cut(self._pieces[-1], taken, None)
        self._pieces[-1] = self.cut(self._pieces[-1], 0, taken)
        self._pieces[0] = self.cut(self._pieces[0], skip, None)
        x, y = (np.concatenate(arrays, self._axis) for arrays in zip(*self._pieces, strict=True))
        self._pieces = [(x, y), rest] if stop < self._end else [(x, y)]
        self._begin = start
        return x, y

    def cut(self, piece: tuple[Array, Array], start: int, stop: int | None) -> tuple[Array, Array]:
        """Views of the steps [start, stop)."""
        x, y = piece
        return (x[:, start:stop], y[:, start:stop]) if self._axis else (x[start:stop], y[start:stop])

    def steps(self, piece: tuple[Array, Array]) -> int:
        return piece[0].shape[self._axis]

    def _pull(self) -> bool:
        """Takes the next chunk, if there is one."""
        index, chunk = next(self._chunks, (0, None))
        if chunk is None:
            return False
        of_chunk = f" of chunk {index}" if self._numbered else ""
        if not isinstance(chunk, tuple | list) or len(chunk) != 2:
            raise TypeError(f"x{of_chunk}: expected the pair (x, y), got {type(chunk).__name__}")
        x, y = chunk
        steps, batch = self._model.layer._steps_and_batch(f"x{of_chunk}", x)
        if self._batch not in (None, batch):
            raise ValueError(f"x{of_chunk}: expected B = {self._batch} as in the chunks before, got {batch}")
        self._model._check_targets(f"y{of_chunk}", y, steps, batch)
        self._batch = batch
        if steps:
            self._pieces.append((x, y))
            self._end += steps
        return True


def stream(
    model: SequenceModel[State],
    x: Any,
    y: Array | None,
    truncation: TBPTT,
    state: State | None,
    *,
    training: bool,
    seed: int | None,
) -> Iterator[Step[State]]:
    """Checks what can be checked before the first step; see `SequenceModel.stream`."""
    if not isinstance(truncation, TBPTT):
        raise TypeError(f"truncation: expected a TBPTT, got {type(truncation).__name__}")
    if model.last_only:
        raise ValueError("truncation: expected a model with a loss at every step, got one with last_only")
    if model.layer.bidirectional:
        raise ValueError("truncation: expected layers of one direction, got a bidirectional one")
    if isinstance(x, np.ndarray):
        steps, batch = model.layer._steps_and_batch("x", x)
        model._check_targets("y", y, steps, batch)
        model.layer._given_state("state", state, batch)
        chunks: Iterable[Any] = [(x, y)]
    else:
        if not isinstance(x, Iterable):
            raise TypeError(f"x: expected a numpy array or an iterable of pairs, got {type(x).__name__}")
        if y is not None:
            raise TypeError(f"y: expected None, since x gives pairs (x, y), got {type(y).__name__}")
        chunks = x
    source = _Source(model, chunks, numbered=not isinstance(x, np.ndarray))
    masks = generator(seed) if flag("training", training) and model.layer.dropout else None
    return _steps(model, source, truncation, _copy(state), masks)


def _steps(
    model: SequenceModel[State],
    source: _Source[State],
    truncation: TBPTT,
    state: State | None,
    masks: np.random.Generator | None,
) -> Iterator[Step[State]]:
    k1, k2 = truncation.k1, truncation.k2
    first = 0  # step that the window begins with; `state` is the one before it
    before = 0  # the boundary before
    while True:
        # Time goes on to the boundary. Until the end is known to be further than k2 steps away, a loss may count.
        boundary, at_boundary = before + k1, False
        while not at_boundary:
            wanted = min(first + k2 + AHEAD, boundary)
            window = source.read(first, wanted)
            if window is None:
                return
            end = first + source.steps(window)
            at_boundary = end < wanted or end == boundary
            if end - k2 > first:
                unread, window = source.cut(window, 0, end - k2 - first), source.cut(window, end - k2 - first, None)
                state = _forward(model, unread[0], state, first, masks)
                first = end - k2
        if end == before:
            return
        loss, gradients, last, count = _backward(model, *window, state, first, before, masks)
        yield Step(loss, gradients, _copy(last), before, end, count)
        before = end
        if k1 >= k2:  # the next window begins here; if it overlaps with this one, between this one's steps
            first, state = end, last


def _forward(
    model: SequenceModel[State], x: Array, state: State | None, first: int, masks: np.random.Generator | None
) -> State:
    """The state after steps whose losses don't count."""
    with _counted_from(first):
        call = model.layer._call(x, state, None, masks is not None, _seed(masks))
        return model.layer._run(call, keep_tape=False, cells=None)[1]


def _backward(
    model: SequenceModel[State],
    x: Array,
    y: Array,
    state: State | None,
    first: int,
    before: int,
    masks: np.random.Generator | None,
) -> tuple[float, Gradients[State], State, int]:
    """Of a window that begins with step `first`: the losses from step `before` on count."""
    counted = None
    steps, batch = x.shape[:2] if not model.layer.batch_first else x.shape[1::-1]
    if first < before:
        counted = np.zeros((steps, batch), bool)
        counted[before - first :] = True
    with _counted_from(first):
        loss, gradients, last = model.loss_and_grad(
            x, y, state, training=masks is not None, seed=_seed(masks)
        )
    targets = batch * (model.output_size if model.loss_name == "mse" else 1)
    #gradients.unreached = max(0, first - before) * targets
    return loss, gradients, last, targets * (steps - max(0, before - first))


def _seed(masks: np.random.Generator | None) -> int | None:
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
        return tuple(array.copy() for array in state)
    return state.copy() if isinstance(state, np.ndarray) else state
