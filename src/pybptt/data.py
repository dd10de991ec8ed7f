"""Text to token ids and back, and batches of a long stream or of many sequences.

`sequential`, `random` and `ragged` give an iterable with a length; iterating over it once is an epoch. The
items of a stream say whether the state may be carried on to them from the item before:

>>> text = np.arange(1000) % 5
>>> model = pybptt.SequenceModel(pybptt.RNN(5, 8, seed=0), 5, seed=1)
>>> state = None
>>> for batch in pybptt.data.sequential(text, batch_size=4, steps=20):
...     loss, gradients, state = model.loss_and_grad(batch.x, batch.y, state if batch.carry else None)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Array, at_least, generator, is_array, items, positive

__all__ = ["Batch", "RaggedBatch", "Vocabulary", "ragged", "random", "sequential"]


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows, characters or words; the id of each is its place.

    It is nothing but its two attributes: ``dataclasses.asdict`` makes of it what JSON can hold, and
    ``Vocabulary(**...)`` reads that back.

    Parameters
    ----------
    symbols : iterable of str
        All different.
    unknown : str, optional
        The one of the symbols that stands for everything that is not among them.

    Attributes
    ----------
    symbols : tuple of str
    unknown : str or None

    Raises
    ------
    TypeError
        For symbols that are no strings.
    ValueError
        For one that comes twice, and if `unknown` is not among them.

    Examples
    --------
    >>> letters = pybptt.data.Vocabulary.of("banana")
    >>> letters.symbols, letters.encode("nab").tolist(), letters.decode([1, 0, 2])
    (('a', 'b', 'n'), [2, 0, 1], 'ban')
    >>> words = pybptt.data.Vocabulary.of("to be or not to be".split(), min_count=2, unknown="?")
    >>> words.decode(words.encode("not to be".split()), separator=" ")
    '? to be'
    >>> import dataclasses, json
    >>> pybptt.data.Vocabulary(**json.loads(json.dumps(dataclasses.asdict(words)))) == words
    True
    """

    symbols: tuple[str, ...]
    unknown: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(_strings("symbols", self.symbols)))
        if len(self._ids) < len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if self._ids[s] != i)
            raise ValueError(f"symbols: expected each once, got {twice!r} twice")
        if self.unknown is not None and self.unknown not in self._ids:
            raise ValueError(f"unknown: expected one of the symbols, got {self.unknown!r}")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, tokens: Iterable[str], *, min_count: int = 1, unknown: str | None = None) -> Vocabulary:
        """The vocabulary of a text, sorted.

        Parameters
        ----------
        tokens : str or iterable of str
            The text: of a str, its characters.
        min_count : int
            Leave out what occurs less often.
        unknown : str, optional
            A symbol for all that is left out; its id is 0.

        Returns
        -------
        Vocabulary
        """
        least = positive("min_count", min_count)
        symbols = sorted(
            s for s, count in Counter(_strings("tokens", tokens)).items() if count >= least and s != unknown
        )
        return cls(tuple(symbols if unknown is None else [unknown, *symbols]), unknown)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._ids

    def encode(self, tokens: Iterable[str]) -> Array:
        """The ids of a text.

        Parameters
        ----------
        tokens : str or iterable of str
            Of a str, its characters.

        Returns
        -------
        ndarray of int64, (N,)

        Raises
        ------
        TypeError
            For tokens that are no strings.
        ValueError
            For a token that is not in the vocabulary, if that has no `unknown`.
        """
        tokens = _strings("tokens", tokens)
        if self.unknown is not None:
            other = self._ids[self.unknown]
            return np.fromiter((self._ids.get(token, other) for token in tokens), np.int64)
        try:
            return np.fromiter((self._ids[token] for token in tokens), np.int64)
        except KeyError as error:
            raise ValueError(
                f"tokens: expected symbols of the vocabulary, which has no `unknown`; got {error.args[0]!r}"
            ) from None

    def decode(self, ids: Iterable[int], separator: str = "") -> str:
        """The text of ids.

        Parameters
        ----------
        ids : iterable of int, or ndarray, (N,)
        separator : str
            What stands between symbols; " " if they are words.

        Returns
        -------
        str

        Raises
        ------
        IndexError
            For an id that is not in [0, number of symbols).
        """
        places = [at_least("ids", i, 0) for i in items("ids", ids, "integers")]
        wrong = next((i for i in places if not i < len(self)), None)
        if wrong is not None:
            raise IndexError(f"ids: expected ids in [0, {len(self)}), got {wrong}")
        return separator.join(self.symbols[i] for i in places)


def _strings(name: str, values: Any) -> Sequence[str]:
    """A str itself, or strings, or a TypeError."""
    if isinstance(values, str):
        return values
    if isinstance(values, bytes | bytearray):
        raise TypeError(f"{name}: expected a str or strings, got {type(values).__name__}; see .decode()")
    strings = items(name, values, "a str or strings")
    for string in strings:
        if not isinstance(string, str):
            raise TypeError(f"{name}: expected strings, got {type(string).__name__}")
    return strings


class Batch(NamedTuple):
    """An item of `sequential` and `random`.

    Attributes
    ----------
    x : ndarray, (T, B) or (T, B, ...)
        T consecutive elements of the stream in every column.
    y : ndarray, (T, B) or (T, B, ...)
        The element after each, or its own target.
    carry : bool
        Whether every column goes on where that of the item before ended, so that its state may be carried.

    Examples
    --------
    >>> first, second = pybptt.data.sequential(np.arange(9), batch_size=2, steps=2)
    >>> second.x.T.tolist(), second.y.T.tolist(), second.carry
    ([[2, 3], [6, 7]], [[3, 4], [7, 8]], True)
    """

    x: Array
    y: Array
    carry: bool


class RaggedBatch(NamedTuple):
    """An item of `ragged`.

    Attributes
    ----------
    x : ndarray, (T, B) or (T, B, ...)
        A sequence in every column, and 0 past its end; T is the length of the longest.
    y : ndarray, (T, B) or (T, B, ...), or (B, ...)
        Targets of the steps, 0 past a sequence's end; or one for each sequence.
    lengths : ndarray of int64, (B,)
        What the layers' and models' ``lengths=`` takes.
    indices : ndarray of int64, (B,)
        Which of the sequences they are.

    Examples
    --------
    >>> (batch,) = pybptt.data.ragged([np.array([1, 2, 3, 4]), np.array([5, 6])], batch_size=2)
    >>> batch.x.T.tolist(), batch.y.T.tolist(), batch.lengths.tolist(), batch.indices.tolist()
    ([[5, 0, 0], [1, 2, 3]], [[6, 0, 0], [2, 3, 4]], [1, 3], [1, 0])
    """

    x: Array
    y: Array
    lengths: Array
    indices: Array


class _Partition:
    """What both partitions have in common: the stream with its targets, and how much of it is used."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, offset: int, slack: int
    ) -> None:
        self.batch_size, self.steps = batch_size, steps
        if is_array("stream", stream, "tokens or vectors").ndim == 0:
            raise ValueError("stream: expected shape (N,) or (N, ...), got ()")
        if targets is None:
            self._x, self._y = stream[:-1], stream[1:]
        elif is_array("targets", targets, "one for each element of the stream").shape[:1] != stream.shape[:1]:
            raise ValueError(f"targets: expected shape ({len(stream)}, ...), got {targets.shape}")
        else:
            self._x, self._y = stream, targets
        self._offset, self._slack = offset, slack
        self._usable = len(self._x) - offset - slack  # elements with a target, wherever an epoch begins
        if self._usable < batch_size * steps:
            least = batch_size * steps + offset + slack + (targets is None)
            raise ValueError(
                f"stream: expected at least {least} elements for batch_size = {batch_size} and "
                f"steps = {steps}, got {len(stream)}"
            )


class Sequential(_Partition):
    """What `sequential` returns: an iterable of `Batch` with a length."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, offset: int, seed: int | None
    ) -> None:
        super().__init__(stream, batch_size, steps, targets, offset, 0 if seed is None else steps - 1)
        self._random = None if seed is None else generator(seed)

    def __len__(self) -> int:
        return self._usable // self.batch_size // self.steps

    def __iter__(self) -> Iterator[Batch]:
        begin = self._offset
        if self._random is not None:
            begin += int(self._random.integers(self._slack + 1))
        x, y = (self._columns(array, begin) for array in (self._x, self._y))
        for i in range(len(self)):
            place = slice(i * self.steps, (i + 1) * self.steps)
            yield Batch(x[place], y[place], carry=i > 0)

    def _columns(self, array: Array, begin: int) -> Array:
        """(usable // B, B, ...): column b is the b-th stretch. A view."""
        rows = self._usable // self.batch_size
        used = array[begin : begin + rows * self.batch_size]
        columns: Array = used.reshape(self.batch_size, rows, *array.shape[1:]).swapaxes(0, 1)
        return columns


class Random(_Partition):
    """What `random` returns: an iterable of `Batch` with a length."""

    def __init__(
        self, stream: Array, batch_size: int, steps: int, targets: Array | None, seed: int | None
    ) -> None:
        super().__init__(stream, batch_size, steps, targets, 0, steps - 1)
        self._random = generator(seed)

    def __len__(self) -> int:
        return self._usable // self.steps // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        begin = int(self._random.integers(self._slack + 1))
        starts = begin + self.steps * self._random.permutation(self._usable // self.steps)
        within = np.arange(self.steps)[:, None]
        for i in range(len(self)):
            place = within + starts[i * self.batch_size : (i + 1) * self.batch_size]
            yield Batch(self._x[place], self._y[place], carry=False)


class Ragged:
    """What `ragged` returns: an iterable of `RaggedBatch` with a length."""

    def __init__(
        self,
        sequences: Sequence[Array],
        batch_size: int,
        targets: Sequence[Array] | Array | None,
        pool: int,
        seed: int | None,
    ) -> None:
        self.batch_size, self._pool = batch_size, pool * batch_size
        self._random = None if seed is None else generator(seed)
        self._x = _alike("sequences", sequences, least=1 if targets is None else 0)
        self._of_steps = not isinstance(targets, np.ndarray)
        if targets is None:
            self._x, self._y = [s[:-1] for s in self._x], [s[1:] for s in self._x]
        else:
            self._y = list(targets) if isinstance(targets, np.ndarray) else _alike("targets", targets)
            if len(self._y) != len(self._x):
                raise ValueError(
                    f"targets: expected {len(self._x)}, one for each sequence; got {len(self._y)}"
                )
        self._lengths = np.array([len(s) for s in self._x], np.int64)
        if self._of_steps:
            wrong = next((i for i, y in enumerate(self._y) if len(y) != self._lengths[i]), None)
            if wrong is not None:
                expected, got = self._lengths[wrong], len(self._y[wrong])
                raise ValueError(
                    f"targets[{wrong}]: expected length {expected}, that of its sequence; got {got}"
                )

    def __len__(self) -> int:
        return -(-len(self._x) // self.batch_size)

    def __iter__(self) -> Iterator[RaggedBatch]:
        order = np.arange(len(self._x)) if self._random is None else self._random.permutation(len(self._x))
        batches = []
        for pool in _cut(order, self._pool):
            batches += _cut(pool[np.argsort(self._lengths[pool], kind="stable")], self.batch_size)
        if self._random is not None:
            batches = [batches[i] for i in self._random.permutation(len(batches))]
        for indices in batches:
            x, y = ([arrays[i] for i in indices] for arrays in (self._x, self._y))
            yield RaggedBatch(
                _padded(x), _padded(y) if self._of_steps else np.stack(y), self._lengths[indices], indices
            )


def _alike(name: str, arrays: Sequence[Array], least: int = 0) -> list[Array]:
    """The arrays, checked: there are some, and all have one dtype and, but for their lengths, one shape."""
    checked = [
        is_array(f"{name}[{i}]", array, "one sequence")
        for i, array in enumerate(items(name, arrays, "numpy arrays"))
    ]
    if not checked:
        raise ValueError(f"{name}: expected at least one, got none")
    first = checked[0]
    for i, array in enumerate(checked):
        if array.ndim == 0 or len(array) < least:
            raise ValueError(f"{name}[{i}]: expected at least {least} steps, got shape {array.shape}")
        if array.dtype != first.dtype:
            raise TypeError(f"{name}[{i}]: expected dtype {first.dtype} as of {name}[0], got {array.dtype}")
        if array.shape[1:] != first.shape[1:]:
            wanted = str(("T", *first.shape[1:])).replace("'", "")
            raise ValueError(f"{name}[{i}]: expected shape {wanted} as of {name}[0], got {array.shape}")
    return checked


def _cut(indices: Array, size: int) -> list[Array]:
    """Runs of `size`; the last one may be shorter."""
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def _padded(arrays: list[Array]) -> Array:
    """(T, B, ...): the arrays as columns, with 0 past their ends."""
    steps = max(map(len, arrays))
    padded = np.zeros((steps, len(arrays), *arrays[0].shape[1:]), arrays[0].dtype)
    for column, array in enumerate(arrays):
        padded[: len(array), column] = array
    return padded


def sequential(
    stream: Array,
    batch_size: int,
    steps: int,
    *,
    targets: Array | None = None,
    offset: int = 0,
    seed: int | None = None,
) -> Sequential:
    """Batches that go on where the ones before ended: the state is carried through an epoch.

    The stream is cut into B stretches of equal length, which are read side by side, T steps at a time
    (Zaremba, Sutskever and Vinyals, Recurrent neural network regularization, arXiv:1409.2329). What remains
    at the end of each stretch, less than T steps, is left out.

    Parameters
    ----------
    stream : ndarray, (N,) or (N, ...)
        Tokens, or vectors; it may be a memory map.
    batch_size, steps : int
        B and T.
    targets : ndarray, (N, ...), optional
        The target of each element; the next element if not given.
    offset : int
        Elements to leave out at the beginning.
    seed : int, optional
        With it every epoch leaves out at random up to T - 1 elements more, so that blocks have different
        borders (and the number of batches is such that there are always enough).

    Returns
    -------
    iterable of Batch, with a length
        ``carry`` is False for the first batch of an epoch alone. x and y, (T, B, ...), are views of the
        stream; for layers with ``batch_first=True``, swap their first two axes.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range, targets of another length, and a stream too short for
        one batch.

    Examples
    --------
    >>> batches = pybptt.data.sequential(np.arange(100), batch_size=3, steps=10)
    >>> len(batches), [batch.carry for batch in batches], next(iter(batches)).x.shape
    (3, [False, True, True], (10, 3))
    """
    batch_size, steps = positive("batch_size", batch_size), positive("steps", steps)
    return Sequential(stream, batch_size, steps, targets, at_least("offset", offset, 0), seed)


def random(
    stream: Array,
    batch_size: int,
    steps: int,
    *,
    targets: Array | None = None,
    seed: int | None = None,
) -> Random:
    """Batches of stretches from anywhere: the state is never carried.

    Every epoch leaves out at random up to T - 1 elements at the beginning, cuts the rest into stretches of T
    steps, and deals them out in random order (Zhang et al., Dive into Deep Learning, 9.3: random sampling).
    The last ones, less than a batch, are left out.

    Parameters
    ----------
    stream, batch_size, steps, targets
        As for `sequential`.
    seed : int, optional
        The same seed gives the same epochs.

    Returns
    -------
    iterable of Batch, with a length
        ``carry`` is always False. x and y are copies, (T, B, ...).

    Raises
    ------
    TypeError, ValueError
        As for `sequential`.

    Examples
    --------
    >>> batches = pybptt.data.random(np.arange(100), batch_size=3, steps=10, seed=0)
    >>> len(batches), any(batch.carry for batch in batches)
    (3, False)
    """
    return Random(stream, positive("batch_size", batch_size), positive("steps", steps), targets, seed)


def ragged(
    sequences: Sequence[Array],
    batch_size: int,
    *,
    targets: Sequence[Array] | Array | None = None,
    pool: int = 100,
    seed: int | None = None,
) -> Ragged:
    """Batches of whole sequences, those of similar lengths together, padded to the longest of each batch.

    What stands past a sequence's end is never read: pass the batch's `lengths` on. But the core makes room
    for it, and sequences of similar lengths keep all columns busy. So a pool of some batches' sequences is
    sorted by length before it is cut into batches.

    Parameters
    ----------
    sequences : sequence of ndarray, (T_i,) or (T_i, ...)
        Tokens, or vectors: all of one dtype, and of one shape but for their lengths.
    batch_size : int
        B. The last batch may be smaller; no sequence is left out.
    targets : ndarray, (N, ...), or sequence of ndarray, (T_i, ...), optional
        One array of N targets, one for each sequence (a model with ``last_only=True``). Or an array for each
        sequence, of its length. The next element of the sequence if not given, so that the last one is a
        target alone.
    pool : int
        How many batches' sequences are sorted by length together. The larger, the less padding; the smaller,
        the more random. 1 sorts nothing but the columns of each batch.
    seed : int, optional
        With it every epoch draws the pools anew and shuffles its batches; the same seed gives the same
        epochs. Without it pools are made in the order given, and every epoch is the same.

    Returns
    -------
    iterable of RaggedBatch, with a length
        All arrays are copies; for layers with ``batch_first=True``, swap the first two axes of x and y.

    Raises
    ------
    TypeError, ValueError
        For an argument of another type or out of range, sequences that are not alike, and targets of other
        lengths.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> lines = [rng.integers(5, size=n) for n in rng.integers(1, 40, size=100)]
    >>> sums = np.array([line.sum() % 2 for line in lines])
    >>> model = pybptt.SequenceModel(pybptt.GRU(5, 8, seed=0), 2, last_only=True, seed=1)
    >>> optimiser = pybptt.optim.Adam(model.flat)
    >>> for batch in pybptt.data.ragged(lines, 16, targets=sums, seed=0):
    ...     loss, gradients, _ = model.loss_and_grad(batch.x, batch.y, lengths=batch.lengths)
    ...     optimiser.step(gradients)
    """
    batch_size, pool = positive("batch_size", batch_size), positive("pool", pool)
    return Ragged(sequences, batch_size, targets, pool, seed)
