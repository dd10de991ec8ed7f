"""Eigen: `eigen/sweep.cpp`, built on demand for this machine into the user's cache, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
from rows import Problem, Row

from contestants import Gradients, Missing, Step

SOURCE = Path(__file__).parent.parent / "eigen" / "sweep.cpp"
FLAGS = ["-O3", "-march=native", "-fopenmp", "-std=c++17", "-DNDEBUG", "-shared", "-fPIC"]


def find_headers() -> Path:
    """The folder that holds Eigen/Core: PyPI's cmeel-eigen or the distribution's package."""
    for prefix in (Path(sysconfig.get_path("purelib")) / "cmeel.prefix", Path("/usr/local"), Path("/usr")):
        if (prefix / "include" / "eigen3" / "Eigen" / "Core").is_file():
            return prefix / "include" / "eigen3"
    raise Missing("no Eigen headers")


def build() -> Path:
    """The shared library, compiled where the cache has none for this source, compiler and processor."""
    headers = find_headers()
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise Missing("no C++ compiler")
    # With what "-march=native" means here, because a home folder may be shared by several machines.
    native = subprocess.check_output([compiler, "-march=native", "-Q", "--help=target"])
    version = subprocess.check_output([compiler, "--version"])
    seed = SOURCE.read_bytes() + native + version + f"{headers} {FLAGS}".encode()
    key = hashlib.sha256(seed).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pybptt-benchmarks"
    library = cache / f"eigen-{key}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = cache / f"eigen-{key}.{os.getpid()}.so"
        subprocess.run([compiler, *FLAGS, f"-I{headers}", str(SOURCE), "-o", str(unfinished)], check=True)
        unfinished.replace(library)  # at once, so that another process never loads half a file
    return library


class Contestant:
    def __init__(self, threads: int):
        self.library = ctypes.CDLL(str(build()))
        self.library.set_num_threads(threads)
        self.library.version.restype = ctypes.c_char_p
        self.version = self.library.version().decode()

    def covers(self, row: Row) -> bool:
        return row.plain

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        parameters = problem.parameters
        if row.Q:
            call = getattr(self.library, f"model_{row.dtype}")
            sizes = (row.T, row.B, row.D, row.H, row.Q)
            arrays = [problem.x, problem.y, *parameters.values()]
        else:
            call = getattr(self.library, f"layer_{row.dtype}")
            sizes = (row.T, row.B, row.D, row.H)
            arrays = [problem.x, problem.d_output, *parameters.values()]
        # The two biases have one gradient. The arrays of the result are made once, as a C++ program would.
        result = {n: np.empty_like(values) for n, values in parameters.items() if n != "bias_hh_l0"}
        arguments = [ctypes.c_int64(n) for n in sizes]
        arguments += [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, *result.values())]

        def step() -> None:
            call(*arguments)

        def gradients(_) -> dict[str, np.ndarray]:
            return result | {"bias_hh_l0": result["bias_ih_l0"]}

        return step, gradients
