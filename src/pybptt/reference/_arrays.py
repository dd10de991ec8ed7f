"""Arrays as the reference takes them, checked, copied, float64; and as it returns them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Parameters = Mapping[str, ArrayLike]
State = Array | tuple[Array, Array]  # h, or (h, c) of an LSTM


class Gradients(NamedTuple):
    """What a backward pass returns; `forward_accumulation` never forms `input` and `hidden`: None."""

    parameters: dict[str, Array]  # dL/dtheta, with the names and shapes of the parameters that were given
    input: Array | None  # (T, B, D): dL/dx_t; None for token ids
    state: State  # (L K, B, P): dL/dh_0; of an LSTM the pair of it and dL/dc_0 (L K, B, H)
    hidden: Array | None  # (L K, T, B, P): dh_1 .. dh_T, total; 0 at padding
    # Of `sweep`, for each run, what it finds on its way, by name, (T, B, N); 0 where no loss comes:
    # "dl", "dh", what the cell names, "dx", and "to_h", "to_c": what it sends to the states before it.
    steps: list[dict[str, Array]] | None = None


def dense_input(x: ArrayLike, D: int) -> tuple[Array, bool]:
    """Return x (T, B, D), and whether token ids (T, B) were given."""
    xs = np.asarray(x)
    tokens = xs.ndim == 2
    if tokens:  # one-hot: W_ih x_t is then a column of W_ih, which a fast program gathers instead
        xs = ids("x", xs, D, xs.shape)[:, :, None] == np.arange(D)
    return floats("x", xs, (*xs.shape[:2], D)), tokens


def rows(a: Array) -> Array:
    """Flatten every axis but the last, (T, B, N) to (T B, N): row i of two arrays is the same t and b."""
    return a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1])


def floats(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.array(values, dtype=np.float64)
    expect_shape(name, array, shape)
    return array


def ids(name: str, values: ArrayLike, size: int, shape: tuple[int, ...]) -> NDArray[Any]:
    ids = np.asarray(values)
    expect_shape(name, ids, shape)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name}: expected integer ids, got {ids.dtype}; convert with .astype(numpy.int64)")
    outside = (ids < 0) | (ids >= size)
    if outside.any():
        where = [int(i) for i in np.argwhere(outside)[0]]
        raise IndexError(f"{name}: expected ids in [0, {size}), got {ids[tuple(where)]} at {where}")
    return ids


def expect_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")


def one_of(name: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
