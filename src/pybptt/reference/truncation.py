"""Truncated backpropagation through time by its definition: one sweep for each window of losses.

TBPTT(k1, k2), at fixed parameters. The boundaries are t = k1, 2 k1, ... and the sequence's end T. At each of
them the losses of the steps since the boundary before, as far as they lie within the last k2 steps, go back
through the k2 uses t, t-1, ..., t-k2+1 of the parameters and no further. The gradient is the sum over these
windows. A loss that no window reaches (k2 < k1) contributes to nothing, and a mean is still over all targets.

TBPTT(T, T) and TBPTT(1, T) are the full gradient; TBPTT(k, k) cuts the sequence into blocks; in
TBPTT(1, k + 1) every loss goes back k steps past its own, which is `backward_two_loops` with bptt_truncate=k.

Williams, Peng (1990), An efficient gradient-based algorithm for on-line training of recurrent network
trajectories, Neural Computation 2, 490-501: their BPTT(h; h') is TBPTT(h', h). Sutskever (2013), Training
recurrent neural networks, thesis, University of Toronto, section 2.8.6, has the names k1 and k2.

Going no further than a step is a factor 0 of what goes from it to the state before. `sweep` takes any factors
xi_t: drawn at random with mean 1, they give a truncated gradient whose mean is the full one. Tallec, Ollivier
(2017), Unbiasing truncated backpropagation through time, arXiv:1705.08209.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Array, Gradients, Parameters, State
from .network import Trace, run, sweep, upstream_of_loss


class Window(NamedTuple):
    """The losses that go back from one boundary, and the uses of the parameters that they go through.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.windows(5, 2, 3)[1]
    Window(boundary=4, losses=range(3, 5), uses=range(2, 5))
    """

    boundary: int
    losses: range  # of steps, the boundary's the last
    uses: range


def windows(T: int, k1: int, k2: int) -> list[Window]:
    """List the windows of TBPTT(k1, k2) of a sequence of T steps.

    A sequence without steps has one, which is empty: its end is a boundary, to which derivatives by the final
    state belong.

    Examples
    --------
    >>> from pybptt import reference
    >>> for boundary, losses, uses in reference.windows(5, 2, 3):
    ...     print(boundary, list(losses), list(uses))
    2 [1, 2] [1, 2]
    4 [3, 4] [2, 3, 4]
    5 [5] [3, 4, 5]
    >>> [list(losses) for _, losses, _ in reference.windows(5, 3, 2)]  # no window reaches the loss of step 1
    [[2, 3], [4, 5]]
    """
    for name, k in (("k1", k1), ("k2", k2)):
        if k < 1:
            raise ValueError(f"{name}: expected at least 1, got {k}")
    found, before = [], 0
    for boundary in [*range(k1, T, k1), T]:
        uses = range(max(1, boundary - k2 + 1), boundary + 1)
        losses = range(max(before + 1, uses.start), boundary + 1)
        found.append(Window(boundary, losses, uses))
        before = boundary
    return found


def truncated_sweep(
    trace: Trace,
    d_output: ArrayLike | None = None,
    d_state: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    d_cells: ArrayLike | None = None,
    *,
    k1: int,
    k2: int,
    clip_hidden: tuple[str, float] | None = None,
) -> Gradients:
    """Go back from every boundary of TBPTT(k1, k2) by a sweep of its own, and add up the gradients.

    Parameters
    ----------
    trace, d_output, d_state, d_cells, clip_hidden
        As for `sweep`. What `d_output` and `d_cells` have of step t counts as the loss of step t; `d_state`
        belongs to the boundary at each sequence's end. Each window is clipped by itself.
    k1, k2 : int >= 1

    Returns
    -------
    Gradients
        The sums over the windows; to ``hidden[:, t - 1]`` those contribute that go through step t, to
        ``state`` those that go through step 1.

    Examples
    --------
    h_3 = w_hh^2 as in `backward_two_loops`; the loss of step 3 goes back through the steps 3 and 2.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.5]]}
    >>> trace = reference.run("rnn", parameters, [[[1.0]], [[0.0]], [[0.0]]], nonlinearity="identity").trace
    >>> g = reference.truncated_sweep(trace, [[[0.0]], [[0.0]], [[1.0]]], k1=1, k2=2)
    >>> g.parameters["weight_hh_l0"], g.hidden.ravel()
    (array([[1.]]), array([0. , 0.5, 1. ]))
    """
    return reduce(_sum, window_sweeps(trace, d_output, d_state, d_cells, k1, k2, clip_hidden))


def window_sweeps(
    trace: Trace,
    d_output: ArrayLike | None,
    d_state: ArrayLike | tuple[ArrayLike, ArrayLike] | None,
    d_cells: ArrayLike | None,
    k1: int,
    k2: int,
    clip_hidden: tuple[str, float] | None,
) -> Iterator[Gradients]:
    """Yield what the first window of every sequence gives, then the second, ...: one at least."""
    for losses, xi, at_end in _in_lockstep(trace, k1, k2):
        yield sweep(
            trace,
            None if d_output is None else np.where(losses[:, :, None], d_output, 0.0),
            None if d_state is None else _state_where(at_end, d_state),
            None if d_cells is None else np.where(losses[:, :, None], d_cells, 0.0),
            xi=xi,
            clip_hidden=clip_hidden,
        )


def reached_losses(trace: Trace, k1: int, k2: int) -> NDArray[np.bool_]:
    """Return (T, B): the losses that some window of TBPTT(k1, k2) reaches."""
    reached: NDArray[np.bool_] = np.any([losses for losses, _, _ in _in_lockstep(trace, k1, k2)], axis=0)
    return reached


def tbptt_loss_and_grad(
    cell: str,
    parameters: Parameters,
    x: ArrayLike,
    y: ArrayLike,
    *,
    k1: int,
    k2: int,
    loss: str = "cross_entropy",
    reduction: str = "mean",
    last_only: bool = False,
    clip_hidden: tuple[str, float] | None = None,
    **options: Any,
) -> tuple[float, Gradients, State, int]:
    """Return loss, truncated gradients and final state of a network, output layer and loss together.

    Parameters
    ----------
    cell, parameters, x, y, loss, reduction, last_only, clip_hidden, **options
        As for `run_loss_and_grad`. With `last_only`, each sequence's one loss belongs to the boundary at its
        end.
    k1, k2 : int >= 1

    Returns
    -------
    loss : float
        Of the losses that some window reaches; a mean divides by the number of all targets.
    gradients : Gradients
    state : ndarray (L K, B, P); for "lstm" the pair of it and (L K, B, H)
    unreached : int
        Targets that no window reaches.

    Examples
    --------
    All logits are 0. The windows of TBPTT(2, 1) reach one of two targets.

    >>> from pybptt import reference
    >>> parameters = {"weight_ih_l0": [[1.0, 2.0]], "weight_hh_l0": [[0.5]], "output.weight": [[0.0]] * 4}
    >>> x, y = [[0], [1]], [[1], [2]]
    >>> loss, g, _, unreached = reference.tbptt_loss_and_grad("rnn", parameters, x, y, k1=2, k2=1)
    >>> round(loss, 6), unreached  # log(4) / 2
    (0.693147, 1)
    """
    output, final, _, trace = run(cell, parameters, x, **options)
    reached = reached_losses(trace, k1, k2)
    up = upstream_of_loss(
        parameters,
        output,
        final,
        trace,
        y,
        loss=loss,
        reduction=reduction,
        last_only=last_only,
        reached=reached,
    )
    g = truncated_sweep(trace, up.d_output, up.d_state, k1=k1, k2=k2, clip_hidden=clip_hidden)
    unreached = 0 if last_only else int(trace.lengths.sum() - reached.sum())
    return up.loss, g._replace(parameters=g.parameters | up.gradients), final, unreached


def _in_lockstep(
    trace: Trace, k1: int, k2: int
) -> Iterator[tuple[NDArray[np.bool_], Array, NDArray[np.bool_]]]:
    """Yield, of the first window of every sequence, then of the second, ..., what makes a sweep keep to it.

    Its losses (T, B); xi (T, B), which is 0 at the window's first use of the parameters, unless that is step
    1; and whether its boundary is the sequence's end (B,).
    """
    T, B = len(trace.kept[0]), len(trace.lengths)
    of_sequence = [windows(int(T_b), k1, k2) for T_b in trace.lengths]
    for w in range(max(map(len, of_sequence), default=1)):
        losses, xi, at_end = np.zeros((T, B), bool), np.ones((T, B)), np.zeros(B, bool)
        for b, found in enumerate(of_sequence):
            if w < len(found):
                losses[found[w].losses.start - 1 : found[w].boundary, b] = True
                if found[w].uses.start > 1:
                    xi[found[w].uses.start - 1, b] = 0
                at_end[b] = found[w].boundary == trace.lengths[b]
        yield losses, xi, at_end


def _state_where(at_end: NDArray[np.bool_], d_state: Any) -> Any:
    """Return d_state, or both of an LSTM's, with 0 for the sequences whose window is not the last one."""
    if isinstance(d_state, tuple):
        return tuple(np.where(at_end[:, None], part, 0.0) for part in d_state)
    return np.where(at_end[:, None], d_state, 0.0)


def _sum(a: Gradients, b: Gradients) -> Gradients:
    """Return a + b."""
    state: State
    if isinstance(a.state, tuple) and isinstance(b.state, tuple):
        state = (a.state[0] + b.state[0], a.state[1] + b.state[1])
    else:
        state = np.add(a.state, b.state)
    return Gradients(
        {name: gradient + b.parameters[name] for name, gradient in a.parameters.items()},
        None if a.input is None or b.input is None else a.input + b.input,
        state,
        None if a.hidden is None or b.hidden is None else a.hidden + b.hidden,
    )
