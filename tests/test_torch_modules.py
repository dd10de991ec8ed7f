"""pybptt.torch's layers beside torch.nn's: what they compute, over random configurations and all options."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_support import (
    CELLS,
    assert_same,
    assert_same_runs,
    gradients,
    pair_of,
    random_input,
    random_state,
    run,
    tensors_of,
)

import pybptt
import pybptt.torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN", "ignore:dropout option adds dropout"
)


@st.composite
def configurations(draw):
    cell = draw(st.sampled_from(CELLS))
    H = draw(st.integers(1, 40))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dropout": draw(st.sampled_from((0.0, 0.3, 1.0))),
        "dtype": draw(st.sampled_from((torch.float64, torch.float32))),
    }
    if cell == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(("tanh", "relu")))
    if cell == "LSTM" and H > 1:
        options["proj_size"] = draw(st.integers(0, H - 1))
    return cell, (draw(st.integers(1, 20)), H), options


@given(
    configurations(), st.integers(1, 30), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 99)
)
@settings(max_examples=80, deadline=None)
def test_values_and_gradients(configuration, T, B, with_state, training, seed):
    cell, sizes, options = configuration
    theirs, ours = (layer.train(training) for layer in pair_of(cell, *sizes, seed=seed, **options))
    x = random_input(ours, *((B, T) if ours.batch_first else (T, B)), seed=seed, requires_grad=True)
    hx = random_state(ours, B, requires_grad=True) if with_state else None
    assert_same_runs(run(ours, x, hx), run(theirs, x, hx))


@given(configurations(), st.lists(st.integers(1, 40), min_size=1, max_size=40), st.booleans(), st.booleans(),
       st.integers(0, 99))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_packed_sequences(configuration, lengths, with_state, falling, seed):
    cell, sizes, options = configuration
    theirs, ours = pair_of(cell, *sizes, seed=seed, **options)
    lengths = sorted(lengths, reverse=True) if falling else lengths
    T, B = max(lengths), len(lengths)
    x = random_input(ours, *((B, T) if ours.batch_first else (T, B)), seed=seed, requires_grad=True)
    hx = random_state(ours, B, requires_grad=True) if with_state else None
    ragged = {"lengths": lengths, "enforce_sorted": falling}
    assert_same_runs(run(ours, x, hx, **ragged), run(theirs, x, hx, **ragged))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(300, 64), (1, 200)])
def test_long_packed_sequences_on_several_threads(cell, sizes):
    """Of several chunks and slices."""
    T, B = sizes
    theirs, ours = pair_of(cell, 9, 24, 2, bidirectional=True, dtype=torch.float64)
    lengths = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(5))
    x = random_input(ours, T, B, requires_grad=True)
    expected = run(theirs, x, None, lengths=lengths)
    found = run(ours, x, None, lengths=lengths)
    assert_same_runs(found, expected)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = run(ours, x, None, lengths=lengths)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, found.results + [*found.gradients], again.results + [*again.gradients]))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_unbatched(cell, batch_first, with_state):
    theirs, ours = pair_of(cell, 5, 7, 2, batch_first=batch_first, bidirectional=True, dtype=torch.float64)
    x = random_input(ours, 6, requires_grad=True)
    hx = random_state(ours, None, requires_grad=True) if with_state else None
    assert_same_runs(run(ours, x, hx), run(theirs, x, hx))


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_program_can_see(cell):
    options = {"num_layers": 2, "batch_first": True, "dropout": 0.25, "bidirectional": True}
    theirs, ours = pair_of(cell, 5, 7, **options)
    assert isinstance(ours, torch.nn.modules.rnn.RNNBase)
    assert repr(ours) == repr(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))  # of the same seed
    for name in theirs.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(ours.all_weights) == 4
    assert ours.flatten_parameters() is None
    for a, b in ((ours, theirs), (theirs, ours)):
        for parameter in a.parameters():
            torch.nn.init.normal_(parameter)
        b.load_state_dict(a.state_dict(), strict=True)
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    torch.manual_seed(7)
    ours.reset_parameters()
    torch.manual_seed(7)
    theirs.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_arguments_by_position():
    nonlinear = pybptt.torch.RNN(3, 4, 2, "relu", False, True, 0.5, True)
    assert repr(nonlinear) == repr(torch.nn.RNN(3, 4, 2, "relu", False, True, 0.5, True))
    projected = pybptt.torch.LSTM(3, 4, 2, False, True, 0.5, True, 2)
    assert repr(projected) == repr(torch.nn.LSTM(3, 4, 2, False, True, 0.5, True, 2))


@pytest.mark.parametrize("method", ["no_grad", "inference_mode"])
@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients_there_is_no_tape(cell, method):
    theirs, ours = pair_of(cell, 5, 7, 2, dtype=torch.float64)
    x = random_input(ours, 6, 3, requires_grad=True)
    before = len(pybptt.torch.ops._handles)
    with getattr(torch, method)():
        results = tensors_of(ours(x))
        assert not any(r.requires_grad for r in results)
        assert len(pybptt.torch.ops._handles) == before
        assert_same(results, tensors_of(theirs(x)))
    ours.requires_grad_(False)
    assert not any(r.requires_grad for r in tensors_of(ours(x.detach())))


def test_a_tape_lives_as_long_as_its_graph():
    lstm = pybptt.torch.LSTM(5, 7)
    before = len(pybptt.torch.ops._handles)
    output, _ = lstm(torch.ones(6, 3, 5))
    assert len(pybptt.torch.ops._handles) == before + 1
    output.sum().backward(retain_graph=True)
    first = lstm.weight_hh_l0.grad.clone()
    lstm.zero_grad()
    output.sum().backward()
    assert torch.equal(lstm.weight_hh_l0.grad, first)
    assert len(pybptt.torch.ops._handles) == before  # what autograd has let go is gone
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.sum().backward()


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_any_subset(cell):
    theirs, ours = pair_of(cell, 5, 7, 2, bidirectional=True, dtype=torch.float64)
    count = len(list(ours.parameters()))
    generator = np.random.default_rng(0)
    for _ in range(25):
        wanted = generator.random(3 + count) < generator.choice((0.1, 0.5, 0.9))
        for layer in (theirs, ours):
            for parameter, want in zip(layer.parameters(), wanted[3:], strict=True):
                parameter.requires_grad_(bool(want))
        x = random_input(ours, 6, 3).requires_grad_(bool(wanted[0]))
        hx = random_state(ours, 3)
        for state, want in zip(tensors_of(hx), wanted[1:3], strict=False):
            state.requires_grad_(bool(want))
        if any(t.requires_grad for t in (x, *tensors_of(hx), *ours.parameters())):
            assert_same_runs(run(ours, x, hx), run(theirs, x, hx))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_frozen_lower_layers_change_no_bit_of_those_above(cell, bidirectional):
    options = {"dropout": 0.3, "bidirectional": bidirectional, "dtype": torch.float64}
    theirs, ours = pair_of(cell, 5, 7, 4, **options)
    x = random_input(ours, 90, 3)
    every = dict(zip(dict(ours.named_parameters()), run(ours, x, None).gradients, strict=True))
    for frozen in range(4):
        for layer in (theirs, ours):
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(f"_l{frozen}" not in name and parameter.requires_grad)
        above = [gradient for name, gradient in every.items() if int(name.split("_l")[1][0]) > frozen]
        if above:
            found = run(ours, x, None)
            assert_same_runs(found, run(theirs, x, None))
            assert all(map(torch.equal, found.gradients, above))


@pytest.mark.parametrize("dropout", [0.3, 1.0])
def test_dropout_draws_what_torch_nn_draws(dropout):
    states = []
    for layer in pair_of("LSTM", 5, 7, 3, dropout=dropout):
        run(layer, random_input(layer, 6, 3, requires_grad=True), None)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_a_loss_of_one_result_alone(used):
    theirs, ours = pair_of("LSTM", 5, 7, 2, dtype=torch.float64)
    x = random_input(ours, 6, 3, requires_grad=True)
    found, expected = (
        gradients(tensors_of(layer(x))[used : used + 1], [x, *layer.parameters()]) for layer in (ours, theirs)
    )
    # What the loss does not depend on has no gradient there, and zeros here.
    assert_same(
        found, [torch.zeros_like(f) if e is None else e for f, e in zip(found, expected, strict=True)]
    )


def test_upstream_that_is_not_contiguous():
    theirs, ours = pair_of("GRU", 5, 7, batch_first=True, dtype=torch.float64)
    x = random_input(ours, 6, 3)
    found, expected = (
        torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters())) for layer in (ours, theirs)
    )
    assert_same(found, expected)


def test_input_and_parameters_that_are_not_contiguous():
    theirs, ours = pair_of("GRU", 5, 7, dtype=torch.float64)
    for layer in (theirs, ours):
        layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach().T.contiguous().T)
    x = random_input(ours, 3, 6).transpose(0, 1)
    h = random_state(ours, 6)[:, ::2].requires_grad_()
    assert_same_runs(run(ours, x, h), run(theirs, x, h))


def test_tied_and_shared_parameters():
    theirs, ours = pair_of("LSTM", 7, 7, 2, dtype=torch.float64)
    for layer in (theirs, ours):
        layer.weight_ih_l1 = layer.weight_ih_l0
        layer.weight_hh_l1 = layer.weight_hh_l0
    x = random_input(ours, 6, 3, requires_grad=True)
    assert len(list(ours.parameters())) == len(list(theirs.parameters())) == 6
    assert_same_runs(run(ours, x, None), run(theirs, x, None))


def test_functional_call_and_weight_norm():
    theirs, ours = pair_of("LSTM", 5, 7, dtype=torch.float64)
    x = random_input(ours, 6, 3)
    other = {name: 2 * p.detach() for name, p in ours.named_parameters()}
    found, expected = (tensors_of(torch.func.functional_call(m, other, (x,))) for m in (ours, theirs))
    assert_same(found, expected)
    for layer in (theirs, ours):
        torch.nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    assert_same_runs(run(ours, x, None), run(theirs, x, None))


def test_hooks():
    seen = []
    gru = pybptt.torch.GRU(3, 4)
    gru.register_forward_pre_hook(lambda *_: seen.append("before"))
    gru.register_forward_hook(lambda *_: seen.append("after"))
    gru.weight_ih_l0.register_hook(lambda g: seen.append("gradient") or 2 * g)
    x = torch.ones(5, 2, 3)
    gru(x)[0].sum().backward()
    assert seen == ["before", "after", "gradient"]
    plain = copy.deepcopy(gru)
    plain.zero_grad()
    plain.weight_ih_l0._backward_hooks = None
    plain(x)[0].sum().backward()
    assert torch.equal(gru.weight_ih_l0.grad, 2 * plain.weight_ih_l0.grad)


def copies_of(layer):
    yield copy.deepcopy(layer)
    yield pickle.loads(pickle.dumps(layer))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    yield torch.load(file, weights_only=False)
    shared = copy.deepcopy(layer)
    shared.share_memory()
    yield shared


def test_copies_and_dtypes():
    lstm = pybptt.torch.LSTM(3, 4, 2, proj_size=2)
    x = torch.ones(5, 2, 3)
    expected = tensors_of(lstm(x))
    for copied in copies_of(lstm):
        assert type(copied) is pybptt.torch.LSTM
        assert all(map(torch.equal, tensors_of(copied(x)), expected))
    wide = copy.deepcopy(lstm).double()
    assert wide(x.double())[0].dtype == torch.float64
    assert all(map(torch.equal, tensors_of(wide.to(torch.float32)(x)), expected))


def test_several_threads_at_once():
    lstm = pybptt.torch.LSTM(5, 16, 2)
    x = torch.ones(20, 4, 5)
    expected = torch.autograd.grad(lstm(x)[0].sum(), list(lstm.parameters()))
    failed = []

    def work():
        for _ in range(20):
            found = torch.autograd.grad(lstm(x)[0].sum(), list(lstm.parameters()))
            if not all(map(torch.equal, found, expected)):
                failed.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("cell", CELLS)
def test_batches_of_none_and_one(cell, batch):
    theirs, ours = pair_of(cell, 5, 7, 2, dtype=torch.float64)
    x = random_input(ours, 6, batch, requires_grad=True)
    assert_same(tensors_of(ours(x)), tensors_of(theirs(x)))
    assert run(ours, x, None).gradients[0].shape == x.shape
