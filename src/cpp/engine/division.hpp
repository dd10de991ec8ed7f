// How the work of one call is divided among threads.
//
// A recurrence has two ways: each member of the team owns rows of the batch for the whole sequence (no waiting), or, when there
// are few rows, columns of h_t (a barrier a step). The bits of the result do not depend on it: every element is computed by the
// same operations in the same order (kernels/gemm.hpp), so the choice below is one of speed alone.
#pragma once


#include "kernels/table.hpp"
#include "pybptt/rnn.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// Threads worth waking for one call.
inline int threads_wanted(const RnnSizes& s, double flops_beside = 0) {
    constexpr double kFlopsPerThread = 4e6;  // some 30 microseconds of work; waking a thread costs a few
    constexpr double kFlopsPerStep = 1e5;    // a step's share when a barrier follows each
    const double step = 2.0 * double(s.batch) * double(s.hidden) * double(s.hidden);
    const double flops = double(s.steps) * (3 * step + 6.0 * double(s.batch) * double(s.hidden) * double(s.inputs)) + flops_beside;
    const bool rows_suffice = s.batch >= 4 * std::size_t(num_threads());
    if (flops_beside == 0 && !rows_suffice && step < 2 * kFlopsPerStep) return s.batch >= 8 && flops > 2e7 ? num_threads() : 1;
    return int(std::min(double(num_threads()), std::max(1.0, flops / kFlopsPerThread)));
}

struct Division {
    int threads;
    bool by_columns;     // or by rows
    bool project_ahead;  // W_ih x_t for a whole chunk at once, or with each step

    Division(const RnnSizes& s, int threads) : threads(threads) {
        constexpr std::size_t kRowsEach = 4;
        by_columns = threads > 1 && s.batch < kRowsEach * std::size_t(threads) && s.hidden * s.hidden * s.batch >= 65536;
        // With few rows a step is a stream of weights: the fewer the better.
        project_ahead = by_columns || s.batch <= 4;
    }
};

/// A member's part of (rows of the batch) x (columns of h_t).
template <class Real>
struct Part {
    Range rows, panels;
    std::size_t cols;

    Part(const RnnSizes& s, int threads, bool by_columns, int member)
        : rows(by_columns ? Range{0, s.batch} : share(s.batch, 1, member, threads)),
          panels(share(panel_count<Real>(s.hidden), 1, by_columns ? member : 0, by_columns ? threads : 1)) {
        cols = std::min(s.hidden, panels.end * kLanes<Real>) - std::min(s.hidden, panels.begin * kLanes<Real>);
    }
    Part(const RnnSizes& s, const Division& division, int member) : Part(s, division.threads, division.by_columns, member) {}
    Matrix<Real> of(Matrix<Real> m, std::size_t first_row) const {
        return m.rows_from(first_row + rows.begin).panels_from(panels.begin);
    }
};

}  // namespace pybptt
