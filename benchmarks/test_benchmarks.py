"""pytest-benchmark suite: `make bench`, or `python -m pytest benchmarks`; three minutes or so.

For following pybptt's own speed from one version to the next (`--benchmark-autosave`, `--benchmark-compare`);
`compare.py` sets it beside other libraries.
"""

from functools import partial

import numpy as np
import pytest
from rows import DEFAULT, ROWS, make_problem

pybptt = pytest.importorskip("pybptt")
pytest.importorskip("pytest_benchmark")
from contestants.with_pybptt import going_back, has, layer_step, make_layer, on_input  # noqa: E402

pytestmark = pytest.mark.benchmark(max_time=0.4, min_rounds=3, warmup=True, warmup_iterations=2)

# Without the widest, whose step takes a second.
LAYERS = [row for row in DEFAULT if not row.Q and row.name != "lstm-wide"]
# Truncation changes the way back alone.
UNTRUNCATED = [row for row in LAYERS if not row.truncation]

of_rows = partial(pytest.mark.parametrize, "row", ids=lambda row: row.name)


def layer_of(row):
    """A layer of the row's size and its problem."""
    if not has(row):
        pytest.skip(f"this version has no {row.cell}, or no truncation")
    problem = make_problem(row)
    return make_layer(row, problem), problem


@of_rows(UNTRUNCATED)
def test_inference(benchmark, row):
    layer, problem = layer_of(row)
    benchmark(on_input(layer, problem))


@of_rows(UNTRUNCATED)
def test_forward(benchmark, row):
    layer, problem = layer_of(row)
    benchmark(on_input(layer.forward, problem))


@of_rows(LAYERS)
def test_backward(benchmark, row):
    layer, problem = layer_of(row)
    _, _, tape = on_input(layer.forward, problem)()
    benchmark(going_back(layer, row, problem), tape)


@of_rows(LAYERS)
def test_step(benchmark, row):
    layer, problem = layer_of(row)
    benchmark(layer_step(layer, row, problem))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activation(benchmark, nonlinearity, dtype):
    """Inference with so little to multiply that the activation tells."""
    rnn = pybptt.RNN(1, 16, nonlinearity=nonlinearity, dtype=dtype, seed=0)
    benchmark(rnn, np.ones((100, 256, 1), dtype))


@pytest.fixture
def words():
    """The whole model of the row "words", its tokens and its targets."""
    row = ROWS["words"]
    problem = make_problem(row)
    model = pybptt.SequenceModel(pybptt.RNN(row.D, row.H, dtype=row.dtype, seed=0), row.Q, seed=1)
    return model, problem.x, problem.y


def test_words_loss(benchmark, words):
    model, x, y = words
    benchmark(model.loss, x, y)


def test_words_loss_and_grad(benchmark, words):
    model, x, y = words
    benchmark(model.loss_and_grad, x, y)


def test_mse_loss_and_grad(benchmark):
    rng = np.random.default_rng(0)
    model = pybptt.SequenceModel(pybptt.RNN(8, 128, seed=0), 8, loss="mse", seed=1)
    x, y = rng.standard_normal((2, 100, 32, 8), np.float32)
    benchmark(model.loss_and_grad, x, y)


def test_tokens_step(benchmark):
    """Gather, recurrence, scatter-add."""
    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(8000, 100, seed=0)
    tokens = rng.integers(0, 8000, (50, 8))
    d_output = rng.standard_normal((50, 8, 100), np.float32)

    def step():
        _, _, tape = rnn.forward(tokens)
        return rnn.backward(tape, d_output)

    benchmark(step)


@pytest.mark.parametrize("bptt_truncate", [None, 4])
def test_bptt(benchmark, bptt_truncate):
    rng = np.random.default_rng(0)
    U, V, W = (rng.uniform(-0.1, 0.1, shape) for shape in ((100, 65), (65, 100), (100, 100)))
    x, y = rng.integers(0, 65, (2, 1000))
    benchmark(pybptt.bptt, U, V, W, x, y, bptt_truncate=bptt_truncate)


def test_clip_by_norm(benchmark):
    benchmark(pybptt.clip_by_norm, np.ones(1_000_000, np.float32), 1.0)


def test_sgd(benchmark):
    flat, gradient = np.zeros(1_000_000, np.float32), np.ones(1_000_000, np.float32)
    benchmark(pybptt.optim.SGD(flat, lr=1e-3, momentum=0.9).step, gradient)


def test_adam(benchmark):
    flat, gradient = np.zeros(1_000_000, np.float32), np.ones(1_000_000, np.float32)
    benchmark(pybptt.optim.Adam(flat).step, gradient)
