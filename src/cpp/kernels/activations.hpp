// Activations on one vector. All of them rest on
//
//     expm1(x) = 2^n (1 + p(r)) - 1,   n = round(x / ln 2),  r = x - n ln 2,  |r| <= ln(2)/2,  p(r) = r + r^2 q(r) ~ e^r - 1
//
// with q a minimax polynomial (relative error of p: 2.0e-9 for float, 4.0e-20 for double; Remez exchange at 50 digits).
// The largest errors measured in ULP are in docs/accuracy.md; tests/cpp/accuracy.cpp measures them again.
#pragma once

#include "kernels/simd.hpp"

namespace pybptt {
namespace {

template <class Real>
struct Exp;
template <>
struct Exp<float> {
    static constexpr float log2e = 1.44269504f;
    static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.42860682e-6f;
    static constexpr float round = 12582912.0f + 127.0f;  // 1.5 * 2^23 rounds to an integer; 127 is the exponent's bias
    static constexpr int mantissa_bits = 23;
    static constexpr float low = -87.0f, high = 88.0f;  // e^low and e^high are normal numbers
    static constexpr float tanh_is_one = 9.02f;
    static constexpr int degree = 5;
    static constexpr float q[degree + 1] = {0.50000000110409687639f,   0.16666665095217007934f,   0.041666505444159491286f,
                                            0.0083339260309672658645f, 0.0013928963148094384869f, 0.00019422668400388568548f};
};
template <>
struct Exp<double> {
    static constexpr double log2e = 1.4426950408889634074;
    static constexpr double ln2_high = 0.69314718060195446014, ln2_low = -4.2009150726810847292e-11;
    static constexpr double round = 6755399441055744.0 + 1023.0;  // 1.5 * 2^52, and the bias
    static constexpr int mantissa_bits = 52;
    static constexpr double low = -708.0, high = 709.0;
    static constexpr double tanh_is_one = 19.07;
    static constexpr int degree = 11;
    static constexpr double q[degree + 1] = {0.49999999999999999999,     0.16666666666666666711,   0.041666666666666674202,
                                             0.0083333333333332567869,   0.0013888888888881268532, 0.00019841269841645539315,
                                             0.000024801587330437934638, 2.7557318472322207434e-6, 2.7557269745213738847e-7,
                                             2.5052756881404609639e-8,   2.0915751199249516457e-9, 1.5866722668416850083e-10};
};

/// e^x = scale (1 + p) for low <= x <= high. The rounding of n ln 2 matters where 2^n is large, not for x <= 0 in expm1.
template <class Real>
struct ScaledExp {
    Vec<Real> scale, p;
};
template <class Real, bool exact_ln2 = true>
PYBPTT_INLINE ScaledExp<Real> scaled_exp(Vec<Real> x) {
    using E = Exp<Real>;
    const Vec<Real> biased = fma(x, splat(E::log2e), splat(E::round));
    const Vec<Real> n = biased - splat(E::round);
    Vec<Real> r = fma(n, splat(exact_ln2 ? -E::ln2_high : -(E::ln2_high + E::ln2_low)), x);
    if constexpr (exact_ln2) r = fma(n, splat(-E::ln2_low), r);
    Vec<Real> q = splat(E::q[E::degree]);
#pragma GCC unroll 16
    for (int i = E::degree - 1; i >= 0; --i) q = fma(q, r, splat(E::q[i]));
    // The low bits of `biased` are n + bias: moved up, they are the floating-point number 2^n.
    const IntVec<Real> bits = reinterpret_cast<IntVec<Real>>(biased) << E::mantissa_bits;
    return {reinterpret_cast<Vec<Real>>(bits), fma(r * r, q, r)};
}

/// e^x, x clamped to [low, high].
template <class Real>
PYBPTT_INLINE Vec<Real> exp(Vec<Real> x) {
    const ScaledExp<Real> e = scaled_exp<Real>(clamp(x, Exp<Real>::low, Exp<Real>::high));
    return fma(e.scale, e.p, e.scale);
}

/// tanh(x) = -e / (e + 2) with e = expm1(-2|x|), and the sign of x.
template <class Real>
PYBPTT_INLINE Vec<Real> tanh(Vec<Real> x) {
    const IntVec<Real> sign = reinterpret_cast<IntVec<Real>>(splat(Real(-0.0)));
    const Vec<Real> minus_abs = reinterpret_cast<Vec<Real>>(reinterpret_cast<IntVec<Real>>(x) | sign);
    const ScaledExp<Real> e = scaled_exp<Real, false>(at_least(minus_abs + minus_abs, Real(-2) * Exp<Real>::tanh_is_one));
    const Vec<Real> expm1 = fma(e.scale, e.p, e.scale - splat(Real(1)));
    const Vec<Real> minus_tanh = divide(expm1, expm1 + splat(Real(2)));
    return reinterpret_cast<Vec<Real>>((reinterpret_cast<IntVec<Real>>(minus_tanh) & ~sign) |
                                       (reinterpret_cast<IntVec<Real>>(x) & sign));
}

/// sigmoid(x) = 1 / (1 + e^-x).
template <class Real>
PYBPTT_INLINE Vec<Real> sigmoid(Vec<Real> x) {
    return divide(splat(Real(1)), splat(Real(1)) + exp<Real>(-x));
}

/// A nonlinearity phi: h = phi(z), and phi'(z) as a function of h.
template <class Real>
struct Tanh {
    static PYBPTT_INLINE Vec<Real> value(Vec<Real> z) { return tanh<Real>(z); }
    static PYBPTT_INLINE Vec<Real> slope(Vec<Real> h) { return fma(-h, h, splat(Real(1))); }
};
template <class Real>
struct Relu {
    static PYBPTT_INLINE Vec<Real> value(Vec<Real> z) { return z < splat(Real(0)) ? splat(Real(0)) : z; }
    static PYBPTT_INLINE Vec<Real> slope(Vec<Real> h) { return h <= splat(Real(0)) ? splat(Real(0)) : splat(Real(1)); }
};
template <class Real>
struct Sigmoid {
    static PYBPTT_INLINE Vec<Real> value(Vec<Real> z) { return sigmoid<Real>(z); }
    static PYBPTT_INLINE Vec<Real> slope(Vec<Real> h) { return fma(-h, h, h); }
};
template <class Real>
struct Identity {
    static PYBPTT_INLINE Vec<Real> value(Vec<Real> z) { return z; }
    static PYBPTT_INLINE Vec<Real> slope(Vec<Real>) { return splat(Real(1)); }
};

}  // namespace
}  // namespace pybptt
