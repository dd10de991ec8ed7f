// Moving matrices in and out of panels, and sums over them.
#pragma once

#include "kernels/simd.hpp"

namespace pybptt {
namespace {

/// visit(panel, offset in the panel) for every vector of rows x panels; the rows of a panel are contiguous.
template <class Real, class Visit>
PYBPTT_INLINE void for_each_vector(size_t rows, size_t panels, Visit visit) {
    for (size_t panel = 0; panel < panels; ++panel)
        for (size_t at = 0; at < rows * kLanes<Real>; at += size_t(kVecLanes<Real>)) visit(panel, at);
}

/// Columns of panel `panel` that exist.
template <class Real>
PYBPTT_INLINE int columns_of(size_t cols, size_t panel) {
    const size_t left = cols - panel * kLanes<Real>;
    return int(left < kLanes<Real> ? left : kLanes<Real>);
}

/// to = combined(to, from), row after row: a user's array is read or written in its own order.
template <class Real, class Combine>
PYBPTT_INLINE void combine_rows(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to, Combine combined) {
    constexpr int VL = kVecLanes<Real>;
    const size_t whole = cols / kLanes<Real>;
    const int rest = int(cols % kLanes<Real>);
    for (size_t row = 0; row < rows; ++row) {
        const Real* source = from.row(row);
        Real* target = to.row(row);
        for (size_t panel = 0; panel < whole; ++panel, source += from.panel_stride, target += to.panel_stride)
            for (int v = 0; v < kPanelVecs; ++v) {
                Real* place = target + v * VL;
                store_any(place, combined(place, load_any(source + v * VL), VL));
            }
        if (rest == 0) continue;
        for (int v = 0; v < kPanelVecs; ++v) {
            const int left = lanes_left<Real>(rest, v), width = to.padded ? VL : left;
            if (width == 0) break;
            Real* place = target + v * VL;
            store_first(place, combined(place, load_first(source + v * VL, left), width), width);
        }
    }
}

template <class Real>
void copy(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to) {
    combine_rows<Real>(rows, cols, from, to, [](Real*, Vec<Real> value, int) __attribute__((always_inline)) { return value; });
}
template <class Real>
void add(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to) {
    combine_rows<Real>(rows, cols, from, to, [](Real* place, Vec<Real> value, int width) __attribute__((always_inline)) {
        return load_first(place, width) + value;
    });
}
template <class Real>
void multiply(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to) {
    combine_rows<Real>(rows, cols, from, to, [](Real* place, Vec<Real> value, int width) __attribute__((always_inline)) {
        return load_first(place, width) * value;
    });
}

/// Transposes a square of vectors: at each stage, blocks of s lanes change places between the lines i and i + s.
template <class Real>
PYBPTT_INLINE void transpose_square(Vec<Real> (&line)[kVecLanes<Real>]) {
    constexpr int VL = kVecLanes<Real>;
#pragma GCC unroll 8
    for (int s = 1; s < VL; s *= 2) {
        IntVec<Real> low{}, high{};
#pragma GCC unroll 16
        for (int l = 0; l < VL; ++l) {
            low[l] = (l & s) ? VL + l - s : l;
            high[l] = (l & s) ? VL + l : l + s;
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i) {
            if (i & s) continue;
            const Vec<Real> a = line[i], b = line[i + s];
#if defined(__clang__)
            for (int l = 0; l < VL; ++l) {
                line[i][l] = (l & s) ? b[l - s] : a[l];
                line[i + s][l] = (l & s) ? b[l] : a[l + s];
            }
#else
            line[i] = __builtin_shuffle(a, b, low);
            line[i + s] = __builtin_shuffle(a, b, high);
#endif
        }
    }
}

template <class Real>
void transpose(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to, Matrix<Real> as_it_is) {
    constexpr int VL = kVecLanes<Real>;
    constexpr size_t L = kLanes<Real>;
    const size_t padded_rows = panel_count<Real>(rows) * L, end = as_it_is.data != nullptr ? panel_count<Real>(cols) * L : cols;
    const auto square = [&](size_t r, size_t c, int lines, int lanes) __attribute__((always_inline)) {
        const Real* source = from.data + (c / L) * from.panel_stride + c % L + r * from.row_stride;
        Vec<Real> line[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i) line[i] = i < lines ? load_first(source + size_t(i) * from.row_stride, lanes) : Vec<Real>{};
        if (as_it_is.data != nullptr) {
            Real* place = as_it_is.data + (c / L) * as_it_is.panel_stride + r * L + c % L;
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i)
                if (i < lines) store(place + size_t(i) * L, line[i]);
        }
        transpose_square<Real>(line);
        Real* target = to.data + (r / L) * to.panel_stride + r % L + c * to.row_stride;
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i)
            if (i < lanes) store(target + size_t(i) * to.row_stride, line[i]);
    };
    for (size_t r = 0; r < padded_rows; r += size_t(VL))
        for (size_t c = 0; c < end; c += size_t(VL))
            if (r + size_t(VL) <= rows && c + size_t(VL) <= cols)
                square(r, c, VL, VL);
            else
                square(r, c, r < rows ? int(rows - r) : 0, c >= cols ? 0 : int(cols - c < size_t(VL) ? cols - c : size_t(VL)));
}

template <class Real>
void zero(size_t rows, size_t cols, Matrix<Real> to) {
    for_each_vector<Real>(rows, panel_count<Real>(cols), [&](size_t panel, size_t at) __attribute__((always_inline)) {
        store(to.data + panel * to.panel_stride + at, Vec<Real>{});
    });
}

template <class Real>
void scale_rows(size_t rows, size_t cols, Matrix<const Real> factors, Matrix<Real> to) {
    for (size_t row = 0; row < rows; ++row) {
        const Real factor = *factors.row(row);
        const Matrix<Real> place = to.rows_from(row);
        if (factor == 0)
            zero<Real>(1, cols, place);
        else if (factor != 1)
            for_each_vector<Real>(1, panel_count<Real>(cols), [&](size_t panel, size_t at) __attribute__((always_inline)) {
                Real* value = place.data + panel * place.panel_stride + at;
                store(value, load(value) * splat(factor));
            });
    }
}

template <class Real>
void clip_values(size_t rows, size_t cols, Real limit, Matrix<Real> to) {
    for_each_vector<Real>(rows, panel_count<Real>(cols), [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* value = to.data + panel * to.panel_stride + at;
        store(value, clamp<Real>(load(value), -limit, limit));
    });
}

/// visit(vector) for a row's, 0 past the last column.
template <class Real, class Visit>
PYBPTT_INLINE void for_each_of_row(size_t row, size_t cols, Matrix<const Real> from, Visit visit) {
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (int v = 0; v < kPanelVecs; ++v)
            visit(load_first(from.data + panel * from.panel_stride + row * kLanes<Real> + v * kVecLanes<Real>,
                             lanes_left<Real>(columns_of<Real>(cols, panel), v)));
}

/// Squares of what is scaled by the largest value neither overflow nor vanish.
template <class Real>
void norm_factors(size_t rows, size_t cols, Real limit, Matrix<const Real> from, Real* factors) {
    for (size_t row = 0; row < rows; ++row) {
        Vec<Real> most{}, sum{};
        for_each_of_row<Real>(row, cols, from, [&](Vec<Real> x) __attribute__((always_inline)) {
            x = x < Vec<Real>{} ? -x : x;
            most = x > most ? x : most;
        });
        Real largest = 0;
        for (int i = 0; i < kVecLanes<Real>; ++i) largest = most[i] > largest ? most[i] : largest;
        factors[row] = 1;
        if (!(largest > 0 && largest - largest == 0)) continue;  // nothing to scale, or infinite
        for_each_of_row<Real>(row, cols, from, [&](Vec<Real> x) __attribute__((always_inline)) {
            x = x / splat(largest);
            sum += x * x;
        });
        Real total = 0;
        for (int i = 0; i < kVecLanes<Real>; ++i) total += sum[i];
        const Real factor = limit / largest / Real(__builtin_sqrt(double(total)));
        if (factor < 1) factors[row] = factor;
    }
}

/// sums[c] += sum over rows of value_at(panel, offset in the panel), kVecLanes<double> columns at a time. Sums over time are kept
/// in double; in four parts, so that additions do not wait for one another.
template <class Real, class Value>
PYBPTT_INLINE void sum_in_double(size_t rows, size_t cols, double* sums, Value value_at) {
    constexpr size_t L = kLanes<Real>, VL = size_t(kVecLanes<double>);
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (size_t column = 0; column < L; column += VL) {
            Vec<double> part[4] = {};
            size_t row = 0;
            for (; row + 4 <= rows; row += 4)
#pragma GCC unroll 4
                for (size_t k = 0; k < 4; ++k) part[k] += value_at(panel, (row + k) * L + column);
            for (; row < rows; ++row) part[0] += value_at(panel, row * L + column);
            double* sum = sums + panel * L + column;
            store(sum, load(sum) + ((part[0] + part[1]) + (part[2] + part[3])));
        }
}

/// Four rows are added up before their sum is made a double of, which is what takes the time.
template <class Real>
void sum_rows(size_t rows, size_t cols, Matrix<const Real> from, double* sums) {
    constexpr size_t L = kLanes<Real>;
    const size_t fours = rows / 4;
    sum_in_double<Real>(fours, cols, sums, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        const auto* line = from.data + panel * from.panel_stride + at / L * 4 * L + at % L;
        return to_double((load_half(line) + load_half(line + L)) + (load_half(line + 2 * L) + load_half(line + 3 * L)));
    });
    sum_in_double<Real>(rows % 4, cols, sums, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        return load_double(from.data + panel * from.panel_stride + 4 * fours * L + at);
    });
}

template <class Real>
void sum_products(size_t rows, size_t cols, Matrix<const Real> a, Matrix<const Real> b, double* sums) {
    sum_in_double<Real>(rows, cols, sums, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        return load_double(a.data + panel * a.panel_stride + at) * load_double(b.data + panel * b.panel_stride + at);
    });
}

template <class Real>
void sum_columns(size_t rows, size_t cols, Matrix<const Real> from, double* sums) {
    constexpr size_t L = kLanes<Real>;
    for (size_t row = 0; row < rows; ++row) {
        Vec<double> total{};
        for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
            for (size_t column = 0; column < L; column += size_t(kVecLanes<double>))
                total += load_double(from.data + panel * from.panel_stride + row * L + column);
        double sum = 0;
        for (int i = 0; i < kVecLanes<double>; ++i) sum += total[i];
        sums[row] += sum;
    }
}

}  // namespace
}  // namespace pybptt
