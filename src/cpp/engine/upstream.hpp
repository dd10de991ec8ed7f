// Where the sweep's upstream gradients come from: a caller's array, or an output layer whose loss is computed beside
// the recurrence.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

template <class Real>
class Upstream {
public:
    virtual ~Upstream() = default;
    /// Makes ready what `at` gives for the steps of a chunk; `space` (chunk rows, H) may hold it. Called by every member, before
    /// the chunk's first `at`; what its own part needs is complete when it returns.
    virtual void prepare_chunk(const Chunk&, int, Barrier&, Matrix<Real>) {}
    /// The derivative of the loss by h_t along every path but the one through h_{t+1}: the active samples of a piece, for step s of
    /// the chunk; none for zero. In panels only if it lies in `space`.
    virtual Matrix<const Real> at(const Chunk& chunk, std::size_t s, const Part<Real>& part, const Piece& piece,
                                  Matrix<Real> space) const = 0;
};

/// A user's array (T, B, H), or null for zero.
template <class Real>
class GivenUpstream final : public Upstream<Real> {
public:
    GivenUpstream(const UnitTape<Real>& tape, const Division& division, UserRows<const Real> d_output)
        : k_(kernels<Real>()), tape_(tape), division_(division), d_output_(d_output) {}

    /// A ragged batch's rows are gathered; otherwise a step's rows lie together where they are.
    void prepare_chunk(const Chunk& chunk, int member, Barrier&, Matrix<Real> space) override {
        if (!d_output_ || !tape_.cut.ragged()) return;
        const Part<Real> part(tape_.sizes, division_, member);
        part.for_each_piece(tape_.cut, chunk, [&](const Piece& piece) {
            for (std::size_t s = 0; s < chunk.steps; ++s)
                tape_.cut.for_each_user_run(
                    d_output_.first_step(chunk) + s, piece.positions.begin, piece.active(tape_.cut, chunk.first_step + s),
                    [&](std::size_t i, std::size_t count, const Rows& rows) {
                        k_.copy(count, part.cols, part.of(d_output_, rows), part.of(space, piece.row(chunk.steps, s) + i));
                    });
        });
    }
    Matrix<const Real> at(const Chunk& chunk, std::size_t s, const Part<Real>& part, const Piece& piece,
                          Matrix<Real> space) const override {
        if (!d_output_) return none<Real>();
        if (tape_.cut.ragged()) return part.of(space, piece.row(chunk.steps, s));
        return part.of(d_output_, Rows{tape_.cut.user_row(d_output_.first_step(chunk) + s, piece.positions.begin)});
    }

private:
    const Kernels<Real>& k_;
    const UnitTape<Real>& tape_;
    const Division division_;
    const UserRows<const Real> d_output_;
};

}  // namespace pybptt
