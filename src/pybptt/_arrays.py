"""Checks of what users pass in, made before any work is done, and the arrays that results go to."""

from __future__ import annotations

import math
import operator
import sys
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core

Array = NDArray[Any]

TEXT = "USTO"  # the kinds of dtypes that hold text
DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


def real_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """float32 or float64, or a TypeError."""
    try:
        if dtype is None:  # which NumPy takes for float64
            raise TypeError
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: expected 'float32' or 'float64', got {dtype!r}") from None
    if found.name not in DTYPES or not found.isnative:
        raise TypeError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return found


def positive(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    return at_least(name, value, 1)


def at_least(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`, or a TypeError or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got bool")
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def is_array(name: str, value: Any, wanted: str) -> Array:
    """`value`, of a subclass such as np.matrix the plain array that it holds, or a TypeError."""
    if type(value) is np.ndarray:
        return value
    if not isinstance(value, np.ndarray):
        hint = ""
        if isinstance(value, list | tuple) or hasattr(value, "__array__"):  # tensors, data frames, ...
            given = name.split()[0] + (".detach()" if hasattr(value, "detach") else "")
            hint = f"; convert with np.asarray({given})"
        raise TypeError(f"{name}: expected a numpy array of {wanted}, got {type(value).__name__}{hint}")
    held: Array = unmasked(name, value).view(np.ndarray)
    return held


def items(name: str, values: Any, wanted: str) -> list[Any]:
    """The items of an iterable, or a TypeError."""
    try:
        iterator = iter(values)
    except TypeError:
        raise TypeError(f"{name}: expected {wanted}, got {type_name(values)}") from None
    return list(iterator)


def type_name(value: Any) -> str:
    """For a message: with the module, unless it is Python's own, because other packages have an LSTM, too."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def unmasked(name: str, value: Any) -> Any:
    """`value` itself, or a TypeError for a masked array: its mask would be lost without a word."""
    if type(value) is not np.ndarray and hasattr(value, "filled"):
        raise TypeError(f"{name}: expected an array without a mask, got a masked one; see {name}.filled(0)")
    return value


def to_integers(name: str, dtype: np.dtype[Any]) -> str:
    """How an array of another dtype becomes ids, for a message."""
    if dtype.kind in TEXT:
        return "pybptt.data.Vocabulary makes ids of text"
    return f"convert with {name.split()[0]}.astype(np.int64)"


def real(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`value`, checked and as the core reads it."""
    return plain(expect(name, value, shape, dtype))


def plain(array: Array) -> Array:
    """`array` itself if it is C-contiguous and aligned, as the core reads arrays, else a copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()


def expect(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`value` itself, checked."""
    # dtype.name takes NumPy a microsecond: only for a message.
    array: Array = value if type(value) is np.ndarray else is_array(name, value, dtype.name)
    if array.dtype != dtype:
        raise TypeError(
            f"{name}: expected dtype {dtype.name}, got {array.dtype}; "
            f"convert with {name.split()[0]}.astype(np.{dtype.name})"
        )
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array


def steps_and_batch(
    name: str, x: Any, width: int, dtype: np.dtype[Any], batch_first: bool
) -> tuple[int, int]:
    """T and B of an input, dense with D = `width` or token ids, or a TypeError or ValueError."""
    x = is_array(name, x, f"{dtype.name} or integers")
    axes = "(B, T" if batch_first else "(T, B"
    dense = f"convert with {name.split()[0]}.astype(np.{dtype.name})"
    if x.dtype.kind in "iu":
        if x.ndim != 2:
            hint = f"; if they are vectors, {dense}" if x.shape[2:] == (width,) else ""
            raise ValueError(f"{name}: expected token ids of shape {axes}), got shape {x.shape}{hint}")
    elif x.ndim == 2 or x.dtype.kind in TEXT:
        raise (ValueError if x.dtype == dtype else TypeError)(
            f"{name}: expected {dtype.name} of shape {axes}, D) with D = {width}, or integers of shape "
            f"{axes}) for token ids, got {x.dtype} of shape {x.shape}; for token ids "
            f"{to_integers(name, x.dtype)}"
        )
    elif x.dtype != dtype:
        raise TypeError(
            f"{name}: expected dtype {dtype.name}, or integers for token ids, got {x.dtype}; {dense}"
        )
    elif x.ndim != 3 or x.shape[2] != width:
        raise ValueError(f"{name}: expected shape {axes}, D) with D = {width}, got {x.shape}")
    steps, batch = x.shape[1::-1] if batch_first else x.shape[:2]
    return steps, batch


def ids(name: str, value: Array, limit: int, *, time_axis: int = 0, lengths: Array | None = None) -> Array:
    """A copy of integers as int64 (the core's index type), C-contiguous, time-major if they are (B, T).

    A copy, whatever they are: what is checked is what is used, even if another thread writes to `value`.

    The core checks that they are in [0, limit); here that is done only where its message would be wrong: for
    values that int64 does not hold, and other axes than the core's. Past a sequence's end they may be
    anything.
    """
    if time_axis == 1 or value.ndim == 1 or value.dtype == np.uint64:
        value = value.copy()
        out = (value < 0) | (value >= limit)
        if lengths is not None:
            steps = np.arange(value.shape[time_axis])
            out &= steps[None, :] < lengths[:, None] if time_axis == 1 else steps[:, None] < lengths[None, :]
        wrong = np.argwhere(out)
        if wrong.size:
            place = ", ".join(map(str, wrong[0]))
            raise IndexError(
                f"{name}: expected ids in [0, {limit}), got {value[tuple(wrong[0])]} at [{place}]"
            )
    return np.array(value.T if time_axis == 1 else value, dtype=np.int64, order="C")


def sequence_lengths(lengths: ArrayLike | None, steps: int, batch: int) -> Array | None:
    """A copy, (B,) of int64 in [0, T], or a TypeError or ValueError."""
    if lengths is None:
        return None
    try:
        array = np.array(unmasked("lengths", lengths))  # a copy, as of `ids`
    except ValueError:  # lists of different lengths
        raise ValueError(f"lengths: expected shape {(batch,)}, got {lengths!r}") from None
    if array.dtype == object and array.shape == (batch,) and all(isinstance(n, int) for n in array):
        raise ValueError(f"lengths: expected values in [0, {steps}], got {list(array)}")  # beyond int64
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"lengths: expected integers, got {array.dtype}")
    if array.shape != (batch,):
        raise ValueError(f"lengths: expected shape {(batch,)}, one for each sequence, got {array.shape}")
    wrong = np.flatnonzero((array < 0) | (array > steps))
    if wrong.size:
        raise ValueError(f"lengths: expected values in [0, {steps}], got {array[wrong[0]]} at [{wrong[0]}]")
    return np.ascontiguousarray(array, dtype=np.int64)


def number(name: str, value: Any, wanted: str) -> float:
    """`value` as a float, or a TypeError."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {wanted}, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected {wanted}, got one beyond the largest float") from None


def fraction(name: str, value: Any) -> float:
    """`value` as a float in [0, 1], or a TypeError or ValueError."""
    result = number(name, value, "a number in [0, 1]")
    if not 0 <= result <= 1:
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    return result


def below(name: str, value: Any, limit: float) -> float:
    """`value` as a float in [0, limit), or a TypeError or ValueError."""
    wanted = "a finite number of at least 0" if limit == math.inf else f"a number in [0, {limit:g})"
    result = number(name, value, wanted)
    if not 0 <= result < limit:  # NaN is in no range
        raise ValueError(f"{name}: expected {wanted}, got {value}")
    return result


def above_0(name: str, value: Any) -> float:
    """`value` as a positive float, or a TypeError or ValueError."""
    result = number(name, value, "a positive number")
    if not 0 < result < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return result


def flag(name: str, value: Any) -> bool:
    """`value` as a bool, or a TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return bool(value)


def generator(seed: Any) -> np.random.Generator:
    """Random numbers from a seed, an integer of at least 0 or None, or a TypeError or ValueError."""
    return np.random.default_rng(None if seed is None else at_least("seed", seed, 0))


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """np.empty, with MemoryError for every size that can't be had; a large one lies in the core's memory."""
    size = dtype.itemsize
    for length in shape:
        size *= max(1, length)  # NumPy, too, leaves empty axes out
    if size > sys.maxsize:
        raise MemoryError(f"an array of shape {shape} and dtype {dtype.name} is too large for this machine")
    try:
        return _core.empty_float32(shape) if dtype.itemsize == 4 else _core.empty_float64(shape)
    except MemoryError:
        raise MemoryError(f"cannot allocate an array of shape {shape} and dtype {dtype.name}") from None
