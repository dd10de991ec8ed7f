"""The rows of the comparison: sizes, counted work, floors, and the arrays that every contestant gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Floor:
    """What a row has to reach; None where nothing is asked.

    Ratios are "times faster than"; `peak` is the fraction of the machine's own matrix product of the
    same dtype at one thread; `threads` is the time at one thread over the time at two.
    """

    torch: float | None = None
    jax: float | None = None
    peak: float | None = None
    threads: float | None = None


@dataclass(frozen=True)
class Row:
    """One problem size. With `Q` it is a whole model on token ids: D is the vocabulary, Q the classes."""

    name: str
    T: int
    B: int
    D: int
    H: int
    dtype: str = "float32"
    Q: int = 0
    floor: Floor = Floor()

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one step (forward + backward)."""
        samples = self.T * self.B
        if self.Q:  # the input product is a gather, the output layer's three products count
            return 3 * 2 * samples * self.H * (self.H + self.Q)
        # Three products a weight: forward, by its input, by itself; without dL/dx, which is not asked for.
        return 3 * 2 * samples * self.H * (self.D + self.H) - 2 * samples * self.H * self.D

    @property
    def sizes(self) -> str:
        text = f"{self.T} {self.B} {self.D} {self.H}"
        if self.Q:
            text += f" {self.Q}"
        return text + (" f64" if self.dtype == "float64" else "")


DEFAULT = (
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


def _in_float64(row: Row) -> Row:
    """The row in float64, of which the same fraction of dgemm is asked as of sgemm, and nothing else."""
    return replace(row, name=row.name + "64", dtype="float64", floor=Floor(peak=row.floor.peak))


# Every row in both precisions; the float64 ones beyond the default are there by name (`--rows mid64`).
ROWS = {row.name: row for row in (*map(_in_float64, DEFAULT[:7]), *DEFAULT)}


@dataclass(frozen=True)
class Problem:
    """The arrays of one row.

    Attributes
    ----------
    parameters : dict of str to ndarray
        By PyTorch's names; a row with `Q` has "output.weight" (Q, H) and "output.bias" (Q,) too.
    x : ndarray
        (T, B, D) of the row's dtype, or (T, B) int64 token ids.
    d_output : ndarray or None
        (T, B, H) upstream gradient; None for a row with `Q`, whose loss is the mean cross-entropy.
    y : ndarray or None
        (T, B) int64 class ids, for a row with `Q`.
    """

    parameters: dict[str, np.ndarray]
    x: np.ndarray
    d_output: np.ndarray | None = None
    y: np.ndarray | None = None


def make_problem(row: Row, seed: int = 0) -> Problem:
    """Random arrays for `row`, the weights uniform in ±1/sqrt(H) as layers start out."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih_l0": (row.H, row.D),
        "weight_hh_l0": (row.H, row.H),
        "bias_ih_l0": (row.H,),
        "bias_hh_l0": (row.H,),
    }
    if row.Q:
        shapes |= {"output.weight": (row.Q, row.H), "output.bias": (row.Q,)}
    bound = row.H**-0.5
    parameters = {name: rng.uniform(-bound, bound, shape).astype(row.dtype) for name, shape in shapes.items()}
    if row.Q:
        ids = rng.integers(0, row.D, (row.T, row.B))
        return Problem(parameters, ids, y=rng.integers(0, row.Q, (row.T, row.B)))
    x = rng.standard_normal((row.T, row.B, row.D)).astype(row.dtype)
    return Problem(parameters, x, d_output=rng.standard_normal((row.T, row.B, row.H)).astype(row.dtype))
