// The output layer alone:  o_t = W_ho h_t + b_o
#pragma once

#include "engine/output_rows.hpp"
#include "pybptt/model.hpp"

namespace pybptt {

template <class Real>
class PredictPass {
public:
    PredictPass(const OutputRows<Real>& rows, int team, const OutputLayer<Real>& layer, Real* output);

    /// Ends with a barrier.
    void prepare(const Member& member);
    /// Begins and ends with a barrier.
    void run(const Chunk& chunk, const Member& member);

private:
    const Kernels<Real>& k_;
    const OutputRows<Real>& rows_;
    const OutputLayer<Real> layer_;
    Real* output_;
    std::size_t block_rows_;
    PanelBuffer<Real> weight_t_;  // W_ho^T (H, Q)
    PanelBuffer<Real> h_;         // (block rows, H) for each member
    PanelBuffer<Real> o_;         // (block rows, Q)
    Buffer<Real> bias_;           // in whole panels
};

}  // namespace pybptt
