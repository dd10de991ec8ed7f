// Truncated backpropagation through time at fixed parameters: TBPTT(1, k + 1), every loss goes back k steps past its own.
//
// The windows of all losses are independent, so they go back in lockstep as one batch. After j steps, row tau of e holds what
// the loss of step tau + j sends to z_tau:
//
//     e_tau^(0) = phi'(z_tau) * upstream_tau,      e_tau^(j) = phi'(z_tau) * (e_{tau+1}^(j-1) W_hh),      dz_tau = sum_j e_tau^(j)
//
// k products of all steps at once, and the weight gradients are those of the full sweep (weight_gradients.hpp).
#pragma once

#include "engine/upstream.hpp"
#include "engine/weight_gradients.hpp"

namespace pybptt {

/// The tape must be an Elman cell's, one chunk and one slice.
template <class Real>
class TruncatedSweep {
public:
    TruncatedSweep(const UnitTape<Real>& tape, int threads, std::size_t truncation, const RnnParameterGradients<Real>& gradients,
                   const InputGradient<Real>& input);

    void run(Upstream<Real>& upstream, int member, Barrier& barrier);

private:
    const Kernels<Real>& k_;
    const UnitTape<Real>& tape_;
    const RnnSizes& s_;
    const int threads_;
    const std::size_t truncation_;
    const PanelBuffer<Real> dx_;  // (T B, D)
    WeightGradients<Real> weights_;
    PanelBuffer<Real> dz_, e_, e_next_;  // (T B, H)
};

}  // namespace pybptt
