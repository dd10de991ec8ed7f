"""Clipping inside the recurrence: of dh_t, before it goes back through step t.

By norm: Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks, ICML,
algorithm 1, which is there for the whole gradient. By value, but of dz_t: Graves (2013), Generating sequences
with recurrent neural networks, arXiv:1308.0850.
"""

from __future__ import annotations

import numpy as np

from ._arrays import Array, one_of


def clip_rows(dh: Array, clip_hidden: tuple[str, float] | None) -> Array:
    """Return dh (N, H), its rows scaled down to a 2-norm of at most limit, or its values cut at +-limit.

    Examples
    --------
    >>> import numpy as np
    >>> from pybptt import reference
    >>> dh = np.array([[3.0, -4.0], [0.3, 0.4]])
    >>> reference.clip_rows(dh, ("norm", 1.0))
    array([[ 0.6, -0.8],
           [ 0.3,  0.4]])
    >>> reference.clip_rows(dh, ("value", 1.0))
    array([[ 1. , -1. ],
           [ 0.3,  0.4]])
    """
    if clip_hidden is None:
        return dh
    kind, limit = clip_hidden
    one_of("clip_hidden", kind, ("norm", "value"))
    if not limit > 0:
        raise ValueError(f"clip_hidden: expected a limit of more than 0, got {limit}")
    if kind == "value":
        return np.clip(dh, -limit, limit)
    norm = np.sqrt((dh**2).sum(axis=1, keepdims=True))  # |dh_t| of each sequence
    return np.where(
        norm > limit, limit / np.maximum(norm, limit) * dh, dh
    )  # dh_t <- dh_t min(1, limit / |dh_t|)
