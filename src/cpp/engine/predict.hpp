// The output layer alone:  o_t = W_ho h_t + b_o
#pragma once

#include "engine/output_rows.hpp"
#include "pybptt/model.hpp"

namespace pybptt {

template <class Real>
class PredictPass {
public:
    /// `packed` is complete when the first chunk is run.
    PredictPass(const OutputRows<Real>& rows, int team, const PackedOutput<Real>& packed, std::size_t outputs, Real* output);

    /// Begins and ends with a barrier.
    void run(const Chunk& chunk, const Member& member);

private:
    const Kernels<Real>& k_;
    const OutputRows<Real>& rows_;
    const PackedOutput<Real>& packed_;
    const std::size_t outputs_;
    Real* output_;
    std::size_t block_rows_;
    PanelBuffer<Real> h_;  // (block rows, H) for each member
    PanelBuffer<Real> o_;  // (block rows, Q)
};

}  // namespace pybptt
