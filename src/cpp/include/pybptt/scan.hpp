// The linear recurrence a_t = b_t + c_t a_{t-1}, elementwise, and its gradient. What is said of arrays, threads and exceptions at
// the top of rnn.hpp holds here, too.
#pragma once

#include <cstddef>

#include "pybptt/export.h"

namespace pybptt {

/// a_1 .. a_T. Every element is one chain of multiplications and additions in the order of time, whatever the other columns are.
///   steps, cols  T and N
///   b, c         (T, N)
///   a_0          (N,), or null for zero
///   a            (T, N), written
template <class Real>
PYBPTT_API void linear_scan(std::size_t steps, std::size_t cols, const Real* b, const Real* c, const Real* a_0, Real* a);

/// Derivatives of a loss by b, c and a_0 from those by a_1 .. a_T.
///   d_a       (T, N): upstream, of each a_t by itself, not through later steps
///   c, a_0, a as linear_scan took and made them
///   d_b, d_c  (T, N), written; d_b is at the same time the total derivative by a_t
///   d_a_0     (N,), written
template <class Real>
PYBPTT_API void linear_scan_backward(std::size_t steps, std::size_t cols, const Real* d_a, const Real* c, const Real* a,
                                     const Real* a_0, Real* d_b, Real* d_c, Real* d_a_0);

}  // namespace pybptt
