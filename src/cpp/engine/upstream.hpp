// Where dL/dh_t comes from, apart from the recurrence.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

template <class Real>
class Upstream {
public:
    virtual ~Upstream() = default;
    /// Writes the derivative of the loss by h_t along every path but the one through h_{t+1}, for all steps of the chunk, into
    /// dz (chunk rows x H). Called by every member; afterwards its own part is complete.
    virtual void fill(const Chunk& chunk, const Part<Real>& part, int member, Barrier& barrier, Matrix<Real> dz) = 0;
};

/// A user's array (T, B, H), or null for zero.
template <class Real>
class GivenUpstream final : public Upstream<Real> {
public:
    GivenUpstream(const Kernels<Real>& kernels, const RnnSizes& sizes, const Real* d_output)
        : k_(kernels), s_(sizes), d_output_(d_output) {}

    void fill(const Chunk& chunk, const Part<Real>& part, int, Barrier&, Matrix<Real> dz) override {
        const std::size_t B = s_.batch, H = s_.hidden;
        for (std::size_t s = 0; s < chunk.steps; ++s) {
            if (d_output_ == nullptr)
                k_.zero(part.rows.size(), part.cols, part.of(dz, s * B));
            else
                k_.copy(part.rows.size(), part.cols,
                        row_major(d_output_ + ((chunk.first_step + s) * B + part.rows.begin) * H + part.panels.begin * kLanes<Real>, H),
                        part.of(dz, s * B));
        }
    }

private:
    const Kernels<Real>& k_;
    const RnnSizes s_;
    const Real* d_output_;
};

}  // namespace pybptt
