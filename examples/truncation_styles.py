"""A next-character model, trained by each style of truncated backpropagation for the same time.

The text is source of Python's standard library, cut into 32 stretches that are read side by side. Parameters
change at every boundary, so a style with a small k1 makes many updates and reads little; one with a large k2
sees further back at every update. All have the same GRU, the same start, and Adam with the same rate, which
has been tuned for none of them: with another rate, size, text or machine the order may be another.

    python examples/truncation_styles.py [--seconds S] [--plot FILE]
"""

import argparse
import math
import sysconfig
import time
from pathlib import Path

import numpy as np

import pybptt
from pybptt import TBPTT

MODULES = ("argparse", "ast", "calendar", "configparser", "datetime", "decimal", "difflib", "doctest",
           "inspect", "locale", "mailbox", "optparse", "pdb", "pickle", "tarfile", "typing",
           "zipfile")  # fmt: skip
BATCH, HIDDEN, RATE = 32, 128, 2e-3
LONG = 200
LOOKS = 6  # at the held-out text
STYLES = {
    "(n, n) long blocks": TBPTT(LONG, LONG),
    "(k, k) blocks": TBPTT(25, 25),
    "k1 < k2 < n overlapping": TBPTT(10, 50),
    "(1, k2) after every character": TBPTT(1, 25),
    "k2 < k1 losses left out": TBPTT(25, 10),
    "(k1, 1) no step back": TBPTT(25, 1),
}


def corpus() -> tuple[np.ndarray, np.ndarray, int]:
    """Training text (N,), held-out text (M,), as ids, and the number of ids; others than ASCII are id 0."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in MODULES]
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8)
    used, ids = np.unique(codes, return_inverse=True)
    held_out = len(ids) // 50
    return ids[:-held_out], ids[-held_out:], len(used)


def bits(model: pybptt.SequenceModel, text: np.ndarray) -> float:
    """Mean cross-entropy per character of a text."""
    whole = pybptt.data.sequential(text, BATCH, (len(text) - 1) // BATCH)
    ((x, y, _),) = whole
    return model.loss(np.ascontiguousarray(x), y)[0] / math.log(2)


def train(
    truncation: TBPTT, text: np.ndarray, held_out: np.ndarray, symbols: int, seconds: float
) -> tuple[int, int, list[tuple[float, float]]]:
    """Updates, characters read, and (seconds, bits) of the held-out text, LOOKS times on the way."""
    model = pybptt.SequenceModel(pybptt.GRU(symbols, HIDDEN, seed=0), symbols, seed=1)
    optimiser = pybptt.optim.Adam(model.flat, lr=RATE)
    # All the text side by side: one long batch, which the stream goes through.
    ((x, y, _),) = pybptt.data.sequential(text, BATCH, (len(text) - 1) // BATCH)
    updates = read = 0
    used, curve = 0.0, [(0.0, bits(model, held_out))]
    while used < seconds:  # the state is not carried from the end to the beginning
        since = time.perf_counter()
        for step in model.stream(x, y, truncation=truncation):
            optimiser.step(pybptt.clip_by_norm(step.gradients, 1.0))
            updates, read = updates + 1, read + BATCH * (step.stop - step.start)
            now = time.perf_counter()
            if used + now - since >= min(seconds, len(curve) * seconds / LOOKS):
                used += now - since
                curve.append((used, bits(model, held_out)))  # not on the clock
                if used >= seconds:
                    break
                since = time.perf_counter()
        else:
            used += time.perf_counter() - since
    return updates, read, curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of training, for each style")
    parser.add_argument("--plot", metavar="FILE", help="draw held-out bits over time (needs matplotlib)")
    args = parser.parse_args()

    text, held_out, symbols = corpus()
    counts = np.bincount(text, minlength=symbols) + 1.0
    frequencies = -np.log2(counts / counts.sum())[held_out].mean()
    print(f"{len(text)} characters, {symbols} different; {args.seconds:g} s for each style")
    print(f"{'style':30} {'k1':>4} {'k2':>4} {'updates':>8} {'characters':>11} {'held-out bits':>14}")
    print(f"{'(frequencies alone)':30} {'':4} {'':4} {'':8} {'':11} {frequencies:14.3f}")
    curves = {}
    for name, truncation in STYLES.items():
        updates, read, curve = train(truncation, text, held_out, symbols, args.seconds)
        curves[f"{name}: {truncation!r}"] = curve
        k1, k2 = truncation.k1, truncation.k2
        print(f"{name:30} {k1:4} {k2:4} {updates:8} {read:11} {curve[-1][1]:14.3f}", flush=True)

    if args.plot:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        plt.figure(figsize=(8, 5))
        for name, curve in curves.items():
            plt.plot(*zip(*curve, strict=True), marker=".", label=name)
        plt.xlabel("seconds of training")
        plt.ylabel("held-out bits per character")
        plt.legend()
        plt.savefig(args.plot, dpi=120)
        print(f"wrote {args.plot}")


if __name__ == "__main__":
    main()
