"""Denormal numbers: taken as zero inside a call, harmless as input; the caller's arithmetic is as it was."""

import ctypes
import platform

import numpy as np
import pytest
from support import bits, layer_problem, model_problem, run_layer

import pybptt

TINY = {"float32": 1e-40, "float64": 1e-310}  # below the smallest normal numbers, 1.2e-38 and 2.2e-308


def denormals_work():
    """In this thread, for scalars and for vectors, as operands and as results."""
    for dtype, tiny in TINY.items():
        operand = np.full(37, tiny, dtype=dtype)
        normal = np.full(37, np.finfo(dtype).tiny, dtype=dtype)
        if not (
            (operand + operand).all() and (normal / 4).all() and operand[0] + operand[0] and normal[0] / 4
        ):
            return False
    return True


def calls(dtype):
    p = layer_problem(20, 32, 17, 96, dtype=dtype)  # enough work for three threads
    q = model_problem(20, 32, 17, 96, 30, dtype=dtype)
    yield lambda: run_layer(p)
    yield lambda: p.rnn(p.x)
    yield lambda: q.model.loss_and_grad(q.x, q.y)
    yield lambda: q.model.loss(q.x, q.y)
    yield lambda: q.model(q.x)
    weights = [q.model.parameters[n] for n in ("weight_ih_l0", "output.weight", "weight_hh_l0")]
    yield lambda: pybptt.bptt(*weights, q.x[:, 0], q.x[:, 0])
    yield lambda: pybptt.bptt(*weights, q.x[:, 0], q.x[:, 0], 3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_callers_mode_comes_back(dtype, threads, set_threads):
    set_threads(threads)
    assert denormals_work()
    for call in calls(dtype):
        call()
        assert denormals_work()


def test_a_caller_that_flushes_denormals_goes_on_flushing(torch):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush denormals")
    try:
        assert not denormals_work()
        for call in calls("float32"):
            call()
            assert not denormals_work()
    finally:
        torch.set_flush_denormal(False)
    assert denormals_work()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_thread_rounds_as_the_caller_does(dtype, set_threads):
    upwards = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
    if upwards is None:
        pytest.skip("the number of FE_UPWARD is not known")
    libm = ctypes.CDLL("libm.so.6")
    nearest, p = libm.fegetround(), layer_problem(20, 32, 17, 96, dtype=dtype)  # enough for three threads
    found = {}
    for mode in (nearest, upwards):
        for threads in (1, 3):
            set_threads(threads)
            libm.fesetround(mode)
            try:
                found[mode, threads] = bits(*run_layer(p))
            finally:
                libm.fesetround(nearest)
    assert found[upwards, 1] == found[upwards, 3] != found[nearest, 1] == found[nearest, 3]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tokens", [False, True])
def test_denormal_input_is_as_good_as_zero(dtype, tokens):
    """They are below half an ulp of all that they are added to."""
    p = layer_problem(9, 5, 7, 13, dtype=dtype, tokens=tokens)
    results = []
    for tiny in (TINY[dtype], 0.0):
        for name in ("state", "d_output", "d_state") + (() if tokens else ("x",)):
            getattr(p, name)[:, ::2] = tiny
        p.rnn.flat[::7] = tiny
        results.append(bits(*run_layer(p)))
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_denormal_gives_zeros(dtype):
    p = layer_problem(9, 5, 7, 13, dtype=dtype)
    for array in (p.x, p.state, p.d_output, p.d_state, p.rnn.flat):
        array[...] = TINY[dtype]
    output, last, g = run_layer(p)
    for array in (output, last, g.flat, g.state, g.input, g.hidden):
        assert not array.any()


def test_a_gradient_that_vanishes_becomes_zero():
    """From 1 through the denormal numbers of float32 to 0, by 0.5 a step; what float64 says of it agrees."""
    T = 400
    found = {}
    for dtype in ("float32", "float64"):
        rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=dtype)
        rnn.flat = np.array([1, 0.5], dtype=dtype)
        _, _, tape = rnn.forward(np.ones((T, 1, 1), dtype=dtype))
        found[dtype] = rnn.backward(tape, d_state=np.ones((1, 1, 1), dtype=dtype), hidden=True)
    single, exact = (found[d].hidden[0, ::-1, 0, 0] for d in ("float32", "float64"))
    assert (exact == 0.5 ** np.arange(T)).all()
    assert (single[:127] == exact[:127]).all()  # to 2^-126, the smallest normal number
    assert not single[127:].any()
    for name, gradient in found["float64"].parameters.items():
        assert found["float32"].parameters[name] == pytest.approx(gradient, rel=1e-6)
