"""Files for --load that are damaged, or made to do harm: one line and exit code 2, whatever is in them."""

import io
import json
import math
import os
import random
import zipfile

import numpy as np
import pytest
from archives import entries_of, header, npy, packed
from cli_support import SMALL

from pybptt.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    text = str(folder / "text.txt")
    (folder / "text.txt").write_text("abacad\n" * 300)
    run = [
        "train",
        "--text",
        text,
        *SMALL,
        "--cell",
        "lstm",
        "--steps",
        "3",
        "--save",
        str(folder / "good.npz"),
    ]
    assert main(run) == 0
    return folder


@pytest.fixture(params=["train", "flow"])
def load(request, folder, capsys):
    """Load a file of these bytes; its exit code. What is on stderr must be one line, if it is 2."""

    def load(data):
        path, text = folder / "bad.npz", folder / "text.txt"
        path.write_bytes(data)
        options = {"train": ["--sample", "3"], "flow": ["--steps", "9", "--plot", str(folder / "flow.png")]}
        command = [request.param, "--load", str(path), "--text", str(text), *options[request.param]]
        capsys.readouterr()
        code = main(command)
        output, error = capsys.readouterr()
        if code != 0:
            assert (code, output, error.count("\n")) == (2, "", 1)
            assert error.startswith(f"pybptt {request.param}: error: ")
        return code

    return load


def with_facts(entries, text):
    return {**entries, "pybptt.json": text}


def test_the_good_one(load, folder):
    assert load((folder / "good.npz").read_bytes()) == 0
    assert load(packed(entries_of(folder / "good.npz"))) == 0


BAD_SETTINGS = {
    "hidden": [-1, 0, 1.5, "12", None, True, [12], 13, 10**12, 1 << 63, math.nan],
    "layers": [0, -1, 2, 10**9, "x"],
    "batch": ["x", 0, 5, 10**15],
    "window": [0, 2.5],
    "cell": ["lstmx", "rnn", None, 3, ["lstm"]],
    "nonlinearity": ["softmax", 1],
    "dtype": ["float16", "object", "float64", None],
    "seed": [-1, 0.5, 1 << 64],
    "dropout": [-0.1, 1.5, math.nan, "0"],
    "lr": [math.nan, math.inf, 0, -1, "0.1"],
    "steps": [0, 1 << 63, math.inf],
    "minutes": [0, math.nan, "long"],
    "text": [3, ["text.txt"]],
    "unknown\nname": [1],
}
BAD_FACTS = {
    "alphabet": [None, 3, "aa", "", ["a"], "abc" * 1000],
    "step": [-1, "1", 1.5, True, 1 << 63, None],
    "seconds": [-1, math.nan, math.inf, "1"],
    "settings": [None, [], "text", {}],
    "format": [None, "1", [], 2, "a\nb"],
}


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [("settings", name, value) for name, values in BAD_SETTINGS.items() for value in values]
    + [("facts", name, value) for name, values in BAD_FACTS.items() for value in values],
)
def test_facts_that_cannot_be(where, name, value, load, folder):
    entries = entries_of(folder / "good.npz")
    facts = json.loads(entries["pybptt.json"])
    place = facts if name == "format" else facts["extra"]
    (place["settings"] if where == "settings" else place)[name] = value
    assert load(packed(with_facts(entries, json.dumps(facts)))) == 2


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "", "3", "[]", "NaN", '"\\ud800"', "9" * 5000]
)
def test_facts_that_are_none(text, load, folder):
    assert load(packed(with_facts(entries_of(folder / "good.npz"), text))) == 2


BAD_ENTRIES = {
    "huge shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
    "shape beyond int64": header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000000000,), }"
    ),
    "negative shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }"),
    "header of Python 2": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }"),
    "header cut": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,"),
    "unclosed string": header("{'descr': '<f4', 'fortran_order': False, 'shape': ('''"),
    "nested": header("(" * 5000),
    "dtype of nothing": header("{'descr': '|V0', 'fortran_order': False, 'shape': (10000000000000000,), }"),
    "no array": b"text",
    "nothing": b"",
    "objects": npy(np.array([{}], object)),
    "a number": npy(np.array(3.0)),
    "text": npy(np.array("text")),
    "dates": npy(np.array("2020", "M8[D]")),
    "float16": npy(np.zeros((12, 12), np.float16)),
    "not finite": npy(np.full((48, 12), np.nan, np.float32)),
}


@pytest.mark.parametrize("name", ["weight_hh_l0", "output.bias"])
@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_an_entry_that_is_not_what_was_saved(what, name, load, folder):
    assert load(packed({**entries_of(folder / "good.npz"), f"{name}.npy": BAD_ENTRIES[what]})) == 2


@pytest.mark.parametrize("what", BAD_ENTRIES)
@pytest.mark.parametrize("name", ["recent", "history", "state/c", "optimiser/v", "optimiser/steps"])
def test_what_training_alone_needs(name, what, folder, capsys):
    path = folder / "bad.npz"
    path.write_bytes(packed({**entries_of(folder / "good.npz"), f"extra/{name}.npy": BAD_ENTRIES[what]}))
    assert main(["train", "--load", str(path), "--text", str(folder / "text.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["recent", "optimiser/v"])
def test_sums_that_cannot_be_negative(name, folder, capsys):
    entries = entries_of(folder / "good.npz")
    values = np.load(io.BytesIO(entries[f"extra/{name}.npy"]))
    path = folder / "bad.npz"
    path.write_bytes(packed({**entries, f"extra/{name}.npy": npy(-1 - values)}))
    assert main(["train", "--load", str(path), "--text", str(folder / "text.txt"), "--steps", "6"]) == 2
    assert "negative" in capsys.readouterr().err


def test_a_missing_entry(load, folder):
    for name in (
        "pybptt.json",
        "weight_ih_l0.npy",
        "weight_hh_l0.npy",
        "output.weight.npy",
        "extra/state/h.npy",
    ):
        entries = entries_of(folder / "good.npz")
        del entries[name]
        assert load(packed(entries)) == 2


def test_no_more_is_read_than_the_file_has(load, folder):
    entries = entries_of(folder / "good.npz")
    zeros = npy(np.zeros(1 << 23))
    assert load(packed({**entries, "bomb.npy": zeros}, zipfile.ZIP_DEFLATED)) == 2
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr("bomb0.npy", zeros[:100_000])
        once = archive.filelist[-1]
        for i in range(1, 1000):  # the same bytes again and again, with overlaps
            again = zipfile.ZipInfo(f"bomb{i}.npy")
            for attribute in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, attribute, getattr(once, attribute))
            archive.filelist.append(again)
    assert load(file.getvalue()) == 2


def test_bytes_and_ends_that_were_lost(load, folder):
    good, rng = (folder / "good.npz").read_bytes(), random.Random(1)
    directory = good.index(b"PK\x01\x02")
    for i in range(150):
        data = bytearray(good)
        if i % 3 == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 2, 8))):
            if data:
                place = rng.randrange(directory if i % 3 == 1 and len(data) > directory else 0, len(data))
                data[place] = rng.randrange(256)
        load(bytes(data))


@pytest.mark.parametrize("command", [["train", "--text"], ["train", "--load"], ["flow", "--load"]])
def test_files_without_an_end_are_not_opened(command, tmp_path, capsys):
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    for path in ("/dev/zero", pipe):
        assert main([*command, path]) == 2
        assert capsys.readouterr().err.endswith(f"error: cannot read {path}: it is not a regular file\n")
