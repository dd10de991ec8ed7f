"""The machine: its cores, its name, and the environment of a process on so many threads."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Every library's own variable: with none of them set, OpenMP and BLAS would take all cores.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYBPTT_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker on `threads` threads."""
    # OpenBLAS's idle threads spin for 2^26 cycles, into whoever is timed next; 2^20 are 0.4 ms.
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "OPENBLAS_THREAD_TIMEOUT": "20"}


def pin(threads: int) -> None:
    """Keep this process on `threads` cores, one thread of each; nothing where the system has no such call."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])


def cores() -> list[int]:
    """One logical processor of each core that this process may use."""
    first_siblings = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        first_siblings.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return list(first_siblings.values())


def number_of_cores() -> int:
    return len(cores()) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def describe() -> str:
    """The processor in words."""
    info = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    flags: list[str] = []
    if info.exists():
        first = info.read_text().split("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
        model = fields.get("model name", model)
        flags = fields.get("flags", "").split()
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    return ", ".join(
        [model, f"{number_of_cores()} cores"]
        + ([f"L2 {cache.read_text().strip()} a core"] if cache.exists() else [])
        + [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f")) if flag in flags]
    )


def busy_seconds() -> float | None:
    """Seconds that all processors together have worked since the machine started; None off Linux."""
    statistics = Path("/proc/stat")
    if not statistics.exists():
        return None
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(
        int, statistics.read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


class Neighbours:
    """How many cores other processes keep busy from here on."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        times = os.times()
        own = times.user + times.system
        return times.elapsed, (busy_seconds() or own) - own

    def cores(self) -> float:
        (start, others_then), (end, others_now) = self._start, self._now()
        return max(0.0, (others_now - others_then) / (end - start))
