// Where the sweep's upstream gradients come from: a caller's array, or an output layer whose loss is computed beside
// the recurrence.
#pragma once

#include "engine/division.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

template <class Real>
class Upstream {
public:
    virtual ~Upstream() = default;
    /// Makes ready what `at` gives for the steps of a chunk; `space` (chunk rows, H) may hold it. Called by every member, before
    /// the chunk's first `at`; what its own part needs is complete when it returns.
    virtual void prepare_chunk(const Chunk&, const Part<Real>&, Matrix<Real>) {}
    /// The derivative of the loss by h_t along every path but the one through h_{t+1}: the active samples of a piece at step s, a
    /// member's columns; none for zero. In panels only if it lies in `space`.
    virtual Matrix<const Real> at(const Piece<Real>& piece, std::size_t s, const Matrix<Real>& space) const {
        return piece.h.of(space.rows_from(piece.row(s)));
    }
};

/// A user's array (T, B, H), or null for zero.
template <class Real>
class GivenUpstream final : public Upstream<Real> {
public:
    GivenUpstream(const Cut& cut, UserRows<const Real> d_output) : k_(kernels<Real>()), cut_(cut), d_output_(d_output) {}

    /// A ragged batch's rows are gathered; otherwise a step's rows lie together where they are.
    void prepare_chunk(const Chunk& chunk, const Part<Real>& part, Matrix<Real> space) override {
        if (!d_output_ || !cut_.ragged()) return;
        part.for_each_piece(cut_, chunk, [&](const Piece<Real>& piece) {
            for (std::size_t s = 0; s < chunk.steps; ++s)
                piece.for_each_row(d_output_, s, piece.active(s), [&](std::size_t i, std::size_t count, Matrix<const Real> from) {
                    k_.copy(count, piece.h.count, piece.h.of(from), piece.h.of(space.rows_from(piece.row(s) + i)));
                });
        });
    }
    Matrix<const Real> at(const Piece<Real>& piece, std::size_t s, const Matrix<Real>& space) const override {
        if (!d_output_) return none<Real>();
        if (cut_.ragged()) return Upstream<Real>::at(piece, s, space);
        return piece.h.of(d_output_.at(cut_.user_rows(d_output_.first_step(piece.chunk) + s, piece.positions.begin)));
    }

private:
    const Kernels<Real>& k_;
    const Cut& cut_;
    const UserRows<const Real> d_output_;
};

}  // namespace pybptt
