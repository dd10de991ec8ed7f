"""SequenceModel: loss, gradients and predictions against PyTorch's autograd and against pybptt.reference."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    NONLINEARITIES,
    assert_all_close,
    assert_close,
    bits,
    model_problem,
    torch_dense,
    torch_forward,
)

import pybptt
from pybptt import reference

FLAGS = (False, True)
LOSSES = ("cross_entropy", "mse")
REDUCTIONS = ("mean", "sum")


def options_of(model):
    return {
        "nonlinearity": model.layer.nonlinearity,
        "loss": model.loss_name,
        "reduction": model.reduction,
        "last_only": model.last_only,
    }


def autograd(torch, model, x, y, state=None):
    """Logits, loss, and gradients by parameters, x, h_0 and each h_t; with PyTorch's losses."""
    leaves = {name: torch.tensor(values, requires_grad=True) for name, values in model.parameters.items()}
    xs = torch_dense(torch, x, model.layer.input_size).requires_grad_()
    h_0 = np.zeros((1, x.shape[1], model.layer.hidden_size)) if state is None else state
    h_0 = torch.tensor(h_0, requires_grad=True)
    states = torch_forward(torch, leaves, xs, h_0[0], model.layer.nonlinearity)
    for h in states[1:]:
        h.retain_grad()
    output = states[-1] if model.last_only else torch.stack(states[1:])
    o = torch.nn.functional.linear(output, leaves["output.weight"], leaves["output.bias"])
    if model.loss_name == "mse":
        loss = torch.nn.functional.mse_loss(o, torch.tensor(y), reduction=model.reduction)
    else:
        targets = torch.tensor(y).flatten()
        loss = torch.nn.functional.cross_entropy(o.flatten(0, -2), targets, reduction=model.reduction)
    loss.backward()
    hidden = np.stack([h.grad.numpy() for h in states[1:]])[None]
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    return o.detach().numpy(), loss.item(), gradients, xs.grad.numpy(), h_0.grad.numpy(), hidden


def assert_agrees_with_autograd(torch, p, tolerance=1e-12):
    """All that a model computes, and that its three ways to a loss agree with one another."""
    for state in (None, p.state):
        o, loss, gradients, d_x, d_h0, hidden = autograd(torch, p.model, p.x, p.y, state)
        value, g, last = p.model.loss_and_grad(p.x, p.y, state, hidden=True, input=True)
        assert value == pytest.approx(loss, rel=tolerance)
        assert_all_close(g.parameters, gradients, tolerance)
        assert_close(g.state, d_h0, tolerance)
        assert_close(g.hidden, hidden, tolerance)
        if p.x.ndim == 3:
            assert_close(g.input, d_x, tolerance)
        assert bits(*p.model.loss(p.x, p.y, state)) == bits(value, last)
        prediction, last_state = p.model(p.x, state)
        assert_close(prediction, o, tolerance)
        assert bits(last_state) == bits(last) == bits(p.model.layer(p.x, state)[1])


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_agrees_with_autograd(torch, nonlinearity, loss, reduction):
    for last_only, tokens, bias in itertools.product(FLAGS, repeat=3):
        p = model_problem(
            9, 5, 7, 13, 11, tokens=tokens, loss=loss, reduction=reduction, last_only=last_only,
            nonlinearity=nonlinearity, bias=bias,
        )  # fmt: skip
        assert_agrees_with_autograd(torch, p)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("last_only", FLAGS)
@pytest.mark.parametrize(("T", "B"), [(130, 8), (256, 1), (513, 1), (2, 513), (171, 3), (20, 17), (4, 130)])
def test_agrees_with_autograd_however_time_and_batch_are_cut(torch, T, B, loss, last_only):
    assert_agrees_with_autograd(torch, model_problem(T, B, 4, 6, 5, loss=loss, last_only=last_only))


@pytest.mark.parametrize("Q", [1, 2, 8001])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("last_only", FLAGS)
def test_agrees_with_autograd_for_few_and_many_outputs(torch, Q, loss, last_only):
    """With 8001 outputs, a chunk's 130 rows go through the output layer in blocks of 32, and a rest."""
    assert_agrees_with_autograd(torch, model_problem(10, 13, 5, 9, Q, loss=loss, last_only=last_only), 2e-12)


def test_the_textbook_model_of_8000_words(torch):
    p = model_problem(20, 1, 8000, 100, 8000, reduction="sum")
    assert_agrees_with_autograd(torch, p)
    g = p.model.loss_and_grad(p.x, p.y)[1].parameters["weight_ih_l0"]
    unseen = np.setdiff1d(np.arange(8000), p.x)
    assert not g[:, unseen].any()
    assert g[:, p.x.ravel()].any(axis=0).all()


SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33])


@settings(max_examples=150)
@given(T=SIZES, B=st.one_of(st.just(0), SIZES), D=SIZES, H=SIZES, Q=SIZES, tokens=st.booleans(),
       loss=st.sampled_from(LOSSES), reduction=st.sampled_from(REDUCTIONS), last_only=st.booleans(),
       nonlinearity=st.sampled_from(NONLINEARITIES), seed=st.integers(0, 1000))  # fmt: skip
def test_agrees_with_the_reference_for_any_shape(T, B, D, H, Q, seed, **options):
    p = model_problem(T, B, D, H, Q, seed=seed, **options)
    expected = reference.loss_and_grad(p.model.parameters, p.x, p.y, p.state, **options_of(p.model))
    loss, g, last = p.model.loss_and_grad(p.x, p.y, p.state)
    floor = 1.0 if p.model.reduction == "sum" else 1.0 / max(1, p.y.size)
    assert abs(loss - expected[0]) <= 1e-12 * max(1.0, abs(expected[0]))
    assert_all_close(g.parameters, expected[1], floor=floor)
    assert_close(last, expected[2], floor=1.0)
    assert p.model.loss(p.x, p.y, p.state)[0] == loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("T", "B", "last_only"), [(0, 3, False), (4, 0, False), (0, 0, False), (4, 0, True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_targets(T, B, last_only, loss, reduction, dtype):
    p = model_problem(T, B, 4, 5, 3, loss=loss, reduction=reduction, last_only=last_only, dtype=dtype)
    value, g, last = p.model.loss_and_grad(p.x, p.y, p.state, hidden=True)
    assert value == p.model.loss(p.x, p.y, p.state)[0] == 0
    assert not g.flat.any()
    assert not g.state.any()
    assert g.state.shape == (1, B, 5)
    assert g.hidden.shape == (1, T, B, 5)
    assert bits(last) == bits(p.state)
    assert p.model(p.x)[0].shape == ((B, 3) if last_only else (T, B, 3))


@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("last_only", FLAGS)
def test_batch_first_is_the_same_with_axes_swapped(tokens, loss, last_only):
    options = {"tokens": tokens, "loss": loss, "last_only": last_only}
    p = model_problem(6, 3, 4, 9, 5, **options)
    q = model_problem(6, 3, 4, 9, 5, batch_first=True, **options)
    asked = {"hidden": True, "input": True}
    x, y = p.x.swapaxes(0, 1), p.y if last_only else p.y.swapaxes(0, 1)
    value, g, last = p.model.loss_and_grad(p.x, p.y, p.state, **asked)
    swapped, h, h_last = q.model.loss_and_grad(x, y, p.state, **asked)
    assert bits(swapped, h.flat, h.state, h.hidden, h_last) == bits(value, g.flat, g.state, g.hidden, last)
    assert q.model.loss(x, y, p.state)[0] == value
    if not tokens:
        assert bits(h.input.swapaxes(0, 1)) == bits(g.input)
    prediction = q.model(x, p.state)[0]
    assert bits(prediction if last_only else prediction.swapaxes(0, 1)) == bits(p.model(p.x, p.state)[0])


def test_what_is_not_asked_for_is_not_there_and_changes_nothing():
    p = model_problem(6, 3, 4, 17, 5, tokens=False)
    _, full, _ = p.model.loss_and_grad(p.x, p.y, p.state, hidden=True, input=True)
    _, plain, _ = p.model.loss_and_grad(p.x, p.y, p.state)
    assert full.input.shape == p.x.shape
    assert full.hidden.shape == (1, 6, 3, 17)
    assert plain.hidden is None
    assert plain.input is None
    assert bits(plain.flat, plain.state) == bits(full.flat, full.state)


# ---- Numbers at the edge --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_do_not_overflow(torch, dtype):
    p = model_problem(6, 3, 4, 9, 5, dtype=dtype, reduction="sum")
    p.model.parameters["output.weight"][...] *= 1e4
    p.model.parameters["output.bias"][...] += 1e6
    loss, g, _ = p.model.loss_and_grad(p.x, p.y)
    q = model_problem(6, 3, 4, 9, 5, reduction="sum")
    q.model.flat = p.model.flat.astype(np.float64)
    _, expected, gradients, *_ = autograd(torch, q.model, p.x, p.y)
    assert 1e3 < expected < 1e6
    # A logit of 1e6 has an error of 1e6 u, so e^o one of 1e6 u, relatively; u = 6e-8 or 1.1e-16.
    tolerance = 1e6 * float(np.finfo(dtype).eps)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert_all_close(g.parameters, gradients, tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_class_may_be_ruled_out(torch, dtype):
    """A bias of -inf: the other classes are as if it were not there; if it is right, the loss is infinite."""
    p = model_problem(6, 3, 4, 9, 5, dtype=dtype)
    p.model.parameters["output.bias"][2] = -np.inf
    p.y[p.y == 2] = 1
    loss, g, _ = p.model.loss_and_grad(p.x, p.y)
    q = model_problem(6, 3, 4, 9, 5)
    q.model.flat = p.model.flat.astype(np.float64)
    _, expected, gradients, *_ = autograd(torch, q.model, p.x, p.y)
    assert np.isfinite(expected)
    tolerance = 100 * float(np.finfo(dtype).eps)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert_all_close(g.parameters, gradients, tolerance)
    p.y[1, 1] = 2
    assert p.model.loss(p.x, p.y)[0] == np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_sequence_and_is_not_hidden(loss, bad, dtype):
    """One bad number in x: outputs before it, and those of other sequences, are what they were."""
    p = model_problem(6, 3, 4, 9, 5, tokens=False, loss=loss, dtype=dtype, nonlinearity="identity")
    logits, last = p.model(p.x, p.state)
    p.x[2, 1, 3] = bad
    bad_logits, bad_last = p.model(p.x, p.state)
    assert not np.isfinite(bad_logits[2:, 1]).any()
    assert not np.isfinite(bad_last[0, 1]).any()
    others = [0, 2]
    assert bits(bad_logits[:2], bad_logits[:, others], bad_last[:, others]) == bits(
        logits[:2], logits[:, others], last[:, others]
    )
    value, g, _ = p.model.loss_and_grad(p.x, p.y, p.state)
    assert not np.isfinite(value)
    assert not np.isfinite(p.model.loss(p.x, p.y, p.state)[0])
    for gradient in g.parameters.values():
        assert not np.isfinite(gradient).all()
    assert np.isfinite(g.state[:, others]).all()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_passes_and_infinity_saturates(nonlinearity, dtype):
    rnn = pybptt.RNN(1, 3, nonlinearity=nonlinearity, bias=False, dtype=dtype)
    rnn.flat = np.array([1, -1, 1, *np.zeros(9)], dtype=dtype)
    x = np.array([[[np.inf], [-np.inf], [np.nan], [700], [-700]]], dtype=dtype)
    expected = {
        "tanh": [1, -1, np.nan, 1, -1],
        "relu": [np.inf, 0, np.nan, 700, 0],
        "sigmoid": [1, 0, np.nan, 1, np.exp(-700.0).astype(dtype)],
        "identity": [np.inf, -np.inf, np.nan, 700, -700],
    }[nonlinearity]
    output, _ = rnn(x)
    for column, values in enumerate((expected, np.array(expected)[[1, 0, 2, 4, 3]], expected)):
        assert np.allclose(output[0, :, column], values, rtol=1e-14, atol=1e-37, equal_nan=True)


# ---- Parameters -----------------------------------------------------------------------------------------


def test_the_models_parameters_are_the_layers_and_its_own():
    rnn = pybptt.RNN(4, 6, dtype="float64", seed=0)
    before = rnn.flat.copy()
    model = pybptt.SequenceModel(rnn, 3, seed=1)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "output.weight", "output.bias"]
    assert list(model.parameters) == names
    assert [model.parameters[n].shape for n in names] == [(6, 4), (6, 6), (6,), (6,), (3, 6), (3,)]
    assert bits(rnn.flat) == bits(before) == bits(model.flat[: before.size])
    assert np.shares_memory(rnn.flat, model.flat)
    assert bits(np.concatenate([a.ravel() for a in model.parameters.values()])) == bits(model.flat)
    for name, array in rnn.parameters.items():
        assert np.shares_memory(array, model.parameters[name])
        assert array.shape == model.parameters[name].shape
    own = model.flat[before.size :]
    assert 0.3 < np.abs(own).max() <= 6**-0.5
    same_seed = pybptt.SequenceModel(pybptt.RNN(4, 6, dtype="float64"), 3, seed=1)
    assert bits(same_seed.flat[before.size :]) == bits(own)
    assert (model.layer, model.dtype, model.output_size) == (rnn, np.float64, 3)


def test_flat_is_one_memory_for_the_model_and_its_layer(torch):
    p = model_problem(5, 2, 3, 7, 4)
    model, flat = p.model, p.model.flat
    model.flat -= 0.01
    model.layer.flat *= 0.5
    model.parameters["output.bias"][1] = 2
    model.layer.parameters["weight_hh_l0"][0, 0] = 0.5
    assert model.flat is flat
    assert_agrees_with_autograd(torch, p)
    model.flat = np.random.default_rng(0).normal(size=flat.size)
    assert model.flat is flat
    assert_agrees_with_autograd(torch, p)


def test_gradients_have_the_models_layout():
    p = model_problem(5, 2, 3, 7, 4)
    g = p.model.loss_and_grad(p.x, p.y)[1]
    assert list(g.parameters) == list(p.model.parameters)
    assert [a.shape for a in g.parameters.values()] == [a.shape for a in p.model.parameters.values()]
    assert bits(np.concatenate([a.ravel() for a in g.parameters.values()])) == bits(g.flat)
    assert all(np.shares_memory(a, g.flat) for a in g.parameters.values())


def test_descending_the_gradient_lowers_the_loss():
    p = model_problem(20, 8, 10, 16, 10, dtype="float32")
    p.y = p.x  # say what you see
    first = p.model.loss(p.x, p.y)[0]
    for _ in range(60):
        loss, g, _ = p.model.loss_and_grad(p.x, p.y)
        p.model.flat -= np.float32(1.0) * pybptt.clip_by_norm(g.flat, 1.0)
    assert first > 2
    assert loss < 0.5
