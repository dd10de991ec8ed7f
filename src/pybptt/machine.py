"""The machine: which kernels run, and on how many threads."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core


def get_num_threads() -> int:
    """The most threads that one call may use.

    The default is the environment variable ``PYBPTT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number
    of cores that this process may run on, or of processors' worth of time that its control group has
    (``config()["processors"]``). Results are the same to the last bit for any number of threads.

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

    `threadpoolctl`, where it is installed, reports and limits them too, with ``user_api="pybptt"``.

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
        ``processors``: how many are ``allowed``, in how many ``cores``, and the ``quota`` of the control
        group, rounded up, or None. ``caches``: bytes of ``l1d`` and ``l2`` of a core, of ``l3`` that cores
        share; 0 where nothing is known.

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
        "processors": _core.processors(),
        "caches": _core.caches(),
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
    processors       ...
    caches           ...
    numpy            ...
    """
    found = config()
    processors, caches = found["processors"], found["caches"]
    quota = "" if processors["quota"] is None else f", a quota of {processors['quota']}"
    lines = {
        "pybptt": found["version"],
        "compiler": found["compiler"],
        "tiers built": ", ".join(found["tiers_built"]),
        "tiers available": ", ".join(found["tiers_available"]),
        "tier in use": found["tier"],
        "threads": found["threads"],
        "processors": f"{processors['allowed']} in {processors['cores']} cores{quota}",
        "caches": ", ".join(f"{name} {size >> 10} KiB" for name, size in caches.items()),
        "numpy": found["numpy"],
    }
    for name, value in lines.items():
        print(f"{name:<16} {value}")


def release_memory() -> int:
    """Gives memory that the core keeps for its next calls back to the system.

    Up to 256 MB of freed blocks are kept: fresh pages cost more than the arithmetic of a small network.
    Arrays and tapes that are alive keep theirs.

    Returns
    -------
    int
        The bytes that were given back.

    Examples
    --------
    >>> output, state, tape = pybptt.RNN(3, 8).forward(np.ones((20, 4, 3), dtype=np.float32))
    >>> del tape
    >>> pybptt.release_memory() > 0
    True
    >>> pybptt.release_memory()
    0
    """
    return _core.release_memory()
