// The forward pass of one recurrence over time.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

/// A recurrence's part of the user's arrays; all but x may be null.
template <class Real>
struct RecurrenceArrays {
    UserRows<const Real> x;     // (T, B, D), if dense
    UserRows<const Real> mask;  // of x
    RnnState<const Real> state;
    UserRows<Real> output;  // (T, B, P)
    RnnState<Real> final_state;
    UserRows<Real> cells;  // (T, B, H)
};

/// One call's forward pass. What follows the constructor is called by every member of the team, and neither throws nor allocates.
template <class Real>
class ForwardPass {
public:
    ForwardPass(const RecurrenceTape<Real>& tape, const RecurrenceArrays<Real>& arrays)
        : k_(kernels<Real>()), tape_(tape), s_(tape.sizes), cell_(tape.cell), w_(*tape.weights), a_(arrays) {}

    /// Outputs past a sequence's end, and final states of sequences without steps.
    void write_paddings(const Member& member);
    /// Runs one chunk from the state in the place `from`, and keeps the one after it in `to`. A member's own part of h is complete
    /// when it returns, other members' parts after a barrier. If chunks move, a chunk run before was the one before it in time, or
    /// there was a sweep in between.
    void run(const Chunk& chunk, std::size_t from, std::size_t to, const Member& member);

private:
    void run_piece(const Piece<Real>& piece);
    void bring_state(const Piece<Real>& piece, std::size_t from);
    void keep_state(const Piece<Real>& piece, std::size_t to);
    void bring_input(const Piece<Real>& piece);
    void project(const Piece<Real>& piece);
    void make_z(const Piece<Real>& piece, std::size_t s, std::size_t n, int phase);
    void write_final_state(const Piece<Real>& piece);
    /// z of step s of a piece, all its blocks.
    Matrix<Real> z_at(const Piece<Real>& piece, std::size_t s) const {
        return cell_.keeps_z ? tape_.saved(piece.chunk).rows_from(piece.row(s))
                             : tape_.h(piece.chunk).rows_from(piece.state_row(s + 1));
    }

    const Kernels<Real>& k_;
    const RecurrenceTape<Real>& tape_;
    const RnnSizes& s_;
    const Cell<Real>& cell_;
    const PackedWeights<Real>& w_;
    const RecurrenceArrays<Real> a_;
};

}  // namespace pybptt
