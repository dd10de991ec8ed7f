// How the work of one call is divided among threads.
//
// A recurrence has two ways: each member of the team owns samples of the batch for the whole sequence (no waiting), or, when there
// are few, columns of h_t (a barrier a step). Larger teams may go both: a GROUP of members owns samples, each of its members
// columns of these. The bits of the result do not depend on it: every element is computed by the same operations in the same order
// (kernels/gemm.hpp), so the choice below is one of speed alone.
#pragma once

#include <cmath>

#include "engine/cut.hpp"
#include "runtime/memory.hpp"
#include "runtime/processors.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// Multiply-adds of the recurrence's product.
inline double step_of(const RnnSizes& s) {
    return double(s.cell.gates()) * double(s.batch) * double(s.hidden) * double(s.h_width());
}
/// Whether a step is so much work that a barrier after it is worth while.
inline bool columns_pay(const RnnSizes& s) { return step_of(s) >= 65536; }

/// Among the members of a team, for one recurrence: chosen anew for every chunk.
struct Division {
    /// A step of so few rows waits for its weights, if they are too large for the cache.
    static constexpr std::size_t kFewRows = 16;

    bool by_columns;     // or by samples alone
    int group;           // members that share samples
    bool project_ahead;  // W_ih x_t for a whole chunk at once, or with each step

    ///   copies  of the samples' rows that go through a step together
    Division(const RnnSizes& s, int team, std::size_t copies = 1) {
        constexpr double kWorth = 1 << 22;  // a step's dz passes from one core's cache to the other's
        constexpr std::size_t kSamplesEach = 4;
        const bool few_samples = s.batch < kSamplesEach * std::size_t(team);
        const std::size_t l2 = caches().l2 / sizeof(float), gates = std::size_t(s.cell.gates());
        group = team > 1 && few_samples && (columns_pay(s) || step_of(s) * double(copies) >= kWorth) ? team : 1;
        if (team >= 4 && gates * s.hidden * s.h_width() > l2) group = cheapest_group(s, team, copies);
        by_columns = group > 1;
        // A step reads all its weights: with few rows, or more weights than the L2 cache has room for, it is better off without
        // W_ih. A single step reads all of them once in any case.
        const bool better_ahead = by_columns || s.batch <= 4 || gates * (s.inputs + s.h_width()) * s.hidden > l2;
        project_ahead = s.steps > 1 && better_ahead;
    }

private:
    /// Nanoseconds that a step costs a member, about: it multiplies its rows by its columns of the weights, while those that its L2
    /// cache has no room for come from beyond; then it waits for its group, and reads what they have made.
    static double cost(const RnnSizes& s, int team, int group, std::size_t copies) {
        constexpr double kMultiplyAdds = 40, kBytes = 16, kBytesOfOthers = 8;  // a nanosecond
        constexpr double kBarrier = 200;
        const double rows = std::ceil(double(s.batch) * group / team) * double(copies), row = s.cell.gates() * double(s.hidden);
        const double weights = row * double(s.h_width()) / group, bytes = weights * sizeof(float);
        const double own = std::max(rows * weights / kMultiplyAdds, bytes > double(caches().l2) ? bytes / kBytes : 0);
        return group == 1 ? own : own + kBarrier + rows * row * sizeof(float) / kBytesOfOthers;
    }
    static int cheapest_group(const RnnSizes& s, int team, std::size_t copies) {
        int best = team;
        for (int group = 1; group < team; ++group)
            if (team % group == 0 && cost(s, team, group, copies) < cost(s, team, best, copies)) best = group;
        return best;
    }
};

/// Threads worth waking for one call; `flops_beside` is work that has no order in time.
///   dense  whether the first layer's input is multiplied; tokens select. That its rows may repeat does not count
inline int threads_wanted(const RnnSizes& s, bool dense, double flops_beside = 0) {
    const int most = num_threads();         // asked first: a bad environment variable is an error whatever the size
    constexpr double kFlopsEach = 4e6;      // some 30 microseconds; waking a thread costs a few
    constexpr double kStepEach = 1 << 14;   // multiply-adds: less than a microsecond; a barrier costs a tenth or two
    constexpr std::size_t kFewSamples = 8;  // too few to be divided
    const double rows = double(s.steps) * double(s.batch), H = double(s.hidden), P = double(s.h_width()), K = double(s.directions);
    if (s.batch < kFewSamples && !columns_pay(s) && flops_beside == 0) return 1;
    const double depth = P + double(dense ? s.inputs : 0) + (double(s.layers) - 1) * (P + K * P);
    const double flops = 6 * rows * H * K * (double(s.cell.gates()) * depth + double(s.layers) * double(s.projection));
    const double paying = std::clamp((flops + flops_beside) / kFlopsEach, 1.0, double(most));
    if (flops_beside > flops || !Division(s, int(paying)).by_columns) return int(paying);
    return int(std::min(paying, std::max(1.0, step_of(s) / kStepEach)));
}

/// Sizes of as much work as the sweep of these with windows.
template <class Real>
RnnSizes with_windows(RnnSizes s, const SweepLimits<Real>& limits) {
    if (limits.k2 != 0) s.batch = checked_product(s.batch, std::min(limits.k2, s.steps) / limits.k1 + 1);
    return s;
}

/// Of these, those that a call may have that begins now: in a crowd, members should not meet at every step, and a core on which a
/// library spins is none of ours. A long call finds out for itself (progress.hpp), and outlasts the library.
inline int threads_now(const RnnSizes& s, int wanted) {
    constexpr double kLong = 1e9, kWorthLooking = 2e7;  // multiply-adds: some 100 ms and 2 ms
    const double work = step_of(s) * double(s.steps) * double(s.layers * s.directions);
    if (wanted == 1 || work > kLong) return wanted;
    if (Division(s, wanted).by_columns && Crowd::here()) return 1;
    return work < kWorthLooking ? wanted : Neighbours::team_beside(Neighbours::running(), wanted, processors().usable());
}

/// Some columns, whole panels, of a matrix or of each of its blocks.
template <class Real>
struct Columns {
    Range panels;
    std::size_t first, count;

    Columns(std::size_t width, const Range& panels)
        : panels(panels),
          first(std::min(width, panels.begin * kLanes<Real>)),
          count(std::min(width, panels.end * kLanes<Real>) - first) {}
    template <class Value>
    Matrix<Value> of(const Matrix<Value>& m) const {
        return m.panels_from(panels.begin);
    }
};

/// Some columns of rows of a (B, ..) array from a sample on, and 0 where there is no array.
template <class Real>
void read_samples(const Kernels<Real>& k, const Cut& cut, const UserRows<const Real>& array, std::size_t position,
                  std::size_t count, const Columns<Real>& own, Matrix<Real> to) {
    if (!array) return k.zero(count, own.count, to);
    k.copy(count, own.count, own.of(array.at(cut.samples(position))), to);
}
template <class Real>
void write_samples(const Kernels<Real>& k, const Cut& cut, const UserRows<Real>& array, std::size_t position, std::size_t count,
                   const Columns<Real>& own, Matrix<const Real> from) {
    if (array) k.copy(count, own.count, from, own.of(array.at(cut.samples(position))));
}

template <class Real>
struct Piece;

/// A member's part of (samples of the batch) x (columns of h_t and of the cell's blocks).
template <class Real>
struct Part {
    const Member& member;
    const Division division;
    const Range samples;  // positions
    const Columns<Real> h, z;

    Part(const RnnSizes& s, const Division& division, const Member& member)
        : member(member), division(division), samples(share_of_groups(s.batch)), h(columns(s.h_width())), z(columns(s.hidden)) {}

    /// For whoever works on other columns of the same samples.
    void wait() const {
        if (division.by_columns) member.meet(division.group);
    }
    /// Of `count` things, its group's; and of those that its group has, its own.
    Range share_of_groups(std::size_t count) const {
        return share(count, 1, member.index / division.group, member.team / division.group);
    }
    Range share_of_group(std::size_t count) const { return share(count, 1, member.index % division.group, division.group); }
    /// visit(first position, count, slice): its samples of each slice, whether active or not.
    template <class Visit>
    void for_each_range(const Cut& cut, Visit visit) const {
        for (std::size_t i = 0; i < cut.slices(); ++i) {
            const Range both{std::max(samples.begin, cut.first_position(i)), std::min(samples.end, cut.first_position(i + 1))};
            if (both.begin < both.end) visit(both.begin, both.size(), i);
        }
    }
    template <class Visit>
    void for_each_piece(const Cut& cut, const Chunk& chunk, Visit visit) const {
        for_each_range(cut, [&](std::size_t position, std::size_t count, std::size_t slice) {
            const Piece<Real> piece(*this, cut, chunk, slice, {position, position + count});
            if (piece.size != 0) visit(piece);
        });
    }
    /// Columns, in whole panels, that products of a group of blocks write, one call for all of them where they lie together:
    /// visit(block after the first, cols).
    template <class Visit>
    void for_each_block(int count, std::size_t hidden_panels, Visit visit) const {
        if (z.count == 0) return;
        if (!division.by_columns) return visit(0, std::size_t(count - 1) * hidden_panels * kLanes<Real> + z.count);
        for (int i = 0; i < count; ++i) visit(i, z.count);
    }

private:
    Columns<Real> columns(std::size_t width) const { return {width, share_of_group(panel_count<Real>(width))}; }
};

/// What a member does at one stretch: samples of one slice, all of them or some, through the steps of one chunk. Steps are counted
/// from the chunk's first one.
template <class Real>
struct Piece : Part<Real> {
    const Cut& cut;
    const Chunk chunk;
    const Slice slice;
    const Range positions;   // of the samples, whether they have begun to be padding or not
    const std::size_t size;  // those active at the chunk's first step

    Piece(const Part<Real>& part, const Cut& cut, const Chunk& chunk, std::size_t slice, const Range& positions)
        : Part<Real>(part), cut(cut), chunk(chunk), slice(cut.slice(chunk, slice)), positions(positions), size(active(0)) {}

    /// Its first row of x and dz at step s.
    std::size_t row(std::size_t s) const { return row(chunk.steps, s); }
    /// Of h and c before step s.
    std::size_t state_row(std::size_t s) const { return row(chunk.steps + 1, s); }
    /// Its samples that have step s.
    std::size_t active(std::size_t s) const {
        const std::size_t before = positions.begin - slice.first, alive = cut.active(slice.index, chunk.first_step + s);
        return alive <= before ? 0 : std::min(alive - before, positions.size());
    }
    /// visit(i, count, rows): the rows of a (T, B, ..) array, if there is one, for the first n samples at step s, in as few
    /// matrices as can be told; i is the first sample of each.
    template <class Value, class Visit>
    void for_each_row(const UserRows<Value>& array, std::size_t s, std::size_t n, Visit visit) const {
        if (!array) return;
        cut.for_each_user_rows(array.first_step(chunk) + s, positions.begin, n,
                               [&](std::size_t i, std::size_t count, const Rows& rows) { visit(i, count, array.at(rows)); });
    }

    /// Steps from s on, of `end`, whose rows are one run in its chunk and in the user's arrays, so that they count as one step.
    std::size_t together(std::size_t s, std::size_t end) const {
        return cut.in_one() && positions.size() == slice.size ? end - s : 1;
    }

private:
    std::size_t row(std::size_t steps, std::size_t s) const {
        return steps * slice.begin + s * slice.size + (positions.begin - slice.first);
    }
};

}  // namespace pybptt
