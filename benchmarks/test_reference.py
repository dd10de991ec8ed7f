"""The core beside the pure-Python reference: `python -m pytest benchmarks/test_reference.py`.

One group a length. From T = 20 to T = 400, twenty times the steps, the textbook's two loops take up to four
hundred times as long, the sweep and the core twenty times. All in float64, on one thread: the forward pass,
and back to all parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pybptt = pytest.importorskip("pybptt")
pytest.importorskip("pytest_benchmark")
from pybptt import reference  # noqa: E402

D, H = 16, 32


@pytest.fixture
def one_thread():
    before = pybptt.get_num_threads()
    pybptt.set_num_threads(1)
    yield
    pybptt.set_num_threads(before)


def of_reference(backward: Callable) -> Callable:
    def make(rnn, x, d_output):
        def step():
            _, _, tape = reference.forward(rnn.parameters, x)
            return backward(tape, d_output).parameters

        return step

    return make


def of_core(rnn, x, d_output):
    def step():
        _, _, tape = rnn.forward(x)
        return rnn.backward(tape, d_output).parameters

    return step


WAYS = {
    "two loops": of_reference(reference.backward_two_loops),
    "sweep": of_reference(reference.backward),
    "core": of_core,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("B", [1, 32])
@pytest.mark.parametrize("T", [20, 100, 400])
def test_step(benchmark, one_thread, T, B, way):
    benchmark.group = f"RNN {T:>3} {B:>2} {D} {H} (T B D H), float64, one thread"
    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(D, H, dtype="float64", seed=0)
    x, d_output = rng.standard_normal((T, B, D)), rng.standard_normal((T, B, H))
    expected = WAYS["sweep"](rnn, x, d_output)()
    rounds = 3 if way == "two loops" else 30
    gradients = benchmark.pedantic(WAYS[way](rnn, x, d_output), rounds=rounds, warmup_rounds=1)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-8, atol=1e-8, err_msg=name)
