"""The gated recurrent unit, in both of its forms. Gates, in this order: r (reset), z (update), n (new).

    r = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
    z = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
    n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))       reset_after=True
    n = tanh(W_in x_t + b_in + W_hn (r * h_{t-1}) + b_hn)       reset_after=False
    h_t = (1 - z) * n + z * h_{t-1}

z_r, z_z and z_n are the arguments of the three; with `clip` they are clipped to [-clip, clip].

- reset_after=False resets the state before the matrix product: Cho, van Merrienboer, Gulcehre, Bahdanau,
  Bougares, Schwenk, Bengio (2014), Learning phrase representations using RNN encoder-decoder for statistical
  machine translation, EMNLP, arXiv:1406.1078v3, equations 5 to 8 (without biases). Keras calls it
  reset_after=False, ONNX linear_before_reset=0.
- reset_after=True resets the product, which can then be made together with those of the other gates:
  CUDNN_GRU of cuDNN, torch.nn.GRU, Keras's reset_after=True, ONNX's linear_before_reset=1. Only here do b_in
  and b_hn act differently, so that their gradients differ.

The two are different functions of the same parameters. Some papers swap z and 1 - z: Chung, Gulcehre, Cho,
Bengio (2014), Empirical evaluation of gated recurrent neural networks on sequence modeling, arXiv:1412.3555.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._arrays import Array
from .activations import clipped, clipped_prime, sigmoid
from .cells import Back, Kept, Shapes, States, Theta, affine_shapes


class Gru(NamedTuple):
    """The GRU's cell."""

    reset_after: bool
    clip: float | None

    @property
    def gates(self) -> int:
        """G = 3."""
        return 3

    def sizes(self, H: int) -> tuple[int, ...]:
        """Of h."""
        return (H,)

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of what a step keeps; s is the m of one form and the q of the other."""
        return "x", "h_prev", "z_r", "z_z", "r", "z", "s", "z_n", "n"

    def shapes(self, D: int, H: int) -> Shapes:
        """Those that every cell has."""
        return affine_shapes(3, D, H, H)

    def forward_step(self, theta: Theta, x: Array, states: States) -> tuple[States, Kept]:
        """h_{t-1} to h_t."""
        (W_ir, W_iz, W_in), (W_hr, W_hz, W_hn), (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = _gates(theta)
        (h_prev,) = states
        z_r = x @ W_ir.T + b_ir + h_prev @ W_hr.T + b_hr  # z_r = W_ir x_t + b_ir + W_hr h_{t-1} + b_hr
        z_z = x @ W_iz.T + b_iz + h_prev @ W_hz.T + b_hz  # z_z = W_iz x_t + b_iz + W_hz h_{t-1} + b_hz
        r = sigmoid(clipped(z_r, self.clip))  # r = sigmoid(z_r)
        z = sigmoid(clipped(z_z, self.clip))  # z = sigmoid(z_z)
        if self.reset_after:
            s = h_prev @ W_hn.T + b_hn  # s = W_hn h_{t-1} + b_hn
            z_n = x @ W_in.T + b_in + r * s  # z_n = W_in x_t + b_in + r s
        else:
            s = r * h_prev  # s = r h_{t-1}
            z_n = x @ W_in.T + b_in + s @ W_hn.T + b_hn  # z_n = W_in x_t + b_in + W_hn s + b_hn
        n = np.tanh(clipped(z_n, self.clip))  # n = tanh(z_n)
        h = (1 - z) * n + z * h_prev  # h_t = (1 - z) n + z h_{t-1}
        return (h,), (x, h_prev, z_r, z_z, r, z, s, z_n, n)

    def backward_step(self, theta: Theta, kept: Kept, d_states: States) -> Back:
        """dh_t to dh_{t-1}."""
        (W_ir, W_iz, W_in), (W_hr, W_hz, W_hn), _, _ = _gates(theta)
        x, h_prev, z_r, z_z, r, z, s, z_n, n = kept
        (dh,) = d_states
        dn = (1 - z) * dh  # dn = (1 - z) dh_t
        dz = (h_prev - n) * dh  # dz = (h_{t-1} - n) dh_t
        dz_n = (1 - n**2) * clipped_prime(z_n, self.clip) * dn  # dz_n = tanh'(z_n) dn
        if self.reset_after:
            ds = r * dz_n  # ds = r dz_n
            dr = s * dz_n  # dr = s dz_n
            dh_prev = ds @ W_hn  # dh_{t-1} = W_hn^T ds
            dW_hn = ds.T @ h_prev  # dW_hn = sum_t ds h_{t-1}^T
            db_hn = ds.sum(axis=0)  # db_hn = sum_t ds
        else:
            ds = dz_n @ W_hn  # ds = W_hn^T dz_n
            dr = h_prev * ds  # dr = h_{t-1} ds
            dh_prev = r * ds  # dh_{t-1} = r ds
            dW_hn = dz_n.T @ s  # dW_hn = sum_t dz_n s^T
            db_hn = dz_n.sum(axis=0)  # db_hn = sum_t dz_n
        dz_r = r * (1 - r) * clipped_prime(z_r, self.clip) * dr  # dz_r = sigmoid'(z_r) dr
        dz_z = z * (1 - z) * clipped_prime(z_z, self.clip) * dz  # dz_z = sigmoid'(z_z) dz
        dh_prev = dh_prev + z * dh + dz_r @ W_hr + dz_z @ W_hz  # += z dh_t + W_hr^T dz_r + W_hz^T dz_z
        dx = dz_r @ W_ir + dz_z @ W_iz + dz_n @ W_in  # dx_t = W_ir^T dz_r + W_iz^T dz_z + W_in^T dz_n
        db_r, db_z, db_n = dz_r.sum(axis=0), dz_z.sum(axis=0), dz_n.sum(axis=0)  # db_r = sum_t dz_r, ...
        gradients = {
            "weight_ih": np.concatenate(
                [dz_r.T @ x, dz_z.T @ x, dz_n.T @ x]
            ),  # dW_ir = sum_t dz_r x_t^T, ...
            "weight_hh": np.concatenate([dz_r.T @ h_prev, dz_z.T @ h_prev, dW_hn]),
            "bias_ih": np.concatenate([db_r, db_z, db_n]),
            "bias_hh": np.concatenate([db_r, db_z, db_hn]),
        }
        return dx, (dh_prev,), gradients, {"dz_n": dz_n, "ds": ds, "dz_r": dz_r, "dz_z": dz_z}

    def tangent_step(self, theta: Theta, kept: Kept, v_states: States) -> States:
        """The derivative of h_t in the direction v of h_{t-1}."""
        W_hr, W_hz, W_hn = np.split(theta["weight_hh"], 3)
        _, h_prev, z_r, z_z, r, z, s, z_n, n = kept
        (v,) = v_states
        v_r = r * (1 - r) * clipped_prime(z_r, self.clip) * (v @ W_hr.T)  # v_r = sigmoid'(z_r) W_hr v
        v_z = z * (1 - z) * clipped_prime(z_z, self.clip) * (v @ W_hz.T)  # v_z = sigmoid'(z_z) W_hz v
        if self.reset_after:
            v_s = v @ W_hn.T  # of s = W_hn h_{t-1} + b_hn
            v_zn = v_r * s + r * v_s  # of r s
        else:
            v_s = v_r * h_prev + r * v  # of s = r h_{t-1}
            v_zn = v_s @ W_hn.T  # of W_hn s
        v_n = (1 - n**2) * clipped_prime(z_n, self.clip) * v_zn  # v_n = tanh'(z_n) v_zn
        return ((1 - z) * v_n + v_z * (h_prev - n) + z * v,)  # of h_t = (1 - z) n + z h_{t-1}


def _gates(theta: Theta) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    """Split each of W_ih, W_hh, b_ih, b_hh into its parts of r, z and n."""
    W_ih, W_hh, b_ih, b_hh = (np.split(a, 3) for a in theta.values())
    return W_ih, W_hh, b_ih, b_hh
