"""The text of a character model: reading it, its vocabulary, and the tables that the model has to beat."""

from __future__ import annotations

import hashlib
import sysconfig
import zlib
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data import Vocabulary
from .common import CommandError, open_text

__all__ = [
    "UNKNOWN",
    "Corpus",
    "bigram_loss",
    "read_standard_library",
    "read_text",
    "unigram_loss",
    "vocabulary_of",
]

_Ids = npt.NDArray[np.int64]

STANDARD_LIBRARY_LIMIT = 4_000_000  # characters
HELD_OUT = 0.05  # of the text, at its end
RARE = 1e-5  # a character below this share of the training text becomes the unknown one
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def read_text(path: str | None) -> str:
    """The file's text (UTF-8), or by default the source of Python's standard library.

    Raises
    ------
    CommandError
        If it can't be read or isn't UTF-8.
    """
    if path is None:
        return read_standard_library()
    try:
        with TextIOWrapper(open_text(path), encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_standard_library() -> str:
    """Source of Python's own standard library, the same for the same Python release.

    It is every public top-level module, in the order of the CRC-32 of its name, cut at STANDARD_LIBRARY_LIMIT
    characters. That order is fixed, and mixes subjects and authors, so that the end, which is held out, is
    like the rest. Modules whose name starts with ``_`` are left out since some are generated when Python is
    built, and site modules since distributions add them.

    Raises
    ------
    CommandError
        If this Python comes without the source.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in folder.glob("*.py") if not path.name.startswith(("_", "site"))]
    paths.sort(key=lambda path: (zlib.crc32(path.name.encode()), path.name))
    pieces: list[str] = []
    for path in paths:
        try:
            pieces.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
    text = "".join(pieces)[:STANDARD_LIBRARY_LIMIT]
    if not text:
        raise CommandError(f"found no source of the standard library in {folder}; use --text FILE")
    return text


def vocabulary_of(text: str) -> Vocabulary:
    """The characters that make up at least `RARE` of the text; id 0 is `UNKNOWN`, for all others."""
    return Vocabulary.of(text, min_count=int(RARE * len(text)) + 1, unknown=UNKNOWN)


class Corpus:
    """A text split into a training part and a held-out end, as ids of the training part's vocabulary.

    Attributes
    ----------
    vocabulary : Vocabulary
    digest : str
        Tells one text from another.
    train, held_out : ndarray of int64, (length + 1, streams)
        Parallel streams: column b is one stretch of the text, in order. Inputs are all rows but the last,
        targets all but the first, so the first input of a stream is the last target of the one before.
    """

    def __init__(self, text: str, batch: int) -> None:
        held_out = int(len(text) * HELD_OUT)
        cut = len(text) - held_out
        if cut <= batch or held_out < 2:
            raise CommandError(f"the text's {len(text)} characters are too few for --batch {batch}")
        self.vocabulary = vocabulary_of(text[:cut])
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.train = _streams(self.vocabulary.encode(text[:cut]), batch)
        # Few streams in a short text: every one begins without knowing what came before.
        self.held_out = _streams(self.vocabulary.encode(text[cut:]), max(1, min(32, held_out // 2000)))


def unigram_loss(corpus: Corpus) -> float:
    """Mean cross-entropy of the held-out targets under the training text's frequencies, counts plus one."""
    p = _unigram(corpus)
    return float(-np.log(p[corpus.held_out[1:]]).mean())


def bigram_loss(corpus: Corpus) -> float:
    """Mean cross-entropy of the held-out targets under a table of the training text's pairs.

    Smoothed by method C of Witten and Bell (IEEE Transactions on Information Theory 37(4), 1991): after a
    character that was seen n(a) times with k(a) different successors,
    ``p(b | a) = (n(a, b) + k(a) p(b)) / (n(a) + k(a))``.
    """
    size = len(corpus.vocabulary)
    pairs = corpus.train[:-1] * size + corpus.train[1:]
    counts = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    successors = np.maximum(np.count_nonzero(counts, axis=1), 1)
    before, after = corpus.held_out[:-1], corpus.held_out[1:]
    p = counts[before, after] + successors[before] * _unigram(corpus)[after]
    return float(-np.log(p / (counts.sum(axis=1) + successors)[before]).mean())


def _unigram(corpus: Corpus) -> npt.NDArray[np.float64]:
    counts = 1.0 + np.bincount(corpus.train[1:].ravel(), minlength=len(corpus.vocabulary))
    shares: npt.NDArray[np.float64] = counts / counts.sum()
    return shares


def _streams(ids: _Ids, streams: int) -> _Ids:
    length = (len(ids) - 1) // streams
    return np.stack([ids[i * length : (i + 1) * length + 1] for i in range(streams)], axis=1)
