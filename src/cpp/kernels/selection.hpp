// Inputs of which a few rows return again and again: which these are, and products with one-hot rows.
#pragma once

#include "kernels/simd.hpp"

namespace pybptt {
namespace {

/// `bytes` of a row, at most 8, as a number.
PYBPTT_INLINE uint64_t word_of(const void* row, size_t at, size_t bytes = sizeof(uint64_t)) {
    uint64_t word = 0;
    __builtin_memcpy(&word, static_cast<const char*>(row) + at, bytes);
    return word;
}
/// Of a row's bits: sums of words that are multiplied and folded, four at a time, which do not wait for one another; mixed at the
/// end as MurmurHash3 does (A. Appleby, fmix64).
PYBPTT_INLINE uint64_t hash_of(const void* row, size_t bytes) {
    constexpr size_t kWord = sizeof(uint64_t);
    uint64_t parts[4] = {};
    const auto add = [&](uint64_t& part, uint64_t word) __attribute__((always_inline)) {
        part = (part ^ word) * 0x9E3779B97F4A7C15u;
        part ^= part >> 32;
    };
    size_t at = 0;
    for (; at + 4 * kWord <= bytes; at += 4 * kWord)
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; ++i) add(parts[i], word_of(row, at + i * kWord));
    for (; at + kWord <= bytes; at += kWord) add(parts[0], word_of(row, at));
    if (at != bytes) add(parts[0], word_of(row, at, kWord / 2));
    uint64_t hash = ((parts[1] * 3 + parts[2]) * 5 + parts[3]) * 7 + parts[0];
    hash = (hash ^ hash >> 33) * 0xFF51AFD7ED558CCDu;  // what is in the high bits of the words gets to the low ones
    hash = (hash ^ hash >> 33) * 0xC4CEB9FE1A85EC53u;
    return hash ^ hash >> 33;
}
PYBPTT_INLINE bool same_bits(const void* a, const void* b, size_t bytes) {
    size_t at = 0;
    while (at + sizeof(uint64_t) <= bytes && word_of(a, at) == word_of(b, at)) at += sizeof(uint64_t);
    return at == bytes || (bytes - at < sizeof(uint64_t) && word_of(a, at, bytes - at) == word_of(b, at, bytes - at));
}

template <class Real>
void find_rows(size_t rows, size_t cols, Matrix<const Real> from, DistinctRows<Real>& seen, int32_t* slot) {
    const size_t bytes = cols * sizeof(Real);
    for (size_t row = 0; row < rows && seen.count <= seen.most; ++row) {
        const Real* const own = from.row(row);
        size_t at = hash_of(own, bytes) & (seen.capacity - 1);
        while (seen.table[at] >= 0 && !same_bits(own, seen.first[seen.table[at]], bytes)) at = (at + 1) & (seen.capacity - 1);
        if (seen.table[at] < 0) {
            if (seen.count++ == seen.most) return;
            seen.table[at] = int32_t(seen.count - 1);
            seen.first[seen.count - 1] = own;
        }
        slot[row] = seen.table[at];
    }
}

template <class Real>
void gather_rows(size_t rows, size_t cols, const int32_t* index, Matrix<const Real> from, Matrix<Real> to) {
    constexpr size_t L = kLanes<Real>;
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (size_t row = 0; row < rows; ++row)
            for (int v = 0; v < kPanelVecs; ++v)
                store(to.data + panel * to.panel_stride + row * L + v * kVecLanes<Real>,
                      load(from.data + panel * from.panel_stride + size_t(index[row]) * L + v * kVecLanes<Real>));
}

template <class Real>
void scatter_add_rows(size_t rows, size_t cols, const int32_t* index, Matrix<const Real> from, double* to, size_t stride) {
    constexpr size_t L = kLanes<Real>, VL = size_t(kVecLanes<double>);
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (size_t row = 0; row < rows; ++row)
            for (size_t column = 0; column < L; column += VL) {
                double* target = to + size_t(index[row]) * stride + panel * L + column;
                store(target, load(target) + load_double(from.data + panel * from.panel_stride + row * L + column));
            }
}

template <class Real>
void round_rows(size_t rows, size_t cols, const double* from, size_t stride, Matrix<Real> to) {
    constexpr size_t L = kLanes<Real>;
    for (size_t row = 0; row < rows; ++row)
        for (size_t c = 0; c < panel_count<Real>(cols) * L; ++c)
            to.data[c / L * to.panel_stride + row * L + c % L] = Real(from[row * stride + c]);
}

}  // namespace
}  // namespace pybptt
