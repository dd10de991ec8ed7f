"""pybptt.data.Vocabulary: text to ids and back."""

import copy
import dataclasses
import json
import pickle
import re

import numpy as np
import pytest

from pybptt.data import Vocabulary

TEXT = "hello, wörld 🜚\n\ud800"


def test_it_goes_both_ways():
    letters = Vocabulary.of(TEXT)
    assert letters.symbols == tuple(sorted(set(TEXT)))
    ids = letters.encode(TEXT)
    assert ids.dtype == np.int64
    assert [letters.symbols[i] for i in ids] == list(TEXT)
    assert letters.decode(ids) == letters.decode(iter(ids.tolist())) == TEXT
    assert len(letters) == len(set(TEXT))
    assert "ö" in letters
    assert "x" not in letters
    assert letters.encode("").shape == (0,)
    assert letters.decode([]) == ""


def test_words():
    words = ["the", "cat", "and", "the", "dog", "and", "the", "bird"]
    vocabulary = Vocabulary.of(words, min_count=2, unknown="?")
    assert vocabulary.symbols == ("?", "and", "the")
    assert vocabulary.encode(iter(words)).tolist() == [2, 0, 1, 2, 0, 1, 2, 0]
    assert vocabulary.decode(vocabulary.encode(words), separator=" ") == "the ? and the ? and the ?"
    assert Vocabulary.of(words, min_count=3).symbols == ("the",)


def test_an_unknown_symbol_that_occurs_is_there_once():
    assert Vocabulary.of("a?a", unknown="?").symbols == ("?", "a")


@pytest.mark.parametrize("unknown", [None, "w"])
def test_json_holds_it(unknown):
    vocabulary = Vocabulary.of(TEXT, unknown=unknown)
    again = Vocabulary(**json.loads(json.dumps(dataclasses.asdict(vocabulary))))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again != Vocabulary.of("ab")
    for copied in (pickle.loads(pickle.dumps(vocabulary)), copy.deepcopy(vocabulary)):
        assert copied == vocabulary
        assert copied.decode(copied.encode("hello")) == "hello"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda v: v.encode("abx"), ValueError, "which has no `unknown`; got 'x'"),
        (lambda v: v.encode(b"ab"), TypeError, "tokens: expected a str or strings, got bytes; see .decode()"),
        (lambda v: v.decode([0, 3]), IndexError, "ids: expected ids in [0, 3), got 3"),
        (lambda v: v.decode([-1]), ValueError, "ids: expected at least 0, got -1"),
        (lambda v: v.decode([0.0]), TypeError, "ids: expected an integer, got float"),
        (lambda v: v.decode(np.zeros((2, 2), int)), TypeError, "ids: expected an integer, got ndarray"),
        (lambda v: v.decode(0), TypeError, "ids: expected integers, got int"),
        (lambda v: v.encode(3), TypeError, "tokens: expected a str or strings, got int"),
        (lambda v: v.encode(["a", ["b"]]), TypeError, "tokens: expected strings, got list"),
        (lambda v: Vocabulary("ab", "a").encode([None]), TypeError, "tokens: expected strings, got NoneType"),
        (lambda v: Vocabulary.of(["a", None]), TypeError, "tokens: expected strings, got NoneType"),
        (lambda v: Vocabulary(None), TypeError, "symbols: expected a str or strings, got NoneType"),
        (lambda v: Vocabulary(("a", None)), TypeError, "symbols: expected strings, got NoneType"),
        (lambda v: Vocabulary(("a", 3)), TypeError, "symbols: expected strings, got int"),
        (lambda v: Vocabulary("abca"), ValueError, "symbols: expected each once, got 'a' twice"),
        (lambda v: Vocabulary("abc", "d"), ValueError, "unknown: expected one of the symbols, got 'd'"),
        (lambda v: Vocabulary.of("abc", min_count=0), ValueError, "min_count: expected at least 1, got 0"),
        (lambda v: setattr(v, "unknown", "a"), AttributeError, "unknown"),
    ],
)
def test_what_is_wrong_is_told(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call(Vocabulary("abc"))
