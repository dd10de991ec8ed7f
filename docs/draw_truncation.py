"""Draw docs/truncation.png: which loss reaches which use of the parameters, in each style of truncation.

Nothing is drawn from the definition. A linear network of one unit, whose derivatives are never 0 by accident,
reads n copies of a sequence of n steps; in copy t only the loss of step t counts. One `backward` with the
truncation then returns dL_t/dh_tau for all t and tau, and a square is filled where it is not 0.

    python docs/draw_truncation.py [FILE.png]
"""

import sys
from pathlib import Path

import numpy as np

import pybptt

STEPS = 12  # n
STYLES = {
    (12, 12): "TBPTT(n, n): one window",
    (1, 12): "TBPTT(1, n): a window a loss",
    (3, 7): "TBPTT(3, 7): k1 < k2 < n",
    (4, 4): "TBPTT(4, 4): k1 = k2, blocks",
    (4, 2): "TBPTT(4, 2): k2 < k1",
    (4, 1): "TBPTT(4, 1): k2 = 1",
}
# Okabe and Ito's colours, which stay apart for colour-blind eyes.
WINDOWS = ("#0072B2", "#E69F00")  # in turn
CUT_OFF, NOT_YET, UNREACHED = "#E4E4E4", "white", "#D55E00"


def reach(truncation: pybptt.TBPTT, steps: int) -> np.ndarray:
    """Whether the loss of step t (row t - 1) reaches the parameters' use at step tau (column tau - 1)."""
    rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype="float64")
    rnn.flat[:] = 1.0
    _, _, tape = rnn.forward(np.ones((steps, steps, 1)))
    one_loss_each = np.eye(steps)[:, :, None]  # (T, B, H): sequence b has the loss of step b + 1
    gradients = rnn.backward(tape, one_loss_each, truncation=truncation, hidden=True)
    return gradients.hidden[0, :, :, 0].T != 0


def draw(path: Path) -> None:
    """Write the picture of all styles."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    plt.rcParams["font.size"] = 14
    figure, panels = plt.subplots(2, 3, figsize=(12, 9.3), layout="constrained", sharex=True, sharey=True)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.03)
    t = np.arange(1, STEPS + 1)
    for axes, ((k1, k2), title) in zip(panels.flat, STYLES.items(), strict=True):
        reached = reach(pybptt.TBPTT(k1, k2), STEPS)
        windows = (t - 1) // k1  # of each loss
        image = np.full((STEPS, STEPS, 3), to_rgb(NOT_YET))
        image[np.tri(STEPS, dtype=bool)] = to_rgb(CUT_OFF)
        for row in range(STEPS):
            image[row, reached[row]] = to_rgb(WINDOWS[windows[row] % 2])
        axes.imshow(image, extent=(0.5, STEPS + 0.5, STEPS + 0.5, 0.5), interpolation="nearest")
        for edge in np.arange(0.5, STEPS + 1):
            axes.axhline(edge, color="white", linewidth=1.5)
            axes.axvline(edge, color="white", linewidth=1.5)
        for boundary in sorted({*range(k1, STEPS, k1), STEPS}):
            axes.plot(
                (0.5, boundary + 0.5), (boundary + 0.5,) * 2, color="black", linewidth=1.2, clip_on=False
            )
        lost = t[~reached.any(axis=1)]
        axes.plot(lost, lost, "x", color=UNREACHED, markersize=8, markeredgewidth=2.5)
        axes.set_title(title, fontsize=14)
        axes.set(xticks=t, yticks=t)
        axes.tick_params(length=0, labelsize=12)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("use of the parameters, step \N{GREEK SMALL LETTER TAU}")
    for axes in panels[:, 0]:
        axes.set_ylabel("loss of step t")
    reaches = tuple(Patch(color=colour) for colour in WINDOWS)
    left_out = Line2D([], [], color=UNREACHED, marker="x", linestyle="", markersize=8, markeredgewidth=2.5)
    figure.legend(
        [reaches, Patch(color=CUT_OFF), left_out, Line2D([], [], color="black")],
        ["the loss reaches the use (windows in turn)", "cut off", "loss left out", "boundary"],
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("truncation.png")
    draw(to)
    print(f"drawn in {to}")
