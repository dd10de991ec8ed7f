"""What several test files use: problems, comparisons, PyTorch as the judge, programs run by themselves."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import pybptt

NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")


def assert_close(actual, expected, tolerance=1e-12, floor=0.0):
    """Within `tolerance` of `expected`, relative to its largest entry or to `floor`.

    `floor` is for random sizes: where an array has few entries, all of them may be small by cancellation.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=floor)
    assert np.abs(actual - expected).max(initial=0.0) <= tolerance * largest


def assert_all_close(actual, expected, tolerance=1e-12, floor=0.0):
    """`assert_close` for two dicts with the same names in the same order."""
    assert list(actual) == list(expected)
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, floor)


def assert_gradients_close(actual, expected, tolerance=1e-12, floor=0.0):
    """For two Gradients; `expected` may be the reference's, or PyTorch's from `autograd`."""
    assert_all_close(actual.parameters, expected.parameters, tolerance, floor)
    assert_close(actual.state, expected.state, tolerance, floor)
    for a, b in ((actual.input, expected.input), (actual.hidden, expected.hidden)):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, tolerance, floor)


def bits(*arrays):
    """What must be equal where results must be the same to the last bit: arrays, Gradients, numbers."""
    found = []
    for array in arrays:
        if isinstance(array, pybptt.Gradients):
            found += bits(array.flat, array.input, array.state, array.hidden)
        elif isinstance(array, tuple):  # a state
            found += bits(*array)
        elif array is not None:
            array = np.asarray(array)
            found.append((array.shape, array.dtype.str, array.tobytes()))
    return found


def layer_problem(T, B, D, H, *, tokens=False, dtype="float64", seed=0, **options):
    """A layer, and for it x, state, d_output and d_state with entries of order 1."""
    rng = np.random.default_rng([seed, T, B, D, H])
    rnn = pybptt.RNN(D, H, dtype=dtype, seed=seed, **options)
    x = rng.integers(D, size=(T, B)) if tokens else rng.normal(size=(T, B, D)).astype(dtype)
    state, d_output, d_state = (rng.normal(size=s).astype(dtype) for s in ((1, B, H), (T, B, H), (1, B, H)))
    return SimpleNamespace(rnn=rnn, x=x, state=state, d_output=d_output, d_state=d_state)


def model_problem(T, B, D, H, Q, *, tokens=True, loss="cross_entropy", reduction="mean", last_only=False,
                  dtype="float64", seed=0, **options):  # fmt: skip
    """A model, and for it x, y and state with entries of order 1."""
    rng = np.random.default_rng([seed, T, B, D, H, Q])
    rnn = pybptt.RNN(D, H, dtype=dtype, seed=seed, **options)
    model = pybptt.SequenceModel(rnn, Q, loss=loss, reduction=reduction, last_only=last_only, seed=seed + 1)
    x = rng.integers(D, size=(T, B)) if tokens else rng.normal(size=(T, B, D)).astype(dtype)
    shape = (B,) if last_only else (T, B)
    y = rng.integers(Q, size=shape) if loss == "cross_entropy" else rng.normal(size=(*shape, Q)).astype(dtype)
    return SimpleNamespace(model=model, x=x, y=y, state=rng.normal(size=(1, B, H)).astype(dtype))


def run_layer(p, state=True, **options):
    """Forward and backward of a layer_problem: output, last state, gradients."""
    output, last, tape = p.rnn.forward(p.x, p.state if state else None)
    return output, last, p.rnn.backward(tape, p.d_output, p.d_state, hidden=True, **options)


def torch_forward(torch, parameters, xs, h_0, nonlinearity):
    """The network as a loop over tensors: the states h_0 ... h_T, each (B, H)."""
    states = [h_0]
    for x_t in xs:
        z = x_t @ parameters["weight_ih_l0"].T + states[-1] @ parameters["weight_hh_l0"].T
        for bias in ("bias_ih_l0", "bias_hh_l0"):
            z = z + parameters[bias] if bias in parameters else z
        states.append(z if nonlinearity == "identity" else getattr(torch, nonlinearity)(z))
    return states


def torch_dense(torch, x, D):
    """x as a float64 tensor (T, B, D); tokens become one-hot."""
    x = torch.tensor(np.ascontiguousarray(x))
    return x if x.is_floating_point() else torch.nn.functional.one_hot(x.long(), D).double()


def autograd(torch, rnn, x, state=None, d_output=None, d_state=None, *, hidden=False):
    """Output, last state and gradients by PyTorch: its own RNN where it has one, the loop above elsewhere.

    The gradients have a `hidden`, what autograd retains at each h_t, only if asked for: then it is the loop.
    """
    leaves = {name: torch.tensor(values, requires_grad=True) for name, values in rnn.parameters.items()}
    D, H = rnn.input_size, rnn.hidden_size
    xs = torch_dense(torch, x, D).requires_grad_()
    h_0 = np.zeros((1, x.shape[1], H)) if state is None else state
    h_0 = torch.tensor(h_0, requires_grad=True)
    if rnn.nonlinearity in ("tanh", "relu") and not hidden:
        module = torch.nn.RNN(D, H, nonlinearity=rnn.nonlinearity, bias=rnn.bias, dtype=torch.float64)
        output, last = torch.func.functional_call(module, leaves, (xs, h_0))
    else:
        states = torch_forward(torch, leaves, xs, h_0[0], rnn.nonlinearity)
        for h in states[1:]:
            h.retain_grad()
        output, last = torch.stack(states[1:]), states[-1][None]
    pairs = ((output, d_output), (last, d_state))
    upstream = [torch.zeros_like(a) if g is None else torch.tensor(g) for a, g in pairs]
    torch.autograd.backward([output, last], upstream)
    gradients = SimpleNamespace(
        parameters={name: leaf.grad.numpy() for name, leaf in leaves.items()},
        input=None if np.asarray(x).ndim == 2 else xs.grad.numpy(),
        state=h_0.grad.numpy(),
        hidden=np.stack([h.grad.numpy() for h in states[1:]])[None] if hidden else None,
    )
    return output.detach().numpy(), last.detach().numpy(), gradients


def run_python(code, *arguments, timeout=100, **environment):
    """Runs a program in a process of its own, without our variables but those given; returns what it prints.

    Warnings are errors, anything on stderr is a failure, and so is a hang.
    """
    ours = ("PYBPTT_NUM_THREADS", "PYBPTT_TIER", "OMP_NUM_THREADS")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    path = [str(Path(__file__).parent), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # so that it finds this file
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env=env | environment,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@contextmanager
def started(*command, **environment):
    """A program that starts others, each of one thread; if the test is over before it is, so are they."""
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.terminate()  # torchrun and mpiexec end their processes, unless all have ended
