"""Long short-term memory. Gates i (input), f (forget), g (new content), o (output), in this order.

    z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh          the pre-activations z_i, z_f, z_g, z_o, each (H,)
    i = sigmoid(z_i + p_i * c_{t-1})
    f = sigmoid(z_f + p_f * c_{t-1})
    g = tanh(z_g)
    c_t = f * c_{t-1} + i * g
    o = sigmoid(z_o + p_o * c_t)
    h_t = o * tanh(c_t)

- `proj_size`, P: h_t = W_hr (o * tanh(c_t)) has P entries. W_hr is weight_hr (P, H), and W_hh is (4 H, P).
- `peephole`: the terms with p_i, p_f, p_o, rows of weight_peephole (3, H). Without it they are not there.
- `coupled`: f = 1 - i. Nothing of f is left: three gates i, g, o, and weight_peephole (2, H) is p_i, p_o.
- `clip`: every argument of sigmoid and tanh, peephole term included, is clipped to [-clip, clip]. So is c_t
  as the argument of h_t's tanh; the c_t that goes on to step t + 1 is not.

Hochreiter, Schmidhuber (1997), Long short-term memory, Neural Computation 9, 1735-1780. Forget gate: Gers,
Schmidhuber, Cummins (2000), Learning to forget, Neural Computation 12, 2451-2471. Peepholes: Gers,
Schraudolph, Schmidhuber (2002), Learning precise timing with LSTM recurrent networks, Journal of Machine
Learning Research 3, 115-143. All three cut the gradient somewhere; here it is whole. Coupled gates ("CIFG"):
Greff, Srivastava, Koutnik, Steunebrink, Schmidhuber (2017), LSTM: a search space odyssey, IEEE Transactions
on Neural Networks and Learning Systems 28, 2222-2232. Projection: Sak, Senior, Beaufays (2014), Long
short-term memory recurrent neural network architectures for large scale acoustic modeling, Interspeech,
338-342.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ._arrays import Array
from .activations import clipped, clipped_prime, sigmoid
from .cells import Back, Kept, Shapes, States, Theta, affine_shapes


class Lstm(NamedTuple):
    """The LSTM's cell."""

    peephole: bool
    coupled: bool
    clip: float | None
    proj_size: int  # P; 0 for no projection

    @property
    def gates(self) -> int:
        """G = 4, or 3 if coupled."""
        return 3 if self.coupled else 4

    def sizes(self, H: int) -> tuple[int, ...]:
        """Of h, c."""
        return self.proj_size or H, H

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of what a step keeps; z_i, z_f and z_o with their peephole terms."""
        return "x", "h_prev", "c_prev", "z_i", "z_f", "z_g", "i", "f", "g", "c", "z_o", "o", "m"

    def shapes(self, D: int, H: int) -> Shapes:
        """Those that every cell has, the projection, and the peepholes of all gates but g."""
        shapes = affine_shapes(self.gates, D, H, self.proj_size or H)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, H)
        if self.peephole:
            shapes["weight_peephole"] = (self.gates - 1, H)
        return shapes

    def forward_step(self, theta: Theta, x: Array, states: States) -> tuple[States, Kept]:
        """h_{t-1}, c_{t-1} to h_t, c_t."""
        W_ih, W_hh, b_ih, b_hh = list(theta.values())[:4]
        p_i, p_f, p_o = self._peepholes(theta)
        h_prev, c_prev = states
        z = x @ W_ih.T + b_ih + h_prev @ W_hh.T + b_hh  # z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
        z_i, z_f, z_g, z_o = self._gates(z)
        z_i = z_i + p_i * c_prev
        z_f = z_f + p_f * c_prev
        i = sigmoid(clipped(z_i, self.clip))  # i = sigmoid(z_i + p_i c_{t-1})
        f = 1 - i if self.coupled else sigmoid(clipped(z_f, self.clip))  # f = sigmoid(z_f + p_f c_{t-1})
        g = np.tanh(clipped(z_g, self.clip))  # g = tanh(z_g)
        c = f * c_prev + i * g  # c_t = f c_{t-1} + i g
        z_o = z_o + p_o * c
        o = sigmoid(clipped(z_o, self.clip))  # o = sigmoid(z_o + p_o c_t)
        m = o * np.tanh(clipped(c, self.clip))  # m_t = o tanh(c_t)
        h = m @ theta["weight_hr"].T if self.proj_size else m  # h_t = W_hr m_t, or h_t = m_t
        return (h, c), (x, h_prev, c_prev, z_i, z_f, z_g, i, f, g, c, z_o, o, m)

    def backward_step(self, theta: Theta, kept: Kept, d_states: States) -> Back:
        """dh_t, and dc_t through step t + 1 and losses by c_t itself, to dh_{t-1}, dc_{t-1}."""
        W_ih, W_hh, _, _ = list(theta.values())[:4]
        p_i, p_f, p_o = self._peepholes(theta)
        x, h_prev, c_prev, z_i, z_f, z_g, i, f, g, c, z_o, o, m = kept
        dh, dc = d_states
        dm = dh @ theta["weight_hr"] if self.proj_size else dh  # dm_t = W_hr^T dh_t, or dm_t = dh_t
        tanh_c = np.tanh(clipped(c, self.clip))
        do = dm * tanh_c  # do = dm_t tanh(c_t)
        dz_o = o * (1 - o) * clipped_prime(z_o, self.clip) * do  # dz_o = sigmoid'(z_o) do
        dc = dc + o * (1 - tanh_c**2) * clipped_prime(c, self.clip) * dm  # dc_t += o tanh'(c_t) dm_t
        dc = dc + p_o * dz_o  # dc_t += p_o dz_o
        df = dc * c_prev  # df = dc_t c_{t-1}
        dg = dc * i  # dg = dc_t i
        di = dc * g  # di = dc_t g
        if self.coupled:
            di, df = di - df, np.zeros_like(df)  # di = dc_t (g - c_{t-1}), since f = 1 - i
        dz_i = i * (1 - i) * clipped_prime(z_i, self.clip) * di  # dz_i = sigmoid'(z_i) di
        dz_f = f * (1 - f) * clipped_prime(z_f, self.clip) * df  # dz_f = sigmoid'(z_f) df
        dz_g = (1 - g**2) * clipped_prime(z_g, self.clip) * dg  # dz_g = tanh'(z_g) dg
        dz = self._joined(dz_i, dz_f, dz_g, dz_o)
        dx = dz @ W_ih  # dx_t = W_ih^T dz_t
        dh_prev = dz @ W_hh  # dh_{t-1} = W_hh^T dz_t
        dc_prev = f * dc + p_i * dz_i + p_f * dz_f  # dc_{t-1} = f dc_t + p_i dz_i + p_f dz_f
        gradients = {
            "weight_ih": dz.T @ x,  # dW_ih = sum_t dz_t x_t^T
            "weight_hh": dz.T @ h_prev,  # dW_hh = sum_t dz_t h_{t-1}^T
            "bias_ih": dz.sum(axis=0),  # db_ih = sum_t dz_t
            "bias_hh": dz.sum(axis=0),  # db_hh = sum_t dz_t
        }
        if self.proj_size:
            gradients["weight_hr"] = dh.T @ m  # dW_hr = sum_t dh_t m_t^T
        if self.peephole:
            dp_i = (dz_i * c_prev).sum(axis=0)  # dp_i = sum_t dz_i c_{t-1}
            dp_f = (dz_f * c_prev).sum(axis=0)  # dp_f = sum_t dz_f c_{t-1}
            dp_o = (dz_o * c).sum(axis=0)  # dp_o = sum_t dz_o c_t
            gradients["weight_peephole"] = np.stack([dp_i, dp_o] if self.coupled else [dp_i, dp_f, dp_o])
        inside = {"dm": dm, "dz_o": dz_o, "dc": dc, "dz_i": dz_i, "dz_f": dz_f, "dz_g": dz_g}
        return dx, (dh_prev, dc_prev), gradients, inside

    def tangent_step(self, theta: Theta, kept: Kept, v_states: States) -> States:
        """The derivative of h_t, c_t in the direction v_h, v_c of h_{t-1}, c_{t-1}."""
        W_hh = theta["weight_hh"]
        p_i, p_f, p_o = self._peepholes(theta)
        _, _, c_prev, z_i, z_f, z_g, i, f, g, c, z_o, o, _ = kept
        v_h, v_c = v_states
        v_zi, v_zf, v_zg, v_zo = self._gates(v_h @ W_hh.T)  # v_z = W_hh v_h
        v_zi = v_zi + p_i * v_c
        v_zf = v_zf + p_f * v_c
        v_i = i * (1 - i) * clipped_prime(z_i, self.clip) * v_zi  # v_i = sigmoid'(z_i) v_zi
        v_f = f * (1 - f) * clipped_prime(z_f, self.clip) * v_zf  # v_f = sigmoid'(z_f) v_zf
        if self.coupled:
            v_f = -v_i  # f = 1 - i
        v_g = (1 - g**2) * clipped_prime(z_g, self.clip) * v_zg  # v_g = tanh'(z_g) v_zg
        v_c = (
            f * v_c + v_f * c_prev + i * v_g + v_i * g
        )  # of c_t = f c_{t-1} + i g; from here on v_c is its direction
        v_zo = v_zo + p_o * v_c
        v_o = o * (1 - o) * clipped_prime(z_o, self.clip) * v_zo  # v_o = sigmoid'(z_o) v_zo
        tanh_c = np.tanh(clipped(c, self.clip))
        v_m = v_o * tanh_c + o * (1 - tanh_c**2) * clipped_prime(c, self.clip) * v_c  # of m_t = o tanh(c_t)
        v_h = v_m @ theta["weight_hr"].T if self.proj_size else v_m  # v_h = W_hr v_m, or v_h = v_m
        return v_h, v_c

    def _gates(self, z: Array) -> list[Array]:
        """Split z (N, G H) into z_i, z_f, z_g, z_o; zeros stand for the z_f that coupled gates lack."""
        parts = np.split(z, self.gates, axis=1)
        return [parts[0], np.zeros_like(parts[0]), *parts[1:]] if self.coupled else parts

    def _joined(self, z_i: Array, z_f: Array, z_g: Array, z_o: Array) -> Array:
        """Undo `_gates`."""
        return np.concatenate([z_i, z_g, z_o] if self.coupled else [z_i, z_f, z_g, z_o], axis=1)

    def _peepholes(self, theta: Theta) -> tuple[Array, Array, Array]:
        """Return p_i, p_f, p_o; zeros for those that there are not."""
        zero = np.zeros(len(theta["weight_hh"]) // self.gates)
        if not self.peephole:
            return zero, zero, zero
        p = theta["weight_peephole"]
        return (p[0], zero, p[1]) if self.coupled else (p[0], p[1], p[2])
