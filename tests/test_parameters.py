"""load_parameters: PyTorch's state_dicts as they are, both ways, and what is refused."""

import numpy as np
import pytest
from support import assert_close, bits

import pybptt

FLAGS = (False, True)
KINDS = ("RNN", "LSTM", "GRU")


def make(kind, D=5, H=6, num_layers=3, seed=0, dtype="float64", **options):
    return getattr(pybptt, kind)(D, H, num_layers, dtype=dtype, seed=seed, **options)


def torch_module(torch, layer):
    kind = getattr(torch.nn, type(layer).__name__)
    dtype = getattr(torch, layer.dtype.name)
    return kind(layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias,
                bidirectional=layer.bidirectional, dtype=dtype)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("bidirectional", FLAGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pytorch_state_dict_fits(torch, kind, bias, bidirectional, dtype):
    layer = make(kind, bias=bias, bidirectional=bidirectional, dtype=dtype)
    module = torch_module(torch, layer)
    theirs = module.state_dict()
    assert [(name, tuple(v.shape)) for name, v in theirs.items()] == [
        (name, v.shape) for name, v in layer.parameters.items()
    ]
    flat = layer.flat
    for state_dict in (
        {name: tensor.numpy() for name, tensor in theirs.items()},
        dict(reversed(theirs.items())),
        dict(module.named_parameters()),  # which require gradients
    ):
        layer.flat[:] = np.nan
        layer.load_parameters(state_dict)
        assert layer.flat is flat
        for name, tensor in theirs.items():
            assert bits(layer.parameters[name]) == bits(tensor.numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", FLAGS)
def test_both_compute_the_same_then(torch, kind, bidirectional):
    layer = make(kind, bidirectional=bidirectional)
    module = torch_module(torch, layer)
    x = np.random.default_rng(0).normal(size=(7, 4, 5))
    loaded = module.load_state_dict({name: torch.from_numpy(v) for name, v in layer.parameters.items()})
    assert not loaded.missing_keys + loaded.unexpected_keys
    with torch.no_grad():
        assert_close(layer(x)[0], module(torch.from_numpy(x))[0].numpy())
        for parameter in module.parameters():
            parameter.mul_(-0.5)
        layer.load_parameters(module.state_dict())
        assert_close(layer(x)[0], module(torch.from_numpy(x))[0].numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_parameters_change_nothing(kind):
    options = {"RNN": {}, "LSTM": {"peephole": True, "coupled": True}, "GRU": {"reset_after": False}}[kind]
    layer = make(kind, bidirectional=True, **options)
    before = bits(layer.flat)
    layer.load_parameters(layer.parameters)
    layer.load_parameters(dict(layer.parameters))
    assert bits(layer.flat) == before
    other = make(kind, bidirectional=True, seed=1, **options)
    other.load_parameters(layer.parameters)
    assert bits(other.flat) == before
    assert not np.shares_memory(other.flat, layer.flat)


def test_parameters_may_be_exchanged():
    """The arrays given may be those that are written to, under other names."""
    rnn = make("RNN", 6, 6, 2)
    weights = [name for name in rnn.parameters if "weight" in name]  # (6, 6) each
    backwards = (rnn.parameters[name] for name in reversed(weights))
    swapped = dict(rnn.parameters) | dict(zip(weights, backwards, strict=True))
    expected = {name: array.copy() for name, array in swapped.items()}
    rnn.load_parameters(swapped)
    for name, array in expected.items():
        assert bits(rnn.parameters[name]) == bits(array)


def test_arrays_need_not_be_contiguous():
    rnn, other = make("RNN"), make("RNN", seed=1)
    rnn.load_parameters({name: np.asfortranarray(v) for name, v in other.parameters.items()})
    assert bits(rnn.flat) == bits(other.flat)


def test_a_model_has_the_output_layers_too(torch, tmp_path):
    model, other = (pybptt.SequenceModel(make("GRU", seed=k), 4, seed=k) for k in range(2))
    np.savez(tmp_path / "model.npz", **other.parameters)
    with np.load(tmp_path / "model.npz") as saved:
        model.load_parameters(saved)
    assert bits(model.flat) == bits(other.flat)
    assert bits(model.layer.flat) == bits(other.layer.flat)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(5, 6, 3, dtype=torch.float64)
            self.output = torch.nn.Linear(6, 4, dtype=torch.float64)

    theirs = Module().state_dict()
    model.layer.load_parameters(theirs, prefix="gru.")
    model.load_parameters({name.removeprefix("gru."): tensor for name, tensor in theirs.items()})
    assert bits(model.parameters["output.weight"]) == bits(theirs["output.weight"].numpy())
    assert bits(model.layer.parameters["weight_hh_l2"]) == bits(theirs["gru.weight_hh_l2"].numpy())


def test_only_names_with_the_prefix_count():
    rnn, other = make("RNN", num_layers=1), make("RNN", num_layers=1, seed=1)
    mapping = {f"encoder.{name}": array for name, array in other.parameters.items()}
    rnn.load_parameters(mapping | {"decoder.weight": None, "weight_ih_l0": None}, prefix="encoder.")
    assert bits(rnn.flat) == bits(other.flat)
    with pytest.raises(
        ValueError, match=r"^mapping: missing: decoder\.weight_ih_l0, .*; unexpected: decoder\.w$"
    ):
        rnn.load_parameters(mapping | {"decoder.w": None}, prefix="decoder.")


def changed(layer, change):
    """All the layer's parameters changed, and those that `change` names: by None they are left out."""
    mapping = {name: array + 1 for name, array in layer.parameters.items()} | change
    return {name: array for name, array in mapping.items() if array is not None}


WRONG = [
    ({"bias_hh_l0": None}, ValueError, "mapping: missing: bias_hh_l0$"),
    ({"weight_hr_l0": np.zeros(1)}, ValueError, "mapping: unexpected: weight_hr_l0$"),
    (
        {"weight_ih_l0": None, "bias_hh_l0": None, "a": 1, 7: 1},
        ValueError,
        "mapping: missing: weight_ih_l0, bias_hh_l0; unexpected: a, 7$",
    ),
    ({"bias_hh_l0": np.zeros(7)}, ValueError, r"mapping\['bias_hh_l0'\]: expected shape \(6,\), got \(7,\)"),
    (
        {"weight_hh_l0": np.zeros((6, 6, 1))},
        ValueError,
        r"mapping\['weight_hh_l0'\]: expected shape \(6, 6\)",
    ),
    ({"weight_ih_l0": np.zeros((5, 6))}, ValueError, r"mapping\['weight_ih_l0'\]: expected shape \(6, 5\)"),
    (
        {"bias_hh_l0": np.zeros(6, np.float32)},
        TypeError,
        r"mapping\['bias_hh_l0'\]: .*float64, got float32; .*\]\.astype\(np\.float64\)",
    ),
    (
        {"bias_hh_l0": [0.0] * 6},
        TypeError,
        r"mapping\['bias_hh_l0'\]: expected a numpy array of float64, got list",
    ),
    (
        {"bias_hh_l0": 0.0},
        TypeError,
        r"mapping\['bias_hh_l0'\]: expected a numpy array of float64, got float",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_what_is_wrong_changes_nothing(change, error, message):
    rnn = make("RNN", num_layers=1)
    before = bits(rnn.flat)
    with pytest.raises(error, match=f"^{message}"):
        rnn.load_parameters(changed(rnn, change))
    assert bits(rnn.flat) == before
    rnn.load_parameters(changed(rnn, {}))
    assert bits(rnn.flat) != before


def test_tensors_of_another_dtype_or_shape(torch):
    rnn = make("RNN", num_layers=1)
    before = bits(rnn.flat)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(
            TypeError, match=r"float64, got torch\..*; convert with mapping.*\.to\(torch\.float64\)$"
        ):
            rnn.load_parameters(changed(rnn, {"bias_hh_l0": torch.zeros(6, dtype=dtype)}))
    with pytest.raises(ValueError, match=r"^mapping\['bias_hh_l0'\]: expected shape \(6,\), got \(2, 3\)"):
        rnn.load_parameters(changed(rnn, {"bias_hh_l0": torch.zeros(2, 3, dtype=torch.float64)}))
    assert bits(rnn.flat) == before


def test_arguments_of_another_type():
    rnn = make("RNN", num_layers=1)
    with pytest.raises(TypeError, match=r"^mapping: expected a mapping of names to arrays, got ndarray"):
        rnn.load_parameters(rnn.flat)
    with pytest.raises(TypeError, match=r"^prefix: expected a str, got NoneType"):
        rnn.load_parameters(rnn.parameters, None)
