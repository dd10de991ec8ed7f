"""pybptt.reference: its four methods against each other, and against PyTorch's autograd in float64.

Arrays are compared relative to the largest entry of the one expected: 1e-12 where both sides are exact up to
rounding, 1e-7 against finite differences.
"""

import itertools

import numpy as np
import pytest

from pybptt import reference

NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
FLAGS = (False, True)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch's autograd is the outside judge of pybptt.reference")


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0.0) <= tolerance * np.abs(expected).max(initial=1e-3)


def assert_all_close(actual, expected, tolerance=1e-12):
    assert list(actual) == list(expected)
    for name in expected:
        assert_close(actual[name], expected[name], tolerance)


def random_parameters(rng, D, H, Q, bias):
    shapes = {"weight_ih_l0": (H, D), "weight_hh_l0": (H, H)}
    if bias:
        shapes |= {"bias_ih_l0": (H,), "bias_hh_l0": (H,)}
    shapes |= {"output.weight": (Q, H)}
    if bias:
        shapes |= {"output.bias": (Q,)}
    return {name: rng.normal(size=shape) / np.sqrt(H) for name, shape in shapes.items()}


def random_problem(rng, sizes, *, loss, last_only, tokens, bias, with_state):
    """Parameters, x, y and state, T B D H Q long."""
    T, B, D, H, Q = sizes
    parameters = random_parameters(rng, D, H, Q, bias)
    x = rng.integers(D, size=(T, B)) if tokens else rng.normal(size=(T, B, D))
    steps = (B,) if last_only else (T, B)
    y = rng.integers(Q, size=steps) if loss == "cross_entropy" else rng.normal(size=(*steps, Q))
    return parameters, x, y, rng.normal(size=(1, B, H)) if with_state else None


def every_problem(seed, sizes, loss):
    for case in itertools.product(FLAGS, repeat=4):
        options = dict(zip(("last_only", "tokens", "bias", "with_state"), case, strict=True))
        yield options["last_only"], random_problem(np.random.default_rng(seed), sizes, loss=loss, **options)


# ---- The methods against each other ---------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_the_four_methods_agree(nonlinearity, loss, reduction):
    for last_only, problem in every_problem(1, (4, 2, 3, 4, 3), loss):
        options = {"nonlinearity": nonlinearity, "loss": loss, "reduction": reduction, "last_only": last_only}
        value, gradients, state = reference.loss_and_grad(*problem, **options)
        assert list(gradients) == list(problem[0])
        for method, tolerance in (
            ("two_loops", 1e-12),
            ("forward_accumulation", 1e-12),
            ("finite_differences", 1e-7),
        ):
            other = reference.loss_and_grad(*problem, **options, method=method)
            assert other[0] == value
            assert_all_close(other[1], gradients, tolerance)
            assert np.array_equal(other[2], state)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_input_state_and_hidden_gradients_agree(nonlinearity):
    rng = np.random.default_rng(2)
    T, B, D, H = 5, 3, 2, 4
    parameters = random_parameters(rng, D, H, 1, bias=True)
    x, state, d_output, d_state = (rng.normal(size=s) for s in ((T, B, D), (1, B, H), (T, B, H), (1, B, H)))
    _, _, tape = reference.forward(parameters, x, state, nonlinearity)
    sweep = reference.backward(tape, d_output, d_state)
    two_loops = reference.backward_two_loops(tape, d_output, d_state)
    accumulated = reference.forward_accumulation(tape, d_output, d_state)

    def loss(point):
        output, last, _ = reference.forward(point, point["x"], point["state"], nonlinearity)
        return (output * d_output).sum() + (last * d_state).sum()

    differences = reference.finite_differences(loss, tape.parameters | {"x": x, "state": state})
    assert_close(differences.pop("x"), sweep.input, 1e-7)
    assert_close(differences.pop("state"), sweep.state, 1e-7)
    assert_all_close(differences, sweep.parameters, 1e-7)
    for other in (two_loops, accumulated):
        assert_all_close(other.parameters, sweep.parameters)
        assert_close(other.state, sweep.state)
    assert_close(two_loops.input, sweep.input)
    assert_close(two_loops.hidden, sweep.hidden)
    assert accumulated.input is None
    assert accumulated.hidden is None


def test_bptt_is_the_two_loops_of_one_sequence():
    rng = np.random.default_rng(3)
    T, D, H, Q = 6, 4, 5, 3
    parameters = random_parameters(rng, D, H, Q, bias=False)
    x, y = rng.integers(D, size=T), rng.integers(Q, size=T)
    output, _, tape = reference.forward(parameters, x[:, None])
    _, d_output, top = reference.loss_and_upstream(
        parameters, output, y[:, None], loss="cross_entropy", reduction="sum", last_only=False
    )
    U, W, V = parameters.values()
    for k in (None, *range(T + 3)):
        g = reference.backward_two_loops(tape, d_output, bptt_truncate=k)
        dLdU, dLdV, dLdW = reference.bptt(U, V, W, x, y, bptt_truncate=k)
        expected = {"weight_ih_l0": dLdU, "weight_hh_l0": dLdW, "output.weight": dLdV}
        assert_all_close(g.parameters | top, expected)


# ---- Against PyTorch ------------------------------------------------------------------------------------


def torch_leaves(torch, arrays):
    return {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}


def torch_dense(torch, x, D):
    return torch.nn.functional.one_hot(torch.tensor(x), D).double() if x.ndim == 2 else torch.tensor(x)


def torch_step(torch, p, x_t, h, nonlinearity):
    z = x_t @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T
    for bias in ("bias_ih_l0", "bias_hh_l0"):
        z = z + p[bias] if bias in p else z
    return z if nonlinearity == "identity" else getattr(torch, nonlinearity)(z)


def torch_loss(torch, p, output, y, loss, reduction, last_only):
    o = torch.nn.functional.linear(
        output[-1] if last_only else output, p["output.weight"], p.get("output.bias")
    )
    if loss == "mse":
        return torch.nn.functional.mse_loss(o, torch.tensor(y), reduction=reduction)
    return torch.nn.functional.cross_entropy(o.flatten(0, -2), torch.tensor(y).flatten(), reduction=reduction)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_loss_and_grad_agree_with_autograd(torch, nonlinearity, loss, reduction):
    T, B, D, H = 11, 3, 5, 7
    for last_only, problem in every_problem(4, (T, B, D, H, 4), loss):
        parameters, x, y, state = problem
        leaves = torch_leaves(torch, parameters)
        xs = torch_dense(torch, x, D)
        h = torch.zeros(1, B, H, dtype=torch.float64) if state is None else torch.tensor(state)
        if nonlinearity in ("tanh", "relu"):
            rnn = torch.nn.RNN(
                D, H, nonlinearity=nonlinearity, bias="bias_ih_l0" in parameters, dtype=torch.float64
            )
            layer = {name: leaves[name] for name, _ in rnn.named_parameters()}
            output, h_T = torch.func.functional_call(rnn, layer, (xs, h))
        else:
            states = [h[0]]
            for t in range(T):
                states.append(torch_step(torch, leaves, xs[t], states[-1], nonlinearity))
            output, h_T = torch.stack(states[1:]), states[-1][None]
        expected = torch_loss(torch, leaves, output, y, loss, reduction, last_only)
        expected.backward()

        options = {"nonlinearity": nonlinearity, "loss": loss, "reduction": reduction, "last_only": last_only}
        value, gradients, h_last = reference.loss_and_grad(*problem, **options)
        assert_close(value, expected.item())
        assert_close(h_last, h_T.detach())
        assert_all_close(gradients, {name: leaf.grad for name, leaf in leaves.items()})


def torch_windows(torch, parameters, x, state, d_output, d_state, nonlinearity, k):
    """Gradients when loss t is given only the steps t-k .. t: h_{t-k-1} goes in detached, h_0 does not."""
    leaves = torch_leaves(torch, parameters | {"x": x, "state": state})
    T = len(x)
    with torch.no_grad():
        before = [leaves["state"][0]]
        for t in range(T):
            before.append(torch_step(torch, leaves, leaves["x"][t], before[-1], nonlinearity))
    hidden = np.zeros_like(d_output)
    for t in range(T):
        first = max(0, t - k)
        states = [before[first] if first else leaves["state"][0]]
        for s in range(first, t + 1):
            states.append(torch_step(torch, leaves, leaves["x"][s], states[-1], nonlinearity))
            states[-1].retain_grad()
        upstream = d_output[t] + d_state[0] * (t == T - 1)
        (states[-1] * torch.tensor(upstream)).sum().backward()
        for s in range(first, t + 1):
            hidden[s] += states[1 + s - first].grad.numpy()
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}
    return gradients.pop("x"), gradients.pop("state"), hidden[None], gradients


@pytest.mark.parametrize("bias", FLAGS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_truncated_and_full_gradients_agree_with_autograd(torch, nonlinearity, bias):
    rng = np.random.default_rng(5)
    T, B, D, H = 6, 3, 2, 5
    parameters = random_parameters(rng, D, H, 1, bias)
    x, state, d_output, d_state = (rng.normal(size=s) for s in ((T, B, D), (1, B, H), (T, B, H), (1, B, H)))
    _, _, tape = reference.forward(parameters, x, state, nonlinearity)
    for k in (*range(T + 2), None):
        d_x, d_h0, hidden, gradients = torch_windows(
            torch, parameters, x, state, d_output, d_state, nonlinearity, T if k is None else k
        )
        results = [reference.backward_two_loops(tape, d_output, d_state, bptt_truncate=k)]
        if k is None:
            results.append(reference.backward(tape, d_output, d_state))
        for g in results:
            assert_all_close(g.parameters, gradients)
            assert_close(g.input, d_x)
            assert_close(g.state, d_h0)
            assert_close(g.hidden, hidden)


def test_hidden_is_what_autograd_retains(torch):
    """One graph over all steps, no windows: dh_t is the .grad of h_t itself."""
    rng = np.random.default_rng(6)
    D = 3
    parameters, x, y, state = random_problem(
        rng, (9, 2, D, 4, 3), loss="cross_entropy", last_only=False, tokens=True, bias=True, with_state=True
    )
    leaves = torch_leaves(torch, parameters | {"state": state})
    states = [leaves["state"][0]]
    for x_t in torch_dense(torch, x, D):
        states.append(torch_step(torch, leaves, x_t, states[-1], "tanh"))
        states[-1].retain_grad()
    torch_loss(torch, leaves, torch.stack(states[1:]), y, "cross_entropy", "mean", False).backward()

    output, _, tape = reference.forward(parameters, x, state)
    _, d_output, _ = reference.loss_and_upstream(
        parameters, output, y, loss="cross_entropy", reduction="mean", last_only=False
    )
    g = reference.backward(tape, d_output)
    assert_close(g.hidden[0], np.stack([h.grad.numpy() for h in states[1:]]))
    assert_close(g.state, leaves["state"].grad)
    assert g.input is None


@pytest.mark.parametrize("T", [1, 2, 7])
def test_bptt_agrees_with_autograd(torch, T):
    rng = np.random.default_rng(7)
    D, H, Q = 5, 4, 6
    U, V, W = rng.normal(size=(H, D)), rng.normal(size=(Q, H)), rng.normal(size=(H, H)) / 2
    x, y = rng.integers(D, size=T), rng.integers(Q, size=T)
    for k in (None, *range(T + 3)):
        tensors = u, v, w = [torch.tensor(a, requires_grad=True) for a in (U, V, W)]
        for t in range(T):
            first = 0 if k is None else max(0, t - k)
            s = torch.zeros(H, dtype=torch.float64)
            for r in range(t + 1):  # from the start each time, detached where loss t may no longer look
                s = torch.tanh(u[:, x[r]] + w @ (s.detach() if r == first else s))
            torch.nn.functional.cross_entropy((v @ s)[None], torch.tensor(y[t : t + 1])).backward()
        for actual, tensor in zip(reference.bptt(U, V, W, x, y, bptt_truncate=k), tensors, strict=True):
            assert_close(actual, tensor.grad)


# ---- Edges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
def test_no_steps_or_no_sequences(T, B):
    rng = np.random.default_rng(8)
    D, H, Q = 3, 4, 2
    parameters = random_parameters(rng, D, H, Q, bias=True)
    state, d_state = rng.normal(size=(2, 1, B, H))
    output, last, tape = reference.forward(parameters, np.zeros((T, B, D)), state)
    assert output.shape == (T, B, H)
    assert_close(last, state)
    for method in (reference.backward, reference.backward_two_loops, reference.forward_accumulation):
        g = method(tape, output, d_state)
        assert_close(g.state, d_state)
        assert all(not gradient.any() for gradient in g.parameters.values())
    for loss, y in (("cross_entropy", np.zeros((T, B), int)), ("mse", np.zeros((T, B, Q)))):
        value, gradients, _ = reference.loss_and_grad(parameters, np.zeros((T, B), int), y, state, loss=loss)
        assert value == 0
        assert list(gradients) == list(parameters)
        assert all(not gradient.any() for gradient in gradients.values())
    empty = np.zeros(0, int)
    for gradient in reference.bptt(np.ones((H, D)), np.ones((Q, H)), np.ones((H, H)), empty, empty):
        assert not gradient.any()


def test_large_arguments_neither_overflow_nor_lose_digits():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert reference.phi([-700.0], "sigmoid")[0] == pytest.approx(np.exp(-700.0), rel=1e-12, abs=0.0)
        assert reference.phi([-1000.0, 0.0, 1000.0], "sigmoid").tolist() == [0.0, 0.5, 1.0]
        loss, do = reference.cross_entropy([[1e4, -1e4]], [1])
    assert loss == 2e4
    assert do.tolist() == [[1.0, -1.0]]


def test_the_tape_owns_what_it_needs():
    rng = np.random.default_rng(9)
    parameters = random_parameters(rng, 2, 3, 1, bias=True)
    x, state, d_output = rng.normal(size=(4, 2, 2)), rng.normal(size=(1, 2, 3)), rng.normal(size=(4, 2, 3))
    output, last, tape = reference.forward(parameters, x, state)
    before = reference.backward(tape, d_output)
    for array in (x, state, output, last, *parameters.values()):
        array += 1.0
    after = reference.backward(tape, d_output)
    assert np.array_equal(after.hidden, before.hidden)
    assert_all_close(after.parameters, before.parameters, 0.0)


def test_float32_arguments_are_computed_with_in_float64():
    rng = np.random.default_rng(10)
    options = {"loss": "mse", "last_only": False, "tokens": False, "bias": True, "with_state": True}
    parameters, *arrays = random_problem(rng, (5, 2, 3, 4, 2), **options)
    results = []
    for dtype in (np.float32, np.float64):  # the second gets the first one's figures
        parameters = {name: a.astype(dtype) for name, a in parameters.items()}
        arrays = [a.astype(dtype) for a in arrays]
        results.append(reference.loss_and_grad(parameters, *arrays, loss="mse"))
    (value, gradients, last), expected = results
    assert value == expected[0]
    assert last.dtype == np.float64
    assert_all_close(gradients, expected[1], 0.0)


P = {"weight_ih_l0": np.ones((2, 3)), "weight_hh_l0": np.ones((2, 2)), "output.weight": np.ones((4, 2))}
X, Y = np.zeros((5, 1), int), np.zeros((5, 1), int)


def with_ones(name, *shape):
    return P | {name: np.ones(shape)}


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, r"weight_ih_l0: expected shape \(2, 4\)", (with_ones("weight_ih_l0", 3, 4), X, Y), {}),
        (ValueError, r"weight_hh_l0: expected shape \(2, 2\)", (with_ones("weight_hh_l0", 2, 3), X, Y), {}),
        (ValueError, r"bias_hh_l0: expected shape \(2,\)", (with_ones("bias_hh_l0", 1, 2), X, Y), {}),
        (ValueError, r"output.weight: expected shape \(4, 2\)", (with_ones("output.weight", 4, 3), X, Y), {}),
        (ValueError, r"x: expected shape \(5, 1, 3\)", (P, np.ones((5, 1, 4)), Y), {}),
        (ValueError, r"x: expected shape", (P, np.ones(5), Y), {}),
        (ValueError, r"state: expected shape \(1, 1, 2\)", (P, X, Y, np.ones((1, 2))), {}),
        (ValueError, r"y: expected shape \(5, 1\)", (P, X, Y[:, 0]), {}),
        (ValueError, r"y: expected shape \(5, 1, 4\)", (P, X, np.ones((1, 4))), {"loss": "mse"}),
        (ValueError, r"y: expected shape \(1,\)", (P, X, Y), {"last_only": True}),
        (ValueError, "no last step", (P, X[:0], Y[0]), {"last_only": True}),
        (ValueError, "nonlinearity: expected one of tanh", (P, X, Y), {"nonlinearity": "softsign"}),
        (ValueError, "loss: expected one of", (P, X, Y), {"loss": "hinge"}),
        (ValueError, "reduction: expected one of", (P, X, Y), {"reduction": "none"}),
        (ValueError, "method: expected one of sweep", (P, X, Y), {"method": "guess"}),
        (TypeError, "x: expected integer ids, got float64", (P, X * 1.0, Y), {}),
        (TypeError, "y: expected integer ids, got float64", (P, X, Y * 1.0), {}),
        (IndexError, r"x: expected ids in \[0, 3\), got 3 at \[0, 0\]", (P, X + 3, Y), {}),
        (IndexError, r"y: expected ids in \[0, 4\), got -1 at \[0, 0\]", (P, X, Y - 1), {}),
    ],
)
def test_bad_arguments_are_named(error, message, arguments, options):
    with pytest.raises(error, match=message):
        reference.loss_and_grad(*arguments, **options)


def test_bad_arguments_of_the_backward_passes_are_named():
    output, state, tape = reference.forward(P, X)
    for method in (reference.backward, reference.backward_two_loops, reference.forward_accumulation):
        with pytest.raises(ValueError, match=r"d_output: expected shape \(5, 1, 2\), got \(4, 1, 2\)"):
            method(tape, output[1:])
        with pytest.raises(ValueError, match=r"d_state: expected shape \(1, 1, 2\), got \(1, 2\)"):
            method(tape, output, state[0])
    with pytest.raises(ValueError, match="bptt_truncate: expected None or at least 0, got -1"):
        reference.backward_two_loops(tape, output, bptt_truncate=-1)


def test_bad_arguments_of_bptt_are_named():
    U, V, W, x = P["weight_ih_l0"], P["output.weight"], P["weight_hh_l0"], X[:, 0]
    for error, message, arguments in (
        (ValueError, r"U: expected shape \(2, 3\)", (U[:1], V, W, x, x)),
        (ValueError, r"V: expected shape \(4, 2\)", (U, V[:, :1], W, x, x)),
        (ValueError, r"W: expected shape \(2, 2\)", (U, V, W[:, :1], x, x)),
        (ValueError, r"x: expected shape \(5,\), got \(5, 1\)", (U, V, W, X, x)),
        (ValueError, r"y: expected shape \(5,\), got \(4,\)", (U, V, W, x, x[1:])),
        (ValueError, "bptt_truncate: expected None or at least 0, got -1", (U, V, W, x, x, -1)),
        (TypeError, "x: expected integer ids", (U, V, W, x * 1.0, x)),
        (IndexError, r"y: expected ids in \[0, 4\), got 4 at \[0\]", (U, V, W, x, x + 4)),
    ):
        with pytest.raises(error, match=message):
            reference.bptt(*arguments)
