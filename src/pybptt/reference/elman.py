"""The cell of Elman (1990), Finding structure in time, Cognitive Science 14, 179-211.

    z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
    h_t = phi(z_t)

phi is tanh, relu, sigmoid or the identity. With `clip`, phi takes z_t clipped to [-clip, clip].
"""

from __future__ import annotations

from typing import NamedTuple

from ._arrays import Array
from .activations import clipped, clipped_prime, phi, phi_prime
from .cells import Back, Kept, Shapes, States, Theta, affine_shapes


class Elman(NamedTuple):
    """Elman's cell."""

    nonlinearity: str
    clip: float | None

    @property
    def gates(self) -> int:
        """G = 1."""
        return 1

    def sizes(self, H: int) -> tuple[int, ...]:
        """Of h."""
        return (H,)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of what a step keeps."""
        return "x", "h_prev", "z", "h"

    def shapes(self, D: int, H: int) -> Shapes:
        """Those that every cell has."""
        return affine_shapes(1, D, H, H)

    def forward_step(self, theta: Theta, x: Array, states: States) -> tuple[States, Kept]:
        """h_{t-1} to h_t."""
        W_ih, W_hh, b_ih, b_hh = theta.values()
        (h_prev,) = states
        z = x @ W_ih.T + b_ih + h_prev @ W_hh.T + b_hh  # z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
        h = phi(clipped(z, self.clip), self.nonlinearity)  # h_t = phi(z_t)
        return (h,), (x, h_prev, z, h)

    def backward_step(self, theta: Theta, kept: Kept, d_states: States) -> Back:
        """dh_t to dh_{t-1}."""
        W_ih, W_hh, _, _ = theta.values()
        x, h_prev, z, h = kept
        (dh,) = d_states
        dz = phi_prime(h, self.nonlinearity) * clipped_prime(z, self.clip) * dh  # dz_t = phi'(z_t) * dh_t
        dx = dz @ W_ih  # dx_t = W_ih^T dz_t
        dh_prev = dz @ W_hh  # dh_{t-1} = W_hh^T dz_t
        gradients = {
            "weight_ih": dz.T @ x,  # dW_ih = sum_t dz_t x_t^T
            "weight_hh": dz.T @ h_prev,  # dW_hh = sum_t dz_t h_{t-1}^T
            "bias_ih": dz.sum(axis=0),  # db_ih = sum_t dz_t
            "bias_hh": dz.sum(axis=0),  # db_hh = sum_t dz_t
        }
        return dx, (dh_prev,), gradients, {"dz": dz}

    def tangent_step(self, theta: Theta, kept: Kept, v_states: States) -> States:
        """The derivative of h_t in the direction v of h_{t-1}."""
        W_hh = theta["weight_hh"]
        _, _, z, h = kept
        (v,) = v_states
        v_z = v @ W_hh.T  # v_z = W_hh v
        v_h = phi_prime(h, self.nonlinearity) * clipped_prime(z, self.clip) * v_z  # v_h = phi'(z_t) v_z
        return (v_h,)
