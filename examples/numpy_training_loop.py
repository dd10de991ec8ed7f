"""A training loop in NumPy alone: the adding problem, many to one, with Adam and clipping.

Every sequence has two rows of numbers. One is noise between 0 and 1; the other is 0 except for two steps,
where it is 1. The answer, after the last step, is the sum of the noise at those two steps. Saying 1 always
has a mean squared error of 1/6 = 0.167; to do better the network has to remember a number over many steps
(Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9(8), 1997, experiment 4).

A plain recurrent network learns it when it starts as one that forgets nothing: W_hh the identity, relu (Le,
Jaitly and Hinton, A simple way to initialize recurrent networks of rectified linear units, arXiv:1504.00941).

    python examples/numpy_training_loop.py [--steps N] [--length T]
"""

import argparse

import numpy as np

import pybptt


def adding_problem(rng: np.random.Generator, length: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (T, B, 2) and answers (B, 1), float32."""
    x = np.zeros((length, batch, 2), np.float32)
    x[:, :, 0] = rng.random((length, batch))
    first, second = rng.permuted(np.tile(np.arange(length), (batch, 1)), axis=1)[:, :2].T
    column = np.arange(batch)
    x[first, column, 1] = x[second, column, 1] = 1
    return x, (x[first, column, 0] + x[second, column, 0])[:, np.newaxis]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--length", type=int, default=50)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    rnn = pybptt.RNN(input_size=2, hidden_size=64, nonlinearity="relu", seed=1)
    model = pybptt.SequenceModel(rnn, output_size=1, loss="mse", last_only=True, seed=2)
    model.parameters["weight_hh_l0"][...] = np.eye(64)
    model.parameters["bias_ih_l0"][...] = model.parameters["bias_hh_l0"][...] = 0

    optimiser = pybptt.optim.Adam(model.flat, lr=1e-3)
    recent = []
    for step in range(1, args.steps + 1):
        x, y = adding_problem(rng, args.length, batch=32)
        loss, gradients, _ = model.loss_and_grad(x, y)
        optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
        recent.append(loss)
        if step % max(1, args.steps // 10) == 0:
            print(f"step {step:5d}: mean squared error {np.mean(recent):.4f}")
            recent.clear()

    x, y = adding_problem(rng, args.length, batch=1000)
    loss, _ = model.loss(x, y)
    print(f"on 1000 fresh sequences of {args.length} steps: {loss:.4f}")
    print(f"(always saying 1 has {np.mean((y - 1) ** 2):.4f})")


if __name__ == "__main__":
    main()
