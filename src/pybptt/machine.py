"""The machine: which kernels run, and on how many threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core


def get_num_threads() -> int:
    """The most threads that one call may use.

    The default is the environment variable ``PYBPTT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number
    of processors that this process may run on. Results are the same to the last bit for any number of
    threads.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``PYBPTT_NUM_THREADS`` is not a number from 1 to 1024.

    Examples
    --------
    >>> pybptt.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Sets the most threads that one call may use, from now on and for all Python threads.

    Parameters
    ----------
    n : int
        1 to 1024. Small work uses fewer.

    Raises
    ------
    ValueError
        If `n` is out of range.
    TypeError
        If `n` is not an integer.

    Examples
    --------
    >>> before = pybptt.get_num_threads()
    >>> pybptt.set_num_threads(1)
    >>> pybptt.get_num_threads()
    1
    >>> pybptt.set_num_threads(before)
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n: expected an integer number of threads, got {type(n).__name__}")
    if not 1 <= n <= 1024:
        raise ValueError(f"n: expected a number of threads from 1 to 1024, got {n}")
    _core.set_num_threads(int(n))


def config() -> dict[str, Any]:
    """What this build is and what it uses on this machine.

    Returns
    -------
    dict
        ``version`` and ``compiler`` (str); ``tiers_built`` and ``tiers_available`` (lists of str, slowest
        first), ``tier`` (str), the one in use; ``threads`` (int); ``numpy`` (str), its version. A tier is one
        instruction-set build of the kernels; the environment variable ``PYBPTT_TIER`` forces one.

    Raises
    ------
    RuntimeError
        If ``PYBPTT_TIER`` names a tier that is not built, or that the processor cannot run.

    Examples
    --------
    >>> pybptt.config()["tier"] in pybptt.config()["tiers_available"]
    True
    """
    return {
        "version": _core.version,
        "compiler": _core.compiler,
        "tiers_built": _core.tiers_built(),
        "tiers_available": _core.tiers_available(),
        "tier": _core.active_tier(),
        "threads": _core.num_threads(),
        "numpy": np.__version__,
    }


def show_config() -> None:
    """Prints `config`, a line each.

    Raises
    ------
    RuntimeError
        As `config` does.

    Examples
    --------
    >>> pybptt.show_config()  # doctest: +ELLIPSIS
    pybptt           ...
    compiler         ...
    tiers built      ...
    tiers available  ...
    tier in use      ...
    threads          ...
    numpy            ...
    """
    values = config()
    names = ["pybptt", "compiler", "tiers built", "tiers available", "tier in use", "threads", "numpy"]
    for name, value in zip(names, values.values(), strict=True):
        print(f"{name:<16} {', '.join(value) if isinstance(value, list) else value}")
