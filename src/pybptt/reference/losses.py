"""What stands on top of a recurrent network: output layer o_t = W_ho h_t + b_o, and losses l(o_t, y_t)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, Parameters, floats, ids, one_of, rows


def output_layer(parameters: Parameters, h: ArrayLike) -> Array:
    """Return o_t = W_ho h_t + b_o: logits or predictions (..., Q) for states h (..., H).

    W_ho is parameters["output.weight"] (Q, H), and b_o is parameters["output.bias"] (Q,), or zero.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.output_layer({"output.weight": [[2.0], [3.0]], "output.bias": [0.0, 1.0]}, [[10.0]])
    array([[20., 31.]])
    """
    h = np.asarray(h, dtype=np.float64)
    Q = len(np.asarray(parameters["output.weight"]))
    W_ho = floats("output.weight", parameters["output.weight"], (Q, h.shape[-1]))
    b_o = floats("output.bias", parameters.get("output.bias", np.zeros(Q)), (Q,))
    o: Array = h @ W_ho.T + b_o  # o_t = W_ho h_t + b_o
    return o


def cross_entropy(o: ArrayLike, y: ArrayLike, reduction: str = "mean") -> tuple[float, Array]:
    """Return the softmax cross-entropy, -log softmax(o)[y], and do (..., Q), its derivative by o.

    o (..., Q) are logits, y (...) class ids in [0, Q). "mean" is over all ids, and 0 if there is none.

    Examples
    --------
    >>> from pybptt import reference
    >>> loss, do = reference.cross_entropy([[0.0, 0.0]], [1])
    >>> round(loss, 6), do
    (0.693147, array([[ 0.5, -0.5]]))
    """
    o = np.asarray(o, dtype=np.float64)
    y = ids("y", y, o.shape[-1], o.shape[:-1])
    one_hot, scale = y[..., None] == np.arange(o.shape[-1]), _scale(reduction, y.size)
    o = o - o.max(axis=-1, keepdims=True)  # softmax(o) = softmax(o - c), and exp no longer overflows
    log_p = o - np.log(np.exp(o).sum(axis=-1, keepdims=True))  # log p_q = o_q - log sum_r exp(o_r)
    loss = -scale * log_p[one_hot].sum()  # L = -sum_t log p_t[y_t]
    do = scale * (np.exp(log_p) - one_hot)  # do_t = p_t - onehot(y_t)
    return float(loss), do


def mse(o: ArrayLike, y: ArrayLike, reduction: str = "mean") -> tuple[float, Array]:
    """Return the squared error of predictions o from targets y, and do, its derivative by o; all (..., Q).

    There is no factor 1/2. "mean" is over all entries of y, and 0 if there is none.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.mse([[1.0, 3.0]], [[0.0, 0.0]], "sum")
    (10.0, array([[2., 6.]]))
    """
    o = np.asarray(o, dtype=np.float64)
    y = floats("y", y, o.shape)
    scale = _scale(reduction, y.size)
    loss = scale * ((o - y) ** 2).sum()  # L = sum_t |o_t - y_t|^2
    do = scale * 2.0 * (o - y)  # do_t = 2 (o_t - y_t)
    return float(loss), do


_LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


def loss_and_upstream(
    parameters: Parameters, output: ArrayLike, y: ArrayLike, *, loss: str, reduction: str, last_only: bool
) -> tuple[float, Array, dict[str, Array]]:
    """Put output layer and loss on top of h_1 .. h_T: the part of L that needs no loop over time.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        As for `output_layer`.
    output : ndarray (T, B, H)
        h_1 .. h_T.
    y : ndarray
        Class ids (T, B) for "cross_entropy", values (T, B, Q) for "mse"; no T axis with last_only.
    loss : {"cross_entropy", "mse"}
    reduction : {"mean", "sum"}
    last_only : bool
        Many to one: only o_T counts. With T = 0 that is a ValueError.

    Returns
    -------
    loss : float
    d_output : ndarray (T, B, H)
        dl_1 .. dl_T.
    gradients : dict of str to ndarray
        Of output.weight and, if there is one, output.bias.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.loss_and_upstream(
    ...     {"output.weight": [[2.0]]}, [[[0.5]]], [[[0.0]]], loss="mse", reduction="sum", last_only=False
    ... )
    (1.0, array([[[4.]]]), {'output.weight': array([[1.]])})
    """
    output = np.asarray(output, dtype=np.float64)
    if last_only and len(output) == 0:
        raise ValueError("last_only: there is no last step, T = 0")
    counted = -1 if last_only else slice(None)
    d_output = np.zeros_like(output)
    value, d_output[counted], gradients, *_ = loss_of_states(parameters, output[counted], y, loss, reduction)
    return value, d_output, gradients


def loss_of_states(
    parameters: Parameters, h: Array, y: ArrayLike, loss: str, reduction: str
) -> tuple[float, Array, dict[str, Array], Array, Array]:
    """Return L, dL/dh, the output layer's gradients, o and do, for states h (..., H) with a target each."""
    one_of("loss", loss, _LOSSES)
    o = output_layer(parameters, h)
    value, do = _LOSSES[loss](o, y, reduction)
    dh = do @ np.asarray(parameters["output.weight"], dtype=np.float64)  # dl_t = W_ho^T do_t
    gradients = {"output.weight": rows(do).T @ rows(h)}  # dW_ho = sum_t do_t h_t^T
    if "output.bias" in parameters:
        gradients["output.bias"] = rows(do).sum(axis=0)  # db_o = sum_t do_t
    return value, dh, gradients, o, do


def _scale(reduction: str, count: int) -> float:
    one_of("reduction", reduction, ("mean", "sum"))
    return 1.0 / max(count, 1) if reduction == "mean" else 1.0
