"""JAX: jit(grad) around lax.scan, the input's projection outside the scan as one product.

JAX has no setting for its number of threads: it takes as many as there are cores in the process's affinity
mask, which the worker narrows before anything is imported. scan's `unroll=5` was tried: within 10% on the
rows with a batch, nearly three times slower at B = 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from rows import Problem, Row

from contestants import Gradients, Step


class Contestant:
    def __init__(self, threads: int):
        jax.config.update("jax_platforms", "cpu")
        self.version = jax.__version__

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
        gradient = jax.jit(jax.grad(model_loss if row.Q else layer_loss))

        def step() -> dict[str, jax.Array]:
            return jax.block_until_ready(gradient(parameters, x, target))

        def step_in_float64() -> dict[str, jax.Array]:
            with jax.enable_x64(True):
                return step()

        def gradients(result) -> dict[str, np.ndarray]:
            return {name: np.asarray(values) for name, values in result.items()}

        return (step_in_float64 if row.dtype == "float64" else step), gradients


def scan(parameters: dict[str, jax.Array], projected: jax.Array) -> jax.Array:
    """States (T, B, H) from the input's projection (T, B, H), biases left out."""
    W = parameters["weight_hh_l0"].T
    z = projected + (parameters["bias_ih_l0"] + parameters["bias_hh_l0"])

    def one_step(h, z_t):
        h = jnp.tanh(z_t + h @ W)
        return h, h

    return jax.lax.scan(one_step, jnp.zeros_like(z[0]), z)[1]


def layer_loss(parameters: dict[str, jax.Array], x: jax.Array, d_output: jax.Array) -> jax.Array:
    """A loss whose gradient by the states is d_output."""
    return jnp.sum(scan(parameters, x @ parameters["weight_ih_l0"].T) * d_output)


def model_loss(parameters: dict[str, jax.Array], tokens: jax.Array, y: jax.Array) -> jax.Array:
    """Mean cross-entropy. Columns of W_ih: faster than rows of its transpose, or one-hot inputs."""
    h = scan(parameters, jnp.moveaxis(parameters["weight_ih_l0"][:, tokens], 0, -1))
    logits = h.reshape(-1, h.shape[-1]) @ parameters["output.weight"].T + parameters["output.bias"]
    picked = jnp.take_along_axis(logits, y.reshape(-1, 1), axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)
