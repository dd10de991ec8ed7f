"""A network of cells: layers, two directions, sequences of different lengths, dropout between layers.

L layers of K directions each (2 if bidirectional, else 1) are L K runs of a cell over time. Their order, in
states and in parameters, is PyTorch's: layer 0 forward, layer 0 reverse, layer 1 forward, ... The names of
their parameters end in ``_l0``, ``_l0_reverse``, ``_l1``, ...

Sequence b has the steps 1 .. T_b, its entry of `lengths`. Later steps are padding: what x, y and derivatives
hold there is never looked at, and what comes out there is 0.

The forward direction goes from step 1 to T_b, the reverse one from T_b to 1: for it the cells' "step t - 1"
is step t + 1. Before a run's first step its state is the one given; the final state is that after its last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Array, Gradients, Parameters, State, dense_input, expect_shape, floats, one_of
from .activations import NONLINEARITIES
from .cells import Cell, Kept, States, Theta
from .clipping import clip_rows
from .elman import Elman
from .gru import Gru
from .losses import loss_of_states
from .lstm import Lstm


class Run(NamedTuple):
    """What `run` returns.

    Examples
    --------
    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> reference.run("rnn", parameters, [[[1.0]], [[0.0]]], nonlinearity="identity").output.ravel()
    array([1. , 0.5])
    """

    output: Array  # (T, B, K P): h_t of the last layer, forward direction first; 0 at padding
    state: State  # (L K, B, P): final h; of an LSTM the pair of final h and c (L K, B, H)
    cells: Array | None  # (L K, T, B, H): c_t of an LSTM, 0 at padding; else None
    trace: Trace


class Trace(NamedTuple):
    """What `run` keeps so that `sweep` can go back: copies of its arguments, and what the cells keep.

    Examples
    --------
    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> reference.run("rnn", parameters, [[[1.0]], [[0.0]]]).trace.lengths
    array([2])
    """

    cell: Cell
    parameters: dict[str, Array]  # the network's: not those of the output layer
    hidden_size: int  # H
    runs: list[str]  # the ends of parameters' names, "_l0", "_l0_reverse", ...: L K
    num_layers: int
    tokens: bool  # the input was token ids, by which nothing can be differentiated
    lengths: NDArray[np.int64]  # (B,)
    dropout_mask: Array | None  # (L - 1, T, B, K P)
    kept: list[list[Kept]]  # (L K, T): of the sequences that have a step t
    states: States  # h_t (L K, T, B, P) of every run, and c_t (L K, T, B, H) of an LSTM; 0 at padding


def run(
    cell: str,
    parameters: Parameters,
    x: ArrayLike,
    *,
    state: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    lengths: ArrayLike | None = None,
    dropout_mask: ArrayLike | None = None,
    num_layers: int = 1,
    bidirectional: bool = False,
    nonlinearity: str = "tanh",
    reset_after: bool = True,
    peephole: bool = False,
    coupled: bool = False,
    clip: float | None = None,
    proj_size: int = 0,
) -> Run:
    """Run a network of Elman's cells, LSTM cells or GRU cells.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    parameters : mapping of str to ndarray
        For each run weight_ih (G H, D), or (G H, K P) above layer 0, weight_hh (G H, P), bias_ih (G H,),
        bias_hh (G H,), weight_hr (P, H) and weight_peephole (G - 1, H). A bias that is absent is zero. Other
        names are ignored.
    x : ndarray (T, B, D) of floats, or (T, B) of integers
        Dense input, or token ids in [0, D).
    state : ndarray (L K, B, P), optional; for "lstm" the pair of h and c (L K, B, H)
        The state that each run starts with; zero if not given.
    lengths : ndarray (B,) of integers in [0, T], optional
        T_b, in any order; T if not given. The final state of a sequence of length 0 is the one given.
    dropout_mask : ndarray (L - 1, T, B, K P), optional
        Factors by which each layer's output, but for the last, is multiplied before the next layer reads it.
    num_layers, bidirectional
        L, and whether K is 2.
    nonlinearity
        Of "rnn" alone, as for `phi`.
    reset_after : bool
        Of "gru" alone: whether the reset gate acts after the matrix product, as in PyTorch and cuDNN, or
        before it, as in Cho et al. (2014).
    peephole, coupled : bool
        Of "lstm" alone: whether the gates see the cell state, and whether the forget gate is 1 - i.
    clip : float > 0, optional
        Clips the argument of every activation to [-clip, clip].
    proj_size : int
        Of "lstm" alone: P, the entries of a projected h; 0 for no projection: P is H.

    Returns
    -------
    Run
        A named tuple of output, state, cells and trace.

    Examples
    --------
    Two sequences of lengths 3 and 1. Nothing is left of the second one's state after its end.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> x = [[[1.0], [4.0]], [[0.0], [9.0]], [[0.0], [9.0]]]
    >>> result = reference.run("rnn", parameters, x, lengths=[3, 1], nonlinearity="identity")
    >>> result.output[:, :, 0]
    array([[1.  , 4.  ],
           [0.5 , 0.  ],
           [0.25, 0.  ]])
    >>> result.state
    array([[[0.25],
            [4.  ]]])
    """
    made = _cell(cell, nonlinearity, reset_after, peephole, coupled, clip, proj_size)
    if num_layers < 1:
        raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
    K = 2 if bidirectional else 1
    runs = [f"_l{k}{end}" for k in range(num_layers) for end in ("", "_reverse")[:K]]
    D, H = np.shape(parameters["weight_ih_l0"])[-1], np.shape(parameters["weight_hh_l0"])[0] // made.gates
    sizes = made.sizes(H)
    P = sizes[0]
    T_B = np.shape(x)[:2]
    counted = _counted(lengths, T_B)
    # Padding may hold anything: NaN, or ids out of range.
    x = np.where(counted.reshape(T_B + (1,) * (np.ndim(x) - 2)), x, np.zeros_like(x))
    xs, tokens = dense_input(x, D)
    T, B = T_B
    theta: dict[str, Array] = {}
    for i, suffix in enumerate(runs):
        for name, shape in made.shapes(D if i < K else K * P, H).items():
            if name + suffix in parameters or name.startswith("weight"):
                theta[name + suffix] = floats(name + suffix, parameters[name + suffix], shape)
    if dropout_mask is not None:
        dropout_mask = floats("dropout_mask", dropout_mask, (num_layers - 1, T, B, K * P))
    final = _states("state", state, (len(runs), B), sizes)
    history = tuple(np.zeros((len(runs), T, B, size)) for size in sizes)
    kept: list[list[Kept]] = [[()] * T for _ in runs]
    for layer in range(num_layers):
        for i in range(layer * K, layer * K + K):  # its runs, which read the same xs
            of_run = _of_run(made, theta, runs[i], H)
            for t in _times(runs[i], T):
                has = counted[t - 1]  # the sequences that have a step t; the others' states wait
                before = tuple(part[i, has] for part in final)
                now, kept[i][t - 1] = made.forward_step(of_run, xs[t - 1, has], before)
                for part, steps, values in zip(final, history, now, strict=True):
                    part[i, has] = steps[i, t - 1, has] = values
        output = np.concatenate(history[0][layer * K : layer * K + K], axis=-1)  # of both directions
        xs = output
        if layer < num_layers - 1 and dropout_mask is not None:
            xs = output * dropout_mask[layer]
    trace = Trace(made, theta, H, runs, num_layers, tokens, counted.sum(axis=0), dropout_mask, kept, history)
    return Run(output, _as_given(final), history[1] if len(sizes) == 2 else None, trace)


def sweep(
    trace: Trace,
    d_output: ArrayLike | None = None,
    d_state: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    d_cells: ArrayLike | None = None,
    *,
    xi: ArrayLike | None = None,
    clip_hidden: tuple[str, float] | None = None,
) -> Gradients:
    """Go back over time once for each run, the last layer's first, carrying dh_t, and dc_t of an LSTM.

    Parameters
    ----------
    trace : Trace
        From `run`.
    d_output : ndarray (T, B, K P), optional
        Derivatives of the loss by the output alone; zero if not given, as are the others.
    d_state : ndarray (L K, B, P), optional; for "lstm" the pair of it and (L K, B, H)
        By the final state.
    d_cells : ndarray (L K, T, B, H), optional
        By c_t of every run; for "lstm" alone.
    xi : ndarray (T, B), optional
        Factors xi_t of what goes from step t to the state before it, in every layer: J_t becomes xi_t J_t.
        Where xi_t is 0 nothing goes, even if J_t is infinite. For one direction alone.
    clip_hidden : ("norm", limit) or ("value", limit), optional
        Clip dh_t of every run before it goes back through step t, as `clip_rows` does.

    Returns
    -------
    Gradients
        A named tuple of parameters, input, state and hidden, which is clipped.

    Examples
    --------
    The loss is the second layer's output at step 2: (w_hh w + w w_hh) w x_1 + w w x_2 with all weights w = 1.

    >>> from pybptt import reference
    >>> parameters = {f"weight_{a}_l{k}": [[1.0]] for k in (0, 1) for a in ("ih", "hh")}
    >>> x = [[[1.0]], [[0.0]]]
    >>> trace = reference.run("rnn", parameters, x, num_layers=2, nonlinearity="identity").trace
    >>> g = reference.sweep(trace, [[[0.0]], [[1.0]]])
    >>> g.input.ravel(), g.hidden[:, :, 0, 0]
    (array([2., 1.]), array([[2., 1.],
           [1., 1.]]))
    """
    cell, runs, H = trace.cell, trace.runs, trace.hidden_size
    LK, L, T, B = len(runs), trace.num_layers, len(trace.kept[0]), len(trace.lengths)
    K, sizes = LK // L, cell.sizes(H)
    P = sizes[0]
    if len(sizes) == 1 and d_cells is not None:
        raise ValueError("d_cells: only an LSTM has cells")
    if xi is not None and K == 2:
        raise ValueError("xi: expected layers of one direction, got bidirectional ones")
    factors = np.ones((T, B)) if xi is None else floats("xi", xi, (T, B))
    # What enters h_t and c_t from outside their own run, and what enters from step t + 1 of it.
    direct = tuple(np.zeros((LK, T, B, size)) for size in sizes)
    carried = _states("d_state", d_state, (LK, B), sizes)
    if d_cells is not None:
        direct[1][:] = floats("d_cells", d_cells, (LK, T, B, H))
    above = np.zeros((T, B, K * P)) if d_output is None else floats("d_output", d_output, (T, B, K * P))
    counted = _counted(trace.lengths, (T, B))
    gradients = {name: np.zeros_like(theta) for name, theta in trace.parameters.items()}
    hidden = np.zeros((LK, T, B, P))
    steps: list[dict[str, Array]] = [{} for _ in runs]
    for layer in reversed(range(L)):
        dx = np.zeros((T, B, trace.parameters[f"weight_ih_l{layer}"].shape[1]))
        direct[0][layer * K : layer * K + K] = np.split(above, K, axis=-1)
        for i in range(layer * K, layer * K + K):
            of_run = _of_run(cell, trace.parameters, runs[i], H)
            for t in reversed(_times(runs[i], T)):
                has = counted[t - 1]
                dh, *dc = (
                    dl[i, t - 1, has] + later[i, has] for dl, later in zip(direct, carried, strict=True)
                )  # dh_t = dl_t + xi_{t+1} J_{t+1}^T dh_{t+1}
                dh = hidden[i, t - 1, has] = clip_rows(dh, clip_hidden)
                if not any(d.any() for d in (dh, *dc)):  # no loss has come here: it is outside a window
                    for earlier in carried:
                        earlier[i, has] = 0.0
                    continue
                dx_t, back, added, inside = cell.backward_step(of_run, trace.kept[i][t - 1], (dh, *dc))
                xi_t = factors[t - 1, has, None]
                for earlier, d in zip(carried, back, strict=True):
                    earlier[i, has] = np.where(xi_t == 0, 0.0, xi_t * d)
                dx[t - 1, has] += dx_t  # a sum over the directions, which read the same input
                for name, gradient in added.items():
                    if name + runs[i] in gradients:
                        gradients[name + runs[i]] += gradient
                to = {name: part[i, has] for name, part in zip(("to_h", "to_c"), carried, strict=False)}
                found = {"dl": direct[0][i, t - 1, has], "dh": dh, **inside, "dx": dx_t, **to}
                for name, values in found.items():
                    steps[i].setdefault(name, np.zeros((T, B, values.shape[1])))[t - 1, has] = values
        above = dx
        if layer > 0 and trace.dropout_mask is not None:
            above = dx * trace.dropout_mask[layer - 1]
    return Gradients(gradients, None if trace.tokens else dx, _as_given(carried), hidden, steps)


def run_loss_and_grad(
    cell: str,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: str = "cross_entropy",
    reduction: str = "mean",
    last_only: bool = False,
    xi: ArrayLike | None = None,
    clip_hidden: tuple[str, float] | None = None,
    **options: Any,
) -> tuple[float, Gradients, State]:
    """Return loss, gradients and final state of a network, output layer and loss together.

    Parameters
    ----------
    cell, x
        As for `run`.
    parameters : mapping of str to ndarray
        The network's, and output.weight (Q, K P) and output.bias (Q,); that, too, is zero if absent.
    y : ndarray
        Class ids (T, B) for "cross_entropy", values (T, B, Q) for "mse"; no T axis with last_only.
    loss : {"cross_entropy", "mse"}
    reduction : {"mean", "sum"}
        Of the losses at steps t <= T_b: padding has no loss and is not counted.
    last_only : bool
        One loss a sequence: the output layer reads the final state of the last layer, of both directions one
        after the other if there are two. With T = 0 that is a ValueError.
    xi, clip_hidden
        As for `sweep`.
    **options
        The others of `run`.

    Returns
    -------
    loss : float
    gradients : Gradients
        With the output layer's parameters after the network's.
    state : ndarray (L K, B, P); for "lstm" the pair of it and (L K, B, H)

    Examples
    --------
    The second sequence has one target, of which it is certain; for the first one's two all logits are 0. So
    the loss is (log 2 + log 2 + 0) / 3.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[0.0, 99.0]], "weight_hh_l0": [[0.0]]}
    >>> parameters["output.weight"] = [[0.0], [999.0]]
    >>> x, y = [[0, 1], [0, -1]], [[1, 1], [0, -1]]
    >>> loss, gradients, _ = reference.run_loss_and_grad("rnn", parameters, x, y, lengths=[2, 1])
    >>> round(loss, 6), gradients.parameters["output.weight"].ravel()
    (0.462098, array([0., 0.]))
    """
    output, final, _, trace = run(cell, parameters, x, **options)
    up = upstream_of_loss(
        parameters, output, final, trace, y, loss=loss, reduction=reduction, last_only=last_only
    )
    g = sweep(trace, up.d_output, up.d_state, xi=xi, clip_hidden=clip_hidden)
    return up.loss, g._replace(parameters=g.parameters | up.gradients), final


class Upstream(NamedTuple):
    """What the output layer and the loss say of a network's output and final state."""

    loss: float
    d_output: Array  # (T, B, K P): dl_t of the last layer
    d_state: State
    gradients: dict[str, Array]  # of output.weight and output.bias
    o: Array  # (T, B, Q), with last_only (B, Q); like do, 0 where no loss counts
    do: Array


def upstream_of_loss(
    parameters: Parameters,
    output: Array,
    final: State,
    trace: Trace,
    y: ArrayLike,
    *,
    loss: str,
    reduction: str,
    last_only: bool,
    reached: NDArray[np.bool_] | None = None,
) -> Upstream:
    """Put output layer and loss on top of what `run` returned.

    It is of the targets alone for which `reached` (T, B) is true; the mean divides by the number of all.
    Other arguments are those of `run_loss_and_grad`.
    """
    T, B, KP = output.shape
    h_last, *c_last = final if isinstance(final, tuple) else (final,)
    d_output, d_h = np.zeros_like(output), np.zeros_like(h_last)
    K = KP // h_last.shape[-1]
    if last_only and T == 0:
        raise ValueError("last_only: there is no last step, T = 0")
    if last_only:  # the losses of the boundaries T_b, which every truncation reaches
        h = np.concatenate(h_last[-K:], axis=-1)  # (B, K P)
        value, dh, top, o, do = loss_of_states(parameters, h, y, loss, reduction)
        d_h[-K:] = np.split(dh, K, axis=-1)
    else:
        targets = _counted(trace.lengths, (T, B))
        counted = targets if reached is None else targets & reached
        ys = np.asarray(y)
        expect_shape("y", ys, (T, B, *ys.shape[2:]))
        value, dh, top, *found = loss_of_states(parameters, output[counted], ys[counted], loss, reduction)
        share = float(counted.sum() / max(targets.sum(), 1)) if reduction == "mean" else 1.0
        d_output[counted] = share * dh
        o, do = (np.zeros((T, B, part.shape[-1])) for part in found)
        o[counted], do[counted] = found[0], share * found[1]
        value, top = share * value, {name: share * gradient for name, gradient in top.items()}
    return Upstream(value, d_output, _as_given((d_h, *map(np.zeros_like, c_last))), top, o, do)


def _cell(
    cell: str,
    nonlinearity: str = "tanh",
    reset_after: bool = True,
    peephole: bool = False,
    coupled: bool = False,
    clip: float | None = None,
    proj_size: int = 0,
) -> Cell:
    """Make the cell, refusing the options of another one."""
    one_of("cell", cell, ("rnn", "lstm", "gru"))
    one_of("nonlinearity", nonlinearity, NONLINEARITIES)
    for name, owner, used in (
        ("nonlinearity", "rnn", nonlinearity != "tanh"),
        ("reset_after", "gru", not reset_after),
        ("peephole", "lstm", peephole),
        ("coupled", "lstm", coupled),
        ("proj_size", "lstm", proj_size != 0),
    ):
        if used and cell != owner:
            raise ValueError(f"{name}: an option of {owner!r}, got cell {cell!r}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip: expected None or more than 0, got {clip}")
    if proj_size < 0:
        raise ValueError(f"proj_size: expected at least 0, got {proj_size}")
    if cell == "rnn":
        return Elman(nonlinearity, clip)
    return Lstm(peephole, coupled, clip, proj_size) if cell == "lstm" else Gru(reset_after, clip)


def _counted(lengths: ArrayLike | None, T_B: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (T, B): whether sequence b has a step t, t <= T_b."""
    if len(T_B) != 2:
        raise ValueError(f"x: expected shape (T, B, D), or (T, B) for token ids, got {T_B}")
    T, B = T_B
    T_b = np.full(B, T) if lengths is None else np.asarray(lengths)
    if T_b.shape != (B,):
        raise ValueError(f"lengths: expected shape ({B},), got {T_b.shape}")
    if T_b.size and not np.issubdtype(T_b.dtype, np.integer):  # an empty list has NumPy's default, float64
        raise TypeError(f"lengths: expected integers, got {T_b.dtype}")
    if ((T_b < 0) | (T_b > T)).any():
        raise ValueError(f"lengths: expected 0 to {T}, got {T_b.tolist()}")
    return np.arange(1, T + 1)[:, None] <= T_b


def _of_run(cell: Cell, parameters: dict[str, Array], suffix: str, H: int) -> Theta:
    """Return one run's parameters without its suffix, zeros standing for biases that there are not."""
    shapes = cell.shapes(parameters["weight_ih" + suffix].shape[1], H)
    return {name: parameters.get(name + suffix, np.zeros(shape)) for name, shape in shapes.items()}


def _times(suffix: str, T: int) -> range:
    """Return the steps in the order in which a run takes them."""
    return range(T, 0, -1) if suffix.endswith("_reverse") else range(1, T + 1)


def _states(name: str, values: Any, runs_and_batch: tuple[int, int], sizes: tuple[int, ...]) -> States:
    """Return h (L K, B, P), or h and c (L K, B, H); zero for None."""
    shapes = [(*runs_and_batch, size) for size in sizes]
    if values is None:
        return tuple(np.zeros(shape) for shape in shapes)
    if len(shapes) == 1:
        return (floats(name, values, shapes[0]),)
    if len(values) != 2:
        raise ValueError(f"{name}: expected the pair (h, c), got {len(values)} arrays")
    return tuple(
        floats(f"{name}, {part}", v, shape) for part, v, shape in zip("hc", values, shapes, strict=True)
    )


def _as_given(states: States) -> State:
    """Return h, or (h, c)."""
    return states[0] if len(states) == 1 else (states[0], states[1])
