// The linear recurrence, elementwise over rows of `cols` values, and its gradient (arrays of the user's, row-major; row t lies
// `stride` values behind row t-1):
//
//     a_t = b_t + c_t a_{t-1}
//
//     d_b_t = d_a_t + c_{t+1} d_b_{t+1}      the total derivative by a_t, and so by b_t; d_a_t is the upstream alone
//     d_c_t = d_b_t a_{t-1}
//     d_a_0 = c_1 d_b_1
//
// Two flops for three values in memory: memory is the limit, and all that counts is how it is read and written.
// - Results larger than the caches are written past them: a store to a line that is not in the cache would first read it. Such
//   values can't be read back at once, so the last row is kept in a window as well.
// - Where a thread has all the columns, time is one long array, a[i] = b[i] + c[i] a[i - cols]: whole vectors and whole lines
//   wherever a row begins. Otherwise it goes from row to row, in segments of rows that the L2 cache holds.
// - Fewer columns than a vector has: the chain of steps is the limit, and a_{t-1} stays in a register.
#pragma once

#include "kernels/simd.hpp"

namespace pybptt {
namespace {

constexpr size_t kLongTimeBytes = 16384;  ///< a row at most, where time is one long array
constexpr size_t kAheadBytes = 512;       ///< measured: loads alone ask memory for too little at a time

/// What of the window one long array goes through before it begins anew: in the L1 cache, or next to it.
template <class Real>
constexpr size_t kRound = 4 * kLongTimeBytes / sizeof(Real);

template <class Real>
bool one_long_array(size_t cols, size_t stride, bool past_caches) {
    return past_caches && cols == stride && cols * sizeof(Real) <= kLongTimeBytes;
}

/// Columns of a segment: of nearly equal widths, whole cache lines.
template <class Real>
size_t segment_width(size_t cols) {
    const size_t segments = (cols + kScanWindow<Real> - 1) / kScanWindow<Real>;
    return panel_count<Real>((cols + segments - 1) / segments) * kLanes<Real>;
}

template <class Real>
void copy_values(size_t count, const Real* from, Real* to) {
    for (size_t j = 0; j < count; ++j) to[j] = from[j];
}

/// Values from p to where a vector is aligned, at most `count`.
template <class Real>
PYBPTT_INLINE size_t to_boundary(const Real* p, size_t count) {
    const size_t left = (kVectorBytes - reinterpret_cast<uintptr_t>(p) % kVectorBytes) % kVectorBytes / sizeof(Real);
    return left < count ? left : count;
}

/// now = b + c before, and a = now. `now` is `before` itself, or at least a vector behind it; a itself unless past_caches.
template <class Real, bool past_caches>
void scan_run(size_t count, const Real* b, const Real* c, const Real* before, Real* now, Real* a) {
    constexpr size_t VL = size_t(kVecLanes<Real>), ahead = kAheadBytes / sizeof(Real);
    size_t j = 0;
    const auto part = [&](size_t values) {
        const int n = int(values);
        const Vec<Real> v = fma(load_first(c + j, n), load_first(before + j, n), load_first(b + j, n));
        store_first(now + j, v, n);
        if (past_caches) store_first(a + j, v, n);
        j += values;
    };
    if (past_caches) part(to_boundary(a, count));
    for (; j + VL <= count; j += VL) {
        if (past_caches) {
            __builtin_prefetch(b + j + ahead, 0, 2);
            __builtin_prefetch(c + j + ahead, 0, 2);
        }
        const Vec<Real> v = fma(load_any(c + j), load_any(before + j), load_any(b + j));
        store_any(now + j, v);
        if (past_caches) store_past_caches(a + j, v);
    }
    part(count - j);
}

/// now = d_a + c_after after, d_b = now and d_c = now a_before, from the last value to the first. `now` is `after` itself, or at
/// least a vector in front of it; d_b itself unless past_caches, for which d_b and d_c are equally far from a boundary.
template <class Real, bool past_caches>
void scan_run_back(size_t count, const Real* d_a, const Real* c_after, const Real* after, const Real* a_before, Real* now,
                   Real* d_b, Real* d_c) {
    constexpr size_t VL = size_t(kVecLanes<Real>);
    const size_t head = past_caches ? to_boundary(d_b, count) : 0;
    size_t j = count;
    const auto part = [&](size_t values) {
        j -= values;
        const int n = int(values);
        const Vec<Real> v = fma(load_first(c_after + j, n), load_first(after + j, n), load_first(d_a + j, n));
        const Vec<Real> product = v * load_first(a_before + j, n);
        store_first(now + j, v, n);
        if (past_caches) store_first(d_b + j, v, n);
        store_first(d_c + j, product, n);
    };
    part((count - head) % VL);
    while (j > head) {
        j -= VL;
        if (past_caches) {
            // Where the pointers wrap around, nothing is fetched.
            __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(d_a + j) - kAheadBytes), 0, 2);
            __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(c_after + j) - kAheadBytes), 0, 2);
            __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(a_before + j) - kAheadBytes), 0, 2);
        }
        const Vec<Real> v = fma(load_any(c_after + j), load_any(after + j), load_any(d_a + j));
        const Vec<Real> product = v * load_any(a_before + j);
        store_any(now + j, v);
        if (past_caches) {
            store_past_caches(d_b + j, v);
            store_past_caches(d_c + j, product);
        } else {
            store_any(d_c + j, product);
        }
    }
    part(head);
}

template <class Real>
void scan(const Scan<Real>& s) {
    const size_t stride = s.stride;
    if (s.cols < size_t(kVecLanes<Real>)) {
        const int n = int(s.cols);
        Vec<Real> a = load_first(s.a_0, n);
        for (size_t at = 0; at < s.steps * stride; at += stride)
            store_first(s.a + at, a = fma(load_first(s.c + at, n), a, load_first(s.b + at, n)), n);
        return;
    }
    Real* const window = s.window;
    if (one_long_array<Real>(s.cols, stride, s.past_caches)) {
        copy_values(s.cols, s.a_0, window);
        for (size_t i = 0, place = s.cols, count = 0, all = s.steps * s.cols; i < all; i += count, place += count) {
            if (place == kRound<Real>) {
                copy_values(s.cols, window + place - s.cols, window);
                place = s.cols;
            }
            count = all - i < kRound<Real> - place ? all - i : kRound<Real> - place;
            scan_run<Real, true>(count, s.b + i, s.c + i, window + place - s.cols, window + place, s.a + i);
        }
        return end_of_stores_past_caches();
    }
    for (size_t first = 0, segment = segment_width<Real>(s.cols); first < s.cols; first += segment) {
        const size_t width = s.cols - first < segment ? s.cols - first : segment;
        copy_values(width, s.a_0 + first, window);
        const Real* before = window;
        for (size_t t = 0, at = first; t < s.steps; ++t, at += stride)
            if (s.past_caches) {
                scan_run<Real, true>(width, s.b + at, s.c + at, window, window, s.a + at);
            } else {
                scan_run<Real, false>(width, s.b + at, s.c + at, before, s.a + at, s.a + at);
                before = s.a + at;
            }
    }
    if (s.past_caches) end_of_stores_past_caches();
}

template <class Real>
void scan_backward(const ScanBack<Real>& s) {
    const size_t stride = s.stride, all = s.steps * stride;
    Real* const window = s.window;
    if (s.cols < size_t(kVecLanes<Real>)) {
        const int n = int(s.cols);
        Vec<Real> d_b{}, c_after{};
        for (size_t at = all; at > 0;) {
            at -= stride;
            d_b = fma(c_after, d_b, load_first(s.d_a + at, n));
            c_after = load_first(s.c + at, n);
            store_first(s.d_b + at, d_b, n);
            store_first(s.d_c + at, d_b * load_first(at == 0 ? s.a_0 : s.a + at - stride, n), n);
        }
    } else if (one_long_array<Real>(s.cols, stride, s.past_caches)) {
        size_t place = kRound<Real> - s.cols, i = all;
        const auto back_to = [&](size_t begin, const Real* c_after, const Real* a_before) {
            for (size_t count; i > begin;) {
                if (place == 0) {
                    place = kRound<Real> - s.cols;
                    copy_values(s.cols, window, window + place);
                }
                count = i - begin < place ? i - begin : place;
                i -= count;
                place -= count;
                const size_t j = i - begin;
                scan_run_back<Real, true>(count, s.d_a + i, c_after + j, window + place + s.cols, a_before + j, window + place,
                                          s.d_b + i, s.d_c + i);
            }
        };
        for (size_t j = 0; j < s.cols; ++j) window[place + j] = 0;  // behind the last step there is nothing
        const Real* const nothing = window + place;
        if (s.steps > 1) {
            back_to(all - s.cols, nothing, s.a + all - 2 * s.cols);
            back_to(s.cols, s.c + 2 * s.cols, s.a);
            back_to(0, s.c + s.cols, s.a_0);
        } else {
            back_to(0, nothing, s.a_0);
        }
    } else {
        for (size_t first = 0, segment = segment_width<Real>(s.cols); first < s.cols; first += segment) {
            const size_t width = s.cols - first < segment ? s.cols - first : segment;
            for (size_t j = 0; j < width; ++j) window[j] = 0;
            const Real *after = window, *c_after = window;
            for (size_t at = all + first; at > first;) {
                at -= stride;
                const Real* const a_before = at == first ? s.a_0 + first : s.a + at - stride;
                if (s.past_caches) {
                    scan_run_back<Real, true>(width, s.d_a + at, c_after, window, a_before, window, s.d_b + at, s.d_c + at);
                } else {
                    scan_run_back<Real, false>(width, s.d_a + at, c_after, after, a_before, s.d_b + at, s.d_b + at, s.d_c + at);
                    after = s.d_b + at;
                }
                c_after = s.c + at;
            }
        }
    }
    if (s.past_caches) end_of_stores_past_caches();
    for (size_t j = 0; j < s.cols; ++j) s.d_a_0[j] = s.c[j] * s.d_b[j];
}

}  // namespace
}  // namespace pybptt
