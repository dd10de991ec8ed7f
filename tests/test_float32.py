"""float32 against float64: every entry within the worst case, and on average far closer.

The worst case is that of error_bounds.py: it follows every rounding and grows with the length of each sum,
D + H for z_t, H for dh_t, Q for a softmax, T B for a weight up to some 200. Roundings cancel, so that n of
them come to some sqrt(n) u: the second claim is that the root mean square of an array's errors is at most
10 sqrt(n) u times that of its entries, n the roundings of the longest sum behind it. Both networks get the
same figures, which float32 holds exactly. W_hh is small, so that errors die away on their way through time;
no bound could be of use otherwise.
"""

import numpy as np
import pytest
from error_bounds import U, backward, exact, forward, output_layer, over_time
from support import NONLINEARITIES, layer_problem, model_problem, run_layer

import pybptt


def rms(a):
    return np.sqrt(np.mean(np.square(a, dtype=np.float64)))


def assert_within(single, double, bound, n):
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    assert single.shape == double.shape == bound.shape
    assert (np.abs(single - double) <= bound).all()
    if double.size >= 10:  # fewer may all be small by cancellation
        assert rms(single - double) <= 10 * np.sqrt(n) * U * rms(double)


def in_both(make, *sizes, **options):
    """The same problem in float32 and in float64."""
    p, q = make(*sizes, dtype="float32", **options), make(*sizes, **options)
    for name, value in vars(p).items():
        if isinstance(value, np.ndarray):
            setattr(q, name, value.astype(np.float64) if value.dtype == np.float32 else value)
        else:  # the layer or model
            value.parameters["weight_hh_l0"][...] *= np.float32(0.3)
            getattr(q, name).flat = value.flat.astype(np.float64)
    return p, q


def dense(x, D):
    return (x[..., None] == np.arange(D)).astype(np.float64) if x.ndim == 2 else x


SMALL = [(1, 1, 1, 1), (3, 2, 5, 9)]
LARGE = [(20, 8, 28, 64), (100, 13, 3, 33), (1000, 2, 7, 20)]
# Of many relu units some come so near to the kink that a rounding changes their slope from 0 to 1.
LAYERS = [(n, *sizes) for n in NONLINEARITIES for sizes in (SMALL if n == "relu" else SMALL + LARGE)]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("nonlinearity", "T", "B", "D", "H"), LAYERS)
def test_a_layer(nonlinearity, T, B, D, H, tokens):
    p, q = in_both(layer_problem, T, B, D, H, tokens=tokens, nonlinearity=nonlinearity)
    output, last, g = run_layer(p)
    expected_output, expected_last, expected = run_layer(q)

    x = dense(q.x, D)
    h = forward(q.rnn.parameters, x, q.state, nonlinearity)
    bounds = backward(q.rnn.parameters, x, h, exact(q.d_output), q.d_state, nonlinearity)
    n = D + H
    assert_within(output, expected_output, np.stack([e for _, e in h[1:]]), n)
    assert_within(last, expected_last, h[-1][1][None], n)
    assert_within(g.hidden, expected.hidden, bounds.hidden, n)
    assert_within(g.state, expected.state, bounds.state, n)
    if not tokens:
        assert_within(g.input, expected.input, bounds.input, n)
    for name, bound in bounds.parameters.items():
        assert_within(g.parameters[name], expected.parameters[name], bound, n + over_time(T * B))


MODELS = [(1, 1, 1, 1, 2), (5, 3, 9, 17, 11), (40, 16, 28, 50, 100), (30, 4, 50, 20, 3000)]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("T", "B", "D", "H", "Q"), MODELS)
def test_a_model(T, B, D, H, Q, loss, reduction):
    p, q = in_both(model_problem, T, B, D, H, Q, loss=loss, reduction=reduction)
    value, g, _ = p.model.loss_and_grad(p.x, p.y, p.state, hidden=True)
    expected_value, expected, _ = q.model.loss_and_grad(q.x, q.y, q.state, hidden=True)

    x = dense(q.x, D)
    h = forward(q.model.parameters, x, q.state, "tanh")
    loss_bound, output_bounds, upstream = output_layer(q.model.parameters, h, q.y, loss, reduction)
    bounds = backward(q.model.parameters, x, h, upstream, np.zeros((1, B, H)), "tanh")
    n = D + H + Q
    assert abs(value - expected_value) <= loss_bound
    assert abs(value - expected_value) <= 10 * np.sqrt(n) * U * expected_value
    assert_within(g.hidden, expected.hidden, bounds.hidden, n)
    for name, bound in (bounds.parameters | output_bounds).items():
        assert_within(g.parameters[name], expected.parameters[name], bound, n + over_time(T * B))


@pytest.mark.parametrize("truncate", [0, 1, 5, 30, None])
@pytest.mark.parametrize(("T", "D", "H", "Q"), [(1, 3, 2, 4), (40, 11, 17, 9), (600, 30, 32, 30)])
def test_bptt(T, D, H, Q, truncate):
    rng = np.random.default_rng(T)
    names = ("weight_ih_l0", "output.weight", "weight_hh_l0")
    U_V_W = [rng.uniform(-1, 1, size=s).astype(np.float32) for s in ((H, D), (Q, H), (H, H))]
    U_V_W[2] *= np.float32(0.3 / np.sqrt(H))
    x, y = rng.integers(D, size=T), rng.integers(Q, size=T)
    found = pybptt.bptt(*U_V_W, x, y, truncate)
    expected = pybptt.bptt(*(a.astype(np.float64) for a in U_V_W), x, y, truncate)

    parameters = dict(zip(names, U_V_W, strict=True))
    one_hot, zero = dense(x[:, None], D), np.zeros((1, 1, H))
    h = forward(parameters, one_hot, zero, "tanh")
    _, output_bounds, upstream = output_layer(parameters, h, y[:, None], "cross_entropy", "sum")
    bounds = backward(parameters, one_hot, h, upstream, zero, "tanh", truncate).parameters | output_bounds
    for name, single, double in zip(names, found, expected, strict=True):
        assert_within(single, double, bounds[name], D + H + Q + over_time(T))


@pytest.mark.parametrize("tokens", [False, True])
def test_a_sum_over_time_does_not_stall(tokens):
    """2^24 + 1 is 2^24 in float32. With phi = identity, W_ih = 1 and W_hh = 0, h_t = x_t and dz_t = do_t."""
    T, B = 4000, 8
    layer = pybptt.RNN(1, 1, nonlinearity="identity")
    for name, value in layer.parameters.items():
        value[...] = name == "weight_ih_l0"
    x, d_output = np.ones((2, T, B, 1), dtype=np.float32)
    x[-2, 0] = 2**24  # the sweep meets it first
    if tokens:
        x, d_output = np.zeros((T, B), dtype=np.int64), x
    _, _, tape = layer.forward(x)
    g = layer.backward(tape, d_output).parameters
    n = T * B - 1 + 2**24
    exact = {"weight_ih_l0": n, "weight_hh_l0": n - B, "bias_ih_l0": T * B, "bias_hh_l0": T * B}
    if tokens:  # h_t = 1
        exact |= {"weight_hh_l0": n - B, "bias_ih_l0": n, "bias_hh_l0": n}
    for name, value in exact.items():  # what shares its chain is lost, and no more
        assert abs(int(g[name].item()) - value) <= (130 if name.startswith("weight") else 2), name
