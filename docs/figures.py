"""Draw the figures of docs/numbers.md, docs/bptt.md and docs/truncation.md: SVG, on white.

    python docs/figures.py [NAME ...]

The numbers in `two_steps` are those of vectors/01_scalar.json; `truncation` shows what the core returns.
"""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Patch, PathPatch
from matplotlib.path import Path as Outline

import pybptt

FOLDER = Path(__file__).with_name("figures")
VECTORS = Path(__file__).parent.parent / "vectors"
# Okabe and Ito's colours, which stay apart for colour-blind eyes; darker where they are colours of letters.
INK, W_IH, W_HH, W_HO, BACK = "#222222", "#A85800", "#0072B2", "#00795A", "#B3261E"
Point = tuple[float, float]


class Board:
    """Nodes and arrows; lengths are inches."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = plt.figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def circle(self, at: Point, label: str, fill: str = "white") -> None:
        self.axes.add_patch(Circle(at, 0.33, facecolor=fill, edgecolor=INK, linewidth=1.3, zorder=3))
        self.text(at, label)

    def state(self, at: Point, label: str) -> None:
        self.circle(at, label, "#DCEAF5")

    def box(
        self,
        at: Point,
        label: str,
        width: float = 0.7,
        height: float = 0.5,
        colour: str = INK,
        size: float = 15,
    ) -> None:
        corner, style = (at[0] - width / 2, at[1] - height / 2), "round,pad=0,rounding_size=0.08"
        shape = FancyBboxPatch(corner, width, height, style, fc="white", ec=colour, lw=1.5, zorder=3)
        self.axes.add_patch(shape)
        self.text(at, label, colour, size)

    def text(self, at: Point, label: str, colour: str = INK, size: float = 15, ha: str = "center") -> None:
        self.axes.text(*at, label, color=colour, fontsize=size, ha=ha, va="center", zorder=4)

    def arrow(
        self, start: Point, end: Point, colour: str = INK, away: float = 0.36, path: str = "arc3"
    ) -> None:
        """From a node, under which it begins, to `away` from the middle of another one."""
        head = {"arrowstyle": "-|>,head_width=0.28,head_length=0.5", "color": colour, "linewidth": 1.6}
        between = {"shrinkA": 0, "shrinkB": 72 * away, "connectionstyle": path}
        self.axes.annotate("", end, start, arrowprops=head | between, zorder=2)


def two_steps() -> Any:
    """The scalar network of two steps, with what each node is and what the loss is by it."""
    case = json.loads((VECTORS / "01_scalar.json").read_text(encoding="utf-8"))["cases"][0]
    given, forward, back = case["given"], case["forward"], case["backward"]
    (there,), (swept,) = forward["runs"], back["sweeps"][0]["runs"]
    value = [given["parameters"][name] for name in ("weight_ih_l0", "weight_hh_l0", "output.weight")]
    slope = [back["parameters"][name] for name in ("weight_ih_l0", "weight_hh_l0", "output.weight")]
    column, top, middle, bottom = [0.6 + 1.43 * i for i in range(7)], 3.9, 2.5, 0.5
    nodes: dict[str, tuple[float, float, Any, Any]] = {  # where; its value; the derivative of L by it
        "h_0": (column[0], middle, 0.0, back["state"]["h"]),
        "z_1": (column[1], middle, there["z"][0], swept["dz"][0]),
        "h_1": (column[2], middle, there["h"][0], swept["dh"][0]),
        "z_2": (column[3], middle, there["z"][1], swept["dz"][1]),
        "h_2": (column[4], middle, there["h"][1], swept["dh"][1]),
        "o": (column[5], middle, forward["o"], back["do"]),
        "L": (column[6], middle, forward["loss"], 1.0),
        "x_1": (column[1], top, given["x"][0], back["input"][0]),
        "u": (column[2], top, value[0], slope[0]),
        "x_2": (column[3], top, given["x"][1], back["input"][1]),
        "w": (column[2], bottom, value[1], slope[1]),
        "k": (column[5], top, value[2], slope[2]),
        "y": (column[6], top, given["y"], np.negative(back["do"])),
    }
    board = Board(9.8, 4.8)
    colours = {"u": W_IH, "w": W_HH, "k": W_HO}
    at = {name: (x, y) for name, (x, y, _, _) in nodes.items()}
    for name, (x, y, here, by_it) in nodes.items():
        if name in colours:
            board.box((x, y), f"${name}$", colour=colours[name])
        else:
            (board.state if name.startswith("h") else board.circle)((x, y), f"${name}$")
        # Numbers stand above the top row, below the middle one, and beside w, out of the way of its arrows.
        x += {"z_1": -0.22, "z_2": 0.24, "w": 0.75}.get(name, 0.0)
        y += {top: 0.73, middle: -0.49, bottom: 0.12}[y]
        for number, colour, line in ((here, INK, 0), (by_it, BACK, 1)):
            text = f"{np.squeeze(number):.3f}".replace("-", "\N{MINUS SIGN}")
            board.text((x, y - 0.24 * line), text, colour, 12)
    for name in ("h_0", "x_1", "u", "w"):
        board.arrow(at[name], at["z_1"], colours.get(name, INK))
    for name in ("h_1", "x_2", "u", "w"):
        board.arrow(at[name], at["z_2"], colours.get(name, INK))
    for start, end in (pair.split() for pair in ("z_1 h_1", "z_2 h_2", "h_2 o", "k o", "o L", "y L")):
        board.arrow(at[start], at[end], colours.get(start, INK))
    return board.figure


def network() -> Any:
    """The network as a loop."""
    board = Board(8.6, 2.5)
    x, h, o, loss, y = (0.7, 0.9), (3.1, 0.9), (5.5, 0.9), (7.7, 0.9), (7.7, 2.1)
    board.circle(x, "$x_t$")
    board.state(h, "$h_t$")
    board.circle(o, "$o_t$")
    board.box(loss, "$l_t$")
    board.circle(y, "$y_t$")
    board.arrow(x, h, W_IH)
    board.arrow(h, o, W_HO)
    board.arrow(o, loss, away=0.38)
    board.arrow(y, loss, away=0.28)
    loop = "arc,angleA=65,angleB=115,armA=60,armB=60,rad=28"
    board.arrow((h[0] + 0.14, h[1] + 0.32), (h[0] - 0.14, h[1] + 0.32), W_HH, 0.0, loop)
    board.text((1.9, 1.14), "$W_{ih}$", W_IH)
    board.text((4.3, 1.14), "$W_{ho}$", W_HO)
    board.text((3.85, 1.75), "$W_{hh}$", W_HH)
    board.text((2.4, 1.75), "one step later", W_HH, 12, "right")
    for at, word in ((x, "input"), (h, "state"), (o, "output"), (loss, "loss")):
        board.text((at[0], 0.3), word, size=12)
    board.text((7.25, 2.1), "target", size=12, ha="right")
    return board.figure


def unrolled() -> Any:
    """The network as a chain."""
    board = Board(9, 4.3)
    before = (0.6, 1.85)
    board.state(before, "$h_0$")
    for t, column in {"1": 2.3, "2": 4.0, "3": 5.7, "T": 8.3}.items():
        x, h, o, loss = (column, 0.5), (column, 1.85), (column, 3.0), (column, 3.95)
        board.circle(x, f"$x_{t}$")
        board.state(h, f"$h_{t}$")
        board.circle(o, f"$o_{t}$")
        board.box(loss, f"$l_{t}$", height=0.46)
        board.arrow(x, h, W_IH)
        board.arrow(h, o, W_HO)
        board.arrow(o, loss, away=0.26)
        board.text((column + 0.12, 1.16), "$W_{ih}$", W_IH, 13, "left")
        board.text((column + 0.12, 2.42), "$W_{ho}$", W_HO, 13, "left")
        if t == "T":  # steps are left out
            dots = ((before[0] + column) / 2, h[1])
            board.text(dots, "$\\cdots$", size=18)
            board.arrow(before, dots, W_HH, 0.3)
            board.arrow((dots[0] + 0.3, dots[1]), h, W_HH)
        else:
            board.arrow(before, h, W_HH)
            board.text(((before[0] + column) / 2, h[1] + 0.24), "$W_{hh}$", W_HH, 13)
        before = h
    return board.figure


def chain(width: float, height: float, start: Point) -> tuple[Board, list[Point], list[Point]]:
    """A board with z_t and h_t of three steps, and where they are."""
    board = Board(width, height)
    h = [(start[0] + 2.6 * t, start[1]) for t in range(4)]
    z = [(start[0] + 2.6 * t - 1.3, start[1]) for t in range(4)]
    board.state(h[0], "$h_0$")
    for t in (1, 2, 3):
        board.circle(z[t], f"$z_{t}$")
        board.state(h[t], f"$h_{t}$")
    return board, h, z


def graph() -> Any:
    """What is computed from what, in three steps."""
    board, h, z = chain(8.8, 5.2, (0.5, 2.8))
    total, shared = (h[2][0], 4.85), (z[2][0], 0.4)
    board.box(total, "$L$")
    board.box(shared, "$W_{hh}$", 0.9, colour=W_HH)
    labels = [(0.0, 0.0), (2.5, 1.5), (4.75, 1.6), (6.25, 1.5)]
    for t in (1, 2, 3):
        x, loss = (z[t][0], 3.95), (h[t][0], 3.95)
        board.circle(x, f"$x_{t}$")
        board.box(loss, f"$l_{t}$", height=0.46)
        board.arrow(h[t - 1], z[t])
        board.arrow(z[t], h[t])
        board.arrow(x, z[t])
        board.arrow(h[t], loss, away=0.26)
        board.arrow(loss, total, away=0.28 if t == 2 else 0.4)
        board.arrow(shared, z[t], W_HH)
        board.text(labels[t], f"$W^{{({t})}}$", W_HH)
    return board.figure


def way_back() -> Any:
    """The way of the loss of step 3."""
    board, h, z = chain(9.6, 4.1, (0.5, 2.35))
    loss, above, below = (h[3][0], 3.7), 2.86, 0.75
    arrived = ["", "$J_2^\\top J_3^\\top dl_3$", "$J_3^\\top dl_3$", ""]
    board.box(loss, "$l_3$", height=0.46)
    board.arrow(loss, h[3], BACK)
    board.text((loss[0] + 0.2, 3.1), "$dl_3$", BACK, 14, "left")
    for t in (3, 2, 1):
        term = (z[t][0], below)
        board.arrow(h[t], z[t], BACK)
        board.arrow(z[t], h[t - 1], BACK)
        board.arrow(z[t], term, BACK, 0.4)
        board.text(((h[t][0] + z[t][0]) / 2, above), f"$\\odot\\,\\phi'(z_{t})$", BACK, 13)
        board.text(((h[t - 1][0] + z[t][0]) / 2, above), "$W_{hh}^\\top$", W_HH, 13)
        board.text((h[t][0], 1.75), arrived[t], BACK, 13)
        board.box(term, f"$\\frac{{\\partial l_3}}{{\\partial z_{t}}}\\,h_{t - 1}^\\top$", 1.3, 0.76, size=19)
        board.text((term[0], 0.16), f"use at step {t}", size=12)
        board.text((h[t][0] - (0.15 if t == 3 else 0), below), "=" if t == 3 else "+", size=18)
    board.box((h[3][0] + 0.7, below), "$\\frac{\\partial l_3}{\\partial W_{hh}}$", 1.1, 0.76, W_HH, 19)
    return board.figure


STEPS = 12  # n
PI = 0.75
STYLES: dict[str, tuple[Any, int]] = {  # a truncation, and over how many draws to take the mean
    "TBPTT(n, n): one window": (pybptt.TBPTT(12, 12), 1),
    "TBPTT(1, n): a window a loss": (pybptt.TBPTT(1, 12), 1),
    "TBPTT(3, 7): k1 < k2 < n": (pybptt.TBPTT(3, 7), 1),
    "TBPTT(4, 4): k1 = k2, blocks": (pybptt.TBPTT(4, 4), 1),
    "TBPTT(4, 2): k2 < k1": (pybptt.TBPTT(4, 2), 1),
    "TBPTT(4, 1): k2 = 1": (pybptt.TBPTT(4, 1), 1),
    "RandomTruncation(0.75), a draw": (pybptt.RandomTruncation(PI, seed=4), 1),
    "another draw": (pybptt.RandomTruncation(PI, seed=8), 1),
    "the mean of 1000 draws": (pybptt.RandomTruncation(PI, seed=0), 1000),
}
WINDOWS = ("#0072B2", "#E69F00")  # in turn
CUT_OFF, UNREACHED = "#E4E4E4", "#D55E00"


def weights(truncation: Any, steps: int, draws: int = 1) -> np.ndarray:
    """How often the loss of step t (row t - 1) counts at the use of step tau (column tau - 1): dL_t/dh_tau.

    A linear network of one unit, whose derivatives are all 1, reads a sequence; of its runs the t-th counts
    the loss of step t alone. The mean is over the batch: each sequence has draws of its own, in all runs the
    same.
    """
    rnn = pybptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype="float64")
    rnn.flat[:] = 1.0
    _, _, tape = rnn.forward(np.ones((steps, draws, 1)))
    rows = []
    for t in range(steps):
        loss = np.zeros((steps, draws, 1))
        loss[t] = 1.0
        gradients = rnn.backward(tape, loss, truncation=truncation, hidden=True)
        rows.append(gradients.hidden[0, :, :, 0].mean(axis=1))
    return np.array(rows)


def squares(axes: Any, chosen: np.ndarray, colour: Any) -> None:
    """Fill the squares (row, column) that are chosen; all of them are one path."""
    corners = np.array([[-0.46, -0.46], [0.46, -0.46], [0.46, 0.46], [-0.46, 0.46], [-0.46, -0.46]])
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    outlines = [Outline(corners + (column + 1, row + 1), codes) for row, column in np.argwhere(chosen)]
    if outlines:
        axes.add_patch(PathPatch(Outline.make_compound_path(*outlines), facecolor=colour, linewidth=0))


def truncation() -> Any:
    """Which loss reaches which use of the parameters, in every style."""
    figure, panels = plt.subplots(3, 3, figsize=(9.8, 11.4), layout="constrained", sharex=True, sharey=True)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.03)
    t = np.arange(1, STEPS + 1)
    shades, scale = plt.get_cmap("Blues"), LogNorm(0.2, (1 / PI) ** 8)
    for axes, (title, (style, draws)) in zip(panels.flat, STYLES.items(), strict=True):
        found = weights(style, STEPS, draws)
        squares(axes, np.tri(STEPS, dtype=bool) & (found == 0), CUT_OFF)
        if isinstance(style, pybptt.TBPTT):
            windows = (t - 1) // style.k1  # of each loss
            for turn, colour in enumerate(WINDOWS):
                squares(axes, (found != 0) & (windows % 2 == turn)[:, None], colour)
            for boundary in sorted({*range(style.k1, STEPS, style.k1), STEPS}):
                axes.plot((0.5, boundary + 0.5), (boundary + 0.5,) * 2, color="black", linewidth=1.2)
            lost = t[~found.any(axis=1)]
            axes.plot(lost, lost, "x", color=UNREACHED, markersize=7, markeredgewidth=2.3)
        else:
            for weight in np.unique(found[found != 0]):
                squares(axes, found == weight, shades(scale(weight)))
        axes.set_title(title, fontsize=12.5)
        axes.set(xticks=t, yticks=t, xlim=(0.4, STEPS + 0.6), ylim=(STEPS + 0.6, 0.4), aspect="equal")
        axes.tick_params(length=0, labelsize=11)
        axes.spines[:].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("use of the parameters, step \N{GREEK SMALL LETTER TAU}", fontsize=13)
    for axes in panels[:, 0]:
        axes.set_ylabel("loss of step t", fontsize=13)
    left_out = Line2D([], [], color=UNREACHED, marker="x", linestyle="", markersize=7, markeredgewidth=2.3)
    entries = {
        "the loss reaches the use (windows in turn)": tuple(Patch(color=colour) for colour in WINDOWS),
        "cut off": Patch(color=CUT_OFF),
        "loss left out": left_out,
        "boundary": Line2D([], [], color="black"),
        "random: counts once": Patch(color=shades(scale(1))),
        "1.8 times": Patch(color=shades(scale(PI**-2))),
        "3.2 times": Patch(color=shades(scale(PI**-4))),
        "5.6 times": Patch(color=shades(scale(PI**-6))),
    }
    figure.legend(
        entries.values(),
        entries.keys(),
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="outside lower center",
        ncols=4,
        fontsize=11,
        columnspacing=1.2,
        frameon=False,
    )
    return figure


FIGURES: dict[str, Callable[[], Any]] = {
    "two_steps": two_steps,
    "network": network,
    "unrolled": unrolled,
    "graph": graph,
    "way_back": way_back,
    "truncation": truncation,
}


def save(name: str, folder: Path) -> Path:
    """Draw a figure into a folder; the same bytes each time."""
    # Letters as outlines look alike everywhere; ids that are hashes with a fixed salt stay what they are.
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "pybptt", "mathtext.fontset": "cm"}):
        figure = FIGURES[name]()
        text = io.StringIO()
        figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    path = folder / f"{name}.svg"
    # For corners, in lines without brackets, a hundredth of a point is exact enough. No line ends in a space.
    short = re.sub(r"(\.\d\d)\d+(?=[^()]*$)| +$", r"\1", text.getvalue(), flags=re.MULTILINE)
    path.write_text(short, encoding="utf-8")
    return path


if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        print(save(name, FOLDER))
