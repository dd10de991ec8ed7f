"""The LSTM and the GRU in plain NumPy, in stacks and on ragged batches: `with_numpy` for the gated rows.

Each cell is a pair of functions. Forward takes W_hh, the biases, the input's projection (T, B, G*H) and how
many sequences are still running at each step; sorted by length, those are the first ones of the batch. It
gives the states h_0, ..., h_T as (T+1, B, H) and what backward needs. Backward gives two arrays (T, B, G*H):
the derivatives by W_ih x + b_ih and by W_hh h + b_hh, which differ in the GRU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rows import Problem

Windows = list[tuple[int, int, int]]  # Row.windows


def sigmoid(z: np.ndarray) -> None:
    """In place, by tanh, which doesn't overflow."""
    z *= 0.5
    np.tanh(z, out=z)
    z += 1
    z *= 0.5


def quarters(gates: np.ndarray) -> list[np.ndarray]:
    return np.split(gates, 4, axis=-1)


def lstm_forward(W_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray, projected: np.ndarray, running):
    H = W_hh.shape[1]
    gates = projected + (b_ih + b_hh)  # becomes i f g o
    T, B, _ = gates.shape
    h, c = np.zeros((2, T + 1, B, H), gates.dtype)
    tanh_c = np.empty((T, B, H), gates.dtype)
    for t, n in enumerate(running):
        z = gates[t, :n]
        z += h[t, :n] @ W_hh.T
        i, f, g, o = quarters(z)
        np.tanh(g, out=g)
        sigmoid(z[:, : 2 * H])  # i and f
        sigmoid(o)
        c[t + 1, :n] = f * c[t, :n] + i * g
        np.tanh(c[t + 1, :n], out=tanh_c[t, :n])
        np.multiply(o, tanh_c[t, :n], out=h[t + 1, :n])
    return h, (gates, c, tanh_c)


def lstm_backward(W_hh: np.ndarray, h: np.ndarray, kept, d_output: np.ndarray, running):
    gates, c, tanh_c = kept
    dz = np.zeros_like(gates)
    dh, dc = np.zeros((2, *d_output.shape[1:]), d_output.dtype)
    for t, n in reversed(list(enumerate(running))):
        i, f, g, o = quarters(gates[t, :n])
        di, df, dg, do = quarters(dz[t, :n])
        dh[:n] += d_output[t, :n]
        dc[:n] += dh[:n] * o * (1 - tanh_c[t, :n] ** 2)
        np.multiply(dc[:n] * g, i * (1 - i), out=di)
        np.multiply(dc[:n] * c[t, :n], f * (1 - f), out=df)
        np.multiply(dc[:n] * i, 1 - g**2, out=dg)
        np.multiply(dh[:n] * tanh_c[t, :n], o * (1 - o), out=do)
        dc[:n] *= f
        np.matmul(dz[t, :n], W_hh, out=dh[:n])
    return dz, dz


def gru_forward(W_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray, projected: np.ndarray, running):
    """The update gate is u here, PyTorch's z."""
    H = W_hh.shape[1]
    gates = projected + b_ih  # becomes r u n
    T, B, _ = gates.shape
    h = np.zeros((T + 1, B, H), gates.dtype)
    recurrent = np.empty((T, B, H), gates.dtype)  # W_hn h_{t-1} + b_hn, which r multiplies
    for t, n in enumerate(running):
        from_state = h[t, :n] @ W_hh.T + b_hh
        gates[t, :n, : 2 * H] += from_state[:, : 2 * H]
        sigmoid(gates[t, :n, : 2 * H])
        r, u, new = np.split(gates[t, :n], 3, axis=-1)
        recurrent[t, :n] = from_state[:, 2 * H :]
        new += r * recurrent[t, :n]
        np.tanh(new, out=new)
        np.add(new, u * (h[t, :n] - new), out=h[t + 1, :n])  # (1 - u) new + u h_{t-1}
    return h, (gates, recurrent)


def gru_backward(W_hh: np.ndarray, h: np.ndarray, kept, d_output: np.ndarray, running):
    gates, recurrent = kept
    dz_input, dz_state = np.zeros_like(gates), np.zeros_like(gates)
    dh = np.zeros(d_output.shape[1:], d_output.dtype)
    H = dh.shape[-1]
    for t, n in reversed(list(enumerate(running))):
        r, u, new = np.split(gates[t, :n], 3, axis=-1)
        dr, du, dn = np.split(dz_input[t, :n], 3, axis=-1)
        dh[:n] += d_output[t, :n]
        np.multiply(dh[:n] * (1 - u), 1 - new**2, out=dn)
        np.multiply(dh[:n] * (h[t, :n] - new), u * (1 - u), out=du)
        np.multiply(dn * recurrent[t, :n], r * (1 - r), out=dr)
        dz_state[t, :n, : 2 * H] = dz_input[t, :n, : 2 * H]
        np.multiply(dn, r, out=dz_state[t, :n, 2 * H :])
        dh[:n] = dh[:n] * u + dz_state[t, :n] @ W_hh
    return dz_input, dz_state


CELLS = {"LSTM": (lstm_forward, lstm_backward), "GRU": (gru_forward, gru_backward)}


def sweep_windows(sweep: Callable, windows: Windows, kept: tuple, d_output: np.ndarray) -> tuple:
    """What `sweep(kept, d_output)` returns, arrays (T, ...), summed over windows as truncation is defined.

    A window [start, stop) is swept alone, with the losses of its steps from `first` on. Weights get their
    gradients from the sum. With TBPTT(1, k) the windows may go back together, as one batch; that was tried,
    and is at best a fifth faster.
    """
    T = len(d_output)
    sums: tuple = ()
    for start, first, stop in windows:
        upstream = d_output[start:stop].copy()
        upstream[: first - start] = 0
        # States are T + 1, with the one before the first step.
        parts = sweep(tuple(array[start : stop + len(array) - T] for array in kept), upstream)
        sums = sums or tuple(np.zeros((T, *part.shape[1:]), part.dtype) for part in parts)
        for total, part in zip(sums, parts, strict=True):
            total[start:stop] += part
    return sums


def rows_of(array: np.ndarray) -> np.ndarray:
    """(T, B, N) as (T*B, N)."""
    return array.reshape(-1, array.shape[-1])


def stack_step(cell: str, windows: Windows | None, problem: Problem) -> dict[str, np.ndarray]:
    """One step of a stack of layers: gradients of sum(h * d_output), h the last layer's.

    With windows of one layer, what truncation leaves of them.
    """
    forward, backward = CELLS[cell]
    p, x, d_output = problem.parameters, problem.x, problem.d_output
    T, B, _ = x.shape
    running = np.full(T, B)
    if problem.lengths is not None:
        longest_first = np.argsort(-problem.lengths)
        x, d_output = x[:, longest_first], d_output[:, longest_first]
        running = (problem.lengths > np.arange(T)[:, None]).sum(axis=1)
    layers = range(len(p) // 4)
    tape = []
    for k in layers:
        W_hh = p[f"weight_hh_l{k}"]
        h, kept = forward(W_hh, p[f"bias_ih_l{k}"], p[f"bias_hh_l{k}"], x @ p[f"weight_ih_l{k}"].T, running)
        tape.append((x, h, kept))
        x = h[1:]
    gradients = {}
    for k in reversed(layers):
        x, h, kept = tape.pop()
        W_hh = p[f"weight_hh_l{k}"]
        if windows:

            def sweep(part, d_part, W_hh=W_hh):
                return backward(W_hh, part[0], part[1:], d_part, running[: len(d_part)])

            dz_input, dz_state = sweep_windows(sweep, windows, (h, *kept), d_output)
        else:
            dz_input, dz_state = backward(W_hh, h, kept, d_output, running)
        gradients[f"weight_ih_l{k}"] = rows_of(dz_input).T @ rows_of(x)
        gradients[f"weight_hh_l{k}"] = rows_of(dz_state).T @ rows_of(h[:-1])
        gradients[f"bias_ih_l{k}"] = dz_input.sum(axis=(0, 1))
        gradients[f"bias_hh_l{k}"] = dz_state.sum(axis=(0, 1))
        if k > 0:
            d_output = dz_input @ p[f"weight_ih_l{k}"]
    return gradients
