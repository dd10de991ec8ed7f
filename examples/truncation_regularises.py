"""Does truncation regularise? One short, noisy series, fitted by networks that see further and further back.

The series is x_t = 0.8 x_{t-1} - 0.4 x_{t-2} + noise: two steps back are all that there is to know, and the
noise has variance 1, so that no forecast can have a mean squared error below 1. A network of 32 units learns
one-step forecasts from 200 steps, by TBPTT(k, k), and is then judged on 20,000 other steps of the same
process. The numbers are means over several series and networks. docs/books.md says what comes of it.

    python examples/truncation_regularises.py [--updates N] [--runs R]
"""

import argparse

import numpy as np

import pybptt
from pybptt import TBPTT

STEPS, FRESH, HIDDEN = 200, 20_000, 32
WINDOWS = (1, 2, 4, 10, 50, 200)


def series(rng: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """x and the next value of each, (T, 1, 1), past a beginning that is left out."""
    x = np.zeros(steps + 101)
    for t in range(2, len(x)):
        x[t] = 0.8 * x[t - 1] - 0.4 * x[t - 2] + rng.normal()
    x = x[100:, None, None].astype(np.float32)
    return x[:-1], x[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    looks = [args.updates * i // 4 for i in range(1, 5)]
    print(f"{'':15} " + " ".join(f"{f'{n} updates':>15}" for n in looks))
    print(f"{'':15} " + " ".join(f"{'seen':>7} {'fresh':>7}" for _ in looks))
    for k in WINDOWS:
        found = np.zeros((args.runs, len(looks), 2))
        for run in range(args.runs):
            rng = np.random.default_rng(run)
            seen, fresh = series(rng, STEPS), series(rng, FRESH)
            layer = pybptt.RNN(1, HIDDEN, seed=2 * run)
            model = pybptt.SequenceModel(layer, 1, loss="mse", seed=2 * run + 1)
            optimiser = pybptt.optim.Adam(model.flat, lr=3e-3)
            for update in range(1, args.updates + 1):
                gradients = model.loss_and_grad(*seen, truncation=TBPTT(k, k))[1]
                optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
                if update in looks:
                    found[run, looks.index(update)] = model.loss(*seen)[0], model.loss(*fresh)[0]
        errors = " ".join(f"{a:7.3f} {b:7.3f}" for a, b in found.mean(axis=0))
        print(f"{f'TBPTT({k}, {k})':15} {errors}", flush=True)


if __name__ == "__main__":
    main()
