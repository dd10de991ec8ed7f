"""Yearly sunspots, 1700 to 2008: forecasts one year ahead from windows of different lengths.

Each forecast sees up to 60 years before it; the first ones have fewer, and in training each window is cut to
a random length besides, so a batch is ragged: `lengths` says how long each window is. Trained on the years up
to 1920, tested on those after, next to what anyone should try first: last year's number again (persistence),
and an autoregression on nine years by least squares. The network is the mean of five, from five seeds.

    pip install statsmodels     # it brings the series
    python examples/sunspots.py [--steps N] [--plot FILE]
"""

import argparse

import numpy as np
from statsmodels.datasets import sunspots

import pybptt

LONGEST, SHORTEST, ORDER = 60, 9, 9
TRAINED_UNTIL = 1920
SEEDS = 5


def windows(series: np.ndarray, targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(T, B, 1): what comes before each target; past a window's end 0, which is not read."""
    x = np.zeros((lengths.max(), len(targets), 1), np.float32)
    for column, (target, length) in enumerate(zip(targets, lengths, strict=True)):
        x[:length, column, 0] = series[target - length : target]
    return x


def trained(series: np.ndarray, targets: np.ndarray, steps: int, seed: int) -> pybptt.SequenceModel:
    """A GRU that has seen the targets given."""
    gru = pybptt.GRU(1, 24, seed=seed)
    model = pybptt.SequenceModel(gru, 1, loss="mse", last_only=True, seed=seed + 100)
    optimiser = pybptt.optim.Adam(model.flat, lr=3e-3)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        optimiser.lr = 3e-3 * (1 - step / steps)
        batch = rng.choice(targets, size=32)
        lengths = rng.integers(SHORTEST, np.minimum(batch, LONGEST) + 1)
        y = series[batch, np.newaxis].astype(np.float32)
        _, gradients, _ = model.loss_and_grad(windows(series, batch, lengths), y, lengths=lengths)
        optimiser.step(pybptt.clip_by_norm(gradients, 1.0))
    return model


def autoregression(series: np.ndarray, targets: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Forecasts of least squares on the last ORDER numbers and a constant."""

    def rows(years: np.ndarray) -> np.ndarray:
        return np.stack([np.append(series[t - ORDER : t], 1) for t in years])

    return rows(tested) @ np.linalg.lstsq(rows(targets), series[targets], rcond=None)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--plot", metavar="FILE", help="draw the forecasts (needs matplotlib)")
    args = parser.parse_args()

    table = sunspots.load_pandas().data
    years, numbers = table["YEAR"].to_numpy().astype(int), table["SUNACTIVITY"].to_numpy()
    known = np.flatnonzero((years <= TRAINED_UNTIL) & (np.arange(len(years)) >= SHORTEST))
    tested = np.flatnonzero(years > TRAINED_UNTIL)
    scale = numbers[years <= TRAINED_UNTIL].std()
    series = numbers / scale

    models = [trained(series, known, args.steps, seed) for seed in range(SEEDS)]
    lengths = np.minimum(tested, LONGEST)
    x = windows(series, tested, lengths)
    of_models = np.stack([model(x, lengths=lengths)[0][:, 0] for model in models])
    forecasts = {
        "mean of the years until 1920": np.full(len(tested), series[years <= TRAINED_UNTIL].mean()),
        "persistence": series[tested - 1],
        f"autoregression({ORDER})": autoregression(series, known, tested),
        f"mean of {SEEDS} GRUs": of_models.mean(axis=0),
    }
    print(f"root mean squared error of one year ahead, {years[tested[0]]} to {years[tested[-1]]}:")
    for name, forecast in forecasts.items():
        print(f"{name:30} {scale * np.sqrt(np.mean((forecast - series[tested]) ** 2)):6.1f}")
    errors = scale * np.sqrt(np.mean((of_models - series[tested]) ** 2, axis=1))
    print(f"the GRUs one by one: {', '.join(f'{error:.1f}' for error in errors)}")

    if args.plot:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        plt.figure(figsize=(9, 4))
        plt.plot(years[tested], numbers[tested], "k", label="sunspots")
        for name in list(forecasts)[2:]:
            plt.plot(years[tested], scale * forecasts[name], label=name)
        plt.legend()
        plt.savefig(args.plot, dpi=120)
        print(f"wrote {args.plot}")


if __name__ == "__main__":
    main()
