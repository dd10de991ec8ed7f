"""Fit a small network with SciPy's L-BFGS: `scipy.optimize.minimize(jac=True)` on `model.flat`.

The task: noise goes in, and at every step the network is to say what went in three steps before, so its 12
units must learn to keep three values. The gradient is exact and in float64, as a quasi-Newton method needs
it, which builds on differences of gradients, and gets to a small loss in a few hundred evaluations.

    python examples/minimise_with_scipy.py [--iterations N]
"""

import argparse

import numpy as np
from scipy.optimize import minimize

import pybptt

DELAY = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=300)
    iterations = parser.parse_args().iterations

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (60, 16, 1))  # (T, B, D)
    y = np.zeros_like(x)
    y[DELAY:] = x[:-DELAY]

    rnn = pybptt.RNN(input_size=1, hidden_size=12, dtype="float64", seed=1)
    model = pybptt.SequenceModel(rnn, output_size=1, loss="mse", seed=2)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        model.flat = flat  # copies the values into the model's own memory
        loss, gradients, _ = model.loss_and_grad(x, y)
        return loss, gradients.flat

    start, _ = loss_and_gradient(model.flat.copy())
    result = minimize(
        loss_and_gradient, model.flat.copy(), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    model.flat = result.x

    fresh = rng.uniform(-1, 1, (60, 16, 1))
    predicted, _ = model(fresh)
    error = np.mean((predicted[DELAY:] - fresh[:-DELAY]) ** 2)
    print(f"{model.flat.size} parameters, {result.nit} iterations, {result.nfev} evaluations")
    print(f"mean squared error {start:.4f} at first, {result.fun:.6f} fitted, {error:.6f} on fresh sequences")
    print(f"(always saying 0 has {np.mean(y**2):.4f})")


if __name__ == "__main__":
    main()
