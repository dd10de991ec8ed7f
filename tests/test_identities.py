"""What must hold whatever the figures: linearity, symmetries, adjoints, the documented equations."""

import numpy as np
import pytest
from support import (
    NONLINEARITIES,
    assert_all_close,
    assert_close,
    assert_gradients_close,
    bits,
    layer_problem,
    model_problem,
    run_layer,
    torch_forward,
)

import pybptt
from pybptt import reference

FLAGS = (False, True)
SHAPES = [(9, 5, 7, 13), (40, 16, 3, 33), (600, 1, 4, 9)]


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_linear_in_the_upstream_gradient(shape, nonlinearity):
    p = layer_problem(*shape, nonlinearity=nonlinearity)
    q = layer_problem(*shape, nonlinearity=nonlinearity, seed=1)
    _, _, tape = p.rnn.forward(p.x, p.state)

    def backward(a, b):
        d_output, d_state = a * p.d_output + b * q.d_output, a * p.d_state + b * q.d_state
        g = p.rnn.backward(tape, d_output, d_state, hidden=True)
        return g.flat, g.input, g.state, g.hidden

    for sum_, first, second in zip(backward(0.3, -1.7), backward(1, 0), backward(0, 1), strict=True):
        assert_close(sum_, 0.3 * first - 1.7 * second)
    for doubled, once in zip(backward(2, 0), backward(1, 0), strict=True):
        assert bits(doubled) == bits(2 * once)  # a power of two commutes with every rounding


@pytest.mark.parametrize("tokens", FLAGS)
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_a_batch_is_its_rows_alone(shape, tokens):
    T, B, D, H = shape
    p = layer_problem(*shape, tokens=tokens)
    output, last, g = run_layer(p)
    flat = 0
    for b in range(B):
        row = layer_problem(*shape, tokens=tokens)
        for name in ("x", "state", "d_output", "d_state"):
            setattr(row, name, getattr(p, name)[:, b : b + 1])
        row_output, row_last, row_g = run_layer(row)
        assert_close(row_output[:, 0], output[:, b])
        assert_close(row_last[:, 0], last[:, b])
        assert_close(row_g.state[:, 0], g.state[:, b])
        assert_close(row_g.hidden[:, :, 0], g.hidden[:, :, b])
        if not tokens:
            assert_close(row_g.input[:, 0], g.input[:, b])
        flat = flat + row_g.flat
    assert_close(flat, g.flat)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("last_only", FLAGS)
def test_a_models_batch_is_its_rows_alone(loss, last_only):
    p = model_problem(7, 19, 5, 9, 6, loss=loss, last_only=last_only, reduction="sum")
    loss_, g, _ = p.model.loss_and_grad(p.x, p.y, p.state)
    rows = []
    for b in range(19):
        y = p.y[b : b + 1] if last_only else p.y[:, b : b + 1]
        value, row, _ = p.model.loss_and_grad(p.x[:, b : b + 1], y, p.state[:, b : b + 1])
        assert_close(row.state[:, 0], g.state[:, b])
        rows.append((value, row.flat))
    assert_close(sum(value for value, _ in rows), loss_)
    assert_close(sum(flat for _, flat in rows), g.flat)


def test_sequences_may_change_places():
    p = layer_problem(6, 13, 4, 9)
    output, last, g = run_layer(p)
    order = np.random.default_rng(0).permutation(13)
    p.x, p.state, p.d_output, p.d_state = (a[:, order] for a in (p.x, p.state, p.d_output, p.d_state))
    other_output, other_last, other = run_layer(p)
    assert_close(other_output, output[:, order])
    assert_close(other_last, last[:, order])
    assert_close(other.input, g.input[:, order])
    assert_close(other.hidden, g.hidden[:, :, order])
    assert_close(other.flat, g.flat)


def test_units_may_change_places():
    p = layer_problem(6, 3, 4, 19)
    output, _, g = run_layer(p)
    order = np.random.default_rng(0).permutation(19)
    w = p.rnn.parameters
    for name in w:
        w[name][...] = w[name][order]
    w["weight_hh_l0"][...] = w["weight_hh_l0"][:, order]
    p.state, p.d_output, p.d_state = (a[..., order] for a in (p.state, p.d_output, p.d_state))
    other_output, _, other = run_layer(p)
    assert_close(other_output, output[..., order])
    assert_close(other.input, g.input)
    assert_close(other.hidden, g.hidden[..., order])
    assert_close(other.parameters["weight_ih_l0"], g.parameters["weight_ih_l0"][order])
    assert_close(other.parameters["weight_hh_l0"], g.parameters["weight_hh_l0"][order][:, order])


def test_tokens_may_change_names():
    p = model_problem(12, 3, 7, 9, 5)
    loss, g, _ = p.model.loss_and_grad(p.x, p.y)
    new = np.random.default_rng(0).permutation(7)
    w = p.model.parameters["weight_ih_l0"]
    w[:, new] = w.copy()
    other_loss, other, _ = p.model.loss_and_grad(new[p.x], p.y)
    assert other_loss == loss
    assert_close(other.parameters["weight_ih_l0"][:, new], g.parameters["weight_ih_l0"])
    assert_close(other.flat[63:], g.flat[63:])


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_one_hot_vectors(shape):
    p = layer_problem(*shape, tokens=True)
    output, last, g = run_layer(p)
    ids, p.x = p.x, np.eye(shape[2])[p.x]
    dense_output, dense_last, dense = run_layer(p)
    assert_close(output, dense_output)
    assert_close(last, dense_last)
    assert g.input is None
    assert_all_close(g.parameters, dense.parameters)
    assert_close(g.hidden, dense.hidden)
    unseen = np.setdiff1d(np.arange(shape[2]), ids)
    assert not g.parameters["weight_ih_l0"][:, unseen].any()


# ---- Padding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", FLAGS)
def test_steps_after_the_last_loss_are_inert(tokens):
    p = layer_problem(30, 3, 4, 9, tokens=tokens)
    p.d_state[...] = 0
    p.d_output[17:] = 0
    _, _, g = run_layer(p)
    p.x, p.d_output = p.x[:17], p.d_output[:17]
    output, last, cut = run_layer(p)
    assert_close(g.flat, cut.flat)
    assert_close(g.state, cut.state)
    assert_close(g.hidden[:, :17], cut.hidden)
    assert not g.hidden[:, 17:].any()
    if not tokens:
        assert_close(g.input[:17], cut.input)
        assert not g.input[17:].any()


def test_sequences_without_loss_are_inert():
    p = layer_problem(9, 5, 4, 9)
    p.d_output[:, 2:], p.d_state[:, 2:] = 0, 0
    _, _, g = run_layer(p)
    p.x, p.state, p.d_output, p.d_state = (a[:, :2] for a in (p.x, p.state, p.d_output, p.d_state))
    assert_close(g.flat, run_layer(p)[2].flat)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
@pytest.mark.parametrize(("D", "H"), [(4, 7), (15, 15), (16, 16), (1, 31)])
def test_inputs_and_units_with_zero_weights_are_inert(D, H, nonlinearity):
    """One more input and one more unit: what the core adds to fill its panels can do no more than these."""
    p = layer_problem(8, 3, D, H, nonlinearity=nonlinearity)
    output, last, g = run_layer(p)
    q = layer_problem(8, 3, D + 1, H + 1, nonlinearity=nonlinearity)
    q.rnn.flat[...] = 0
    for name, w in p.rnn.parameters.items():
        q.rnn.parameters[name][tuple(slice(n) for n in w.shape)] = w
    q.state[..., H] = 0
    for name, to in (("x", D), ("state", H), ("d_output", H), ("d_state", H)):
        getattr(q, name)[..., :to] = getattr(p, name)
    padded_output, padded_last, padded = run_layer(q)
    assert_close(padded_output[..., :H], output)
    assert not padded_output[..., H].any()
    assert_close(padded.input[..., :D], g.input)
    assert not padded.input[..., D].any()
    assert_close(padded.hidden[..., :H], g.hidden)
    for name, w in g.parameters.items():
        assert_close(padded.parameters[name][tuple(slice(n) for n in w.shape)], w)


# ---- Adjoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_an_identity_network_is_its_own_derivative(shape):
    """Without biases it is linear in (x, h_0): <forward(x, h_0), u> = <(x, h_0), backward(u)>."""
    p = layer_problem(*shape, nonlinearity="identity", bias=False)
    output, last, g = run_layer(p)
    there = (output * p.d_output).sum() + (last * p.d_state).sum()
    back = (p.x * g.input).sum() + (p.state * g.state).sum()
    scale = np.abs(output * p.d_output).sum()
    assert abs(there - back) <= 1e-14 * scale
    # And linear in W_ih, if it starts from zero.
    output, last, tape = p.rnn.forward(p.x)
    g = p.rnn.backward(tape, p.d_output, p.d_state).parameters["weight_ih_l0"]
    there = (output * p.d_output).sum() + (last * p.d_state).sum()
    assert abs(there - (p.rnn.parameters["weight_ih_l0"] * g).sum()) <= 1e-14 * scale


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_backward_is_the_adjoint_of_the_jacobian(torch, nonlinearity):
    """<J v, u> = <v, J^T u>: J v by PyTorch, J^T u by backward, v in the direction of all arguments."""
    p, v = (layer_problem(12, 3, 4, 9, nonlinearity=nonlinearity, seed=seed) for seed in (0, 1))

    def network(x, h_0, *parameters):
        named = dict(zip(p.rnn.parameters, parameters, strict=True))
        states = torch_forward(torch, named, x, h_0[0], nonlinearity)
        return torch.stack(states[1:]), states[-1][None]

    def tensors(problem):
        return tuple(map(torch.tensor, (problem.x, problem.state, *problem.rnn.parameters.values())))

    _, (output, last) = torch.autograd.functional.jvp(network, tensors(p), tensors(v))
    there = (output.numpy() * p.d_output).sum() + (last.numpy() * p.d_state).sum()
    _, _, g = run_layer(p)
    terms = [g.input * v.x, g.state * v.state, g.flat * v.rnn.flat]
    assert abs(there - sum(t.sum() for t in terms)) <= 1e-14 * sum(np.abs(t).sum() for t in terms)


# ---- The documented equations ---------------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_everything_follows_from_hidden(nonlinearity):
    p = layer_problem(11, 5, 4, 9, nonlinearity=nonlinearity)
    output, _, g = run_layer(p)
    W_ih, W_hh = p.rnn.parameters["weight_ih_l0"], p.rnn.parameters["weight_hh_l0"]
    before = np.concatenate([p.state, output[:-1]])
    dh = g.hidden[0]
    dz = reference.phi_prime(output, nonlinearity) * dh
    assert_close(dh[-1], p.d_output[-1] + p.d_state[0])
    assert_close(dh[:-1], p.d_output[:-1] + dz[1:] @ W_hh)
    assert_close(g.state[0], dz[0] @ W_hh)
    assert_close(g.input, dz @ W_ih)
    assert_close(g.parameters["weight_hh_l0"], np.einsum("tbi,tbj->ij", dz, before))
    assert_close(g.parameters["weight_ih_l0"], np.einsum("tbi,tbj->ij", dz, p.x))
    for bias in ("bias_ih_l0", "bias_hh_l0"):
        assert_close(g.parameters[bias], dz.sum(axis=(0, 1)))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("last_only", FLAGS)
def test_a_mean_is_the_sum_over_the_count(loss, last_only):
    options = {"loss": loss, "last_only": last_only}
    p, q = (model_problem(6, 5, 7, 9, 4, reduction=r, **options) for r in ("mean", "sum"))
    mean, mean_g, _ = p.model.loss_and_grad(p.x, p.y)
    sum_, sum_g, _ = q.model.loss_and_grad(q.x, q.y)
    count = (1 if last_only else 6) * 5 * (4 if loss == "mse" else 1)
    assert_close(mean * count, sum_)
    assert_close(mean_g.flat * count, sum_g.flat)


def test_last_only_counts_the_last_of_many_to_many():
    p, q = (model_problem(6, 5, 7, 9, 4, reduction="sum", last_only=flag) for flag in FLAGS)
    whole, g, _ = p.model.loss_and_grad(p.x, p.y)
    without_last, rest, _ = p.model.loss_and_grad(p.x[:-1], p.y[:-1])
    last, last_g, _ = q.model.loss_and_grad(p.x, p.y[-1])
    assert_close(whole, without_last + last)
    assert_close(g.flat, rest.flat + last_g.flat)
    assert bits(q.model(p.x)[0]) == bits(p.model(p.x)[0][-1])


def test_a_constant_added_to_all_logits_changes_nothing():
    p = model_problem(6, 5, 7, 9, 4)
    loss, g, _ = p.model.loss_and_grad(p.x, p.y)
    p.model.parameters["output.bias"][...] += 3
    shifted, shifted_g, _ = p.model.loss_and_grad(p.x, p.y)
    assert_close(shifted, loss)
    assert_close(shifted_g.flat, g.flat)
    assert abs(g.parameters["output.bias"].sum()) < 1e-15
    assert np.abs(g.parameters["output.weight"].sum(axis=0)).max() < 1e-15


# ---- Truncation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", [0, 1, 4, 19, None])
def test_a_truncated_gradient_is_the_sum_of_its_windows(truncate):
    """Loss t alone, sent back over its own window by RNN.backward, the state before the window held fixed."""
    rng = np.random.default_rng(0)
    T, D, H, Q = 20, 6, 9, 5
    rnn = pybptt.RNN(D, H, bias=False, dtype="float64", seed=0)
    U, W = rnn.parameters.values()
    V, x, y = rng.normal(size=(Q, H)), rng.integers(D, size=T), rng.integers(Q, size=T)
    output, _ = rnn(x[:, None])
    p = np.exp(output[:, 0] @ V.T)
    d_o = p / p.sum(axis=1, keepdims=True) - np.eye(Q)[y]
    total = 0
    for t in range(T):
        first = 0 if truncate is None else max(0, t - truncate)
        state = output[first - 1 : first] if first else None
        window, _, tape = rnn.forward(x[first : t + 1, None], state)
        d_output = np.zeros_like(window)
        d_output[-1] = d_o[t] @ V
        total = total + rnn.backward(tape, d_output).flat
    dLdU, dLdV, dLdW = pybptt.bptt(U, V, W, x, y, bptt_truncate=truncate)
    assert_close(np.concatenate([dLdU.ravel(), dLdW.ravel()]), total)
    assert_close(dLdV, d_o.T @ output[:, 0])


def test_losses_add_up():
    """The gradient of all losses is the sum of the gradients of each alone."""
    p = layer_problem(12, 3, 4, 9)
    _, _, tape = p.rnn.forward(p.x, p.state)
    flat = p.rnn.backward(tape, None, p.d_state).flat
    for t in range(12):
        alone = np.zeros_like(p.d_output)
        alone[t] = p.d_output[t]
        g = p.rnn.backward(tape, alone, hidden=True)
        assert not g.hidden[:, t + 1 :].any()  # no loss reaches later steps
        assert not g.input[t + 1 :].any()
        flat = flat + g.flat
    assert_close(flat, p.rnn.backward(tape, p.d_output, p.d_state).flat)


@pytest.mark.parametrize("tokens", FLAGS)
def test_the_same_network_twice_gives_the_same_gradients(tokens):
    p, q = (layer_problem(9, 5, 7, 13, tokens=tokens) for _ in "ab")
    assert bits(*run_layer(p)) == bits(*run_layer(q))
    assert_gradients_close(run_layer(p)[2], run_layer(q)[2], 0.0)
