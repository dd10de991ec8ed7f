"""The package as such: what importing it costs, what it exports, documents and says of itself."""

import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from support import run_python

import pybptt
import pybptt.torch

MODULES = [
    "pybptt",
    *(m.name for m in pkgutil.walk_packages(pybptt.__path__, "pybptt.") if not m.name.endswith("._core")),
]
MODULES.remove("pybptt.__main__")  # importing it runs it


# The package and its subjects' modules.
OWNERS = [
    pybptt,
    *(getattr(pybptt, n) for n in pybptt.__all__ if inspect.ismodule(getattr(pybptt, n))),
    pybptt.torch,
]


def public_objects():
    """Everything that a user may call or hold."""
    for owner in OWNERS:
        for name in owner.__all__:
            thing = getattr(owner, name)
            if inspect.isroutine(thing) or inspect.isclass(thing):
                if thing.__module__.startswith("pybptt"):
                    yield f"{owner.__name__}.{name}", thing
            elif inspect.ismodule(thing) and thing.__name__.startswith("pybptt"):
                yield f"{owner.__name__}.{name}", thing


PUBLIC = dict(public_objects())
CALLABLE = {name: thing for name, thing in PUBLIC.items() if not inspect.ismodule(thing)}


def test_importing_is_light():
    """NumPy, the package's own modules, and no others to speak of; none of the command line's."""
    printed = run_python("""
        import sys, numpy
        before = set(sys.modules)
        import pybptt
        print(*sorted(set(sys.modules) - before))
    """)
    new = printed.split()
    roots = {name.partition(".")[0] for name in new} - {"pybptt", "numpy"}
    assert roots <= sys.stdlib_module_names
    slow = {
        "argparse",
        "asyncio",
        "concurrent",
        "ctypes",
        "email",
        "inspect",
        "json",
        "logging",
        "multiprocessing",
    }
    assert not roots & (slow | {"shutil", "sqlite3", "subprocess", "tempfile", "unittest", "urllib"})
    assert not [name for name in new if name.startswith(("pybptt.cli", "pybptt.__main__", "numpy.random"))]


def test_it_exports_what_it_says():
    assert pybptt.__all__ == sorted(pybptt.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert set(pybptt.__all__) == {
        "ARTBP",
        "GRU",
        "LSTM",
        "RNN",
        "TBPTT",
        "GradientFlow",
        "Gradients",
        "Memory",
        "MemoryChoice",
        "Packed",
        "PackedLayer",
        "RandomTruncation",
        "SequenceModel",
        "Step",
        "Tape",
        "__version__",
        "bptt",
        "check_gradients",
        "clip_by_norm",
        "clip_by_value",
        "config",
        "data",
        "get_num_threads",
        "gradient_flow",
        "load",
        "onnx",
        "optim",
        "recurrence",
        "reference",
        "release_memory",
        "set_num_threads",
        "show_config",
    }
    for name in pybptt.__all__:
        getattr(pybptt, name)
    extra = {n for n in vars(pybptt) if not n.startswith("_")} - set(pybptt.__all__)
    assert all(inspect.ismodule(getattr(pybptt, n)) for n in extra)  # layers, model, ...: submodules alone


def is_ours(function):
    """And not of a class of PyTorch's that ours come from."""
    return not getattr(function, "fget", function).__module__.startswith("torch.")


def functions_of(thing):
    """The function itself, or the public methods of a class and what makes and calls it."""
    if not inspect.isclass(thing):
        return [thing]
    named = inspect.getmembers(thing, lambda f: inspect.isfunction(f) and is_ours(f))
    return [f for name, f in named if not name.startswith("_") or name in ("__init__", "__call__")]


@pytest.mark.parametrize("name", CALLABLE)
def test_everything_public_is_typed(name):
    assert (Path(pybptt.__file__).parent / "py.typed").is_file()
    for function in functions_of(CALLABLE[name]):
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        assert all(p.annotation is not p.empty for p in parameters), function
        assert signature.return_annotation is not signature.empty, function


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name):
    thing = PUBLIC[name]
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for member_name, member in inspect.getmembers(thing):
            if (isinstance(member, property) or inspect.isfunction(member)) and is_ours(member):
                assert member_name.startswith("_") or inspect.getdoc(member), member_name


@pytest.mark.parametrize("name", CALLABLE)
def test_everything_public_has_an_example(name):
    thing = CALLABLE[name]
    if thing in (pybptt.reference.Tape, pybptt.reference.Gradients):
        return  # records, made by functions that have examples
    assert ">>>" in inspect.getdoc(thing)
    if thing in (pybptt.RNN, pybptt.LSTM, pybptt.GRU, pybptt.SequenceModel):
        for function in functions_of(thing):
            assert function.__name__ == "__init__" or ">>>" in inspect.getdoc(function), function


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module):
    found = doctest.testmod(importlib.import_module(module), extraglobs={"np": np, "pybptt": pybptt})
    assert found.failed == 0


def test_examples_are_found():
    """So that the test above can't pass by running none."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    counts = {m: sum(len(t.examples) for t in finder.find(importlib.import_module(m))) for m in MODULES}
    for module in (
        "",
        ".layers",
        ".recurrent",
        ".parameters",
        ".model",
        ".streaming",
        ".data",
        ".files",
        ".gradients",
        ".textbook",
        ".machine",
        ".onnx",
        ".optim",
        ".recurrence",
        ".reference",
        ".schedules",
        ".checks",
        ".flow",
        ".torch",
        ".torch.modules",
        ".torch.swap",
    ):
        assert counts[f"pybptt{module}"] > 0


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_namespaces_show_what_is_meant_for_users(owner):
    """What a shell offers after a dot: no `Any`, no `math`."""
    assert dir(owner) == sorted(owner.__all__)
    assert len(set(owner.__all__)) == len(owner.__all__)


def test_the_version_is_the_same_everywhere():
    assert pybptt.__version__ == importlib.metadata.version("pybptt") == pybptt.config()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d*)?", pybptt.__version__)


def test_numpy_is_all_it_requires():
    requirements = importlib.metadata.requires("pybptt")
    assert [re.match(r"[\w-]+", r)[0] for r in requirements if "extra ==" not in r] == ["numpy"]


def test_config():
    config = pybptt.config()
    assert list(config) == [
        "version",
        "compiler",
        "tiers_built",
        "tiers_available",
        "tier",
        "threads",
        "processors",
        "caches",
        "numpy",
    ]
    assert set(config["tiers_available"]) <= set(config["tiers_built"])
    assert config["tier"] in config["tiers_available"]
    assert config["threads"] == pybptt.get_num_threads()
    assert 1 <= config["processors"]["cores"] <= config["processors"]["allowed"]
    assert list(config["caches"]) == ["l1d", "l2", "l3"]
    assert config["numpy"] == np.__version__
    assert re.match(r"(GNU|Clang|AppleClang) \d+", config["compiler"])


def test_show_config(capsys, set_threads):
    set_threads(5)
    pybptt.show_config()
    config = pybptt.config()
    processors, caches = config["processors"], config["caches"]
    quota = f", a quota of {processors['quota']}" if processors["quota"] else ""
    assert capsys.readouterr().out.splitlines() == [
        f"pybptt           {pybptt.__version__}",
        f"compiler         {config['compiler']}",
        f"tiers built      {', '.join(config['tiers_built'])}",
        f"tiers available  {', '.join(config['tiers_available'])}",
        f"tier in use      {config['tier']}",
        "threads          5",
        f"processors       {processors['allowed']} in {processors['cores']} cores{quota}",
        f"caches           {', '.join(f'{name} {size >> 10} KiB' for name, size in caches.items())}",
        f"numpy            {np.__version__}",
    ]


def test_objects_say_what_they_are():
    rnn = pybptt.RNN(3, 8, nonlinearity="relu", bias=False, batch_first=True, dtype="float64")
    text = (
        "RNN(3, 8, 1, nonlinearity='relu', bias=False, batch_first=True, dropout=0.0, bidirectional=False, "
        "clip=None, dtype='float64')"
    )
    assert repr(rnn) == text
    model = pybptt.SequenceModel(rnn, 5, loss="mse", reduction="sum", last_only=True)
    assert repr(model) == f"SequenceModel({text}, 5, loss='mse', reduction='sum', last_only=True)"
    _, g, _ = model.loss_and_grad(np.zeros((1, 2), int), np.zeros((1, 5)))
    assert repr(g).startswith(
        "Gradients(parameters=['weight_ih_l0', 'weight_hh_l0', 'output.weight', 'output.bias']"
    )
