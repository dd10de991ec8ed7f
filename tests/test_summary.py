"""summary: its counts against PyTorch's modules, its memory against `memory`."""

import re

import pytest
import torch

import pybptt


def counts(text):
    found = re.findall(r"^(\S.*?) +([\d,]+) +([\d,]+) +([\d,]+)$", text, re.MULTILINE)
    return {name: tuple(int(n.replace(",", "")) for n in numbers) for name, *numbers in found}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "proj_size"), [("RNN", 0), ("LSTM", 0), ("LSTM", 3), ("GRU", 0)])
def test_the_counts_are_pytorchs(kind, proj_size, bidirectional, bias):
    options = {"bias": bias, "bidirectional": bidirectional} | ({"proj_size": proj_size} if proj_size else {})
    layer = getattr(pybptt, kind)(5, 7, 12, **options)
    theirs = getattr(torch.nn, kind)(5, 7, 12, **options)
    K, P = 1 + bidirectional, proj_size or 7
    expected = {}
    for index in range(12):
        for end, direction in (("", ""), ("_reverse", " reverse"))[:K]:
            own = [p for name, p in theirs.named_parameters() if name.endswith(f"_l{index}{end}")]
            inputs = K * P if index else 5
            expected[f"{kind} {index}{direction}"] = (inputs, P, sum(p.numel() for p in own))
    total = sum(p.numel() for p in theirs.parameters())
    assert counts(layer.summary()) == expected | {"in all": (5, K * P, total)}
    model = pybptt.SequenceModel(layer, 1000)
    head = torch.nn.Linear(K * P, 1000)
    output = sum(p.numel() for p in head.parameters())
    own = {"output": (K * P, 1000, output), "in all": (5, 1000, total + output)}
    assert counts(model.summary()) == expected | own
    assert model.summary().startswith(f"{model!r}\n")


def test_memory_is_what_memory_says():
    layer = pybptt.LSTM(5, 7, 2, dropout=0.5, seed=0)
    assert layer.summary(500, 3).endswith(f"\nforward and backward of {layer.memory(500, 3)}")
    model = pybptt.SequenceModel(layer, 5)
    assert model.summary(500, 3).endswith(f"\nloss_and_grad of {model.memory(500, 3)}")
    assert model.summary(500, 3, tokens=True).endswith(f" of {model.memory(500, 3, tokens=True)}")
    assert model.summary(500, 3, tokens=True) != model.summary(500, 3)


@pytest.mark.parametrize(
    ("sizes", "options", "error", "message"),
    [
        ((3,), {}, TypeError, "batch: expected a number, because steps is one, got None"),
        ((None, 3), {}, TypeError, "steps: expected a number, because batch is one, got None"),
        ((-1, 3), {}, ValueError, "steps: expected at least 0, got -1"),
        ((1, 2.5), {}, TypeError, "batch: expected an integer, got float"),
        ((), {"tokens": 1}, TypeError, "tokens: expected True or False, got int"),
    ],
)
def test_bad_calls(sizes, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        pybptt.RNN(3, 4).summary(*sizes, **options)
