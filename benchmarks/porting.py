"""What each idea of docs/porting.md gains: `python benchmarks/porting.py` prints all, or those named.

sweep    the textbook's two loops, and one sweep that memoises dL/dh_t, in the same plain NumPy; and the core
sums     a product for each step added to dW, and one product of all steps
packing  a call a step, which packs the weights; the same with weights packed before; all steps in one call
cells    an LSTM's gates and states in NumPy, one pass over memory an operation; and the core's whole step
step     forward and backward, on one thread and on two; with PYBPTT_TIER=baseline without wide vectors
"""

from __future__ import annotations

import os
import sys

import machine

for variable in machine.THREAD_VARIABLES:
    os.environ[variable] = "1"
machine.pin(2)

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402

import pybptt  # noqa: E402
from pybptt import reference  # noqa: E402

RANDOM = np.random.default_rng(0)
SECONDS = 1.5


def show(what: str, **calls: Callable[[], object]) -> None:
    """The shortest time of each, and how many times the last one's it is; they take turns."""
    took = dict.fromkeys(calls, np.inf)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or np.inf in took.values():
        for name, call in calls.items():
            call()  # so that the others' arrays have left the caches
            start = time.perf_counter()
            call()
            took[name] = min(took[name], time.perf_counter() - start)
    last = list(took.values())[-1]
    print(f"    {what:32}" + "".join(f"  {n} {t * 1e3:.3g} ms ({t / last:.1f})" for n, t in took.items()))


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def sweep() -> None:
    D = Q = 65
    H = 100
    U, V, W = (RANDOM.normal(size=shape) / 10 for shape in ((H, D), (Q, H), (H, H)))
    parameters = {"weight_ih_l0": U, "weight_hh_l0": W, "output.weight": V}
    for T in (50, 100, 200):
        x, y = RANDOM.integers(D, size=T), RANDOM.integers(Q, size=T)
        show(
            f"T = {T}, H = {H}",
            two_loops=lambda x=x, y=y: reference.bptt(U, V, W, x, y),
            sweep=lambda x=x, y=y: reference.loss_and_grad(
                parameters, x[:, None], y[:, None], reduction="sum"
            ),
            core=lambda x=x, y=y: pybptt.bptt(U, V, W, x, y),
        )


def sums() -> None:
    for T, B, GH, H in ((50, 1, 100, 100), (35, 32, 256, 256), (100, 8, 512, 128), (100, 1, 2048, 512)):
        dz, h = normal(T, B, GH), normal(T, B, H)

        def steps(dz: np.ndarray = dz, h: np.ndarray = h) -> np.ndarray:
            dW = np.zeros((dz.shape[2], h.shape[2]), np.float32)
            for dz_t, h_t in zip(dz, h, strict=True):
                dW += dz_t.T @ h_t
            return dW

        rows = dz.reshape(-1, GH), h.reshape(-1, H)
        show(f"T = {T}, B = {B}, {GH} x {H}", steps=steps, one=lambda rows=rows: rows[0].T @ rows[1])


def packing() -> None:
    T = 100
    for B, D, H in ((1, 64, 128), (8, 64, 128), (32, 64, 256), (1, 128, 512)):
        lstm, x = pybptt.LSTM(D, H, seed=0), normal(T, B, D)

        def in_steps(call: Callable, x: np.ndarray = x) -> None:
            state = None
            for x_t in x:
                _, state = call(x_t[None], state)

        run = lstm.packed()
        show(
            f"LSTM, B = {B}, H = {H}, T = {T}",
            packs=lambda lstm=lstm, s=in_steps: s(lstm),
            packed=lambda run=run, s=in_steps: s(run),
            one_call=lambda lstm=lstm, x=x: lstm(x),
        )


def cells() -> None:
    T = 100
    for B, H in ((256, 16), (64, 64)):  # with few units there is little but the cells
        lstm, x, z = pybptt.LSTM(1, H, seed=0), normal(T, B, 1), normal(T, 4, B, H)

        def pointwise(z: np.ndarray = z) -> np.ndarray:
            c = np.zeros(z.shape[2:], np.float32)
            for z_i, z_f, z_g, z_o in z:
                i, f, o = (1 / (1 + np.exp(-a)) for a in (z_i, z_f, z_o))
                c = f * c + i * np.tanh(z_g)
                h = o * np.tanh(c)
            return h

        show(f"LSTM, B = {B}, H = {H}, T = {T}", NumPy_cells=pointwise, core_all=lambda r=lstm, x=x: r(x))


def step() -> None:
    for kind, T, B, D, H in (
        ("RNN", 35, 32, 28, 256),
        ("RNN", 2000, 8, 32, 128),
        ("LSTM", 100, 64, 512, 512),
        ("LSTM", 2000, 8, 32, 128),
        ("GRU", 200, 64, 10, 64),
    ):
        layer = getattr(pybptt, kind)(D, H, seed=0)
        x, d = normal(T, B, D), normal(T, B, H)

        def run(threads: int, layer: pybptt.LSTM = layer, x: np.ndarray = x, d: np.ndarray = d) -> None:
            pybptt.set_num_threads(threads)
            layer.backward(layer.forward(x)[2], d, input=False)

        show(f"{kind} {T} {B} {D} {H}", one_thread=lambda r=run: r(1), two_threads=lambda r=run: r(2))


def main() -> None:
    print(f"{machine.describe()}, tier {pybptt.config()['tier']}")
    ways = {f.__name__: f for f in (sweep, sums, packing, cells, step)}
    for name in sys.argv[1:] or ways:
        print(name)
        pybptt.set_num_threads(1)
        ways[name]()


if __name__ == "__main__":
    main()
