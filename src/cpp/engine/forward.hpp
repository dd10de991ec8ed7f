// The forward pass over time.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

/// One call's forward pass. Everything it needs is allocated by the constructor; `prepare` and `run` are called by every member
/// of the team, and neither throws nor allocates.
template <class Real>
class ForwardPass {
public:
    ForwardPass(typename Tape<Real>::Contents& tape, const Division& division, const RnnParameters<Real>& parameters,
                const RnnInput<Real>& input, const Real* state, Real* output, Real* final_state);

    /// Packs the weights. Ends with a barrier.
    void prepare(int member, Barrier& barrier);
    /// Runs one chunk, in order. A member's own part of h is complete when it returns, other members' parts after a barrier.
    void run(const Chunk& chunk, int member, Barrier& barrier);
    /// Writes the final state.
    void finish(int member);

private:
    void run_piece(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier);
    void bring_input(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier);

    const Kernels<Real>& k_;
    typename Tape<Real>::Contents& tape_;
    const RnnSizes& s_;
    const Division division_;
    const RnnParameters<Real> p_;
    const RnnInput<Real> input_;
    const Real* state_;
    Real* output_;
    Real* final_state_;
    PanelBuffer<Real> w_hh_t_;     // W_hh^T (H, H)
    PanelBuffer<Real> w_ih_t_;     // W_ih^T (D, H)
    PanelBuffer<Real> token_row_;  // b + W_ih's column, one row a distinct token (count, H)
    Buffer<Real> bias_;            // b_ih + b_hh, in whole panels
    PanelBuffer<Real> carry_;      // (B, H): the state after a chunk, when all chunks take the same place
};

}  // namespace pybptt
