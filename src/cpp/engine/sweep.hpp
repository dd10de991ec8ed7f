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

/// What the sweep of one unit reads beside the upstream, and where its results go. All but the parameters may be null.
template <class Real>
struct UnitGradients {
    UserRows<const Real> d_h, d_c;  // (B, H): derivatives by the final state alone
    UserRows<const Real> d_cells;   // (T, B, H): by c_t alone
    RnnParameterGradients<Real> parameters;
    InputGradient<Real> input;
    RnnState<Real> state;   // (B, H)
    UserRows<Real> hidden;  // (T, B, H): dh_t
};

/// What sweeps work in, one after the other; of a chunk.
template <class Real>
struct SweepSpace {
    PanelBuffer<Real> dz;  // (chunk rows, blocks): dh_t in block 0, then dz_t
    PanelBuffer<Real> dx;  // (chunk rows, D of the widest layer), if it is wanted
};

/// Called by every member of a team: chunk after chunk from the last to the first, weight gradients while dz is in the cache.
template <class Real>
class Sweep {
public:
    Sweep(const UnitTape<Real>& tape, const Division& division, const UnitGradients<Real>& gradients, const SweepSpace<Real>& space,
          const SweepLimits<Real>& limits);

    void start(int member);
    /// Begins where all members' part of the chunk after is complete; ends with a barrier.
    void run(const Chunk& chunk, Upstream<Real>& upstream, int member, Barrier& barrier);
    void finish(int member);

private:
    void sweep_piece(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, const Piece& piece, int member,
                     Barrier& barrier);
    /// Rows of a (B, H) buffer with the slices apart.
    Matrix<Real> apart(const PanelBuffer<Real>& buffer, const Part<Real>& part, std::size_t slice, std::size_t position) const {
        return part.of(buffer.matrix(), tape_.cut.apart_row(slice, position));
    }
    /// visit(first position, count, slice): a member's samples, whether active or not.
    template <class Visit>
    void for_each_range(const Part<Real>& part, Visit visit) const;

    const Kernels<Real>& k_;
    const UnitTape<Real>& tape_;
    const RnnSizes& s_;
    const Cell<Real>& cell_;
    const Division division_;
    const UnitGradients<Real> g_;
    WeightGradients<Real> weights_;
    const Factors<Real> factors_;
    Clipping<Real> clipping_;
    const PanelBuffer<Real>& dz_;
    PanelBuffer<Real> carry_h_;  // (B, H): dL/dh through the later chunks
    PanelBuffer<Real> carry_;    // (B, H): the cell's carry; see Cell
};

}  // namespace pybptt
