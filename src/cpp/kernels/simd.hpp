// The vector type of a tier. One tier is one compilation of tier.cpp; the compiler's own macros say which.
//
// `Vec<Real>` is a compiler vector (GCC and Clang): + - * / and comparisons are elementwise. What the vector
// extension lacks (fused multiply-add, masked ends) is below. No standard-library header is included in this room:
// a template that it instantiates under -mavx512f could be the copy that the linker keeps for everybody.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels/table.hpp"

namespace pybptt {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 32;
#else
constexpr int kVectorBytes = 16;
constexpr int kRegisters = 16;
#endif

template <class Real>
struct VecOf;
template <>
struct VecOf<float> {
    typedef float V __attribute__((vector_size(kVectorBytes)));
    typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecOf<double> {
    typedef double V __attribute__((vector_size(kVectorBytes)));
    typedef int64_t I __attribute__((vector_size(kVectorBytes)));
};
template <class Real>
using Vec = typename VecOf<Real>::V;
template <class Real>
using IntVec = typename VecOf<Real>::I;

/// Lanes of one vector, and vectors in one row of a panel (a panel's row is one cache line in every tier).
template <class Real>
constexpr int kVecLanes = kVectorBytes / int(sizeof(Real));
constexpr int kPanelVecs = int(kPanelBytes) / kVectorBytes;

#define PYBPTT_INLINE inline __attribute__((always_inline))

template <class Real>
PYBPTT_INLINE Vec<Real> splat(Real value) {
    return value - Vec<Real>{};
}

/// Aligned to the vector: panels are.
template <class Real>
PYBPTT_INLINE Vec<Real> load(const Real* p) {
    return *reinterpret_cast<const Vec<Real>*>(p);
}
template <class Real>
PYBPTT_INLINE void store(Real* p, Vec<Real> v) {
    *reinterpret_cast<Vec<Real>*>(p) = v;
}

/// At any address: a user's arrays.
template <class Real>
PYBPTT_INLINE Vec<Real> load_any(const Real* p) {
    Vec<Real> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class Real>
PYBPTT_INLINE void store_any(Real* p, Vec<Real> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)
PYBPTT_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a, b, c); }
PYBPTT_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__AVX2__)
PYBPTT_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a, b, c); }
PYBPTT_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
PYBPTT_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return vfmaq_f32(c, a, b); }
PYBPTT_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return vfmaq_f64(c, a, b); }
#else
template <class V>
PYBPTT_INLINE V fma(V a, V b, V c) {
    return a * b + c;
}
#endif

/// The first `count` (0 .. lanes) values at p, the rest 0; nothing past them is touched.
template <class Real>
PYBPTT_INLINE Vec<Real> load_first(const Real* p, int count) {
    if (count >= kVecLanes<Real>) return load_any(p);
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4)
        return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
    else
        return _mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
#elif defined(__AVX2__)
    static constexpr int32_t masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    const int words = count * int(sizeof(Real) / 4);
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(masks + 8 - words));
    return reinterpret_cast<Vec<Real>>(_mm256_maskload_epi32(reinterpret_cast<const int*>(p), mask));
#else
    Vec<Real> v{};
    for (int i = 0; i < kVecLanes<Real>; ++i)
        if (i < count) v[i] = p[i];
    return v;
#endif
}
template <class Real>
PYBPTT_INLINE void store_first(Real* p, Vec<Real> v, int count) {
    if (count >= kVecLanes<Real>) return store_any(p, v);
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4)
        _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
    else
        _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), v);
#elif defined(__AVX2__)
    // A half, a quarter, an eighth: a store with a mask takes longer.
    const int words = count * int(sizeof(Real) / 4);
    float* to = reinterpret_cast<float*>(p);
    const __m256 all = reinterpret_cast<__m256>(v);
    __m128 rest = _mm256_castps256_ps128(all);
    if (words & 4) {
        _mm_storeu_ps(to, rest);
        to += 4;
        rest = _mm256_extractf128_ps(all, 1);
    }
    if (words & 2) {
        _mm_storel_pi(reinterpret_cast<__m64*>(to), rest);
        to += 2;
        rest = _mm_movehl_ps(rest, rest);
    }
    if (words & 1) _mm_store_ss(to, rest);
#else
    for (int i = 0; i < kVecLanes<Real>; ++i)
        if (i < count) p[i] = v[i];
#endif
}

/// As many floats as there are doubles in a vector; of doubles, all of it.
typedef float HalfOfFloats __attribute__((vector_size(kVectorBytes / 2)));
PYBPTT_INLINE Vec<double> load_half(const double* p) { return load(p); }
PYBPTT_INLINE HalfOfFloats load_half(const float* p) { return *reinterpret_cast<const HalfOfFloats*>(p); }
PYBPTT_INLINE Vec<double> to_double(Vec<double> v) { return v; }
PYBPTT_INLINE Vec<double> to_double(HalfOfFloats v) { return __builtin_convertvector(v, Vec<double>); }
/// kVecLanes<double> values as double, aligned to as many.
template <class Real>
PYBPTT_INLINE Vec<double> load_double(const Real* p) {
    return to_double(load_half(p));
}

/// Aligned to the vector, and not by way of the caches where the processor has such a store; other cores see them in order only
/// after `end_of_stores_past_caches`.
template <class Real>
PYBPTT_INLINE void store_past_caches(Real* p, Vec<Real> v) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#elif defined(__SSE2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
    store(p, v);
#endif
}
PYBPTT_INLINE void end_of_stores_past_caches() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/// a / b to within an ulp, for b of at least 1: from an estimate of 1/b good to 14 bits, each correction doubles them. The divider
/// would take 16 cycles a vector.
#if defined(__AVX512F__)
PYBPTT_INLINE Vec<float> divide(Vec<float> a, Vec<float> b) {
    const Vec<float> r = _mm512_rcp14_ps(b);
    const Vec<float> q = a * r;
    return fma(fma(-b, q, a), r, q);
}
PYBPTT_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) {
    Vec<double> r = _mm512_rcp14_pd(b);
    r = fma(fma(-b, r, splat(1.0)), r, r);
    const Vec<double> q = a * r;
    return fma(fma(-b, q, a), r, q);
}
#else
template <class V>
PYBPTT_INLINE V divide(V a, V b) {
    return a / b;
}
#endif

/// Lanes of a panel's vector v that exist when `cols` of the panel's columns do.
template <class Real>
PYBPTT_INLINE int lanes_left(int cols, int v) {
    const int left = cols - v * kVecLanes<Real>;
    return left < 0 ? 0 : left < kVecLanes<Real> ? left : kVecLanes<Real>;
}

/// The larger of x and `low`; a NaN in x stays.
#if defined(__AVX512F__)
PYBPTT_INLINE Vec<float> at_least(Vec<float> x, float low) { return _mm512_max_ps(splat(low), x); }
PYBPTT_INLINE Vec<double> at_least(Vec<double> x, double low) { return _mm512_max_pd(splat(low), x); }
#elif defined(__AVX2__)
PYBPTT_INLINE Vec<float> at_least(Vec<float> x, float low) { return _mm256_max_ps(splat(low), x); }
PYBPTT_INLINE Vec<double> at_least(Vec<double> x, double low) { return _mm256_max_pd(splat(low), x); }
#else
template <class V, class Real>
PYBPTT_INLINE V at_least(V x, Real low) {
    return x < splat(low) ? splat(low) : x;
}
#endif

/// x where `mask` is all ones, 0 where it is 0.
template <class Real>
PYBPTT_INLINE Vec<Real> keep(Vec<Real> x, IntVec<Real> mask) {
    return reinterpret_cast<Vec<Real>>(reinterpret_cast<IntVec<Real>>(x) & mask);
}

/// A NaN in x stays: comparisons with it are false.
template <class Real>
PYBPTT_INLINE Vec<Real> clamp(Vec<Real> x, Real low, Real high) {
    x = at_least(x, low);
    return x > splat(high) ? splat(high) : x;
}

}  // namespace
}  // namespace pybptt
