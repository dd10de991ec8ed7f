// Where dL/dh_t comes from, apart from the recurrence.
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
    /// The derivative of the loss by h_t along every path but the one through h_{t+1}: a piece of it, for step s of the chunk;
    /// none for zero. In panels only if it lies in `space`.
    virtual Matrix<const Real> at(const Chunk& chunk, std::size_t s, const Part<Real>& part, const Piece& piece,
                                  Matrix<Real> space) const = 0;
};

/// A user's array (T, B, H), or null for zero.
template <class Real>
class GivenUpstream final : public Upstream<Real> {
public:
    GivenUpstream(const RnnSizes& sizes, const Real* d_output) : s_(sizes), d_output_(d_output) {}

    Matrix<const Real> at(const Chunk& chunk, std::size_t s, const Part<Real>& part, const Piece& piece,
                          Matrix<Real>) const override {
        if (d_output_ == nullptr) return none<Real>();
        return part.of(d_output_, s_.hidden, (chunk.first_step + s) * s_.batch + piece.samples.begin);
    }

private:
    const RnnSizes s_;
    const Real* d_output_;
};

}  // namespace pybptt
