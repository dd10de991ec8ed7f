// The backward pass over time: the products of a step carry dh_t from T to 1.
//
//     dh_t = upstream_t + dz_{t+1} W_hh + what the cell carries        dz_t from dh_t: kernels/cells
//
// With factors (limits.hpp), what comes from step t + 1 is multiplied by xi_{t+1}: the product and the carry.
#pragma once

#include "engine/limits.hpp"
#include "engine/sweep_step.hpp"
#include "engine/upstream.hpp"
#include "engine/weight_gradients.hpp"

namespace pybptt {

/// What the sweep of one recurrence reads beside the upstream, and where its results go. All but the parameters may be null.
template <class Real>
struct RecurrenceGradients {
    UserRows<const Real> d_h, d_c;  // (B, P), (B, H): derivatives by the final state alone
    UserRows<const Real> d_cells;   // (T, B, H): by c_t alone
    RnnParameterGradients<Real> parameters;
    InputGradient<Real> input;
    RnnState<Real> state;   // (B, P), (B, H)
    UserRows<Real> hidden;  // (T, B, P): dh_t

    /// Whether anything is asked for.
    bool any() const {
        const RnnParameterGradients<Real>& p = parameters;
        return p.weight_ih || p.weight_hh || p.bias_ih || p.bias_hh || p.vectors || p.weight_hr || input.rows || state.h ||
               state.c || hidden;
    }
};

/// What sweeps work in, one after the other; of a chunk.
template <class Real>
struct SweepSpace {
    PanelBuffer<Real> dz;  // (chunk rows, dz_cols): dh_t in block 0 or behind all, then dz_t
    PanelBuffer<Real> dx;  // (chunk rows, D of the widest layer), if it is wanted
};

/// Called by every member of a team: chunk after chunk from the last to the first, weight gradients while dz is in the cache.
template <class Real>
class Sweep {
public:
    Sweep(const RecurrenceTape<Real>& tape, int team, const RecurrenceGradients<Real>& gradients, const SweepSpace<Real>& space,
          const SweepLimits<Real>& limits);

    void start(const Member& member);
    /// Begins where all members' part of the chunk after is complete; ends with a barrier.
    void run(const Chunk& chunk, Upstream<Real>& upstream, const Member& member);
    void finish(const Member& member);

private:
    Part<Real> part(const Member& member) const { return {s_, Division(s_, member.team), member}; }
    void sweep_piece(const Piece<Real>& piece, const Upstream<Real>& upstream);

    const Kernels<Real>& k_;
    const RecurrenceTape<Real>& tape_;
    const RnnSizes& s_;
    const Cell<Real>& cell_;
    const RecurrenceGradients<Real> g_;
    WeightGradients<Real> weights_;
    const Factors<Real> factors_;
    Clipping<Real> clipping_;
    const PanelBuffer<Real>& dz_;
    Carries<Real> carries_;
};

}  // namespace pybptt
