"""Bad input: the same kind of exception as torch.nn's, before any work, with a message that says more."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_support import CELLS, pair_of

import pybptt
import pybptt.torch

X = torch.ones(5, 3, 4)
H = torch.ones(1, 3, 6)


def packed(*lengths):
    return torch.nn.utils.rnn.pack_padded_sequence(torch.ones(max(lengths), len(lengths), 4), lengths)


BAD = {
    "input of one axis": ("GRU", (torch.ones(4),), r"expected input to be 2-D or 3-D, got a 1-D tensor"),
    "input of four axes": ("LSTM", (torch.ones(2, 2, 2, 4),), r"got a 4-D tensor"),
    "input size": ("GRU", (torch.ones(5, 3, 7),), r"input_size = 4, got 7"),
    "packed input size": ("RNN", (torch.nn.utils.rnn.pack_sequence([torch.ones(2, 7)]),), r"= 4, got 7"),
    "no steps": ("GRU", (torch.ones(0, 3, 4),), r"at least one step, got input \[0, 3, 4\]"),
    "input dtype": (
        "GRU",
        (X.double(),),
        r"input has dtype torch.float64, weight_ih_l0 has torch.float32",
    ),
    "integer input": (
        "GRU",
        (X.long(),),
        r"input has dtype torch.int64.*convert it with \.to\(torch.float32\)",
    ),
    "complex input": ("LSTM", (X.cfloat(),), r"input has dtype torch.complex64"),
    "short input": ("RNN", (X.bfloat16(),), r"input has dtype torch.bfloat16"),
    "integer packed input": ("GRU", (packed(4, 2).to(torch.int64),), r"input has dtype torch.int64"),
    "integer state": ("GRU", (X, H.long()), r"hx has dtype torch.int64"),
    "sparse input": ("LSTM", (X.to_sparse(),), r"expected input to be dense, got torch.sparse_coo"),
    "sparse state": ("GRU", (X, H.to_sparse()), r"expected hx to be dense, got torch.sparse_coo"),
    "three states": ("LSTM", (X, (H, H, H)), r"expected hx to be the pair \(h_0, c_0\), got \['Tensor', 'Te"),
    "state dtype": ("GRU", (X, H.double()), r"hx has dtype torch.float64.*\.to\(torch.float32\)"),
    "state axes": ("GRU", (X, H[0]), r"for batched 3-D input, hx should also be 3-D, got a 2-D tensor"),
    "state axes, unbatched": ("GRU", (X[:, 0], H), r"for unbatched 2-D input, hx should also be 2-D"),
    "pair's axes": ("LSTM", (X, (H, H[0])), r"for batched 3-D input, hx should also be 3-D"),
    "state batch": ("GRU", (X, torch.ones(1, 2, 6)), r"expected h_0 of size \(1, 3, 6\), got \(1, 2, 6\)"),
    "state units": ("GRU", (X, torch.ones(2, 3, 6)), r"expected h_0 of size \(1, 3, 6\), got \(2, 3, 6\)"),
    "state size": ("RNN", (X, torch.ones(1, 3, 5)), r"expected h_0 of size \(1, 3, 6\), got \(1, 3, 5\)"),
    "cell state size": ("LSTM", (X, (H, torch.ones(1, 3, 5))), r"expected c_0 of size \(1, 3, 6\)"),
    "packed state batch": ("GRU", (packed(4, 2), H), r"expected h_0 of size \(1, 2, 6\), got \(1, 3, 6\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_same_kind_of_exception_as_torch_nn(case):
    cell, arguments, message = BAD[case]
    theirs, ours = pair_of(cell, 4, 6)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(*arguments)
    with pytest.raises(expected.type, match=message) as found:
        ours(*arguments)
    assert f"pybptt.torch.{cell}: " in str(found.value)


@pytest.mark.parametrize(
    ("cell", "arguments"),
    [("LSTM", ()), ("GRU", (3, 0)), ("GRU", (0, 3)), ("RNN", (3, 4, 0)), ("LSTM", (3, 4, 1, 1))],
)
def test_constructors_check_as_torch_nn_does(cell, arguments):
    with pytest.raises(Exception) as expected:  # noqa: PT011
        getattr(torch.nn, cell)(*arguments)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        getattr(pybptt.torch, cell)(*arguments)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bias_ih_l0", lambda old: None, "expected bias_ih_l0 to be a tensor, got None"),
        ("weight_hh_l0", lambda old: None, "expected weight_hh_l0 to be a tensor, got None"),
        (
            "weight_hh_l0",
            torch.Tensor.double,
            "weight_hh_l0 has dtype torch.float64, weight_ih_l0 has torch.fl",
        ),
        ("weight_hh_l0", torch.Tensor.bfloat16, "weight_hh_l0 has dtype torch.bfloat16"),
        ("weight_hh_l0", torch.Tensor.to_sparse, "expected weight_hh_l0 to be dense, got torch.sparse_coo"),
    ],
)
def test_parameters_of_another_kind(cell, name, change, message):
    layers = pair_of(cell, 4, 6)
    for layer in layers:
        new = change(getattr(layer, name).detach())
        setattr(layer, name, None if new is None else torch.nn.Parameter(new))
    theirs, ours = layers
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(X)
    with pytest.raises(expected.type, match=message):
        ours(X)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("weight_ih_l0", (24, 3)),
        ("weight_hh_l0", (20, 5)),
        ("weight_hh_l0", (24, 5)),
        ("bias_ih_l0", (23,)),
        ("bias_hh_l1_reverse", (25,)),
        ("weight_ih_l1", (24, 6)),
        ("weight_hh_l1_reverse", (24, 7)),
    ],
)
def test_parameters_of_another_size(name, size):
    """Nothing is read past their end."""
    lstm = pybptt.torch.LSTM(4, 6, num_layers=2, bidirectional=True)
    setattr(lstm, name, torch.nn.Parameter(torch.ones(size)))
    with pytest.raises(RuntimeError, match=rf"expected {name} of size .*, got {re.escape(str(size))}"):
        lstm(X)


@pytest.mark.parametrize(("name", "size"), [("weight_hh_l0", (24, 3)), ("weight_hr_l0", (2, 5))])
def test_projections_of_another_size(name, size):
    lstm = pybptt.torch.LSTM(4, 6, proj_size=2)
    setattr(lstm, name, torch.nn.Parameter(torch.ones(size)))
    with pytest.raises(RuntimeError, match="expected weight_hr_l0 of size"):
        lstm(X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes(dtype):
    lstm = pybptt.torch.LSTM(4, 6)
    with pytest.raises(NotImplementedError, match=r"expected parameters of.*restore\(model\)"):
        lstm.to(dtype)(X)
    with torch.autocast("cpu"), pytest.raises(NotImplementedError, match="expected parameters of float32"):
        lstm(X)


def test_another_device():
    """Tensors that only say that they are elsewhere: there is no other device in every machine."""
    there = pybptt.torch.GRU(4, 6)
    with FakeTensorMode(allow_non_fake_inputs=True):
        there.weight_ih_l0 = torch.nn.Parameter(torch.empty(18, 4, device="cuda"))
        with pytest.raises(NotImplementedError, match=r"parameters on the CPU, got .*cuda.*restore\(model\)"):
            there(X)
    with pytest.raises(
        RuntimeError, match="expected input on cpu, where the parameters are, got one on meta"
    ):
        pybptt.torch.GRU(4, 6)(X.to("meta"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"lengths": [5, 3]},
            ValueError,
            r"expected lengths of size \(3,\), one for each sequence, got \(2,\)",
        ),
        ({"lengths": [5, 3, 6]}, ValueError, r"lengths: expected values in \[0, 5\], got 6 at \[2\]"),
        ({"lengths": [5, -1, 3]}, ValueError, r"got -1 at \[1\]"),
        ({"lengths": [5.0, 1.0, 3.0]}, TypeError, r"expected lengths of integers, got torch.float32"),
        ({"lengths": "abc"}, TypeError, r"expected lengths of integers, got 'abc'"),
        (
            {"lengths": [[1], [2, 3], 4]},
            TypeError,
            r"expected lengths of integers, got \[\[1\], \[2, 3\], 4\]",
        ),
        ({"truncation": 5}, TypeError, r"truncation: expected TBPTT"),
        (
            {"truncation": pybptt.RandomTruncation([0.5, 0.5])},
            ValueError,
            r"pi: expected one probability, or",
        ),
        ({"clip_hidden": ("norm", -1)}, ValueError, r"clip_hidden: expected a positive limit"),
        ({"memory_limit": "lots"}, ValueError, r"memory_limit: expected bytes or text"),
        ({"memory_limit": 1.5}, TypeError, r"memory_limit: expected bytes or text"),
    ],
)
def test_our_own_options(options, error, message):
    with pytest.raises(error, match=message):
        pybptt.torch.LSTM(4, 6)(X, **options)


def test_our_own_options_where_they_cannot_be():
    lstm = pybptt.torch.LSTM(4, 6, bidirectional=True)
    with pytest.raises(ValueError, match="truncation: expected layers of one direction"):
        lstm(X, truncation=pybptt.TBPTT(2, 2))
    with pytest.raises(ValueError, match="memory_limit: expected a layer of one direction"):
        lstm(X, memory_limit="1GB")
    with pytest.raises(ValueError, match="expected no lengths beside a PackedSequence"):
        lstm(packed(4, 2), lengths=[4, 2])
    with pytest.raises(ValueError, match="expected no lengths for unbatched"):
        lstm(X[:, 0], lengths=[5])


@pytest.mark.parametrize(
    ("cell", "hx"),
    [("LSTM", H), ("LSTM", (H,)), ("LSTM", (H, None)), ("LSTM", 3), ("GRU", (H, H)), ("RNN", [H])],
)
def test_a_state_of_the_other_kind(cell, hx):
    layer = getattr(pybptt.torch, cell)(4, 6)
    wanted = "the pair" if cell == "LSTM" else "a tensor"
    with pytest.raises(TypeError, match=f"expected hx to be {wanted}"):
        layer(X, hx)


def test_many_upstreams_at_once_are_an_error():
    lstm = pybptt.torch.LSTM(4, 6)
    output, _ = lstm(X)
    upstreams = torch.ones(2, *output.shape)
    with pytest.raises(NotImplementedError, match=r"is_grads_batched.*restore\(model\)"):
        torch.autograd.grad(output, lstm.weight_hh_l0, upstreams, is_grads_batched=True)
    with pytest.raises(NotImplementedError, match="vectorize=True"):
        torch.autograd.functional.jacobian(lambda x: lstm(x)[0], X, vectorize=True)


@pytest.mark.parametrize("of", ["weight_hh_l0", "input"])
def test_what_is_changed_before_backward_is_an_error(of):
    """As with torch.nn, whose message it is."""
    lstm = pybptt.torch.LSTM(4, 6)
    x = X.clone()
    output, _ = lstm(x)
    with torch.no_grad():
        (x if of == "input" else lstm.weight_hh_l0).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
