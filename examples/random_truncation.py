"""Is random truncation worth it? Bias and variance of the gradient, then training for the same time.

First, at fixed parameters: the gradient of a next-character GRU over 400 steps, truncated to windows of k
steps. TBPTT(k, k) and TBPTT(1, k) leave derivatives out: they are biased, always in the same way. Random
truncation (ARTBP, Tallec and Ollivier 2017) with windows of k steps in the mean is right in the mean, and
scatters instead. All numbers are norms of differences from the full gradient, relative to its own. What a
mean over N draws is off by is chance if it is about sd / sqrt(N).

Then blocks of k steps and random blocks of k steps in the mean train the same model for the same time, and
beside them blocks of 8 k. Python's standard library is the text, as in truncation_styles.py.

    python examples/random_truncation.py [--seconds S] [--draws N] [--runs R] [--plot FILE]
"""

import argparse
import time

import numpy as np
from truncation_styles import BATCH, RATE, bits, corpus

import pybptt
from pybptt import ARTBP, TBPTT

HIDDEN, STEPS, WINDOW = 64, 400, 25
WINDOWS = (2, 4, 8, 16, 32, 64)
STYLES = {
    "blocks": TBPTT(WINDOW, WINDOW),
    "random blocks": ARTBP(1 / WINDOW),
    "long blocks": TBPTT(8 * WINDOW, 8 * WINDOW),
}


def train(model: pybptt.SequenceModel, truncation: TBPTT | ARTBP, text: np.ndarray, seconds: float) -> int:
    """Reads the text from its beginning, over and over, for some seconds; returns the characters read."""
    optimiser = pybptt.optim.Adam(model.flat, lr=RATE)
    ((x, y, _),) = pybptt.data.sequential(text, BATCH, (len(text) - 1) // BATCH)
    read, end = 0, time.perf_counter() + seconds
    while True:
        for step in model.stream(x, y, truncation=truncation):
            # The mean over a random block divides by its own length. Over the mean length instead, the
            # gradient has the right mean.
            scale = step.count / (BATCH * WINDOW) if isinstance(truncation, ARTBP) else 1.0
            optimiser.step(pybptt.clip_by_norm(scale * step.gradients.flat, 1.0))
            read += step.count
            if time.perf_counter() >= end:
                return read


def errors(model: pybptt.SequenceModel, x: np.ndarray, y: np.ndarray, draws: int) -> list[tuple[float, ...]]:
    """(k, bias of TBPTT(k, k), of TBPTT(1, k), of the mean over draws, and their standard deviation)."""
    full = model.loss_and_grad(x, y)[1].flat.astype(np.float64)
    norm = np.linalg.norm(full)

    def gradient(truncation: TBPTT | ARTBP) -> np.ndarray:
        return model.loss_and_grad(x, y, truncation=truncation)[1].flat - full

    rows = []
    for k in WINDOWS:
        blocks, sliding = (np.linalg.norm(gradient(TBPTT(k1, k))) / norm for k1 in (k, 1))
        drawn = np.array([gradient(ARTBP(1 / k, seed)) for seed in range(draws)])
        mean = drawn.mean(axis=0)
        deviation = np.sqrt(((drawn - mean) ** 2).sum() / (draws - 1)) / norm
        rows.append((k, blocks, sliding, np.linalg.norm(mean) / norm, deviation))
    return rows


def draw(path: str, rows: list[tuple[float, ...]]) -> None:
    from matplotlib.figure import Figure

    k, blocks, sliding, bias, deviation = zip(*rows, strict=True)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(k, blocks, "o-", color="#0072B2", label="TBPTT(k, k): bias")
    axes.loglog(k, sliding, "s-", color="#56B4E9", label="TBPTT(1, k): bias")
    axes.loglog(k, deviation, "^--", color="#D55E00", label="ARTBP(1/k): standard deviation of one draw")
    axes.loglog(k, bias, "^:", color="#E69F00", label="ARTBP(1/k): what the mean over draws is off by")
    axes.set(xlabel="mean window k", ylabel="error / norm of the full gradient", xticks=k, xticklabels=k)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    print(f"drawn in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of training, for each style and run")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--plot", metavar="FILE", help="draw errors over windows (needs matplotlib)")
    args = parser.parse_args()
    text, held_out, symbols = corpus()

    def new(seed: int) -> pybptt.SequenceModel:
        layer = pybptt.GRU(symbols, HIDDEN, seed=2 * seed)
        return pybptt.SequenceModel(layer, symbols, seed=2 * seed + 1)

    model = new(0)
    train(model, STYLES["blocks"], text, args.seconds)  # gradients of a model that has learnt something
    ((x, y, _),) = pybptt.data.sequential(held_out[: STEPS * 8 + 1], 8, STEPS)
    rows = errors(model, x, y, args.draws)
    print(
        f"{'k':>3} {'TBPTT(k, k)':>12} {'TBPTT(1, k)':>12} {'ARTBP, mean':>12} {'sd':>9} {'sd/sqrt(N)':>11}"
    )
    for k, *values, deviation in rows:
        numbers = " ".join(f"{value:12.4f}" for value in values)
        print(f"{k:3} {numbers} {deviation:9.4f} {deviation / np.sqrt(args.draws):11.4f}")

    print(f"{'style':15} {'characters':>11} {'training bits':>14} {'held-out bits':>14}")
    for run in range(args.runs):
        for name, truncation in STYLES.items():
            model = new(run)
            read = train(model, truncation, text, args.seconds)
            seen = bits(model, text[: len(held_out)])
            print(f"{name:15} {read:11} {seen:14.3f} {bits(model, held_out):14.3f}", flush=True)
    if args.plot:
        draw(args.plot, rows)


if __name__ == "__main__":
    main()
