// The forward pass of one unit (a direction of a layer) over time.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

/// A unit's part of the user's arrays; all but x may be null.
template <class Real>
struct UnitArrays {
    UserRows<const Real> x;     // (T, B, D), if dense
    UserRows<const Real> mask;  // of x
    RnnState<const Real> state;
    UserRows<Real> output;  // (T, B, H)
    RnnState<Real> final_state;
    UserRows<Real> cells;  // (T, B, H)
};

/// One call's forward pass. Everything it needs is allocated by the constructor; what follows is called by every member
/// of the team, and neither throws nor allocates.
template <class Real>
class ForwardPass {
public:
    ForwardPass(UnitTape<Real>& tape, const Division& division, const RnnParameters<Real>& parameters,
                const UnitArrays<Real>& arrays);

    /// Packs the weights; writes what does not depend on them. Ends with a barrier.
    void prepare(int member, Barrier& barrier);
    /// Runs one chunk from the state in the place `from`, and keeps the one after it in `to`. A member's own part of h is complete
    /// when it returns, other members' parts after a barrier. If chunks move, a chunk run before was the one before it in time, or
    /// there was a sweep in between.
    void run(const Chunk& chunk, std::size_t from, std::size_t to, int member, Barrier& barrier);

private:
    void pack(int member);
    void write_paddings(int member);
    void run_piece(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier);
    void bring_state(const Chunk& chunk, std::size_t from, const Part<Real>& part, const Piece& piece);
    void keep_state(const Chunk& chunk, std::size_t to, const Part<Real>& part, const Piece& piece);
    void bring_input(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier);
    void project(const Chunk& chunk, const Part<Real>& part, const Piece& piece);
    void make_z(const Chunk& chunk, const Part<Real>& part, const Piece& piece, std::size_t s, std::size_t n, int phase);
    void write_final_state(const Chunk& chunk, const Part<Real>& part, const Piece& piece);
    /// z of step s of a piece, all its blocks.
    Matrix<Real> z_at(const Chunk& chunk, const Piece& piece, std::size_t s) const {
        return tape_.has_blocks() ? tape_.saved(chunk).rows_from(piece.row(chunk.steps, s))
                                  : tape_.h(chunk).rows_from(piece.row(chunk.steps + 1, s + 1));
    }

    const Kernels<Real>& k_;
    UnitTape<Real>& tape_;
    const RnnSizes& s_;
    const Cell<Real>& cell_;
    const Division division_;
    const RnnParameters<Real> p_;
    const UnitArrays<Real> a_;
    PanelBuffer<Real> w_hh_t_;     // W_hh^T (H, blocks of G)
    PanelBuffer<Real> w_ih_t_;     // W_ih^T (D, blocks of G)
    PanelBuffer<Real> token_row_;  // b + W_ih's column, one row a distinct token (count, blocks)
    Buffer<Real> bias_;            // b of each block, in whole panels
};

}  // namespace pybptt
