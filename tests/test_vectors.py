"""The files in vectors/: they are what the generator makes, and PyTorch and the core agree with them."""

import importlib.util
import json
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import support
from cell_support import PYTORCHS, by_torch, parts
from support import assert_close
from vector_support import FILES, FOLDER, cases, leaves, numbers, torch_sweeps

import pybptt
from pybptt import recurrence, reference

NETWORKS = dict(cases("network"))
TEXTBOOKS = dict(cases("textbook"))
SCANS, RECURRENCES = dict(cases("linear_scan")), dict(cases("recurrence"))
# NumPy's exp, tanh and products differ in the last digit between processors.
LAST_DIGITS = 1e-14
TOLERANCES = {"float64": 1e-12, "float32": 2e-6}  # docs/porting.md


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(generator):
    return dict(generator.texts())


# ---- The files ------------------------------------------------------------------------------------------


def test_the_files_are_the_generators(made):
    assert [path.name for path in FILES] == list(made)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_what_the_generator_makes(path, made):
    """The same text but for the numbers that are computed; of these only the last digits may differ."""
    kept, new = (dict(leaves(json.loads(text))) for text in (path.read_text(), made[path.name]))
    assert list(kept) == list(new)
    for where, value in kept.items():
        if "/forward/" in where or "/backward/" in where:
            if isinstance(value, str):
                assert value == new[where]
            else:
                assert_close(value, new[where], LAST_DIGITS)
        else:
            assert value == new[where], where
    layouts = {re.sub(r"-?\d[-+.\de]*", "0", text) for text in (path.read_text(), made[path.name])}
    assert len(layouts) == 1


def test_they_can_be_read_by_eye():
    assert sum(path.stat().st_size for path in FILES) < 5e6
    for case in (NETWORKS | TEXTBOOKS | SCANS | RECURRENCES).values():
        assert max(case["sizes"].values()) <= 5
    for path in FILES:
        assert max(map(len, path.read_text().splitlines())) < 320


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_round_trips(path):
    found = []
    json.loads(path.read_text(), parse_float=found.append)
    assert [repr(float(text)) for text in found] == found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_schema(path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((FOLDER / "schema.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)


# ---- PyTorch --------------------------------------------------------------------------------------------


def grad(tensors):
    """What arrived at T tensors; None of them: nothing did."""
    return np.stack([np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors])


@pytest.mark.parametrize("name", NETWORKS)
def test_autograd(name):
    """Every value of a network, forward and backward."""
    torch = pytest.importorskip("torch")
    case = numbers(NETWORKS[name])
    graphs = torch_sweeps(torch, NETWORKS[name])
    forward, backward = case["forward"], case["backward"]
    has = np.array([h.numpy() for h in graphs[0].has])  # past a sequence's end the loop goes on
    arrived = {"h": "dl", "x": "dx", "c": "dc", "m": "dm", "s": "ds"}  # values by their gradients
    for run, expected in zip(graphs[0].runs, forward["runs"], strict=True):
        for part, values in expected.items():
            if part != "name":
                found = run.get(arrived.get(part, part)) or run["d" + part]
                assert_close(np.where(has, np.stack([a.detach() for a in found]), 0), values)
    for part, values in forward["state"].items():
        assert_close(graphs[0].final[part].detach(), values)
    assert_close(graphs[0].output.detach(), forward["output"])
    if "loss" in case:
        assert_close(sum(graph.total.item() for graph in graphs), forward["loss"])
        counted = backward["do"] != 0
        assert_close(np.where(counted, graphs[0].o.detach(), 0), np.where(counted, forward["o"], 0))
        assert_close(sum(graph.o.grad.numpy() for graph in graphs), backward["do"])
    for graph, sweep in zip(graphs, backward["sweeps"], strict=True):
        for run, expected in zip(graph.runs, sweep["runs"], strict=True):
            for part, values in expected.items():
                if part != "name":
                    assert_close(grad(run[part]), values)
    for part, values in backward["parameters"].items():
        assert_close(sum(grad([graph.parameters[part]])[0] for graph in graphs), values)
    for part, values in backward["state"].items():
        assert_close(sum(grad([graph.state[part]])[0] for graph in graphs), values)
    if "input" in backward:
        assert_close(sum(grad([graph.x])[0] for graph in graphs), backward["input"])


def layer_of(case, dtype="float64"):
    """The core's layer, with the case's parameters."""
    kind, given, sizes = case["cell"].upper(), case["given"], case["sizes"]
    bias = "bias_ih_l0" in given["parameters"]
    layer = getattr(pybptt, kind)(sizes["D"], sizes["H"], bias=bias, dtype=dtype, **case["options"])
    for name, values in layer.parameters.items():
        values[...] = given["parameters"][name]
    return layer


def state_of(named):
    return None if named is None else (named["h"], named["c"]) if "c" in named else named["h"]


def torch_has(case):
    """Whether one of PyTorch's modules is the case's network."""
    options = case["options"]
    plain = not {"clip", "peephole", "coupled"} & set(options) and options.get("reset_after", True)
    cell = f"rnn-{options['nonlinearity']}" if "nonlinearity" in options else case["cell"]
    in_loops = {"tbptt", "clip_hidden"} & set(case) or {"xi", "d_cells"} & set(case["given"])
    return plain and not in_loops and cell.removesuffix("-tanh") in PYTORCHS


@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if torch_has(case)])
def test_modules_of_pytorch(name):
    """PyTorch's own RNN, LSTM and GRU: the order of gates, of layers and of directions."""
    torch = pytest.importorskip("torch")
    case = numbers(NETWORKS[name])
    given, forward, backward = case["given"], case["forward"], case["backward"]
    problem = SimpleNamespace(
        layer=layer_of(case),
        x=given["x"],
        state=state_of(given.get("state")),
        lengths=given.get("lengths"),
        mask=given.get("dropout_mask"),
        d_output=given.get("d_output", backward.get("d_output")),
        d_state=state_of(given.get("d_state", backward.get("d_state"))),
    )
    found = by_torch(torch, problem)
    assert_close(found.output, forward["output"])
    for part, expected in zip(parts(found.state), forward["state"].values(), strict=True):
        assert_close(part, expected)
    for part, values in found.g.parameters.items():
        assert_close(values, backward["parameters"][part])
    for part, expected in zip(parts(found.g.state), backward["state"].values(), strict=True):
        assert_close(part, expected)


# ---- The core -------------------------------------------------------------------------------------------


class GivenFactors(pybptt.RandomTruncation):
    """Random truncation whose draws are those of a file."""

    def __init__(self, xi):
        super().__init__(0.5)
        self.xi = xi

    def factors(self, steps, batch, dtype=np.float64):
        assert self.xi.shape == (steps, batch)
        return self.xi.astype(dtype)


def truncation_of(case):
    limits = {}
    if "tbptt" in case:
        limits["truncation"] = pybptt.TBPTT(**case["tbptt"])
    if "xi" in case["given"]:
        limits["truncation"] = GivenFactors(case["given"]["xi"])
    if "clip_hidden" in case:
        limits["clip_hidden"] = (case["clip_hidden"]["by"], case["clip_hidden"]["limit"])
    return limits


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", NETWORKS)
def test_core(name, dtype):
    """Everything that the core returns of a network."""
    case = numbers(NETWORKS[name])
    case["given"] = numbers(NETWORKS[name]["given"], dtype)
    assert_close = partial(support.assert_close, tolerance=TOLERANCES[dtype])
    layer, given, backward = layer_of(case, dtype), case["given"], case["backward"]
    options = {"lengths": given.get("lengths"), "dropout_mask": given.get("dropout_mask")}
    state, lstm = state_of(given.get("state")), {"cells": True} if case["cell"] == "lstm" else {}
    output, last, tape = layer.forward(given["x"], state, **options, **lstm)
    assert_close(output, case["forward"]["output"])
    for part, expected in zip(parts(last), case["forward"]["state"].values(), strict=True):
        assert_close(part, expected)
    if lstm:
        assert_close(tape.cells, np.stack([run["c"] for run in case["forward"]["runs"]]))
    if "loss" not in case:
        lstm = {"d_cells": given["d_cells"]} if "d_cells" in given else {}
        d_state = state_of(given.get("d_state"))
        g = layer.backward(tape, given["d_output"], d_state, hidden=True, **truncation_of(case), **lstm)
    else:
        kind, reduction, last_only = case["loss"].values()
        Q = case["sizes"]["Q"]
        model = pybptt.SequenceModel(layer, Q, loss=kind, reduction=reduction, last_only=last_only)
        for top in ("output.weight", "output.bias"):
            model.parameters[top][...] = given["parameters"].get(top, 0.0)
        dense = given["x"].ndim == 3
        loss, g, _ = model.loss_and_grad(
            given["x"], given["y"], state, hidden=True, input=dense, **options, **truncation_of(case)
        )
        assert_close(loss, case["forward"]["loss"])
        logits = model(given["x"], state, lengths=given.get("lengths"))[0]
        counted = case["forward"]["o"] != 0
        assert_close(np.where(counted, logits, 0), case["forward"]["o"])
        assert g.unreached == backward.get("unreached", 0)
    for part, expected in backward["parameters"].items():
        assert_close(g.parameters[part], expected)
    for part, expected in zip(parts(g.state), backward["state"].values(), strict=True):
        assert_close(part, expected)
    assert_close(g.hidden, backward["hidden"])
    if "input" in backward:
        assert_close(g.input, backward["input"])


@pytest.mark.parametrize("name", TEXTBOOKS)
def test_textbook(name):
    """The core, the sums over the pairs of the two loops, and the loss's derivatives by differences."""
    case = numbers(TEXTBOOKS[name])
    given, s, dz = case["given"], case["forward"]["s"], case["backward"]["dz"]
    found = dict(zip(("dLdU", "dLdV", "dLdW"), pybptt.bptt(**given), strict=True))
    for part, values in found.items():
        assert_close(values, case["backward"][part])
    before = np.concatenate([np.zeros_like(s[:1]), s[:-1]])
    assert_close(np.einsum("tri,rj->ij", dz, before), found["dLdW"])
    assert_close(np.einsum("ti,tj->ij", case["backward"]["do"], s), found["dLdV"])
    assert_close(np.einsum("tri,rj->ij", dz, np.eye(case["sizes"]["D"])[given["x"]]), found["dLdU"])
    assert_close(case["backward"]["do"] @ given["V"], case["backward"]["ds"])
    k = given["bptt_truncate"]
    for t, r in np.ndindex(dz.shape[:2]):
        assert dz[t, r].any() == (r <= t and (k is None or r >= t - k))
    o = reference.output_layer({"output.weight": given["V"]}, s)
    assert_close(o, case["forward"]["o"])
    assert_close(reference.cross_entropy(o, given["y"], "sum")[0], case["forward"]["loss"])


@pytest.mark.parametrize("name", SCANS)
def test_linear_scan(name):
    case = numbers(SCANS[name])
    given, backward = case["given"], case["backward"]
    a = recurrence.linear_scan(given["b"], given["c"], given["a0"])
    assert_close(a, case["forward"]["a"])
    found = recurrence.linear_scan_backward(given["d_a"], given["c"], a, given["a0"])
    for values, expected in zip(found, backward.values(), strict=True):
        assert_close(values, expected)


def test_recurrence():
    (case,) = RECURRENCES.values()
    forward, backward, w = case["forward"], case["backward"], case["given"]["w"]
    arguments = (
        lambda w, s: (1 + w * s) ** 2, lambda w, s: 2 * (1 + w * s) * s, lambda w, s: 2 * (1 + w * s) * w, w,
        case["given"]["s0"],
    )  # fmt: skip
    for way in (recurrence.sum_of_products, recurrence.forward_accumulation, recurrence.reverse_sweep):
        assert way(*arguments, case["sizes"]["T"]) == (forward["s"][-1], backward["d_w"])
        for t in range(1, case["sizes"]["T"] + 1):
            assert way(*arguments, t)[1] == forward["ds_dw"][t - 1]
    assert backward["d_w"] == 12926834988414
    assert sum(a * b for a, b in zip(backward["d_s"], forward["df_dw"], strict=True)) == backward["d_w"]
    assert backward["d_s0"] == backward["d_s"][0] * forward["df_ds"][0]
