// Truncated backpropagation through time at fixed parameters, TBPTT(k1, k2), where windows overlap: several derivatives go back
// through the same step, each with an end of its own.
//
// Window w of a sequence of T_b steps ends at the boundary e_w = min(w k1, T_b). The derivatives by the outputs of the steps
// (e_{w-1}, e_w] enter it, and it goes back through the uses e_w, e_w - 1, .., e_w - k2 + 1 of the parameters:
//
//     dh_t^w = upstream_t [e_{w-1} < t <= e_w] + dz_{t+1}^w W_hh,      dz_t^w from dh_t^w,       e_w - k2 < t <= e_w
//     dz_t   = sum_w dz_t^w:   every weight gradient is linear in it (weight_gradients.hpp), so that is all they need
//
// All windows over a step go back as one batch: window w has COPY w mod m of the samples' rows, where m is the number of windows
// that may overlap. The tape is read once for all of them, and a step's product has m times the rows. Copies are taken some at
// a time, a chunk of steps after the other, so that their rows stay in the cache.
//
// A layer's dz_t^w goes down as dz_t^w W_ih to the same copies of the layer below, so all layers of a stack go back together.
#pragma once

#include <optional>

#include "engine/stack.hpp"

namespace pybptt {

/// Which window has a copy at a step. Steps are counted from 1.
struct Windows {
    std::size_t k1 = 0, k2 = 0, copies = 0;

    Windows(const Cut& cut, std::size_t batch, std::size_t k1, std::size_t k2);

    /// The window that the derivative by the output of step t enters.
    std::size_t window_of(std::size_t t) const { return (t + k1 - 1) / k1; }
    /// The only window that may have a copy at step t.
    std::size_t window_of(std::size_t copy, std::size_t t) const {
        const std::size_t first = window_of(t);
        return first + (copy + copies - first % copies) % copies;
    }

    enum class At { outside, boundary, inside };
    /// Where step t of a sequence of `length` steps is in window w, which is not over by then.
    At at(std::size_t w, std::size_t t, std::size_t length) const {
        if ((w - 1) * k1 >= length) return At::outside;
        const std::size_t end = std::min(w * k1, length);
        return t == end ? At::boundary : t + k2 > end ? At::inside : At::outside;
    }
};

/// In place of a SweepStack, for layers of one direction.
template <class Real>
class WindowStack {
public:
    WindowStack(const typename Tape<Real>::Contents& tape, int team, const RnnUpstream<Real>& upstream, const Real* mask,
                const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits, const Real* d_last = nullptr);

    /// As a SweepStack's.
    void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member);

private:
    /// One layer.
    struct Layer {
        const RecurrenceTape<Real>& tape;
        RecurrenceGradients<Real> g;
        WeightGradients<Real> weights;
        PanelBuffer<Real> dz_sum;  // of a chunk: sum_w dz_t^w
        PanelBuffer<Real> dz[2];   // (rows of some copies, dz_cols): dz_t^w and dz_{t+1}^w
        Carries<Real> carries;     // of all copies, at the end of a chunk
        Clipping<Real> clipping;

        Layer(const RecurrenceTape<Real>& tape, int team, const RecurrenceGradients<Real>& g, const SweepSpace<Real>& space,
              const SweepLimits<Real>& limits, std::size_t copies, std::size_t some);
    };
    /// Copies [first, end) of a piece's samples: row j of copy c is row first_row + (c - first) size + j of a buffer for some
    /// copies.
    struct Copies {
        std::size_t first, end, first_row;
        std::size_t size;  // of the piece

        std::size_t rows() const { return (end - first) * size; }
        std::size_t row(std::size_t copy) const { return (copy - first) * size; }
        /// Some of them.
        Copies of(const Range& some) const { return {some.begin, some.end, first_row + row(some.begin), size}; }
    };

    Part<Real> part(const Member& member) const {
        const RnnSizes& s = tape_.recurrences.front()->sizes;
        return {s, Division(s, member.team, windows_.copies), member};
    }
    void start(Layer& layer, const Part<Real>& part);
    void sweep(std::size_t layer, const Piece<Real>& piece, const Upstream<Real>& upstream, const Copies& copies);
    /// A range of the copies that has all whose windows are over step t.
    Range alive(const Piece<Real>& piece, const Copies& copies, std::size_t t, std::size_t n) const;
    void add_upstream(Layer& layer, bool is_top, const Piece<Real>& piece, std::size_t s, std::size_t n,
                      Matrix<const Real> upstream_t, const Copies& copies, Matrix<Real> dh);
    /// Where a chunk's upstream may lie: if all copies go at once, a step's sum takes its place when it has been used.
    Matrix<Real> upstream_space() const {
        return some_ < windows_.copies ? space_.dz.matrix()
                                       : layers_.back()->dz_sum.matrix().panels_from(layers_.back()->tape.dh_panel());
    }
    std::size_t between_row(std::size_t s, const Copies& copies) const {
        return s * (some_ * tape_.sizes.batch + cut_.slices() * Cut::kApart) + copies.first_row;
    }

    const Kernels<Real>& k_;
    const typename Tape<Real>::Contents& tape_;
    const Cut& cut_;  // the same for all layers
    const Windows windows_;
    const std::size_t some_;           // copies taken at a time
    const UserRows<const Real> mask_;  // (L - 1, T, B, P); may be null
    SweepSpace<Real> space_;           // its dz may hold the upstream of a chunk
    PanelBuffer<Real> between_;        // (steps of a chunk, rows of some copies, P): dz_t^w W_ih of the layer above
    std::vector<std::unique_ptr<Layer>> layers_;
    std::unique_ptr<GivenUpstream<Real>> given_;
};

/// The sweep of all layers, with or without windows.
template <class Real>
class BackwardPass {
public:
    BackwardPass(const typename Tape<Real>::Contents& tape, int team, const RnnUpstream<Real>& upstream, const Real* mask,
                 const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits, const Real* d_last = nullptr) {
        if (limits.k2 != 0)
            windows_.emplace(tape, team, upstream, mask, gradients, limits, d_last);
        else
            sweeps_.emplace(tape, team, upstream, mask, gradients, limits, d_last);
    }
    void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member) {
        windows_ ? windows_->run(top, again, steps, member) : sweeps_->run(top, again, steps, member);
    }

private:
    std::optional<WindowStack<Real>> windows_;
    std::optional<SweepStack<Real>> sweeps_;
};

/// Sizes of as much work as the sweep of these with windows.
template <class Real>
RnnSizes with_windows(RnnSizes s, const SweepLimits<Real>& limits) {
    if (limits.k2 != 0) s.batch = checked_product(s.batch, std::min(limits.k2, s.steps) / limits.k1 + 1);
    return s;
}

}  // namespace pybptt
