"""A task that short windows learn the wrong way round: influence balancing (Tallec and Ollivier 2017).

A chain of linear units, s_t = A s_{t-1} + theta (1, .., 1, -1, .., -1), passes half of each unit's value on
to its neighbour. One parameter, theta, drives the 10 units at the near end of the chain up and the other 13
down; the loss of every step is (s^1_t - 1)^2. The near units act on s^1 soon, and the far ones, which are
more, later. So a short window finds that a larger theta raises s^1. In the long run it lowers it, and only
theta = -1/6 is right.

    python examples/influence_balancing.py
"""

import numpy as np

import pybptt
from pybptt import ARTBP, TBPTT

UNITS, UP, STEPS, RATE = 23, 10, 20_000, 3e-5
LOOKS = (0, 1000, 2000, 5000, 10_000, STEPS)
SIGNS = np.where(np.arange(UNITS) < UP, 1.0, -1.0)


def chain() -> pybptt.SequenceModel:
    """The chain as a linear network with the input 1 at every step; theta will be in W_ih."""
    layer = pybptt.RNN(1, UNITS, nonlinearity="identity", bias=False, dtype="float64")
    model = pybptt.SequenceModel(layer, 1, loss="mse", reduction="sum")
    model.parameters["weight_hh_l0"][:] = 0.5 * (np.eye(UNITS) + np.eye(UNITS, k=1))
    model.parameters["output.weight"][:] = np.eye(1, UNITS)  # o_t = s^1_t
    model.parameters["output.bias"][:] = 0
    return model


def train(truncation: TBPTT | ARTBP) -> list[float]:
    """theta at the last update before each of LOOKS, as far as it has not diverged."""
    model, theta = chain(), 1.0
    w_ih = model.parameters["weight_ih_l0"]
    w_ih[:, 0] = theta * SIGNS
    found = []
    ones = np.ones((STEPS, 1, 1))
    for step in model.stream(ones, ones, truncation=truncation):
        while LOOKS[len(found)] < step.stop:
            found.append(theta)
        # W_ih = theta SIGNS, so dL/dtheta = SIGNS^T dL/dW_ih.
        d_theta = SIGNS @ step.gradients.parameters["weight_ih_l0"][:, 0]
        theta -= RATE / np.sqrt(1 + step.stop / 1000) * d_theta
        w_ih[:, 0] = theta * SIGNS
        if abs(theta) > 1000:
            return found
    return [*found, theta]


def main() -> None:
    print("theta, which should become -1/6 = -0.1667")
    print(f"{'after':>22}" + "".join(f"{look:>9}" for look in LOOKS) + " steps")
    for truncation in (
        *(TBPTT(k, k) for k in (10, 30, 100, 200)),
        *(ARTBP(1 / 16, seed) for seed in range(3)),
    ):
        name = f"ARTBP(1 / 16, seed={truncation.seed})" if isinstance(truncation, ARTBP) else repr(truncation)
        found = [f"{theta:9.4f}" for theta in train(truncation)]
        print(f"{name:>22}" + "".join(found) + (" diverged" if len(found) < len(LOOKS) else ""))


if __name__ == "__main__":
    main()
