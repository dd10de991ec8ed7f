"""The memoised sweep in plain NumPy, vectorised over the batch: what a careful person writes by hand.

It also judges the others: in float64 its gradients are the ones that every contestant is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from rows import Problem, Row

from contestants import Gradients, Step, numpy_gates


def layer_forward(parameters: dict[str, np.ndarray], projected: np.ndarray) -> np.ndarray:
    """States h_0 = 0, h_1, ..., h_T as (T+1, B, H), from the input's projection (T, B, H), without biases."""
    W_hh = parameters["weight_hh_l0"]
    z = projected + (parameters["bias_ih_l0"] + parameters["bias_hh_l0"])
    h = np.zeros((z.shape[0] + 1, *z.shape[1:]), z.dtype)
    for t in range(z.shape[0]):
        np.tanh(z[t] + h[t] @ W_hh.T, out=h[t + 1])
    return h


def sweep(W_hh: np.ndarray, h: np.ndarray, d_output: np.ndarray) -> np.ndarray:
    """dL/dz (T, B, H), from the states and the upstream gradient."""
    T, B, H = d_output.shape
    dz = np.empty_like(d_output)
    dh = np.zeros((B, H), d_output.dtype)
    for t in reversed(range(T)):
        dh += d_output[t]
        np.multiply(dh, 1 - h[t + 1] ** 2, out=dz[t])  # tanh' = 1 - tanh²
        dh = dz[t] @ W_hh
    return dz


def recurrent_gradients(h: np.ndarray, dz: np.ndarray) -> dict[str, np.ndarray]:
    """The gradients of W_hh and the biases."""
    H = h.shape[-1]
    d_bias = dz.sum(axis=(0, 1))
    d_recurrent = dz.reshape(-1, H).T @ h[:-1].reshape(-1, H)
    return {"weight_hh_l0": d_recurrent, "bias_ih_l0": d_bias, "bias_hh_l0": d_bias}


def layer_step(problem: Problem, windows: numpy_gates.Windows | None = None) -> dict[str, np.ndarray]:
    """One step of the layer alone: gradients of sum(h * d_output), or what truncation leaves of them."""
    p, x = problem.parameters, problem.x
    W_hh = p["weight_hh_l0"]
    h = layer_forward(p, x @ p["weight_ih_l0"].T)
    if windows:
        (dz,) = numpy_gates.sweep_windows(
            lambda kept, d_output: (sweep(W_hh, *kept, d_output),), windows, (h,), problem.d_output
        )
    else:
        dz = sweep(W_hh, h, problem.d_output)
    d_input = dz.reshape(-1, dz.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    return recurrent_gradients(h, dz) | {"weight_ih_l0": d_input}


def model_step(problem: Problem) -> dict[str, np.ndarray]:
    """One step of the whole model on token ids: gradients of the mean cross-entropy."""
    p, tokens, y = problem.parameters, problem.x, problem.y.ravel()
    columns = p["weight_ih_l0"].T  # (D, H): a one-hot input selects a column of W_ih
    h = layer_forward(p, columns[tokens])
    output = h[1:].reshape(y.size, -1)  # (T·B, H)
    d_logits = output @ p["output.weight"].T + p["output.bias"]
    d_logits -= d_logits.max(axis=1, keepdims=True)
    np.exp(d_logits, out=d_logits)
    d_logits /= d_logits.sum(axis=1, keepdims=True)
    d_logits[np.arange(y.size), y] -= 1
    d_logits /= y.size
    dz = sweep(p["weight_hh_l0"], h, (d_logits @ p["output.weight"]).reshape(h[1:].shape))
    d_columns = np.zeros(columns.shape, columns.dtype)
    np.add.at(d_columns, tokens, dz)
    return recurrent_gradients(h, dz) | {
        "weight_ih_l0": d_columns.T,
        "output.weight": d_logits.T @ output,
        "output.bias": d_logits.sum(axis=0),
    }


def expected_gradients(row: Row, problem: Problem) -> dict[str, np.ndarray]:
    """The gradients of `problem`, computed in float64 whatever the row's dtype."""
    exact = Problem(
        {name: values.astype(np.float64) for name, values in problem.parameters.items()},
        problem.x if row.Q else problem.x.astype(np.float64),
        None if problem.d_output is None else problem.d_output.astype(np.float64),
        problem.y,
        problem.lengths,
    )
    return step_of(row)(exact)


def step_of(row: Row) -> Callable[[Problem], dict[str, np.ndarray]]:
    """The function from the problem of `row` to its gradients."""
    if row.Q:
        return model_step
    windows = row.windows if row.truncation else None
    if row.cell == "RNN":
        return partial(layer_step, windows=windows)
    return partial(numpy_gates.stack_step, row.cell, windows)


class Contestant:
    def __init__(self, threads: int):
        # NumPy's BLAS takes its threads from OPENBLAS_NUM_THREADS and its like, which the worker starts with.
        self.version = np.__version__

    def covers(self, row: Row) -> bool:
        return True

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        step = step_of(row)
        return (lambda: step(problem)), (lambda result: result)
