"""JAX: jit(grad) around lax.scan, the input's projection outside the scan as one product.

JAX has no setting for its number of threads: it takes as many as there are cores in the process's affinity
mask, which the worker narrows before anything is imported. scan's `unroll=5` was tried: within 10% on the
rows with a batch, nearly three times slower at B = 1.
The biases are added inside the scan. Outside, their gradient is a sum over (T, B, H) that XLA is slow at: the
whole step takes up to 1.6 times as long.
A ragged batch is computed padding and all, because XLA's shapes are fixed. d_output is zero at padding, which
with one direction and no state at a sequence's end is all the masking that the gradients need.
Truncation is a loss whose gradient is the truncated one. Other forms were tried: blocks as a scan of scans
take 1.1 to 1.9 times the time, as one batch 1.3 to 2.7 times, and windows in pieces 1.0 to 1.3 times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rows import Problem, Row

from contestants import Gradients, Step


class Contestant:
    def __init__(self, threads: int):
        jax.config.update("jax_platforms", "cpu")
        self.version = jax.__version__

    def covers(self, row: Row) -> bool:
        # Windows start from the outputs, which of an LSTM are not the whole state.
        return row.truncation is None or row.truncation[0] > 1 or row.cell != "LSTM"

    def prepare(self, row: Row, problem: Problem) -> tuple[Step, Gradients]:
        # Without this JAX makes float32 of float64. It widens indices too, so the float32 rows go without.
        if row.dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        try:
            parameters = {name: jnp.asarray(values) for name, values in problem.parameters.items()}
            x = jnp.asarray(problem.x)
            target = jnp.asarray(problem.y if row.Q else problem.d_output)
        finally:
            jax.config.update("jax_enable_x64", False)
        gradient = jax.jit(jax.grad(loss_of(row)))

        def step() -> dict[str, jax.Array]:
            return jax.block_until_ready(gradient(parameters, x, target))

        def step_in_float64() -> dict[str, jax.Array]:
            with jax.enable_x64(True):
                return step()

        def gradients(result) -> dict[str, np.ndarray]:
            return {name: np.asarray(values) for name, values in result.items()}

        return (step_in_float64 if row.dtype == "float64" else step), gradients


# What lax.scan takes: the function of one step, the state before the first, and what each step reads.
Scan = tuple[Callable, Any, jax.Array]


def rnn(W_hh: jax.Array, b_ih: jax.Array, b_hh: jax.Array, projected: jax.Array) -> Scan:
    """The scan that gives the states (T, B, H), from the input's projection (T, B, H), biases left out."""
    W = W_hh.T
    b = b_ih + b_hh

    def one_step(h, z_t):
        h = jnp.tanh(z_t + b + h @ W)
        return h, h

    return one_step, jnp.zeros_like(projected[0]), projected


def lstm(W_hh: jax.Array, b_ih: jax.Array, b_hh: jax.Array, projected: jax.Array) -> Scan:
    """The same of an LSTM, whose projection is (T, B, 4H): i f g o."""
    W = W_hh.T
    b = b_ih + b_hh

    def one_step(state, z_t):
        h, c = state
        i, f, g, o = jnp.split(z_t + b + h @ W, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((projected.shape[1], W.shape[0]), projected.dtype)
    return one_step, (zeros, zeros), projected


def gru(W_hh: jax.Array, b_ih: jax.Array, b_hh: jax.Array, projected: jax.Array) -> Scan:
    """The same of a GRU, whose projection is (T, B, 3H): r z n."""
    W = W_hh.T
    H = W.shape[0]

    def one_step(h, z_t):
        z_t = z_t + b_ih
        from_state = h @ W + b_hh
        r, u = jnp.split(jax.nn.sigmoid(z_t[:, : 2 * H] + from_state[:, : 2 * H]), 2, axis=-1)
        n = jnp.tanh(z_t[:, 2 * H :] + r * from_state[:, 2 * H :])
        h = (1 - u) * n + u * h
        return h, h

    return one_step, jnp.zeros((projected.shape[1], H), projected.dtype), projected


CELLS = {"RNN": rnn, "LSTM": lstm, "GRU": gru}


def recurrence(cell: Callable, parameters: dict[str, jax.Array], k: int, projected: jax.Array) -> Scan:
    """The scan of layer k from its input's projection."""
    weights = (parameters[f"{name}_l{k}"] for name in ("weight_hh", "bias_ih", "bias_hh"))
    return cell(*weights, projected)


def states(scan: Scan) -> jax.Array:
    """(T, B, H), the state after every step."""
    return jax.lax.scan(*scan)[1]


def stack_loss(
    cell: Callable, parameters: dict[str, jax.Array], x: jax.Array, d_output: jax.Array
) -> jax.Array:
    """A loss whose gradient by the last layer's states is d_output."""
    for k in range(len(parameters) // 4):
        x = states(recurrence(cell, parameters, k, x @ parameters[f"weight_ih_l{k}"].T))
    return jnp.sum(x * d_output)


def block_loss(
    cell: Callable, k: int, parameters: dict[str, jax.Array], x: jax.Array, d_output: jax.Array
) -> jax.Array:
    """A loss with the gradient of TBPTT(k, k): nothing goes back through the state before a block."""
    one_step, start, z = recurrence(cell, parameters, 0, x @ parameters["weight_ih_l0"].T)

    def step_in_block(state, of_step):
        z_t, is_first = of_step
        state = jax.tree.map(lambda s: jnp.where(is_first, jax.lax.stop_gradient(s), s), state)
        return one_step(state, z_t)

    h = states((step_in_block, start, (z, jnp.arange(len(z)) % k == 0)))
    return jnp.sum(h * d_output)


def window_loss(
    cell: Callable, k: int, parameters: dict[str, jax.Array], x: jax.Array, d_output: jax.Array
) -> jax.Array:
    """A loss with the gradient of TBPTT(1, k), where the states are the outputs.

    The windows up to step k begin at the same state, so they are one sequence; those of the T - k later steps
    are one batch of sequences, with the loss of the last step alone.
    """
    one_step, start, z = recurrence(cell, parameters, 0, x @ parameters["weight_ih_l0"].T)
    T, B, H = d_output.shape
    starts = jax.lax.stop_gradient(states((one_step, start, z)))[:-k].reshape(-1, H)

    def step_of_windows(h, lag):
        z_t = jax.lax.dynamic_slice_in_dim(z, 1 + lag, T - k)
        return one_step(h, z_t.reshape((T - k) * B, -1))[0], None

    last, _ = jax.lax.scan(step_of_windows, starts, jnp.arange(k))
    first = states((one_step, start, z[:k]))
    return jnp.sum(first * d_output[:k]) + jnp.sum(last * d_output[k:].reshape(-1, H))


def model_loss(parameters: dict[str, jax.Array], tokens: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy. Columns of W_ih: faster than rows of its transpose, or one-hot inputs."""
    columns = parameters["weight_ih_l0"][:, tokens]
    h = states(recurrence(rnn, parameters, 0, jnp.moveaxis(columns, 0, -1)))
    logits = h.reshape(-1, h.shape[-1]) @ parameters["output.weight"].T + parameters["output.bias"]
    picked = jnp.take_along_axis(logits, y.reshape(-1, 1), axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)


def loss_of(row: Row) -> Callable:
    """The loss of `row`, from parameters, input and target."""
    if row.Q:
        return model_loss
    cell = CELLS[row.cell]
    if row.truncation:
        k1, k2 = row.truncation
        return partial(window_loss if k1 == 1 else block_loss, cell, k2)
    return partial(stack_loss, cell)
