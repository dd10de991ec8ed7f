"""The Jacobians dh_T/dh_t of one sequence, in float64: made whole, or explored by products with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import reference
from ._arrays import Array
from .layers import LAYERS
from .recurrent import RecurrentLayer
from .reference.cells import States

SEGMENT = 1 << 26  # bytes that `exact` may take at a time, if one step takes no more
PROBES = 64  # random vectors for the norm of a Jacobian
ITERATIONS, TOLERANCE = 100, 1e-7  # of the largest singular value

Product = Callable[[Array, Array], Array]


class Run(NamedTuple):
    """One direction of one layer on one sequence, as a layer of its own that reads from step 1 on."""

    name: str  # "l0", "l0_reverse", "l1", ...: how its parameters end
    layer: RecurrentLayer[Any]  # float64, with biases
    x: Array  # (T, 1, N), or (T, 1) tokens; a reverse run's last step comes first
    state: Any  # h_0 (1, 1, P), or the pair (h_0, c_0 (1, 1, H))


def runs(layer: RecurrentLayer[Any], x: Array, h_0: Array | None, c_0: Array | None) -> Iterator[Run]:
    """The runs of a network in the order of states, L K; x (T, 1, D) or (T, 1), states (L K, 1, H)."""
    xs = x if x.dtype.kind in "iu" else x.astype(np.float64)
    K = layer._directions
    kind: Any = next(kind for kind in LAYERS.values() if isinstance(layer, kind))
    for k in range(layer.num_layers):
        outputs = []
        for j, name in enumerate((f"l{k}", f"l{k}_reverse")[:K]):
            N = layer.parameters[f"weight_ih_{name}"].shape[1]
            own = kind(N, layer.hidden_size, clip=layer.clip, dtype="float64", **layer._options())
            for parameter, values in own.parameters.items():
                # Without biases the layer has none of that name: they are zero.
                values[...] = layer.parameters.get(parameter.removesuffix("l0") + name, 0.0)
            h, c = own._new_state(1)
            for part, given in ((h, h_0), (c, c_0)):
                if part is not None:
                    part[...] = 0 if given is None else given[k * K + j]
            run = Run(name, own, xs[::-1] if j else xs, own._as_state(h, c))
            output, _ = own(run.x, run.state)
            outputs.append(output[::-1] if j else output)
            yield run
        xs = np.concatenate(outputs, axis=-1)


def exact(run: Run, times: Array) -> tuple[Array, Array]:
    """Frobenius norm and largest singular value of dh_T/dh_t at the times: (N,) each."""
    norms, values = np.zeros(len(times)), np.zeros(len(times))
    place = {int(t): i for i, t in enumerate(times)}
    for t, jacobian in jacobians(run):
        if t in place:
            norms[place[t]] = norm(jacobian.ravel())
            values[place[t]] = singular_values(jacobian)[0]
    return np.where(np.isnan(norms), np.inf, norms), values


def jacobians(run: Run, segment: int = SEGMENT) -> Iterator[tuple[int, Array]]:
    """Every t from T to 1 with dh_T/dh_t (P, P).

    Row k is what a sweep makes of dL/dh_T = e_k: so P copies of the sequence are one batch whose dL/dh_T is
    I. Time is cut into segments, whose tapes are made when needed, from the states kept where they begin.
    """
    H, P, T = run.layer.hidden_size, run.layer._state_size, len(run.x)
    a_step = 8 * P * (8 * H + run.layer.input_size)  # of a tape, at most, and dL/dh_t
    length = max(1, min(T, segment // a_step))
    begins = range(0, T, length)
    states = [run.state]
    for begin in begins[:-1]:
        states.append(run.layer(run.x[begin : begin + length], states[-1])[1])
    eye = np.eye(P)[np.newaxis]
    d_state = (eye, np.zeros((1, P, H))) if run.layer._has_cells else eye
    for begin in reversed(begins):
        copies = np.repeat(run.x[begin : begin + length], P, axis=1)
        state = states.pop()
        state = (
            tuple(np.repeat(s, P, axis=1) for s in state)
            if run.layer._has_cells
            else np.repeat(state, P, axis=1)
        )
        _, _, tape = run.layer.forward(copies, state)
        g = run.layer.backward(tape, d_state=d_state, hidden=True, input=False)
        assert g.hidden is not None
        for i in reversed(range(len(copies))):
            yield begin + i + 1, g.hidden[0, i]
        d_state = g.state


def iterative(run: Run, times: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """As `exact`, the norm estimated and the singular value iterated."""
    forward, back, sweep = products(run, times)
    place = {int(t): i for i, t in enumerate(times)}
    probes = rng.standard_normal((PROBES, run.layer._state_size))
    found = np.zeros((len(times), *probes.shape))
    for t, d in sweep(probes, np.ones(PROBES)):
        if t in place:
            found[place[t]] = d
    # E |M^T u|^2 = |M|_F^2 for u of independent standard normal entries; of rank 1 it varies most, by
    # sqrt(2 / PROBES) of itself.
    norms = norm(found.reshape(len(times), -1)) / np.sqrt(PROBES)
    values = largest_singular_values(forward, back, found[:, 0])
    return np.maximum(np.where(np.isnan(norms), np.inf, norms), values), values


def products(
    run: Run, times: Array
) -> tuple[Product, Product, Callable[[Array, Array], Iterator[tuple[int, Array]]]]:
    """M v and M^T u for the Jacobians M = dh_T/dh_t, of several t in lockstep, the times rising.

    ``forward(v, rows)`` and ``back(u, rows)``: v and u (n, P) have one vector for each of times[rows].
    ``sweep(u, end)`` goes back from u at step T: t, and (dh_T/dh_t)^T u of the rows i with end[i] <= t.
    """
    state, layer = run.state, run.layer
    trace = reference.run(layer._cell, layer.parameters, run.x, state=state, **_cell_options(layer)).trace
    # Nobody asks for derivatives by the input or by W_ih: they get no columns.
    theta = {name.removesuffix("_l0"): values for name, values in trace.parameters.items()}
    theta["weight_ih"] = theta["weight_ih"][:, :0]
    cell, kept, T = trace.cell, [(step[0][:, :0], *step[1:]) for step in trace.kept[0]], len(run.x)

    def start(rows: Array) -> States:  # h, and c that stands still
        return (rows, *(np.zeros((len(rows), size)) for size in cell.sizes(trace.hidden_size)[1:]))

    def forward(v: Array, rows: Array) -> Array:
        moved, begin = start(np.zeros_like(v)), times[rows]
        for t in range(int(begin.min()), T + 1):
            begun = np.searchsorted(begin, t)  # the rows after these stand still
            if begun:
                now = cell.tangent_step(theta, kept[t - 1], tuple(part[:begun] for part in moved))
                for part, values in zip(moved, now, strict=True):
                    part[:begun] = values
            moved[0][begin == t] = v[begin == t]
        return moved[0]

    def back(u: Array, rows: Array) -> Array:
        result, end = np.empty_like(u), times[rows]
        for _, d in sweep(u, end):
            result[: len(d)] = d
        return result

    def sweep(u: Array, end: Array) -> Iterator[tuple[int, Array]]:
        d = start(u)
        for t in range(T, 0, -1):
            yield t, d[0]
            left = np.searchsorted(end, t)  # the rows after these have arrived
            if left == 0:
                return
            d = tuple(part[:left] for part in d)
            copies = tuple(np.repeat(a, left, axis=0) for a in kept[t - 1])
            _, d, *_ = cell.backward_step(theta, copies, d)

    return forward, back, sweep


def _cell_options(layer: RecurrentLayer[Any]) -> dict[str, Any]:
    return {"clip": layer.clip, **layer._options()}


def largest_singular_values(forward: Product, back: Product, start: Array) -> Array:
    """Those of N matrices at once, (N,), by Golub and Kahan's bidiagonalisation (1965) from start (N, P).

    It is a power iteration v <- M^T M v that keeps its iterates: M V = U B with orthonormal columns V and U,
    B upper bidiagonal. The largest singular value of B tends to that of M from below, faster than |M v| does.
    """
    count, P = start.shape
    U, V = np.zeros((count, 0, P)), np.zeros((count, 0, P))
    B = np.zeros((count, 0, 0))
    values, beta = np.zeros(count), np.zeros(count)
    rows = np.arange(count)  # of the matrices that are still iterated: U, V, B, u, v, beta have no others
    _, v = _unit(start, V)
    for k in range(min(P, ITERATIONS)):
        V = np.concatenate([V, v[:, np.newaxis]], axis=1)
        alpha, u = _unit(forward(v, rows), U)
        U = np.concatenate([U, u[:, np.newaxis]], axis=1)
        B = np.pad(B, ((0, 0), (0, 1), (0, 1)))
        B[:, k, k] = alpha
        if k > 0:
            B[:, k - 1, k] = beta
        found = singular_values(B)[:, 0]
        moving = found - values[rows] > TOLERANCE * found  # False for infinity
        values[rows] = found
        if not moving.any():
            break
        rows, U, V, B, u = rows[moving], U[moving], V[moving], B[moving], u[moving]
        beta, v = _unit(back(u, rows), V)
    return values


def _unit(a: Array, others: Array) -> tuple[Array, Array]:
    """Length, and direction, of what is left of a (N, P) without its part in the span of others (N, k, P)."""
    for _ in range(2):  # the first leaves rounding errors of the size of what it took away
        a = a - np.einsum("nkp,nk->np", others, np.einsum("nkp,np->nk", others, a))
    length = norm(a)
    return length, a / np.where(length > 0, length, 1.0)[:, np.newaxis]


def singular_values(M: Array) -> Array:
    """Of matrices (..., m, n), falling; infinite where an entry is not finite."""
    finite = np.asarray(np.isfinite(M).all(axis=(-2, -1), keepdims=True))
    values = np.linalg.svd(np.where(finite, M, 0.0), compute_uv=False)
    found: Array = np.where(finite[..., 0], values, np.inf)
    return found


def norm(a: Array) -> Array:
    """2-norms over the last axis; squares neither overflow nor vanish."""
    scale = np.abs(a).max(axis=-1, initial=0.0)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    norms: Array = scale * np.sqrt(np.square(a / scale[..., np.newaxis]).sum(axis=-1))
    return norms
