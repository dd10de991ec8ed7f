"""accelerate and restore: our layers in the place of torch.nn's, and back."""

import copy

import pytest
import torch
from torch_support import CELLS, assert_same, random_input, run

import pybptt
import pybptt.torch


class Own(torch.nn.LSTM):
    pass


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "rnn": torch.nn.RNN(3, 4, nonlinearity="relu"),
            "deep": torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LSTM(3, 4, 2, proj_size=2)),
            "gru": torch.nn.GRU(3, 4, bidirectional=True),
            "own": Own(3, 4),
            "cell": torch.nn.GRUCell(3, 4),
            "short": torch.nn.LSTM(3, 4).bfloat16(),
            "elsewhere": torch.nn.LSTM(3, 4, device="meta"),
        }
    )


def test_what_is_swapped_and_what_is_left():
    model = model_of()
    report = pybptt.torch.accelerate(model)
    assert report.swapped == {
        "rnn": "pybptt.torch.RNN",
        "deep.1": "pybptt.torch.LSTM",
        "gru": "pybptt.torch.GRU",
    }
    assert list(report.left) == ["own", "cell", "short", "elsewhere"]
    for name, why in zip(
        report.left, ("Own: a class of", "GRUCell: a cell", "bfloat16", "meta"), strict=True
    ):
        assert why in report.left[name]
    assert type(model["deep"][1]) is pybptt.torch.LSTM
    assert type(model["own"]) is Own
    lines = str(report).splitlines()
    assert lines[1] == "deep.1: pybptt.torch.LSTM"
    assert lines[3].startswith("own: left, ")
    assert repr(pybptt.torch.accelerate(torch.nn.Linear(2, 2))) == "no recurrent layers"
    again = pybptt.torch.accelerate(model)
    assert (again.swapped, again.left) == ({}, report.left)
    back = pybptt.torch.restore(model)
    assert list(back.swapped) == list(report.swapped)
    assert type(model["deep"][1]) is torch.nn.LSTM


def test_parametrized_weights_are_left():
    lstm = torch.nn.LSTM(3, 4)
    torch.nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    assert "ParametrizedLSTM" in pybptt.torch.accelerate(lstm).left[""]


@pytest.mark.parametrize("cell", CELLS)
def test_layers_keep_their_identity(cell):
    layer = getattr(torch.nn, cell)(3, 4, 2, dtype=torch.float64)
    before = (id(layer), [id(p) for p in layer.parameters()], repr(layer))
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    x = random_input(layer, 5, 2, requires_grad=True)
    expected = run(layer, x, None)
    pybptt.torch.accelerate(layer)
    assert (id(layer), [id(p) for p in layer.parameters()], repr(layer)) == before
    found = run(layer, x, None)
    assert_same(found.gradients, expected.gradients)
    assert len(calls) == 2
    assert layer(x)[0].grad_fn.name() == "RecurrenceBackward"
    pybptt.torch.restore(layer)
    assert all(map(torch.equal, run(layer, x, None).gradients, expected.gradients))


def test_an_optimizer_made_before_goes_on():
    torch.manual_seed(0)
    plain = torch.nn.LSTM(3, 4, dtype=torch.float64)
    swapped = copy.deepcopy(plain)
    x = random_input(plain, 5, 2)
    optimizers = [torch.optim.Adam(layer.parameters(), lr=0.1) for layer in (plain, swapped)]
    for i in range(6):
        if i == 2:
            pybptt.torch.accelerate(swapped)
        for layer, optimizer in zip((plain, swapped), optimizers, strict=True):
            optimizer.zero_grad()
            layer(x)[0].square().sum().backward()
            optimizer.step()
    assert_same(list(swapped.parameters()), list(plain.parameters()), 1e-9)


def test_no_module():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got dict"):
        pybptt.torch.accelerate({})
