"""The linear recurrence a_t = b_t + c_t a_{t-1}, elementwise, and its gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._arrays import Array, floats


def linear_scan(b: ArrayLike, c: ArrayLike, a0: ArrayLike | None = None) -> Array:
    """Return a_1 .. a_T (T, ...) for b, c (T, ...) and a_0 (...), which is zero if not given.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.linear_scan([1.0, 0.0, 4.0], [0.5, 0.5, 0.5])
    array([1.  , 0.5 , 4.25])
    """
    a = np.array(b, dtype=np.float64)
    c = floats("c", c, a.shape)
    before = np.zeros(a.shape[1:]) if a0 is None else floats("a0", a0, a.shape[1:])
    for t in range(len(a)):
        before = a[t] = a[t] + c[t] * before  # a_t = b_t + c_t a_{t-1}
    return a


def linear_scan_backward(
    d_a: ArrayLike, c: ArrayLike, a: ArrayLike, a0: ArrayLike | None = None
) -> tuple[Array, Array, Array]:
    """Return dL/db, dL/dc (T, ...) and dL/da_0 (...), given the direct derivatives d_a by each a_t.

    Examples
    --------
    >>> from pybptt import reference
    >>> reference.linear_scan_backward([0.0, 1.0], [0.5, 0.25], [1.0, 1.25])
    (array([0.25, 1.  ]), array([0., 1.]), array(0.125))
    """
    d_b = np.array(d_a, dtype=np.float64)
    c, a = floats("c", c, d_b.shape), floats("a", a, d_b.shape)
    start = np.zeros(d_b.shape[1:]) if a0 is None else floats("a0", a0, d_b.shape[1:])
    d_c, later = np.empty_like(d_b), np.zeros(d_b.shape[1:])
    for t in reversed(range(len(d_b))):
        d_b[t] = d_b[t] + later  # dL/db_t = da_t + c_{t+1} dL/db_{t+1}
        d_c[t] = d_b[t] * (a[t - 1] if t else start)  # dL/dc_t = dL/db_t a_{t-1}
        later = c[t] * d_b[t]  # at the end dL/da_0 = c_1 dL/db_1
    return d_b, d_c, np.asarray(later)
