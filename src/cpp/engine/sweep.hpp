// The backward pass over time: one product a step carries dh_t from T to 1.
//
//     dh_t = upstream_t + dz_{t+1} W_hh
//     dz_t = phi'(z_t) * dh_t
#pragma once

#include "engine/upstream.hpp"
#include "engine/weight_gradients.hpp"

namespace pybptt {

/// Runs the whole sweep on a team: chunk after chunk from the last to the first, weight gradients while dz is in the cache.
///   d_state  (B, H), derivative of the loss by h_T alone; null for zero
template <class Real>
class Sweep {
public:
    Sweep(const typename Tape<Real>::Contents& tape, const Division& division, const Real* d_state,
          const RnnGradients<Real>& gradients);

    void run(Upstream<Real>& upstream, int member, Barrier& barrier);

private:
    void sweep_piece(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, const Piece& piece,
                     Barrier& barrier);

    const Kernels<Real>& k_;
    const typename Tape<Real>::Contents& tape_;
    const RnnSizes& s_;
    const Division division_;
    const Real* d_state_;
    const RnnGradients<Real> g_;
    WeightGradients<Real> weights_;
    PanelBuffer<Real> dz_;     // (chunk rows, H): dh_t, then dz_t
    PanelBuffer<Real> carry_;  // (B, H): dL/dh through the later chunks
};

}  // namespace pybptt
