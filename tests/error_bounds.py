"""How far float32 may be from float64: bounds that follow every rounding and grow with the length of sums.

u = 2^-24 is the unit roundoff of float32. A sum of n products, in whatever order, errs by at most

    |fl(a . b) - a . b| <= gamma(n) |a| . |b|,        gamma(n) = n u / (1 - n u)

(Higham 2002, Accuracy and stability of numerical algorithms, section 3.1). A running error analysis (section
3.3) carries a value v together with a bound e on the error of its float32 counterpart through every equation
of the network: worst cases throughout, no statistics. Second-order terms are kept, so nothing is approximate;
the roundings of float64 are neglected. Elementary functions are taken to be good to 4 ulp, that is 8 u.

Sums over time don't get worse with time: those of weights are made of short chains (see `over_time`), those
of vectors are kept in double and rounded once.
"""

from types import SimpleNamespace

import numpy as np

from pybptt import reference

U = 2.0**-24
FUNCTION = 8 * U

# max |phi'|, max |phi''|; and for phi' as a function s of h: max |s'|, max |s''| / 2
_CURVES = {
    "tanh": (1, 0.77, 2, 1),
    "sigmoid": (0.25, 0.1, 1, 1),
    "relu": (1, 0, 0, 0),
    "identity": (1, 0, 0, 0),
}


def gamma(n):
    return n * U / (1 - n * U)


def over_time(n):
    """Roundings of a weight's sum over n rows: a chain of 128, chains of some 512 rows, 16 such chunks; then
    double."""
    return min(n, 128 + 32 + 32) + 8


ONCE = gamma(2)  # a sum in double of n terms, rounded to float32


def product(a, b, n):
    """(v, e) of the matrix product of the pairs a and b, sums of n terms."""
    (av, ae), (bv, be) = a, b
    most = (np.abs(av) + ae) @ (np.abs(bv) + be)
    return av @ bv, gamma(n) * most + most - np.abs(av) @ np.abs(bv)


def times(a, b):
    """(v, e) of an elementwise product, rounded once."""
    (av, ae), (bv, be) = a, b
    most = (np.abs(av) + ae) * (np.abs(bv) + be)
    return av * bv, U * most + most - np.abs(av * bv)


def plus(a, b):
    """(v, e) of a sum whose rounding is counted elsewhere."""
    return a[0] + b[0], a[1] + b[1]


def exact(a):
    a = np.asarray(a, dtype=np.float64)
    return a, np.zeros_like(a)


def rows(a):
    return tuple(part.reshape(-1, part.shape[-1]) for part in a)


def transposed(a):
    return tuple(part.T for part in a)


def forward(parameters, x, state, nonlinearity):
    """Pairs h_0 ... h_T. Relu must have no unit within its bound of the kink; that is checked."""
    W_ih, W_hh = exact(parameters["weight_ih_l0"]), exact(parameters["weight_hh_l0"])
    H, D = W_ih[0].shape
    biases = [exact(parameters[name]) for name in ("bias_ih_l0", "bias_hh_l0") if name in parameters]
    n = D + H + 2  # z_t: products with x_t and with h_{t-1}, and two biases
    slope, curvature, _, _ = _CURVES[nonlinearity]
    h = [exact(state[0])]
    for x_t in x:
        z, e = plus(product(exact(x_t), transposed(W_ih), n), product(h[-1], transposed(W_hh), n))
        for b, _ in biases:
            z, e = z + b, e + gamma(n) * np.abs(b)
        v = reference.phi(z, nonlinearity)
        if nonlinearity == "relu":
            assert (np.abs(z) > e).all()
        local = np.minimum(slope, np.abs(reference.phi_prime(v, nonlinearity)) + curvature / 2 * e)
        rounding = 0 if nonlinearity in ("relu", "identity") else FUNCTION * np.abs(v)
        h.append((v, local * e + rounding))
    return h


def backward(parameters, x, h, upstream, d_state, nonlinearity, truncate=None):
    """Bounds of all gradients. upstream: a pair (T, B, H), what enters h_1 ... h_T from outside."""
    W_ih, W_hh = exact(parameters["weight_ih_l0"]), exact(parameters["weight_hh_l0"])
    H, T, B = len(W_hh[0]), len(x), x.shape[1]
    _, _, s1, s2 = _CURVES[nonlinearity]

    def slope(pair):
        v, e = pair
        return reference.phi_prime(v, nonlinearity), s1 * e + s2 * e * e + (2 * U if s1 else 0)

    slopes = [slope(pair) for pair in h[1:]]
    given = [(upstream[0][t], upstream[1][t]) for t in range(T)]
    if truncate is None:
        carry, dh, dz = exact(d_state[0]), [], []
        for g, s in zip(given[::-1], slopes[::-1], strict=True):
            v, e = plus(g, carry)
            dh.append((v, e + gamma(H + 1) * (np.abs(g[0]) + g[1]) + U * (np.abs(v) + e)))
            dz.append(times(s, dh[-1]))
            carry = product(dz[-1], W_hh, H + 1)
        dh, dz = dh[::-1], dz[::-1]
    else:  # every loss goes back `truncate` steps past its own; all do so at once, and dz_t sums what arrives
        part = [times(s, g) for s, g in zip(slopes, given, strict=True)]
        dz, dh, carry = part, None, None
        for _ in range(min(truncate, T - 1)):
            back = [product(p, W_hh, H + 1) for p in part[1:]]
            part = [times(s, p) for s, p in zip(slopes, back, strict=False)]
            dz = [plus(a, b) for a, b in zip(dz, part, strict=False)] + dz[len(part) :]
        dz = [(v, e + gamma(truncate + 1) * (np.abs(v) + e)) for v, e in dz]
    dz = tuple(np.stack(parts) for parts in zip(*dz, strict=True))
    before = tuple(np.stack(parts) for parts in zip(*h[:-1], strict=True))
    N = over_time(T * B)
    bias = np.sum(dz[1], axis=(0, 1)) + ONCE * np.sum(np.abs(dz[0]) + dz[1], axis=(0, 1))
    gradients = {
        "weight_ih_l0": product(transposed(rows(dz)), rows(exact(x)), N)[1],
        "weight_hh_l0": product(transposed(rows(dz)), rows(before), N)[1],
        "bias_ih_l0": bias,
        "bias_hh_l0": bias,
    }
    return SimpleNamespace(
        parameters={name: gradients[name] for name in gradients if name in parameters},
        input=np.stack([product((v, e), W_ih, H)[1] for v, e in zip(*dz, strict=True)]),
        state=None if carry is None else carry[1][None],
        hidden=None if dh is None else np.stack([e for _, e in dh])[None],
    )


def output_layer(parameters, h, y, loss, reduction):
    """Bounds of the loss and of the output layer's gradients, and the pair that enters h_1 ... h_T."""
    weight = exact(parameters["output.weight"])
    Q, H = weight[0].shape
    h = tuple(np.stack(parts) for parts in zip(*h[1:], strict=True))
    bias, _ = exact(parameters.get("output.bias", np.zeros(Q)))
    v, e = product(h, transposed(weight), H + 1)
    o, e = v + bias, e + gamma(H + 1) * np.abs(bias)
    scale = 1 / y.size if reduction == "mean" else 1.0
    value, d_o = reference._LOSSES[loss](o, y, reduction)
    if loss == "mse":
        error = e + U * (np.abs(o - y) + e)  # of o - y
        squares = 2 * np.abs(o - y) * error + error**2
        total = squares + gamma(Q) * ((o - y) ** 2 + squares)
        d_e = 2 * scale * (error + 4 * U * (np.abs(o - y) + error))
    else:
        # o - max o errs by 2 max e + u |o - max o|, its exponential relatively by that and 8 u
        far = np.abs(o - o.max(axis=-1, keepdims=True))
        shift = 2 * e.max(axis=-1, keepdims=True) + U * far
        relative = np.expm1(shift) + FUNCTION
        relative = relative + relative.max(axis=-1, keepdims=True) + gamma(Q)
        one_hot = y[..., None] == np.arange(Q)
        p = d_o / scale + one_hot
        d_e = scale * (p * relative + 4 * U * (p + one_hot))
        total = relative.max(axis=-1) + shift.max(axis=-1)  # log of the sum, and o - max o
    N = over_time(y.size)
    d_o = d_o, d_e
    gradients = {"output.weight": product(transposed(rows(d_o)), rows(h), N)[1]}
    if "output.bias" in parameters:
        size, error = rows((np.abs(d_o[0]) + d_e, d_e))
        gradients["output.bias"] = error.sum(axis=0) + ONCE * size.sum(axis=0)
    return scale * total.sum() + 4 * U * abs(value), gradients, product(d_o, weight, Q)
