"""How gradients flow back through time: |dL/dh_t|, the Jacobians dh_T/dh_t, and what W_hh says of them."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _jacobians
from ._arrays import Array, at_least
from .model import SequenceModel
from .recurrent import RecurrentLayer

__all__ = ["GradientFlow", "gradient_flow"]

METHODS = ("auto", "exact", "iterative")
EXACT = 128  # the largest H for which "auto" is "exact"
POINTS = {"exact": 100, "iterative": 20}  # steps t, if not given
FACTOR = 100.0  # healthy is to change by less than this over the whole sequence
ROWS = 11  # of a printed table


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow:
    """What `gradient_flow` found; printing it gives a table.

    A run is one direction of one layer; there are L K of them, in the order of states. T is the length of
    the sequence whose Jacobians were taken. In a reverse run, which reads step 1 last, h_1 is in the place of
    h_T.

    Attributes
    ----------
    runs : tuple of str
        Their names, "l0", "l0_reverse", "l1", ..., as parameters end.
    gates : tuple of str
        The blocks of W_hh: ("h",) of an RNN, ("i", "f", "g", "o") of an LSTM, ("r", "z", "n") of a GRU.
    loss : float
    hidden_norms : ndarray of float64, (L K, steps of x)
        |dL/dh_t| at index t - 1: the 2-norm over all sequences and units.
    times : ndarray of int64, (N,)
        The steps t of the Jacobians, rising, the first and the last among them.
    jacobian_norms : ndarray of float64, (L K, N)
        Frobenius norm of dh_T/dh_t, which is (H, H), with a projection (P, P). With the iterative method an
        unbiased estimate of its square was made from 64 random vectors: its standard deviation is at most 9 %
        of the norm.
    singular_values : ndarray of float64, (L K, N)
        Largest singular value of dh_T/dh_t: by how much the gradient can grow, at most, from T back to t.
    spectral_radii : ndarray of float64, (L K, gates)
        The largest |eigenvalue| of each gate's (H, H) block of W_hh; with a projection of W_hr times the
        block, (P, P).
    recurrent_singular_values : ndarray of float64, (L K, gates, H or P)
        Singular values of the blocks, falling.
    rates : ndarray of float64, (L K,)
        Factor per step back in time: exp of the slope of a straight line, fitted by least squares, of the
        logarithm of `singular_values` over T - t.
    verdicts : tuple of str
        Of each run. "vanishing" if rate ** (T - 1) < 1/100, or if some dh_T/dh_t is 0 (it may have
        underflown): even in the best direction little of the gradient gets back from step T to step 1.
        "exploding" if rate ** (T - 1) > 100, or if some dh_T/dh_t is not finite. Else "healthy".
    exact : bool
        Whether the Jacobians were made whole, rather than explored by products with vectors.

    Examples
    --------
    >>> rnn = pybptt.RNN(2, 8, nonlinearity="identity", dtype="float64", seed=0)
    >>> rnn.parameters["weight_hh_l0"][...] = 0.5 * np.eye(8)
    >>> model = pybptt.SequenceModel(rnn, 1, loss="mse", last_only=True, seed=1)
    >>> flow = pybptt.gradient_flow(model, np.ones((10, 1, 2)), np.ones((1, 1)))
    >>> flow.verdict, flow.rates.round(6)
    ('vanishing', array([0.5]))
    """

    runs: tuple[str, ...]
    gates: tuple[str, ...]
    loss: float
    hidden_norms: Array
    times: Array
    jacobian_norms: Array
    singular_values: Array
    spectral_radii: Array
    recurrent_singular_values: Array
    rates: Array
    verdicts: tuple[str, ...]
    exact: bool

    @property
    def verdict(self) -> str:
        """Of all runs: "exploding" if one is, else "vanishing" if one is, else "healthy"."""
        return next((v for v in ("exploding", "vanishing") if v in self.verdicts), "healthy")

    def __repr__(self) -> str:
        return "\n\n".join(self._table(run) for run in range(len(self.runs)))

    def _table(self, run: int) -> str:
        shown = np.unique(np.linspace(0, len(self.times) - 1, ROWS).round().astype(int))
        t = self.times[shown]
        columns = (
            self.hidden_norms[run, t - 1],
            self.jacobian_norms[run, shown],
            self.singular_values[run, shown],
        )
        last = "h_1" if self.runs[run].endswith("_reverse") else "h_T"
        of = f"d{last}/dh_t"
        lines = [
            f"{self.runs[run]}: {self.verdicts[run]}, {per_step(self.rates[run])}",
            f"{'t':>8}{'|dL/dh_t|':>14}{f'|{of}|':>14}   largest singular value of {of}",
            *(f"{step:8d}{a:14.3e}{b:14.3e}{c:14.3e}" for step, a, b, c in zip(t, *columns, strict=True)),
            f"{'W_hh of':>8}{'radius':>14}{'largest s.v.':>14}{'smallest s.v.':>16}",
        ]
        for gate, radius, values in zip(
            self.gates, self.spectral_radii[run], self.recurrent_singular_values[run], strict=True
        ):
            lines.append(f"{gate:>8}{radius:14.4f}{values[0]:14.4f}{values[-1]:16.4f}")
        return "\n".join(lines)

    def plot(self, path: str | PathLike[str] | None = None, *, ax: Any = None, label: str = "") -> Any:
        """Draw |dL/dh_t| (solid) and the largest singular value of dh_T/dh_t (dashed) over t.

        Parameters
        ----------
        path : str or path, optional
            Write the picture there: .png, .pdf, .svg.
        ax : matplotlib.axes.Axes, optional
            Draw into these axes; by default into a new figure (of `matplotlib.pyplot`, if there is no path).
        label : str
            Put before the curves' names: for several flows in one picture.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        OSError, ValueError
            If `path` can't be written, or its ending is not one that matplotlib knows.

        Examples
        --------
        >>> model = pybptt.SequenceModel(pybptt.GRU(3, 8, seed=0), 5, last_only=True, seed=1)
        >>> flow = pybptt.gradient_flow(model, np.array([[0], [2], [1]]), np.array([4]))
        >>> axes = flow.plot("flow.png")  # doctest: +SKIP
        """
        try:
            figure_module = importlib.import_module("matplotlib.figure")
        except ImportError:
            raise ImportError("plot needs matplotlib: pip install 'pybptt[plot]'") from None
        if ax is None and path is None:
            ax = importlib.import_module("matplotlib.pyplot").subplots(layout="constrained")[1]
        elif ax is None:
            ax = figure_module.Figure(figsize=(8, 5), layout="constrained").subplots()
        for i, run in enumerate(self.runs):
            name = " ".join(filter(None, (label, run if len(self.runs) > 1 else "")))
            of = "dh_1/dh_t" if run.endswith("_reverse") else "dh_T/dh_t"
            steps = np.arange(1, self.hidden_norms.shape[1] + 1)
            # A logarithmic axis has no place for 0; infinity is beyond any axis.
            (line,) = ax.plot(steps, _drawable(self.hidden_norms[i]), label=f"{name} |dL/dh_t|".strip())
            ax.plot(
                self.times,
                _drawable(self.singular_values[i]),
                linestyle="--",
                color=line.get_color(),
                label=f"{name} largest s.v. of {of}: {self.verdicts[i]}".strip(),
            )
        ax.set(xlabel="time step t", yscale="log")
        ax.legend()
        if path is not None:
            ax.figure.savefig(path)
        return ax


def gradient_flow(
    model: SequenceModel[Any],
    x: Array,
    y: Array,
    state: Any = None,
    *,
    lengths: ArrayLike | None = None,
    sequence: int = 0,
    points: int | None = None,
    method: str = "auto",
    seed: int = 0,
) -> GradientFlow:
    """Measure how gradients flow back through time: do they vanish, explode, or arrive?

    By the chain rule dL/dh_t is a sum over the losses l_s of steps s >= t of (dh_s/dh_t)^T dl_s/dh_s, and
    dh_s/dh_t is a product of s - t Jacobians: its size goes like a power (Bengio, Simard and Frasconi 1994;
    Pascanu, Mikolov and Bengio 2013). For a linear RNN dh_T/dh_t = W_hh^(T-t).

    dh_T/dh_t is within one run, one direction of one layer: the input of the layer stands still. In an LSTM
    c_t stands still too, as for autograd, where h_t and c_t are two nodes; what h_t does to c_{t+1} and, by
    way of it, to h_T, is in. Dropout is off.

    Parameters
    ----------
    model : SequenceModel
    x, y, state, lengths
        As for `SequenceModel.loss_and_grad`, which makes |dL/dh_t|, in the model's dtype: what training sees.
        To see the flow from the last step alone, make the model with ``last_only=True``.
    sequence : int
        Whose Jacobians, in [0, B): each sequence has its own, and T is its own length, 2 at least. They are
        made in float64, whatever the model's dtype.
    points : int, optional
        At how many steps t, 2 at least, spread evenly over the sequence; by default 100, or 20 with the
        iterative method, and some more close to T.
    method : {"auto", "exact", "iterative"}
        "exact" makes the whole Jacobians, H sweeps as one batch, in segments of time that fit 64 MB (one step
        at least), and takes their singular values. "iterative" multiplies by vectors, back and forth, in
        plain NumPy: a power iteration that keeps its iterates (Golub and Kahan 1965), until the largest
        singular value moves by less than 1e-7 of itself, at most 100 times. "auto" is "exact" up to H = 128.
    seed : int
        Of the iterative method's random vectors.

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError, IndexError, MemoryError
        As for `SequenceModel.loss_and_grad`; for a model that is none, and an argument out of range.

    Examples
    --------
    >>> model = pybptt.SequenceModel(pybptt.LSTM(65, 16, seed=0), 65, last_only=True, seed=1)
    >>> text = np.random.default_rng(0).integers(65, size=(51, 4))
    >>> flow = pybptt.gradient_flow(model, text[:-1], text[-1])
    >>> flow.hidden_norms.shape, flow.singular_values.shape, flow.verdict
    ((1, 50), (1, 50), 'vanishing')
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(f"model: expected a SequenceModel, got {type(model).__name__}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    seed = at_least("seed", seed, 0)
    call = model._call(x, state, lengths)
    targets, scale = model._targets(y, call)
    sequence = at_least("sequence", sequence, 0)
    if sequence >= call.batch:
        raise ValueError(f"sequence: expected less than B = {call.batch}, got {sequence}")
    T = call.steps if call.lengths is None else int(call.lengths[sequence])
    if T < 2:
        raise ValueError(f"sequence: expected one of at least 2 steps, got {sequence}, of {T}")
    if method == "auto":
        method = "exact" if model.layer._state_size <= EXACT else "iterative"
    # Evenly spaced; by default also ever closer to T: on a long way all but the last may be 0 or infinite.
    near = T - 2 ** np.arange((T - 1).bit_length() if points is None else 0)
    points = POINTS[method] if points is None else at_least("points", points, 2)
    times = np.unique(np.concatenate([np.linspace(1, T, points).round(), near]).astype(np.int64))

    loss, gradients, _ = model._loss_and_grad(call, targets, scale, hidden=True)
    assert gradients.hidden is not None
    # As (L K, T, B H): rows of a step.
    hidden = gradients.hidden.astype(np.float64).reshape(*gradients.hidden.shape[:2], -1)

    h_0, c_0 = (None if s is None else s[:, sequence : sequence + 1] for s in (call.h_0, call.c_0))
    rng = np.random.default_rng(seed)
    names, norms, values, rates, verdicts = [], [], [], [], []
    with np.errstate(over="ignore", invalid="ignore"):  # what explodes may go beyond the largest number
        for run in _jacobians.runs(model.layer, call.x[:T, sequence : sequence + 1], h_0, c_0):
            reverse = run.name.endswith("_reverse")
            of_run = (T + 1 - times)[::-1] if reverse else times  # the steps as the run counts them
            if method == "exact":
                found = _jacobians.exact(run, of_run)
            else:
                found = _jacobians.iterative(run, of_run, rng)
            rate, verdict = _verdict(T - of_run, found[1])
            names.append(run.name)
            norms.append(found[0][::-1] if reverse else found[0])
            values.append(found[1][::-1] if reverse else found[1])
            rates.append(rate)
            verdicts.append(verdict)
        hidden_norms = _jacobians.norm(hidden)
    H, P = model.layer.hidden_size, model.layer._state_size
    parameters = {name: values.astype(np.float64) for name, values in model.layer.parameters.items()}
    W_hh = np.stack([parameters[f"weight_hh_{name}"].reshape(-1, H, P) for name in names])
    if P != H:  # W_hr times each gate's block
        W_hh = np.stack([parameters[f"weight_hr_{name}"] for name in names])[:, None] @ W_hh
    return GradientFlow(
        runs=tuple(names),
        gates=_gates(model.layer),
        loss=loss,
        hidden_norms=hidden_norms,
        times=times,
        jacobian_norms=np.stack(norms),
        singular_values=np.stack(values),
        spectral_radii=_spectral_radii(W_hh),
        recurrent_singular_values=_jacobians.singular_values(W_hh),
        rates=np.array(rates),
        verdicts=tuple(verdicts),
        exact=method == "exact",
    )


def _gates(layer: RecurrentLayer[Any]) -> tuple[str, ...]:
    """Names of the blocks of W_hh."""
    if layer._cell == "lstm":
        return ("i", "f", "g", "o") if layer._gates == 4 else ("i", "g", "o")
    return ("r", "z", "n") if layer._cell == "gru" else ("h",)


def _spectral_radii(M: Array) -> Array:
    """Of matrices (..., H, H); infinite where an entry is not finite."""
    finite = np.asarray(np.isfinite(M).all(axis=(-2, -1), keepdims=True))
    values = np.linalg.eigvals(np.where(finite, M, 0.0))
    radii: Array = np.where(finite[..., 0, 0], np.abs(values).max(axis=-1), np.inf)
    return radii


def _verdict(distance: Array, values: Array) -> tuple[float, str]:
    """Rate and verdict, of the singular values over T - t; how they are defined stands in `GradientFlow`."""
    finite = np.isfinite(values)
    fitted = finite & (values > 0)
    if fitted.sum() >= 2:
        slope = float(np.polyfit(distance[fitted], np.log(values[fitted]), 1)[0])
    else:
        slope = -math.inf if finite.all() else math.inf
    change = slope * float(distance.max())  # log of rate ** (T - 1)
    rate = float(np.exp(slope))
    if not finite.all() or change > math.log(FACTOR):
        return rate, "exploding"
    if not fitted.all() or change < -math.log(FACTOR):
        return rate, "vanishing"
    return rate, "healthy"


def per_step(rate: float) -> str:
    """A rate in words."""
    text = f"{rate:.4g} a step back"
    if rate == 0 or not math.isfinite(rate) or abs(math.log(rate)) < 1e-6:
        return text
    return (
        f"{text}, {'halves' if rate < 1 else 'doubles'} every {math.log(2) / abs(math.log(rate)):.3g} steps"
    )


def _drawable(values: Array) -> Array:
    """What a logarithmic axis has a place for; NaN leaves a gap."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
