// How the work of one call is divided among threads.
//
// A recurrence has two ways: each member of the team owns samples of the batch for the whole sequence (no waiting), or, when there
// are few, units of h_t (a barrier a step). The bits of the result do not depend on it: every element is computed by the
// same operations in the same order (kernels/gemm.hpp), so the choice below is one of speed alone.
#pragma once

#include "engine/tape.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// Whether a step is so much work that a barrier after it is worth while.
inline bool columns_pay(const RnnSizes& s) {
    return double(s.cell.gates()) * double(s.batch) * double(s.hidden) * double(s.hidden) >= 65536;
}

/// Threads worth waking for one call; `flops_beside` is work that has no order in time.
///   multiplied_inputs  what the first layer's input adds to the depth: D, or 0 for tokens, which select
inline int threads_wanted(const RnnSizes& s, std::size_t multiplied_inputs, double flops_beside = 0) {
    const int most = num_threads();         // asked first: a bad environment variable is an error whatever the size
    constexpr double kFlopsEach = 4e6;      // some 30 microseconds; waking a thread costs a few
    constexpr std::size_t kFewSamples = 8;  // too few to be divided
    const double rows = double(s.steps) * double(s.batch), H = double(s.hidden), K = double(s.directions);
    if (s.batch < kFewSamples && !columns_pay(s) && flops_beside == 0) return 1;
    const double depth = H + double(multiplied_inputs) + (double(s.layers) - 1) * (H + K * H);
    const double flops = 6 * rows * double(s.cell.gates()) * H * K * depth;
    return int(std::clamp((flops + flops_beside) / kFlopsEach, 1.0, double(most)));
}

struct Division {
    /// A step of so few rows waits for its weights, if they are too large for the cache.
    static constexpr std::size_t kFewRows = 16;

    int threads;
    bool few_samples;    // for the threads
    bool by_columns;     // or by samples
    bool project_ahead;  // W_ih x_t for a whole chunk at once, or with each step

    /// Of one unit.
    Division(const RnnSizes& s, int team_size) : threads(team_size) {
        constexpr std::size_t kSamplesEach = 4;
        few_samples = s.batch < kSamplesEach * std::size_t(threads);
        by_columns = threads > 1 && few_samples && columns_pay(s);
        // A step reads all its weights: with few rows, or many weights for the cache, it is better off without W_ih.
        constexpr std::size_t kManyWeights = 1 << 18;
        project_ahead = by_columns || s.batch <= 4 || std::size_t(s.cell.gates()) * (s.inputs + s.hidden) * s.hidden > kManyWeights;
    }
};

/// Samples of one slice that a member works on, all of them or some, and their rows in one chunk.
struct Piece {
    Slice slice;
    Range positions;   // of the samples, whether they have begun to be padding or not
    std::size_t size;  // those active at the chunk's first step

    /// Of x and dz in a chunk of `steps` steps; with `steps` + 1, of h before step s.
    std::size_t row(std::size_t steps, std::size_t s) const {
        return steps * slice.begin + s * slice.size + (positions.begin - slice.first);
    }
    /// Its samples that have step `step`.
    std::size_t active(const Cut& cut, std::size_t step) const {
        const std::size_t before = positions.begin - slice.first, alive = cut.active(slice.index, step);
        return alive <= before ? 0 : std::min(alive - before, positions.size());
    }
};

/// Rows of a (T, B, ..) array with `leading` values from one row to the next. Null data: there is none.
template <class Real>
struct UserRows {
    Real* data = nullptr;
    std::size_t leading = 0;
    bool of_chunk = false;  ///< it has the steps of the chunk at work alone, from row 0 on

    explicit operator bool() const { return data != nullptr; }
    /// The step that a chunk's first step is in this array.
    std::size_t first_step(const Chunk& chunk) const { return of_chunk ? 0 : chunk.first_step; }
    Matrix<Real> at(const Rows& rows) const {
        Matrix<Real> m = row_major(data + rows.first * leading, leading);
        m.index = rows.index;
        return m;
    }
};

/// A member's part of (samples of the batch) x (units of h_t).
template <class Real>
struct Part {
    Range samples, panels;  // positions; panels of H
    std::size_t first_col, cols;
    bool all_columns;

    Part(const RnnSizes& s, const Division& division, int member) {
        const Range everything{0, s.batch};
        panels = {0, panel_count<Real>(s.hidden)};
        samples = division.by_columns ? everything : share(s.batch, 1, member, division.threads);
        all_columns = !division.by_columns;
        if (division.by_columns) panels = share(panels.end, 1, member, division.threads);
        first_col = panels.begin * kLanes<Real>;
        cols = std::min(s.hidden, panels.end * kLanes<Real>) - std::min(s.hidden, first_col);
    }

    template <class Visit>
    void for_each_piece(const Cut& cut, const Chunk& chunk, Visit visit) const {
        for (std::size_t i = 0; i < cut.slices(); ++i) {
            const Slice slice = cut.slice(chunk, i);
            const Range both{std::max(samples.begin, slice.first), std::min(samples.end, cut.first_position(i + 1))};
            if (both.begin >= both.end) continue;
            Piece piece{slice, both, 0};
            piece.size = piece.active(cut, chunk.first_step);
            if (piece.size != 0) visit(piece);
        }
    }
    /// Its columns of a matrix, from a row on.
    Matrix<Real> of(Matrix<Real> m, std::size_t row) const { return m.rows_from(row).panels_from(panels.begin); }
    /// Its columns of rows of a user's (.., H) array.
    template <class Value>
    Matrix<Value> of(const UserRows<Value>& array, const Rows& rows) const {
        return array.at(rows).panels_from(panels.begin);
    }
    /// Columns, in whole panels, that products of a run of gates or blocks write, one call for all of them where they lie together:
    /// visit(block or gate after the first, panel after the first, cols).
    template <class Visit>
    void for_each_gate_run(int count, std::size_t hidden_panels, Visit visit) const {
        if (cols == 0) return;
        if (all_columns) return visit(0, std::size_t(count - 1) * hidden_panels * kLanes<Real> + cols);
        for (int i = 0; i < count; ++i) visit(i, cols);
    }
};

}  // namespace pybptt
