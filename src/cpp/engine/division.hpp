// How the work of one call is divided among threads.
//
// A recurrence has two ways: each member of the team owns samples of the batch for the whole sequence (no waiting), or, when there
// are few, columns of h_t (a barrier a step). The bits of the result do not depend on it: every element is computed by the
// same operations in the same order (kernels/gemm.hpp), so the choice below is one of speed alone.
#pragma once

#include "engine/tape.hpp"
#include "kernels/table.hpp"
#include "pybptt/rnn.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// Whether a step is so much work that a barrier after it is worth while.
inline bool columns_pay(const RnnSizes& s) { return double(s.batch) * double(s.hidden) * double(s.hidden) >= 65536; }

/// Threads worth waking for one call; `flops_beside` is work that has no order in time.
inline int threads_wanted(const RnnSizes& s, double flops_beside = 0) {
    const int most = num_threads();         // asked first: a bad environment variable is an error whatever the size
    constexpr double kFlopsEach = 4e6;      // some 30 microseconds; waking a thread costs a few
    constexpr std::size_t kFewSamples = 8;  // too few to be divided
    const double rows = double(s.steps) * double(s.batch), H = double(s.hidden), D = double(s.inputs);
    if (s.batch < kFewSamples && !columns_pay(s) && flops_beside == 0) return 1;
    return int(std::clamp((6 * rows * H * (H + D) + flops_beside) / kFlopsEach, 1.0, double(most)));
}

struct Division {
    int threads;
    bool by_columns;     // or by samples
    bool project_ahead;  // W_ih x_t for a whole chunk at once, or with each step

    Division(const RnnSizes& s, int team_size) : threads(team_size) {
        constexpr std::size_t kSamplesEach = 4;
        by_columns = threads > 1 && s.batch < kSamplesEach * std::size_t(threads) && columns_pay(s);
        // A step reads all its weights: with few rows, or many weights for the cache, it is better off without W_ih.
        constexpr std::size_t kManyWeights = 1 << 18;
        project_ahead = by_columns || s.batch <= 4 || (s.inputs + s.hidden) * s.hidden > kManyWeights;
    }
};

/// Samples of one slice that a member works on, all of them or some.
struct Piece {
    Slice slice;
    Range samples;

    std::size_t size() const { return samples.size(); }
    /// Of x and dz in a chunk of `steps` steps; with `steps` + 1, of h before step s.
    std::size_t row(std::size_t steps, std::size_t s) const {
        return steps * slice.begin + s * slice.size + (samples.begin - slice.begin);
    }
};

/// A member's part of (samples of the batch) x (columns of h_t).
template <class Real>
struct Part {
    Range samples, panels;
    std::size_t first_col, cols;

    Part(const RnnSizes& s, const Division& division, int member) {
        const Range everything{0, s.batch};
        panels = {0, panel_count<Real>(s.hidden)};
        samples = division.by_columns ? everything : share(s.batch, 1, member, division.threads);
        if (division.by_columns) panels = share(panels.end, 1, member, division.threads);
        first_col = panels.begin * kLanes<Real>;
        cols = std::min(s.hidden, panels.end * kLanes<Real>) - std::min(s.hidden, first_col);
    }

    template <class Visit>
    void for_each_piece(const Cut& cut, Visit visit) const {
        for (std::size_t i = 0; i < cut.slices(); ++i) {
            const Slice slice = cut.slice(i);
            const Range both{std::max(samples.begin, slice.begin), std::min(samples.end, slice.begin + slice.size)};
            if (both.begin < both.end) visit(Piece{slice, both});
        }
    }
    /// A member's columns of a matrix, from a row on.
    Matrix<Real> of(Matrix<Real> m, std::size_t row) const { return m.rows_from(row).panels_from(panels.begin); }
    /// Its columns of a user's (..., H) array, from a row on.
    template <class Value>
    Matrix<Value> of(Value* array, std::size_t hidden, std::size_t row) const {
        return row_major(array + row * hidden + first_col, hidden);
    }
};

}  // namespace pybptt
