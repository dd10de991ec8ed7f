"""The adding problem over 400 steps: an LSTM learns it, a plain network doesn't.

Every sequence has two rows of numbers. One is noise between 0 and 1; the other is 0 except for two steps, one
in each half, where it is 1. The answer, after the last step, is the sum of the noise at those two steps.
Saying 1 always has a mean squared error of 1/6 = 0.167; to do better a network has to remember a number over
hundreds of steps (Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9(8), 1997).

The LSTM's forget gates start with biases log(u), u uniform in [1, T - 1], its input gates with -log(u): then
its cells forget over times as long as the sequence (Tallec and Ollivier, Can recurrent neural networks warp
time?, arXiv:1804.11188).

    python examples/adding_problem.py [--quick]
"""

import argparse
import time

import numpy as np

import pybptt

HIDDEN = 64
BATCH = 32


def adding_problem(rng: np.random.Generator, length: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (T, B, 2) and answers (B, 1), float32."""
    x = np.zeros((length, batch, 2), np.float32)
    x[:, :, 0] = rng.random((length, batch))
    column = np.arange(batch)
    first = rng.integers(length // 2, size=batch)
    second = rng.integers(length // 2, length, size=batch)
    x[first, column, 1] = x[second, column, 1] = 1
    return x, (x[first, column, 0] + x[second, column, 0])[:, np.newaxis]


def plain(length: int) -> pybptt.RNN:
    """Elman's network with tanh, as it comes."""
    return pybptt.RNN(2, HIDDEN, seed=1)


def lstm(length: int) -> pybptt.LSTM:
    """With the biases above; gates are in the order i f g o."""
    layer = pybptt.LSTM(2, HIDDEN, seed=1)
    times = np.random.default_rng(3).uniform(1, length - 1, HIDDEN)
    layer.parameters["bias_ih_l0"][:] = layer.parameters["bias_hh_l0"][:] = 0
    layer.parameters["bias_ih_l0"][HIDDEN : 2 * HIDDEN] = np.log(times)
    layer.parameters["bias_ih_l0"][:HIDDEN] = -np.log(times)
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="60 steps of time, 1000 of training")
    args = parser.parse_args()
    length, steps = (60, 1000) if args.quick else (args.length, args.steps)

    for make in (plain, lstm):
        model = pybptt.SequenceModel(make(length), output_size=1, loss="mse", last_only=True, seed=2)
        optimiser = pybptt.optim.Adam(model.flat, lr=3e-3)
        rng = np.random.default_rng(0)
        recent = []
        start = time.perf_counter()
        for step in range(1, steps + 1):
            x, y = adding_problem(rng, length, BATCH)
            loss, gradients, _ = model.loss_and_grad(x, y)
            optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
            recent.append(loss)
            if step % max(1, steps // 10) == 0:
                seconds = time.perf_counter() - start
                print(
                    f"{make.__name__:>5}, step {step:5d}, {seconds:4.0f} s: {np.mean(recent):.4f}", flush=True
                )
                recent.clear()
        x, y = adding_problem(np.random.default_rng(4), length, batch=1000)
        loss, _ = model.loss(x, y)
        print(f"{make.__name__:>5} on 1000 fresh sequences of {length} steps: {loss:.4f}")
    print(f"(always saying 1 has {np.mean((y - 1) ** 2):.4f})")


if __name__ == "__main__":
    main()
