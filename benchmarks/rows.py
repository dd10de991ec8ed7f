"""The rows of the comparison: sizes, counted work, floors, and the arrays that every contestant gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Floor:
    """What a row has to reach; None where nothing is asked.

    Ratios are "times faster than", at one thread or, with `_2`, at two threads on both sides; `torch` is
    PyTorch's packed sequence on a ragged row. `peak` is the fraction of the machine's own matrix product of
    the same dtype at one thread; `threads` is the time at one thread over the time at two.
    """

    torch: float | None = None
    jax: float | None = None
    peak: float | None = None
    threads: float | None = None
    torch_2: float | None = None
    jax_2: float | None = None


GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Row:
    """One problem size. With `Q` it is a whole model on token ids: D is the vocabulary, Q the classes.

    `cell` is "RNN", "LSTM" or "GRU" (reset after the product, the only one that all contestants have), and
    `layers` of them are stacked. A `ragged` row is a padded batch of sequences with `lengths` of their own.
    A row with `truncation` (k1, k2) asks for the gradient of TBPTT(k1, k2); it is one layer, not ragged, and
    blocks that divide T (k1 = k2) or a window for every step (k1 = 1).
    """

    name: str
    T: int
    B: int
    D: int
    H: int
    dtype: str = "float32"
    Q: int = 0
    floor: Floor = Floor()
    cell: str = "RNN"
    layers: int = 1
    ragged: bool = False
    truncation: tuple[int, int] | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64, of a ragged row uniform in 1..T and in no order."""
        if self.ragged:
            return np.random.default_rng(0).integers(1, self.T + 1, self.B)
        return np.full(self.B, self.T)

    @property
    def plain(self) -> bool:
        """Whether it is full BPTT of one layer of Elman's cell on one length, which all contestants have."""
        return self.cell == "RNN" and self.layers == 1 and not self.ragged and self.truncation is None

    @property
    def windows(self) -> list[tuple[int, int, int]]:
        """(start, first, stop), counted from 0: the losses of [first, stop) go back through [start, stop)."""
        k1, k2 = self.truncation or (self.T, self.T)
        stops = [*range(k1, self.T, k1), self.T]
        starts = [max(0, stop - k2) for stop in stops]
        return [(a, max(a, b), c) for a, b, c in zip(starts, [0, *stops], stops, strict=False)]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one step (forward + backward).

        Padding does not count. With truncation the products by dz_t count once for every window that goes
        on from step t to the one before.
        """
        samples = int(self.lengths.sum())
        if self.Q:  # the input product is a gather, the output layer's three products count
            return 3 * 2 * samples * self.H * (self.H + self.Q)
        # Three products a weight: forward, by its input, by itself; without dL/dx, which is not asked for.
        GH = GATES[self.cell] * self.H
        if self.truncation:
            back = sum(stop - start - 1 for start, _, stop in self.windows)
            return 2 * 2 * samples * GH * (self.D + self.H) + 2 * back * self.B * GH * self.H
        first = 3 * 2 * samples * GH * (self.D + self.H) - 2 * samples * GH * self.D
        return first + (self.layers - 1) * 3 * 2 * samples * GH * (self.H + self.H)

    @property
    def sizes(self) -> str:
        text = f"{'1..' if self.ragged else ''}{self.T} {self.B} {self.D} {self.H}"
        if self.Q:
            text += f" {self.Q}"
        if self.layers > 1:
            text += f" ({self.layers})"
        if self.truncation:
            text += " [{},{}]".format(*self.truncation)
        return text + (" f64" if self.dtype == "float64" else "")


ELMAN = (
    Row("tiny", 50, 1, 100, 100, floor=Floor(torch=12, jax=1.5)),
    Row("minchar", 25, 1, 65, 100, floor=Floor(torch=12, jax=1.5)),
    Row("textbook", 35, 32, 28, 256, floor=Floor(1.8, 1.2, 0.85, 1.7)),
    Row("adding", 400, 32, 2, 128, floor=Floor(2.5, 2.8, 0.80, 1.7)),
    Row("mid", 100, 64, 512, 512, floor=Floor(1.1, 1.25, 0.90, 1.8)),
    Row("long", 2000, 8, 32, 128, floor=Floor(4.5, 2.8, 0.78, 1.5)),
    Row("one", 100, 1, 128, 512, floor=Floor(torch=4, jax=1.4, threads=1.5)),
    Row("textbook64", 35, 32, 28, 256, "float64", floor=Floor(torch=1.4, peak=0.80, threads=1.7)),
    Row("words", 50, 1, 8000, 100, Q=8000, floor=Floor(torch=2.2, jax=1.15)),
)


def _gated(torch: float, torch_2: float, peak: float | None = None) -> Floor:
    """The floor of a row of gated cells; the same is asked against JAX on all of them."""
    return Floor(torch=torch, torch_2=torch_2, peak=peak, jax=1.5, jax_2=1.5)


LSTM = (
    Row("lstm-textbook", 35, 32, 28, 256, floor=_gated(1.15, 1.25, 0.82), cell="LSTM"),
    Row("lstm-small", 200, 64, 10, 64, floor=_gated(1.9, 2.7, 0.62), cell="LSTM"),
    Row("lstm-stack", 50, 50, 128, 128, floor=_gated(1.3, 1.6, 0.82), cell="LSTM", layers=2),
    Row("lstm-mid", 100, 64, 512, 512, floor=_gated(1.1, 2, 0.90), cell="LSTM"),
    Row("lstm-long", 2000, 8, 32, 128, floor=_gated(1.35, 2.3, 0.70), cell="LSTM"),
    Row("lstm-one", 100, 1, 128, 512, floor=_gated(1.25, 1.6), cell="LSTM"),
    Row("lstm-wide", 70, 80, 1024, 1024, floor=_gated(1.05, 1.1, 0.92), cell="LSTM"),
    Row("lstm-textbook64", 35, 32, 28, 256, "float64", floor=_gated(1.6, 1.7, 0.8), cell="LSTM"),
    Row("lstm-ragged", 200, 64, 10, 64, floor=_gated(8, 10), cell="LSTM", ragged=True),
)
GRU = (
    Row("gru-textbook", 35, 32, 28, 256, floor=_gated(1.6, 2.6, 0.82), cell="GRU"),
    Row("gru-small", 200, 64, 10, 64, floor=_gated(2.8, 4.5, 0.6), cell="GRU"),
    Row("gru-mid", 100, 64, 512, 512, floor=_gated(1.1, 1.7, 0.88), cell="GRU"),
    Row("gru-long", 2000, 8, 32, 128, floor=_gated(4.2, 6.5, 0.68), cell="GRU"),
    Row("gru-textbook64", 35, 32, 28, 256, "float64", floor=_gated(1.4, 1.6, 0.8), cell="GRU"),
    Row("gru-ragged", 200, 64, 10, 64, floor=_gated(8, 10), cell="GRU", ragged=True),
)
TRUNCATED = (
    Row("tbptt-1-32", 400, 32, 2, 128, floor=Floor(peak=0.6), truncation=(1, 32)),
    Row("tbptt-50-50", 400, 32, 2, 128, truncation=(50, 50)),
    Row("lstm-tbptt-50", 2000, 8, 32, 128, cell="LSTM", truncation=(50, 50)),
    Row("gru-tbptt-1-16", 200, 64, 10, 64, cell="GRU", truncation=(1, 16)),
)
DEFAULT = (*ELMAN, *LSTM, *GRU, *TRUNCATED)


def _in_float64(row: Row) -> Row:
    """The row in float64, of which the same fraction of dgemm is asked as of sgemm, and nothing else."""
    return replace(row, name=row.name + "64", dtype="float64", floor=Floor(peak=row.floor.peak))


# Elman's rows in both precisions; the float64 ones beyond the default are there by name (`--rows mid64`).
ROWS = {row.name: row for row in (*map(_in_float64, ELMAN[:7]), *DEFAULT)}

# Names that stand for several rows.
GROUPS = {
    "elman": [row.name for row in ELMAN],
    "lstm": [row.name for row in LSTM],
    "gru": [row.name for row in GRU],
    "truncated": [row.name for row in TRUNCATED],
}


@dataclass(frozen=True)
class Problem:
    """The arrays of one row.

    Attributes
    ----------
    parameters : dict of str to ndarray
        By PyTorch's names; a row with `Q` has "output.weight" (Q, H) and "output.bias" (Q,) too.
    x : ndarray
        (T, B, D) of the row's dtype, 0 at padding, or (T, B) int64 token ids.
    d_output : ndarray or None
        (T, B, H) upstream gradient, 0 at padding as it is where losses there don't count; None for a row with
        `Q`, whose loss is the mean cross-entropy.
    y : ndarray or None
        (T, B) int64 class ids, for a row with `Q`.
    lengths : ndarray or None
        (B,) int64, for a ragged row.
    """

    parameters: dict[str, np.ndarray]
    x: np.ndarray
    d_output: np.ndarray | None = None
    y: np.ndarray | None = None
    lengths: np.ndarray | None = None


def make_problem(row: Row, seed: int = 0) -> Problem:
    """Random arrays for `row`, the weights uniform in ±1/sqrt(H) as layers start out."""
    rng = np.random.default_rng(seed)
    GH = GATES[row.cell] * row.H
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(row.layers):
        shapes |= {
            f"weight_ih_l{k}": (GH, row.H if k else row.D),
            f"weight_hh_l{k}": (GH, row.H),
            f"bias_ih_l{k}": (GH,),
            f"bias_hh_l{k}": (GH,),
        }
    if row.Q:
        shapes |= {"output.weight": (row.Q, row.H), "output.bias": (row.Q,)}
    bound = row.H**-0.5
    parameters = {name: rng.uniform(-bound, bound, shape).astype(row.dtype) for name, shape in shapes.items()}
    if row.truncation:
        # As layers start out, gradients vanish within 32 steps, and any longer window would pass.
        parameters["weight_hh_l0"] *= 1.5
    if row.Q:
        ids = rng.integers(0, row.D, (row.T, row.B))
        return Problem(parameters, ids, y=rng.integers(0, row.Q, (row.T, row.B)))
    x = rng.standard_normal((row.T, row.B, row.D)).astype(row.dtype)
    d_output = rng.standard_normal((row.T, row.B, row.H)).astype(row.dtype)
    if not row.ragged:
        return Problem(parameters, x, d_output)
    padding = np.arange(row.T)[:, None] >= row.lengths  # (T, B)
    x[padding] = d_output[padding] = 0
    return Problem(parameters, x, d_output, lengths=row.lengths)
