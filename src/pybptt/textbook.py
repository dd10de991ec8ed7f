"""The function that textbooks write with two nested loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, at_least, ids, is_array, real, real_dtype
from .call import Call
from .truncation import Limits


def bptt(
    U: Array, V: Array, W: Array, x: Array, y: Array, bptt_truncate: int | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of the textbook network on token ids, equal to what its two nested loops return.

    The network is s_t = tanh(U[:, x_t] + W s_{t-1}), s_{-1} = 0, o_t = softmax(V s_t), and the loss the sum
    over t of -log o_t[y_t]. The loss of step t goes back over the steps t, t-1, ..., max(0, t -
    bptt_truncate). The loops cost O(T^2); here the full gradient is one sweep that memoises dL/ds_t, and a
    truncated one takes the `bptt_truncate` + 1 windows that are over a step back together, as one product.

    Parameters
    ----------
    U : ndarray, (H, D), float32 or float64
        Input weights; D is the number of distinct tokens.
    V : ndarray, (Q, H), same dtype
        Output weights.
    W : ndarray, (H, H), same dtype
        Recurrent weights.
    x, y : ndarray, (T,), integers
        Tokens in [0, D) and targets in [0, Q).
    bptt_truncate : int, optional
        How many steps past its own a loss goes back; all of them if not given.

    Returns
    -------
    dLdU, dLdV, dLdW : ndarray
        Of the shapes and dtype of `U`, `V` and `W`. (`pybptt.reference.bptt` is the two loops themselves.)

    Raises
    ------
    ValueError, TypeError, IndexError, MemoryError
        For a wrong shape or a negative `bptt_truncate`, a wrong dtype, a token or target out of range, and
        sizes that can't be allocated.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> U, V, W = random.normal(size=(8, 5)), random.normal(size=(5, 8)), random.normal(size=(8, 8)) / 4
    >>> x, y = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 4])
    >>> dLdU, dLdV, dLdW = pybptt.bptt(U, V, W, x, y, bptt_truncate=2)
    >>> bool(np.allclose(dLdW, pybptt.reference.bptt(U, V, W, x, y, bptt_truncate=2)[2]))
    True
    """
    weights: dict[str, Any] = {"U": U, "V": V, "W": W}
    for name, weight in weights.items():
        if is_array(name, weight, "float32 or float64").ndim != 2:
            raise ValueError(f"{name}: expected a matrix, got shape {weight.shape}")
    if U.dtype.name not in ("float32", "float64") or not U.dtype.isnative:
        raise TypeError(
            f"U: expected dtype float32 or float64, got {U.dtype}; convert with U.astype(np.float64)"
        )
    dtype = real_dtype(U.dtype)
    H, D = U.shape
    Q = V.shape[0]
    V = real("V", V, (Q, H), dtype)
    W = real("W", W, (H, H), dtype)
    for name, value in (("x", x), ("y", y)):
        if is_array(name, value, "integers").dtype.kind not in "iu":
            raise TypeError(
                f"{name}: expected integers, got {value.dtype}; convert with {name}.astype(np.int64)"
            )
        if value.ndim != 1:
            raise ValueError(f"{name}: expected shape (T,), got {value.shape}")
    if y.shape != x.shape:
        raise ValueError(f"y: expected shape {x.shape}, that of x, got {y.shape}")
    windows = (0, 0)
    if bptt_truncate is not None and at_least("bptt_truncate", bptt_truncate, 0) + 1 < x.size:
        windows = (1, bptt_truncate + 1)  # TBPTT(1, bptt_truncate + 1)

    flat = np.concatenate([U.ravel(), W.ravel(), V.ravel()])
    network = _core.ModelFloat32 if dtype.itemsize == 4 else _core.ModelFloat64
    model = network(
        _core.LayerConfig(D, H, bias=False), _core.OutputConfig(Q, False, False), True, False, flat
    )
    call = Call(ids("x", x, D)[:, None], None, None, None, None)  # a batch of one sequence
    targets = ids("y", y, Q)[:, None]
    _, (gradient, *_), _ = model.loss_and_grad(
        call.x, targets, 1.0, None, call.options(), Limits(windows=windows), False, False
    )
    dLdU, dLdW, dLdV = np.split(gradient, [U.size, U.size + W.size])
    return dLdU.reshape(U.shape), dLdV.reshape(V.shape), dLdW.reshape(W.shape)
