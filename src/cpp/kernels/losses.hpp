// Losses of the output layer, with one step of one sequence in each lane: o holds classes x cols, so that a softmax
// is a loop over rows and never adds lanes.
//
//     cross-entropy   l = log(sum_q e^{o_q}) - o_y,     dl/do_q = e^{o_q} / sum - [q = y]
//     squared error   l = sum_q (o_q - y_q)^2,          dl/do_q = 2 (o_q - y_q)
#pragma once

#include <math.h>

#include "kernels/activations.hpp"
#include "kernels/panels.hpp"

namespace pybptt {
namespace {

template <class Real>
void softmax_cross_entropy(size_t classes, size_t cols, const Real* bias, const int32_t* target, Real scale, Matrix<Real> o,
                           double* losses) {
    constexpr int VL = kVecLanes<Real>;
    constexpr size_t L = kLanes<Real>;
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (int v = 0; v < kPanelVecs; ++v) {
            Real* column = o.data + panel * o.panel_stride + v * VL;
            const int lanes = lanes_left<Real>(columns_of<Real>(cols, panel), v);
            const size_t first = panel * L + size_t(v * VL);
            Vec<Real> largest = splat(-Real(INFINITY));
            for (size_t q = 0; q < classes; ++q) {
                const Vec<Real> value = load(column + q * L) + splat(bias[q]);
                store(column + q * L, value);
                largest = largest > value ? largest : value;  // a NaN takes its place
            }
            Real at_target[VL];
            for (int i = 0; i < lanes; ++i)
                at_target[i] = target[first + size_t(i)] < 0 ? 0 : column[size_t(target[first + size_t(i)]) * L + size_t(i)];
            Vec<Real> sum{};
            for (size_t q = 0; q < classes; ++q) {
                const Vec<Real> value = exp<Real>(load(column + q * L) - largest);
                store(column + q * L, value);
                sum += value;
            }
            const Vec<Real> factor = splat(scale) / sum;
            IntVec<Real> counted{};
            for (int i = 0; i < lanes; ++i) counted[i] = target[first + size_t(i)] < 0 ? 0 : -1;
            for (size_t q = 0; q < classes; ++q) store(column + q * L, keep<Real>(load(column + q * L) * factor, counted));
            for (int i = 0; i < lanes; ++i) {
                losses[first + size_t(i)] = 0;
                if (counted[i] == 0) continue;
                column[size_t(target[first + size_t(i)]) * L + size_t(i)] -= scale;
                losses[first + size_t(i)] = log(double(sum[i])) + (double(largest[i]) - double(at_target[i]));
            }
        }
}

template <class Real>
void squared_error(size_t outputs, size_t cols, const Real* bias, Matrix<const Real> target, const int32_t* counted_columns,
                   Real scale, Matrix<Real> o, double* losses) {
    constexpr int VL = kVecLanes<Real>;
    constexpr size_t L = kLanes<Real>;
    for (size_t panel = 0; panel < panel_count<Real>(cols); ++panel)
        for (int v = 0; v < kPanelVecs; ++v) {
            const int lanes = lanes_left<Real>(columns_of<Real>(cols, panel), v);
            Real* column = o.data + panel * o.panel_stride + v * VL;
            const Real* wanted = target.data + panel * target.panel_stride + v * VL;
            const size_t first = panel * L + size_t(v * VL);
            IntVec<Real> counted{};
            for (int i = 0; i < lanes; ++i) counted[i] = counted_columns[first + size_t(i)] < 0 ? 0 : -1;
            const Vec<Real> factor = splat(Real(2) * scale);
            Vec<Real> sum{};
            for (size_t q = 0; q < outputs; ++q) {
                const Vec<Real> error = load(column + q * L) + splat(bias[q]) - load(wanted + q * L);
                sum = fma(error, error, sum);
                store(column + q * L, keep<Real>(error * factor, counted));
            }
            for (int i = 0; i < lanes; ++i) losses[first + size_t(i)] = counted[i] == 0 ? 0 : double(sum[i]);
        }
}

}  // namespace
}  // namespace pybptt
