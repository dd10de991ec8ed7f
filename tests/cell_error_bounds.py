"""How far float32 may be from float64 for LSTM and GRU: the running error analysis of error_bounds.py.

Every quantity is a pair: its value, and a bound on the error of its float32 counterpart. An operation on two
pairs makes the worst of both errors and rounds once; products of matrices err by gamma(n), n their terms.
"""

from types import SimpleNamespace

import numpy as np
from cell_support import parts
from error_bounds import FUNCTION, ONCE, U, gamma, over_time

import pybptt


class Pair:
    """A value and the bound of its error."""

    def __init__(self, v, e=None):
        self.v = np.asarray(v, dtype=np.float64)
        self.e = np.zeros_like(self.v) if e is None else e

    def _rounded(self, v, e):
        return Pair(v, e + U * (np.abs(v) + e))

    def __add__(self, other):
        return self._rounded(self.v + other.v, self.e + other.e)

    def __sub__(self, other):
        return self._rounded(self.v - other.v, self.e + other.e)

    def __mul__(self, other):
        most = (np.abs(self.v) + self.e) * (np.abs(other.v) + other.e)
        return self._rounded(self.v * other.v, most - np.abs(self.v * other.v))

    def __getitem__(self, key):
        return Pair(self.v[key], self.e[key])

    @property
    def T(self):
        return Pair(self.v.T, self.e.T)

    def rows(self):
        return Pair(*(a.reshape(-1, a.shape[-1]) for a in (self.v, self.e)))

    def columns(self, count):
        return [
            Pair(v, e) for v, e in zip(np.split(self.v, count, -1), np.split(self.e, count, -1), strict=True)
        ]

    def sum_rows(self):
        return self.e.sum(axis=0) + ONCE * (np.abs(self.v) + self.e).sum(axis=0)


ONE = Pair(1.0)


def product(a, b, n):
    """a @ b, of sums of n terms."""
    most = (np.abs(a.v) + a.e) @ (np.abs(b.v) + b.e)
    return Pair(a.v @ b.v, gamma(n) * most + most - np.abs(a.v) @ np.abs(b.v))


def joined(pairs, axis=-1):
    pairs = list(pairs)
    return Pair(*(np.concatenate([getattr(p, part) for p in pairs], axis) for part in "ve"))


def stacked(pairs):
    pairs = list(pairs)
    return Pair(*(np.stack([getattr(p, part) for p in pairs]) for part in "ve"))


def curve(value, slope, most, curvature, e):
    """phi(z): its slope at z, the largest slope, and the largest second derivative."""
    return Pair(value, np.minimum(most, slope + curvature / 2 * e) * e + FUNCTION * np.abs(value))


def sigmoid(z):
    s = 1 / (1 + np.exp(-z.v))
    return curve(s, s * (1 - s), 0.25, 0.1, z.e)


def tanh(z):
    t = np.tanh(z.v)
    return curve(t, 1 - t * t, 1, 0.77, z.e)


def affine(theta, which, a, n):
    """W a + b, without a rounding for the bias: n counts it."""
    z = product(a, theta[f"weight_{which}"].T, n)
    if f"bias_{which}" in theta:
        b = theta[f"bias_{which}"].v
        z = Pair(z.v + b, z.e + gamma(n) * np.abs(b))
    return z


class Lstm:
    def __init__(self, layer, theta):
        self.theta, self.coupled = theta, layer.coupled
        H = layer.hidden_size
        p = list(theta["weight_peephole"]) if layer.peephole else [Pair(np.zeros(H))] * 3
        self.p_i, self.p_f, self.p_o = p if len(p) == 3 else (p[0], None, p[1])

    def forward(self, x, state, n):
        h, c_before = state
        z = affine(self.theta, "ih", x, n) + affine(self.theta, "hh", h, n)
        z_i, *z_f, z_g, z_o = z.columns(3 if self.coupled else 4)
        i = sigmoid(z_i + self.p_i * c_before)
        f = ONE - i if self.coupled else sigmoid(z_f[0] + self.p_f * c_before)
        g = tanh(z_g)
        c = f * c_before + i * g
        o = sigmoid(z_o + self.p_o * c)
        m = o * tanh(c)
        h = product(m, self.theta["weight_hr"].T, len(m.v.T) + 2) if "weight_hr" in self.theta else m
        return (h, c), (c_before, i, f, g, o, c, m)

    def backward(self, kept, h_before, d_state, n):
        """dz by W_ih x, dz by W_hh h and the h of each gate, state before, and what peepholes sum."""
        c_before, i, f, g, o, c, _ = kept
        dm, dc = d_state
        if "weight_hr" in self.theta:
            dm = product(dm, self.theta["weight_hr"], len(dm.v.T) + 2)
        t = tanh(c)
        dz_o = dm * t * (o - o * o)
        dc = dc + dm * o * (ONE - t * t) + self.p_o * dz_o
        dz_i = dc * (g - c_before if self.coupled else g) * (i - i * i)
        dz_g = dc * i * (ONE - g * g)
        before, p = dc * f + self.p_i * dz_i, [dz_i * c_before]
        dz = [dz_i, dz_g, dz_o]
        if not self.coupled:
            dz_f = dc * c_before * (f - f * f)
            before = before + self.p_f * dz_f
            dz.insert(1, dz_f)
            p.append(dz_f * c_before)
        dz_all = joined(dz)
        d_h = product(dz_all, self.theta["weight_hh"], n)
        return dz_all, [(d, h_before) for d in dz], (d_h, before), stacked([*p, dz_o * c])


class Gru:
    def __init__(self, layer, theta):
        self.theta, self.after = theta, layer.reset_after
        H = layer.hidden_size
        self.n_rows = {name: a[2 * H :] for name, a in theta.items() if name.endswith("hh")}

    def forward(self, x, state, n):
        (h,) = state
        z_x, z_h = affine(self.theta, "ih", x, n), affine(self.theta, "hh", h, n)
        (r_x, z_x, n_x), (r_h, z_h, m) = z_x.columns(3), z_h.columns(3)
        r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        q = r * h
        new = tanh(n_x + (r * m if self.after else affine(self.n_rows, "hh", q, n)))
        return ((ONE - z) * new + z * h,), (r, z, m, q, new)

    def backward(self, kept, h, d_state, n):
        r, z, m, q, new = kept
        (dh,) = d_state
        W_hh, H = self.theta["weight_hh"], h.v.shape[-1]
        dn = dh * (ONE - z) * (ONE - new * new)
        dz = dh * (h - new) * (z - z * z)
        if self.after:
            dr = dn * m * (r - r * r)
            dm = dn * r
            before = product(joined([dr, dz, dm]), W_hh, n) + dh * z
            last = dm, h
        else:
            dq = product(dn, W_hh[2 * H :], n)
            dr = dq * h * (r - r * r)
            before = product(joined([dr, dz]), W_hh[: 2 * H], n) + dh * z + dq * r
            last = dn, q
        return joined([dr, dz, dn]), [(dr, h), (dz, h), last], (before,), None


def bounds(p):
    """Of a problem of one layer and one direction in float64: bounds of all that `run` returns."""
    layer, T, B = p.layer, *p.x.shape[:2]
    D, H = layer.input_size, layer.hidden_size
    theta = {name.removesuffix("_l0"): Pair(a) for name, a in layer.parameters.items()}
    cell = (Lstm if isinstance(layer, pybptt.LSTM) else Gru)(layer, theta)
    x = (p.x[..., None] == np.arange(D)).astype(float) if p.x.ndim == 2 else p.x
    states, kept = [tuple(Pair(s[0]) for s in parts(p.state))], []
    for x_t in x:
        state, tape = cell.forward(Pair(x_t), states[-1], D + H + 2)
        states.append(state)
        kept.append(tape)

    carry, steps = tuple(Pair(d[0]) for d in parts(p.d_state)), []
    for t in reversed(range(T)):
        d_state = (Pair(p.d_output[t]) + carry[0], *carry[1:])
        if p.d_cells is not None:
            d_state = (d_state[0], d_state[1] + Pair(p.d_cells[0, t]))
        dz, terms, carry, p_terms = cell.backward(
            kept[t], states[t][0], d_state, len(theta["weight_hh"].v) + 2
        )
        steps.append((dz, terms, p_terms, d_state[0]))
    dz, terms, p_terms, dh = zip(*steps[::-1], strict=True)
    dz, N = stacked(dz), over_time(T * B)
    gates = [
        (stacked(d), stacked(h)) for d, h in (zip(*gate, strict=True) for gate in zip(*terms, strict=True))
    ]
    parameters = {
        "weight_ih": product(dz.rows().T, Pair(x).rows(), N).e,
        "weight_hh": np.concatenate([product(d.rows().T, h.rows(), N).e for d, h in gates]),
        "bias_ih": dz.rows().sum_rows(),
        "bias_hh": np.concatenate([d.rows().sum_rows() for d, _ in gates]),
    }
    if "weight_hr" in theta:
        m = stacked(tape[-1] for tape in kept)
        parameters["weight_hr"] = product(stacked(dh).rows().T, m.rows(), N).e
    if "weight_peephole" in theta:
        p_sum = stacked(p_terms)  # (T, rows, B, H)
        parameters["weight_peephole"] = np.stack(
            [p_sum[:, i].rows().sum_rows() for i in range(p_sum.v.shape[1])]
        )
    output = np.stack([s[0].e for s in states[1:]])
    is_lstm = p.d_cells is not None

    def as_state(pairs):
        found = tuple(pair.e[None] for pair in pairs)
        return found if is_lstm else found[0]

    return SimpleNamespace(
        output=output,
        state=as_state(states[-1]),
        cells=np.stack([s[1].e for s in states[1:]])[None] if is_lstm else None,
        g=SimpleNamespace(
            parameters={f"{n}_l0": parameters[n] for n in parameters if n in theta},
            input=None if p.x.ndim == 2 else product(dz, theta["weight_ih"], dz.v.shape[-1] + 1).e,
            state=as_state(carry),
            hidden=stacked(dh).e[None],
        ),
    )
