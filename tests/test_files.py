"""save and load: round trips to the last bit, and files that are damaged or made to do harm."""

import copy
import inspect
import io
import itertools
import json
import os
import pickle
import random
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile

import numpy as np
import pytest
from archives import entries_of, header, npy, packed
from support import bits, run_python

import pybptt

FLAGS = (False, True)
OPTIONS = [
    *(("RNN", {"nonlinearity": phi}) for phi in ("tanh", "relu", "sigmoid", "identity")),
    *(
        ("LSTM", {"peephole": peephole, "coupled": coupled, "proj_size": P})
        for peephole, coupled, P in itertools.product(FLAGS, FLAGS, (0, 2))
    ),
    *(("GRU", {"reset_after": after}) for after in FLAGS),
]
COMMON = [
    {},
    {"bias": False, "batch_first": True, "dtype": "float64"},
    {"num_layers": 3, "bidirectional": True, "dropout": 0.25, "clip": 0.5},
    {"num_layers": 2, "bidirectional": True, "dtype": "float64", "clip": 7.0, "bias": False},
]
MODELS = [
    None,
    {},
    {"loss": "mse", "reduction": "sum", "last_only": True},
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_round_trips(cell, options, common, model, tmp_path):
    thing = getattr(pybptt, cell)(3, 4, **options, **common, seed=0)
    if model is not None:
        thing = pybptt.SequenceModel(thing, 5, **model, seed=1)
    thing.save(tmp_path / "it")
    same = pybptt.load(str(tmp_path / "it"))
    assert type(same) is type(thing)
    assert repr(same) == repr(thing)  # every option of the constructors
    assert bits(same.flat) == bits(thing.flat)
    x = np.random.default_rng(2).normal(size=(6, 2, 3)).astype(thing.dtype)
    assert bits(same(x)[0]) == bits(thing(x)[0])
    same.flat *= 0  # it is whole: its layer reads the same memory
    assert bits(same(x)[0]) != bits(thing(x)[0])


def test_every_option_is_written():
    """So that one that is added is added here, too: all of the constructor but the seed."""
    for kind in (pybptt.RNN, pybptt.LSTM, pybptt.GRU):
        assert kind(3, 4)._arguments().keys() == inspect.signature(kind).parameters.keys() - {"seed"}
    model = pybptt.SequenceModel(pybptt.RNN(3, 4), 5)
    given = inspect.signature(pybptt.SequenceModel).parameters.keys() - {"seed", "layer"}
    assert model._arguments().keys() == given


def a_model():
    model = pybptt.SequenceModel(pybptt.LSTM(6, 4, num_layers=2, peephole=True, seed=0), 6, seed=1)
    model.extra["vocabulary"] = ["\n", "é", "\ud800", "/", "日本"]
    return model


EXTRA = {
    "text": "a\0b",
    "numbers": [0, -1.5e300, 10**30, True, None],
    "nested": {"a/b": {"c": [{"d": []}]}, "": 1},
    "empty": {},
    "float": np.float32([[1, np.nan], [np.inf, -0.0]]),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "foreign": np.arange(3, dtype=">i4"),
    "none": np.zeros((0, 3), np.int8),
    "scalar": np.array(2.5),
    "complex": np.array([1j]),
    "names": np.array(["ab", "日"]),
    "flags": np.array([True, False]),
    "optimiser": {"m": np.ones(3), "deep": {"v": np.zeros(2), "lr": 0.1}},
}


def test_extra(tmp_path):
    layer = pybptt.RNN(3, 4, seed=0)
    layer.extra = EXTRA
    model = pybptt.SequenceModel(layer, 5, seed=1)
    for thing in (model, layer, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        thing.save(tmp_path / "it")
        same = pybptt.load(tmp_path / "it")
        np.testing.assert_equal(same.extra, EXTRA)
        for name, value in EXTRA.items():
            if isinstance(value, np.ndarray):
                assert same.extra[name].dtype == value.dtype.newbyteorder("=")
                assert same.extra[name].flags.writeable
                assert same.extra[name].shape == value.shape
    assert type(same) is pybptt.SequenceModel
    assert same.layer.extra is same.extra
    same.layer.extra = {"only": 1}
    assert same.extra == {"only": 1}
    same.extra = same.extra
    assert same.extra == {"only": 1}
    assert "deep" in EXTRA["optimiser"]


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"a": {1: "x"}}, ValueError, r"extra\['a'\]: expected what JSON gives back .* got dict"),
        ({"a": [({1: 2},)]}, ValueError, r"extra\['a'\]: .* dicts whose keys are str, got list"),
        ({"a": {1, 2}}, ValueError, r"extra\['a'\]: expected arrays and what JSON can hold; .*set"),
        ({"a": float("nan")}, ValueError, r"extra\['a'\]: "),
        ({"a": [float("inf")]}, ValueError, r"extra\['a'\]: "),
        ({"a": [np.ones(3)]}, ValueError, r"extra\['a'\]: .*ndarray"),
        ({1: "x"}, TypeError, r"extra\[1\]: expected names that are str, got int"),
        ({"a": np.array([{}])}, TypeError, r"extra\['a'\]: expected an array .* got dtype object"),
        ({"a": np.zeros(2, "i4,f4")}, TypeError, r"extra\['a'\]: expected an array"),
        ({"a": np.ma.ones(2)}, TypeError, r"extra\['a'\]: expected an array without a mask"),
        ({"a/b": np.ones(3)}, ValueError, r"extra\['a/b'\]: expected printable names without /"),
        ({"a": {"": np.ones(3)}}, ValueError, r"extra\['a'\]\[''\]: expected printable names without /"),
        (
            {"\ud800": np.ones(3)},
            ValueError,
            r"extra\['\\ud800'\]: expected printable names .* at most 1000",
        ),
        (
            {"a" * 1000: np.ones(3)},
            ValueError,
            r"extra\['a+'\]: expected printable names .* at most 1000",
        ),
    ],
)
def test_extra_that_cannot_be_written(extra, error, message, tmp_path):
    model = a_model()
    model.save(tmp_path / "it")
    before = (tmp_path / "it").read_bytes()
    model.extra = extra
    with pytest.raises(error, match=f"^{message}"):
        model.save(tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    circle = {}
    circle["a"] = circle
    model.extra = circle
    with pytest.raises(ValueError, match="at most 100 dicts"):
        model.save(tmp_path / "it")
    with pytest.raises(TypeError, match="^extra: expected a dict, got list"):
        model.extra = []


def test_tuples_come_back_as_lists(tmp_path):
    layer = pybptt.RNN(3, 4)
    layer.extra = {"a": ("x", [("y", {"z": (1,)})]), "b": ()}
    layer.save(tmp_path / "it")
    assert pybptt.load(tmp_path / "it").extra == {"a": ["x", [["y", {"z": [1]}]]], "b": []}


def test_numpy_alone_reads_it(tmp_path):
    model = a_model()
    model.save(tmp_path / "it.npz")
    with np.load(tmp_path / "it.npz") as file:
        assert set(file.files) == {*model.parameters, "pybptt.json"}
        for name, parameter in model.parameters.items():
            np.testing.assert_array_equal(file[name], parameter)
        facts = json.loads(file["pybptt.json"])
    assert facts == {
        "format": 1,
        "version": pybptt.__version__,
        "layer": {
            "cell": "LSTM",
            "input_size": 6,
            "hidden_size": 4,
            "num_layers": 2,
            "peephole": True,
            "coupled": False,
            "proj_size": 0,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "clip": None,
            "dtype": "float32",
        },
        "model": {"output_size": 6, "loss": "cross_entropy", "reduction": "mean", "last_only": False},
        "extra": model.extra,
    }


def test_the_same_model_gives_the_same_file(tmp_path):
    for name in "ab":
        a_model().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_big_endian_files(tmp_path):
    model = a_model()
    model.save(tmp_path / "it")
    entries = entries_of(tmp_path / "it")
    for name, parameter in model.parameters.items():
        entries[f"{name}.npy"] = npy(parameter.astype(">f4"))
    (tmp_path / "it").write_bytes(packed(entries))
    assert bits(pybptt.load(tmp_path / "it").flat) == bits(model.flat)


def test_a_layer_of_a_model_is_saved_alone(tmp_path):
    model = a_model()
    model.layer.save(tmp_path / "it")
    layer = pybptt.load(tmp_path / "it")
    assert repr(layer) == repr(model.layer)
    assert bits(layer.flat) == bits(model.layer.flat)
    assert pybptt.SequenceModel(layer, 3).extra == model.extra


class Own(pybptt.GRU):
    pass


def test_what_cannot_be_saved(tmp_path):
    for thing in (Own(3, 4), pybptt.SequenceModel(Own(3, 4), 5)):
        with pytest.raises(TypeError, match="^save: expected an RNN, LSTM, GRU or SequenceModel itself"):
            thing.save(tmp_path / "it")
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "no" / "it", FileNotFoundError),
    ):
        with pytest.raises(error) as raised:
            a_model().save(path)
        assert raised.value.filename == str(path)
        with pytest.raises(error):
            pybptt.load(path)
    for path in (3, None, b"it"):
        for call in (a_model().save, pybptt.load):
            with pytest.raises(TypeError, match="^path: expected a str or a path, got "):
                call(path)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    a_model().save(tmp_path / "it")
    before = (tmp_path / "it").read_bytes()

    def full(file, *rest, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left") as raised:
        a_model().save(tmp_path / "it")
    assert raised.value.filename == str(tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_process_that_is_killed_leaves_the_old_file_and_what_it_had_written(tmp_path):
    a_model().save(tmp_path / "it")
    before = (tmp_path / "it").read_bytes()
    code = f"""if True:
        import os, signal
        import numpy as np, pybptt

        np.lib.format.write_array = lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL)
        pybptt.RNN(3, 4).save({str(tmp_path / "it")!r})
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert (tmp_path / "it").read_bytes() == before
    (part,) = {path.name for path in tmp_path.iterdir()} - {"it"}
    assert re.fullmatch(r"it\.[0-9a-f]{16}\.tmp", part)


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "it")
    a_model().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISREG(os.lstat(tmp_path / "it").st_mode)


def test_a_file_keeps_its_mode(tmp_path):
    a_model().save(tmp_path / "it")
    (tmp_path / "it").chmod(0o600)
    a_model().save(tmp_path / "it")
    assert stat.S_IMODE((tmp_path / "it").stat().st_mode) == 0o600


def test_a_read_only_file_is_not_replaced():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = os.path.join(folder, "it")
        a_model().save(path)
        os.chmod(path, 0o444)
        os.seteuid(os.geteuid() or 65534)  # root may write anyway
        try:
            with pytest.raises(PermissionError) as raised:
                a_model().save(path)
        finally:
            os.seteuid(os.getuid())
        assert raised.value.filename == path
        assert os.listdir(folder) == ["it"]


def test_a_link_that_somebody_put_there_is_not_written_through(tmp_path, monkeypatch):
    """In a folder that all may write to, where the name could be guessed."""
    (tmp_path / "other").write_bytes(b"old")
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / f"it.{bytes(8).hex()}.tmp").symlink_to(tmp_path / "other")
    with pytest.raises(FileExistsError):
        a_model().save(tmp_path / "it")
    assert (tmp_path / "other").read_bytes() == b"old"


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    """Such as /dev/null, which everybody needs, where the user is root."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file") as raised:
        a_model().save(tmp_path / "pipe")
    assert raised.value.filename == str(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_threads_that_save_to_one_file(tmp_path):
    model, errors = a_model(), []

    def work():
        try:
            for _ in range(10):
                model.save(tmp_path / "it")
                pybptt.load(tmp_path / "it")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


# Files that are damaged, or made to do harm


@pytest.fixture
def good(tmp_path):
    model = a_model()
    model.extra["recent"] = {"sums": np.ones(3)}
    model.save(tmp_path / "good")
    return tmp_path / "good"


@pytest.fixture
def load(tmp_path):
    """Loads a file of these bytes: None if it is refused, as it should be."""

    def load(data):
        (tmp_path / "bad").write_bytes(data)
        try:
            return pybptt.load(tmp_path / "bad")
        except ValueError as refused:
            error = refused
        assert str(error).startswith(f"{tmp_path / 'bad'}: expected ")
        return None

    return load


def test_the_good_one(load, good):
    assert load(good.read_bytes()) is not None
    assert load(packed(entries_of(good))) is not None


BAD_LAYER = {
    "cell": ["lstm", "RNN", "GRU", "Own", None, 3, ["LSTM"], {}],
    "input_size": [-1, 0, 1.5, "6", None, True, [6], 7, 10**12, 1 << 63, 10**400, float("nan")],
    "hidden_size": [-1, 0, 1.5, "4", None, True, 5, 10**12, 1 << 63],
    "num_layers": [0, -1, 1, 3, "2", 10**9, 10**30],
    "peephole": [False, 1, None],
    "coupled": [True, 0],
    "proj_size": [1, 4, -1, "x", 10**30],
    "bias": [False, 1],
    "bidirectional": [True, 2],
    "batch_first": [1, None],
    "dropout": [-0.1, 1.5, float("nan"), "0"],
    "clip": [0, -1, "1", float("inf")],
    "dtype": ["float16", "object", "float64", None, ">f4", 3],
    "nonlinearity": ["tanh"],
    "seed": [1],
    "self": [1],
    "unknown": [1],
}
BAD_MODEL = {
    "output_size": [0, -1, 5, 7, "6", None, 10**12],
    "loss": ["hinge", None, 3, ["mse"]],
    "reduction": ["max", None],
    "last_only": [1, "yes"],
    "seed": [1],
    "layer": [1],
}
BAD_FACTS = {
    "format": [None, "1", [], 0, -1, 2, 1.0, True],
    "layer": [None, [], "LSTM", {}],
    "model": [None, [], {}, "x"],
    "extra": [None, [], "x", {}, {"recent": None}, {"recent": {"sums": 1}}, {"recent": []}]
    + [{"recent": {}, "more": float("inf")}],
}


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (where, name, value)
        for where, all_of_them in (("layer", BAD_LAYER), ("model", BAD_MODEL), (None, BAD_FACTS))
        for name, values in all_of_them.items()
        for value in values
    ],
)
def test_facts_that_cannot_be(where, name, value, load, good):
    entries = entries_of(good)
    facts = json.loads(entries["pybptt.json"])
    (facts[where] if where else facts)[name] = value
    assert load(packed({**entries, "pybptt.json": json.dumps(facts)})) is None


def test_a_later_format_says_so(load, good, tmp_path):
    entries = entries_of(good)
    facts = json.loads(entries["pybptt.json"]) | {"format": 2}
    assert load(packed({**entries, "pybptt.json": json.dumps(facts)})) is None
    with pytest.raises(ValueError, match="bad: expected format 1, got 2, of a later version of pybptt$"):
        pybptt.load(tmp_path / "bad")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "", "3", "[]", "NaN", '"\\ud800"', "9" * 5000, b"\xff", "{}"]
)
def test_facts_that_are_none(text, load, good):
    assert load(packed({**entries_of(good), "pybptt.json": text})) is None


BAD_ENTRIES = {
    "huge shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"),
    "large shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }"),
    "beyond int64": header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000000000,), }"),
    "negative shape": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }"),
    "two negatives": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4), }"),
    "shape of text": header("{'descr': '<f4', 'fortran_order': False, 'shape': 'x', }"),
    "header of Python 2": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4L,), }"),
    "header cut": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,"),
    "a call": header("{'descr': '<f4', 'fortran_order': False, 'shape': (exit(),), }"),
    "unclosed string": header("{'descr': '<f4', 'fortran_order': False, 'shape': ('''"),
    "nested": header("(" * 5000),
    "nested too deep for the parser": header("-" * 9000 + "4"),
    "long header": header("{" + " " * 60_000 + "}"),
    "Fortran order": npy(np.asfortranarray(np.ones((4, 4), np.float32))),
    **{
        f"many {dtype} of no bytes": header(
            f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (10000000000000000,), }}", b""
        )
        for dtype in ("|V0", "|S0", "<U0")
    },
    "no array": b"text",
    "nothing": b"",
    "objects": npy(np.array([{}], object)),
    "records": npy(np.zeros(4, "i4,f4")),
    "dates": npy(np.array("2020", "M8[D]")),
    "version 2": b"\x93NUMPY\x02\x00" + npy(np.ones(3))[8:],
}


@pytest.mark.parametrize("name", ["weight_hh_l0", "output.bias", "extra/recent/sums", "extra/new"])
@pytest.mark.parametrize("what", BAD_ENTRIES)
def test_an_entry_that_is_not_what_was_saved(what, name, load, good):
    assert load(packed({**entries_of(good), f"{name}.npy": BAD_ENTRIES[what]})) is None


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.0),
        np.array("text"),
        np.zeros((16, 4), np.float16),
        np.zeros((16, 4)),
        np.zeros((16, 4), np.int32),
        np.zeros((4, 16), np.float32),
        np.zeros(64, np.float32),
        np.zeros((16, 5), np.float32),
    ],
)
def test_a_parameter_of_another_kind(array, load, good):
    assert load(packed({**entries_of(good), "weight_hh_l0.npy": npy(array)})) is None


def test_names_that_are_missing_or_more(load, good):
    for name in entries_of(good).keys() - {"extra/recent/sums.npy"}:
        entries = entries_of(good)
        data = entries.pop(name)
        assert load(packed(entries)) is None
        assert load(packed({**entries, f"{name}x": data})) is None
        assert load(packed({**entries, "other.npy": data})) is None
    for more in ("more.npy", "more.txt", "more", "../more.npy", "extra/vocabulary/x.npy", "extra/no/x.npy",
                 "extra/vocabulary.npy", "extra/recent.npy"):  # fmt: skip
        assert load(packed({**entries_of(good), more: npy(np.ones(3))})) is None


def test_no_more_is_read_than_the_file_has(load, good, tmp_path):
    entries = entries_of(good)
    zeros = npy(np.zeros(1 << 23))
    assert load(packed({**entries, "extra/bomb.npy": zeros}, zipfile.ZIP_DEFLATED)) is None
    assert load(packed(entries, zipfile.ZIP_DEFLATED)) is None
    for same in (False, True):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
            archive.writestr("extra/bomb0.npy", zeros[:100_000])
            once = archive.filelist[-1]
            for i in range(1, 1000):  # the same bytes again and again, with overlaps
                again = zipfile.ZipInfo("extra/bomb0.npy" if same else f"extra/bomb{i}.npy")
                for attribute in ("header_offset", "CRC", "compress_size", "file_size"):
                    setattr(again, attribute, getattr(once, attribute))
                archive.filelist.append(again)
        assert load(file.getvalue()) is None
        with pytest.raises(ValueError, match="expected a whole file") as raised:
            pybptt.load(tmp_path / "bad")
        assert str(raised.value.__cause__) == (
            "expected each entry once, and not compressed" if same else "expected entries that do not overlap"
        )


def test_many_layers_of_a_large_one_are_not_made(load, good):
    """A small file that asks for much: with so many entries, but of few numbers."""
    facts = json.loads(entries_of(good)["pybptt.json"])
    facts["layer"] |= {"hidden_size": 200, "num_layers": 2000, "peephole": False}
    arrays = {"output.weight.npy": npy(np.zeros((6, 200), "f4")), "output.bias.npy": npy(np.zeros(6, "f4"))}
    for i in range(2000):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            arrays[f"{name}_l{i}.npy"] = npy(np.zeros(1, "f4"))
    assert load(packed({"pybptt.json": json.dumps(facts), **arrays})) is None


def test_bytes_and_ends_that_were_lost(load, good):
    data, rng = good.read_bytes(), random.Random(1)
    directory = data.index(b"PK\x01\x02")
    whole = a_model().flat
    for i in range(1500):
        changed = bytearray(data)
        if i % 3 == 0:
            del changed[rng.randrange(len(changed)) :]
        for _ in range(rng.choice((1, 2, 8))):
            if changed:
                place = rng.randrange(
                    directory if i % 3 == 1 and len(changed) > directory else 0, len(changed)
                )
                changed[place] = rng.randrange(256)
        found = load(bytes(changed))
        if found is not None:  # what was hit is not used, such as a date
            assert bits(found.flat) == bits(whole)


def test_files_without_an_end_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(OSError, match="it is not a regular file") as raised:
            pybptt.load(path)
        assert raised.value.filename == str(path)


def test_what_a_crafted_file_takes(good, tmp_path):
    """However it lies, not much more memory than it has bytes."""
    entries = entries_of(good)
    entries["weight_hh_l0.npy"] = BAD_ENTRIES["large shape"]
    (tmp_path / "bad").write_bytes(packed(entries))
    printed = run_python(f"""
        import resource, pybptt
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        try:
            pybptt.load({str(tmp_path / "bad")!r})
        except ValueError as error:
            print(error)
    """)
    assert "expected a whole file" in printed
