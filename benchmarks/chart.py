"""The comparison as a picture: speed-ups on a log axis with their floors, and fractions of the peak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from contestants import CONTESTANTS
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from report import OURS, SIZES, Measured, number, threads_in_words
from rows import Row

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
COLOURS = {
    "torch": "#D55E00",
    "torch_padded": "#F0E442",
    "torch_loop": "#E69F00",
    "jax": "#0072B2",
    "eigen": "#009E73",
    "numpy": "#999999",
}
PEAK_COLOURS = ("#CC79A7", "#E8C4D8")
# A black tick, white around it so that it shows on any bar.
FLOOR = {
    "color": "black",
    "marker": "|",
    "markersize": 11,
    "markeredgewidth": 2,
    "linestyle": "",
    "path_effects": [Stroke(linewidth=4.5, foreground="white"), Normal()],
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(measured: dict, path: Path) -> None:
    """Draw what `compare.compare` returned into the file `path`, whose ending is the format."""
    m = Measured(measured)
    peers = [key for key in m.keys if key != OURS]
    threads = m.threads[:2]
    strips = layout(m)
    height = strips[-1].bottom
    figure, panels = plt.subplots(
        1, len(threads) + 1, sharey=True, layout="constrained",
        figsize=(5 * len(threads) + 3.2, 1.9 + 0.19 * height),
        width_ratios=[1] * len(threads) + [0.6],
    )  # fmt: skip
    ratios = [m.speed_up(row, n, key) for row in m.rows for n in threads for key in peers]
    ratios += [floor_of(row, n, key) for row in m.rows for n in threads for key in peers]
    ratios = [ratio for ratio in ratios if ratio]
    limits = (min(0.8, *ratios) / 1.1, max(2.0, *ratios) * 1.45) if ratios else (0.8, 2.0)
    for panel, n in zip(panels, threads, strict=False):
        draw_speed_ups(panel, m, n, strips)
        panel.set_xlim(limits)
    draw_peak(panels[-1], m, threads, strips)
    panels[0].set_yticks([strip.middle for strip in strips], [f"{s.row.name}\n{s.row.sizes}" for s in strips])
    panels[0].set_ylim(height, 0)
    for panel in panels:
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        for strip in strips[1:]:
            panel.axhline(strip.top, color="#DDDDDD", linewidth=0.8, zorder=0)
    footer = f"sizes are {SIZES}; {measured['machine']}; {measured['date']}"
    if m.noise:
        footer += f"\n{m.noise}"
    figure.supxlabel(footer, fontsize=8, color="#666666")
    handles = [Patch(color=COLOURS[key], label=CONTESTANTS[key][0]) for key in peers]
    handles.append(Line2D([], [], **FLOOR, label="floor"))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        title="pybptt: forward + backward to all parameters",
        title_fontproperties={"weight": "bold", "size": 14},
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


@dataclass(frozen=True)
class Strip:
    """A row's share of the vertical axis, whose unit is one bar."""

    row: Row
    keys: list[str]  # who takes part, a bar each
    top: float
    bottom: float

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2

    def bars(self, count: int) -> tuple[list[float], float]:
        """Where `count` bars that fill the strip are, and how high they are."""
        height = (self.bottom - self.top - 1) / count
        return [self.top + 0.5 + (i + 0.5) * height for i in range(count)], height * 0.88


def layout(m: Measured) -> list[Strip]:
    """One row below the other, each as high as it has contestants, and as its label of two lines needs."""
    strips: list[Strip] = []
    for row in m.rows:
        keys = m.taking_part(row)
        top = strips[-1].bottom if strips else 0.0
        strips.append(Strip(row, keys, top, top + max(2, len(keys)) + 1))
    return strips


def floor_of(row: Row, n: int, key: str) -> float | None:
    """What is asked of pybptt against the contestant `key` at `n` threads."""
    return getattr(row.floor, key if n == 1 else f"{key}_{n}", None)


def draw_speed_ups(panel, m: Measured, n: int, strips: list[Strip]) -> None:
    """Bars from 1, to the right where pybptt is faster; floors are asked of PyTorch and JAX."""
    for strip in strips:
        places, height = strip.bars(max(1, len(strip.keys)))
        for y, key in zip(places, strip.keys, strict=False):
            ratio = m.speed_up(strip.row, n, key)
            if ratio is None:
                continue
            panel.barh(y, ratio - 1, height, left=1, color=COLOURS[key])
            floor = floor_of(strip.row, n, key)
            if floor:
                panel.plot(floor, y, **FLOOR)
            panel.annotate(
                number(ratio, 2), (max(ratio, floor or 1), y), xytext=(5, 0), textcoords="offset points",
                va="center_baseline", fontsize=8, color="#333333",
            )  # fmt: skip
    panel.axvline(1, color="black", linewidth=0.8)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(TICKS))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.grid(axis="x", color="#EEEEEE", zorder=0)
    panel.set_axisbelow(True)
    panel.set_title(f"times faster than …, {threads_in_words(n)}", fontsize=11)


def draw_peak(panel, m: Measured, threads: list[int], strips: list[Strip]) -> None:
    """Bars of the fraction of the machine's own matrix product that a step reaches."""
    for strip in strips:
        places, height = strip.bars(len(threads))
        for y, n, colour in zip(places, threads, PEAK_COLOURS, strict=False):
            fraction = m.of_peak(strip.row, n)
            if fraction is None:
                continue
            panel.barh(y, fraction, height, color=colour)
            panel.annotate(
                f"{fraction:.0%}, {threads_in_words(n)}", (0, y), xytext=(4, 0), textcoords="offset points",
                va="center_baseline", fontsize=8, color="black",
            )  # fmt: skip
            if n == 1 and strip.row.floor.peak:
                panel.plot(strip.row.floor.peak, y, **FLOOR)
    panel.set_xlim(0, 1.05)
    panel.xaxis.set_major_locator(FixedLocator((0, 0.25, 0.5, 0.75, 1)))
    panel.xaxis.set_major_formatter(PercentFormatter(1))
    panel.grid(axis="x", color="#EEEEEE", zorder=0)
    panel.set_axisbelow(True)
    panel.set_title("of the peak (sgemm, dgemm)", fontsize=11)
