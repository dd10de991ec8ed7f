"""The text of the character model: reading it, its vocabulary, its streams, and the tables of frequencies."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pybptt.cli.common import CommandError
from pybptt.cli.text import (
    RARE,
    UNKNOWN,
    Corpus,
    bigram_loss,
    read_standard_library,
    read_text,
    unigram_loss,
    vocabulary_of,
)


def test_the_standard_library_is_there_and_always_the_same():
    library = read_standard_library()
    assert 1_000_000 < len(library) <= 4_000_000
    assert library == read_text(None)
    assert "class JSONDecoder" not in library  # not a top-level module
    assert "class OrderedDict" not in library
    assert "class Fraction(" in library


def test_a_python_without_source_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "_private.py").write_text("x = 1\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(CommandError, match="--text"):
        read_standard_library()
    (tmp_path / "public.py").write_text("y = 2\n")
    assert read_standard_library() == "y = 2\n"


def test_rare_characters_are_one():
    often = int(1 / RARE)
    vocabulary = vocabulary_of("x" * often + "yy" + "z")
    assert vocabulary.symbols == (UNKNOWN, "x", "y")
    assert vocabulary.decode(vocabulary.encode("xyz?\ud800")) == f"xy{3 * UNKNOWN}"


@pytest.mark.parametrize(("length", "batch"), [(1000, 1), (1000, 7), (137, 40)])
def test_streams_hold_the_text_in_order(length, batch):
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdef"), length))
    corpus = Corpus(text, batch)
    cut = length - int(0.05 * length)
    inputs = "".join(corpus.vocabulary.decode(column) for column in corpus.train[:-1].T)
    targets = "".join(corpus.vocabulary.decode(column) for column in corpus.train[1:].T)
    assert text.startswith(inputs)
    assert text[1:cut].startswith(targets)
    assert cut - 1 - batch < len(inputs) == len(targets) < cut
    held_out = "".join(corpus.vocabulary.decode(column) for column in corpus.held_out[1:].T)
    assert held_out == text[cut + 1 :]


def test_the_vocabulary_knows_nothing_of_the_held_out_text():
    corpus = Corpus("ab" * 95 + "c" * 10, 2)
    assert corpus.vocabulary.symbols == (UNKNOWN, "a", "b")
    assert (corpus.held_out == 0).all()


def test_the_tables_are_what_they_say():
    """Against the same formulas spelt out with dictionaries."""
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abbcccd"), 400)) + "".join(rng.choice(list("abcdeef"), 100))
    corpus = Corpus(text, 3)
    train_pairs = [pair for column in corpus.train.T for pair in pairwise(column)]
    pairs, firsts = Counter(train_pairs), Counter(a for a, b in train_pairs)
    seconds = Counter(b for a, b in train_pairs)
    followers = Counter(a for a, b in pairs)
    size = len(corpus.vocabulary)

    def unigram(b):
        return (seconds[b] + 1) / (len(train_pairs) + size)

    def bigram(a, b):
        k = max(followers[a], 1)
        return (pairs[a, b] + k * unigram(b)) / (firsts[a] + k)

    held_out = corpus.held_out[:, 0]
    held_out_pairs = list(pairwise(held_out))
    assert unigram_loss(corpus) == pytest.approx(-np.mean([np.log(unigram(b)) for a, b in held_out_pairs]))
    assert bigram_loss(corpus) == pytest.approx(-np.mean([np.log(bigram(a, b)) for a, b in held_out_pairs]))
    for a in range(size):
        assert sum(bigram(a, b) for b in range(size)) == pytest.approx(1)
