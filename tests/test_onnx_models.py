"""pybptt.onnx.export: whole models, run by ONNX Runtime and, in float64, by ONNX's own evaluator."""

import sys

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from support import run_python

import pybptt

onnxruntime = pytest.importorskip("onnxruntime", reason="it runs what is exported")

FLAGS = (False, True)
LAYERS = [
    *(("RNN", {"nonlinearity": phi}) for phi in ("tanh", "relu", "sigmoid", "identity")),
    *(("LSTM", {"peephole": peephole, "coupled": coupled}) for peephole in FLAGS for coupled in FLAGS),
    *(("GRU", {"reset_after": after}) for after in FLAGS),
    ("RNN", {"clip": 0.5}),
    ("GRU", {"clip": 0.5}),
    ("GRU", {"clip": 0.5, "reset_after": False}),
]
# ONNX's own evaluator knows tanh and the identity of an RNN, no coupled gates, and no clip.
EVALUATED = [
    (kind, options)
    for kind, options in LAYERS
    if options.get("nonlinearity") not in ("relu", "sigmoid")
    and not {"clip"} & set(options)
    and not options.get("coupled")
]


def run(path, values):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, values), strict=True))


def evaluated(path, values):
    model = onnx.load(path)
    return dict(
        zip([o.name for o in model.graph.output], ReferenceEvaluator(model).run(None, values), strict=True)
    )


def make(kind, dtype="float32", head=None, **options):
    layer = getattr(pybptt, kind)(5, 4, dtype=dtype, seed=0, **options)
    model = layer if head is None else pybptt.SequenceModel(layer, 3, **head, seed=1)
    model.flat *= 2
    return model


def data(model, tokens, state, T=7, B=2):
    rng = np.random.default_rng(3)
    layer = getattr(model, "layer", model)
    shape = (B, T) if layer.batch_first else (T, B)
    x = rng.integers(5, size=shape) if tokens else rng.normal(size=(*shape, 5)).astype(layer.dtype)
    h = rng.normal(size=(layer._units, B, 4)).astype(layer.dtype)
    given = (h, 0.5 * h) if isinstance(layer, pybptt.LSTM) else h
    values = {"x": x}
    if state:
        values |= {"h_0": h, "c_0": 0.5 * h} if isinstance(layer, pybptt.LSTM) else {"h_0": h}
    return x, given if state else None, values


def compare(model, found, x, state, **tolerance):
    output, final = model(x, state)
    expected = {"output": output}
    expected |= {"h_T": final[0], "c_T": final[1]} if isinstance(final, tuple) else {"h_T": final}
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("head", [None, {}, {"last_only": True}])
@pytest.mark.parametrize(
    "common",
    [
        {},
        {"num_layers": 3, "bias": False, "dropout": 0.5},
        {"num_layers": 2, "bidirectional": True},
        {"bidirectional": True, "batch_first": True},
    ],
)
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_onnx_runtime_gives_the_same(kind, options, common, head, tmp_path):
    model = make(kind, head=head, **options, **common)
    path = tmp_path / "model.onnx"
    for tokens, state in ((False, False), (True, True)):
        pybptt.onnx.export(model, path, tokens=tokens, state=state)
        onnx.checker.check_model(str(path), full_check=True)
        for T in (7, 1):  # their number is free
            x, given, values = data(model, tokens, state, T=T, B=T)
            compare(model, run(path, values), x, given, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("head", [None, {}, {"last_only": True, "loss": "mse"}])
@pytest.mark.parametrize("batch_first", FLAGS)
@pytest.mark.parametrize(("kind", "options"), EVALUATED)
def test_float64_by_onnx_itself(kind, options, batch_first, head, tmp_path):
    model = make(kind, "float64", head, num_layers=2, bidirectional=True, batch_first=batch_first, **options)
    path = tmp_path / "model.onnx"
    for tokens, state in ((False, True), (True, False)):
        pybptt.onnx.export(model, path, tokens=tokens, state=state)
        x, given, values = data(model, tokens, state)
        compare(model, evaluated(path, values), x, given, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "options"), LAYERS[::3])
def test_a_float64_model_as_float32(kind, options, tmp_path):
    model = make(kind, "float64", {}, **options)
    pybptt.onnx.export(model, tmp_path / "it", dtype="float32", tokens=True)
    x, _, values = data(model, True, False)
    found = run(tmp_path / "it", values)
    assert found["output"].dtype == np.float32
    np.testing.assert_allclose(found["output"], model(x)[0], rtol=1e-5, atol=2e-6)


def test_a_state_can_be_carried(tmp_path):
    model = make("LSTM", head={}, num_layers=2)
    pybptt.onnx.export(model, tmp_path / "it", state=True)
    x, state, values = data(model, False, True)
    first, second = {**values, "x": x[:3]}, {**values, "x": x[3:]}
    found = run(tmp_path / "it", first)
    found = run(tmp_path / "it", second | {"h_0": found["h_T"], "c_0": found["c_T"]})
    np.testing.assert_allclose(found["output"], model(x, state)[0][3:], rtol=1e-5, atol=2e-6)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    path = tmp_path / "it"
    projected = pybptt.LSTM(3, 4, proj_size=2)
    for model in (projected, pybptt.SequenceModel(projected, 5)):
        with pytest.raises(ValueError, match="^layer: ONNX's LSTM has no projection, got proj_size=2"):
            pybptt.onnx.export(model, path)
    for bad, error, message in (
        ({"model": "x"}, TypeError, "model: expected a SequenceModel, an RNN, an LSTM or a GRU, got str"),
        ({"tokens": 1}, TypeError, "tokens: expected True or False"),
        ({"state": None}, TypeError, "state: expected True or False"),
        ({"dtype": "float16"}, TypeError, "dtype: expected 'float32' or 'float64'"),
        ({"path": 3}, TypeError, "path: expected a str or a path, got int"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            pybptt.onnx.export(**{"model": make("RNN"), "path": path} | bad)
    with pytest.raises(FileNotFoundError):
        pybptt.onnx.export(make("RNN"), tmp_path / "no" / "it")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'pybptt\[onnx\]'"):
        pybptt.onnx.export(make("RNN"), path)
    assert not list(tmp_path.iterdir())


def test_importing_does_not_import_onnx():
    assert run_python("import sys, pybptt.onnx; print('onnx' in sys.modules)") == "False\n"
