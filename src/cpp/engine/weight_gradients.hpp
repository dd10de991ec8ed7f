// The sums over time: once dz_t is known for a chunk of steps, each weight gradient is one product over all its rows.
//
//     dW_hh = sum_t dz_t^T h_{t-1},    dW_ih = sum_t dz_t^T x_t,    db = sum_t dz_t,    dx_t = dz_t W_ih
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

/// Members own rows of the weight gradients (units of dz) over all of time: there is no reduction across threads.
template <class Real>
class WeightGradients {
public:
    WeightGradients(const typename Tape<Real>::Contents& tape, int threads, const RnnGradients<Real>& gradients);

    void prepare(int member);
    /// Adds one chunk, the last one first; every member's dz must be complete.
    void add(const Chunk& chunk, Matrix<const Real> dz, int member);
    void finish(int member);

private:
    Range units(int member) const { return share(s_.hidden, kLanes<Real>, member, threads_); }

    const Kernels<Real>& k_;
    const typename Tape<Real>::Contents& tape_;
    const RnnSizes& s_;
    const int threads_;
    const RnnGradients<Real> g_;
    Buffer<Real> bias_;            // db, in whole panels
    PanelBuffer<Real> dx_;         // (chunk rows, D)
    PanelBuffer<Real> token_row_;  // W_ih's gradient for the distinct tokens, one row each (count, H)
};

}  // namespace pybptt
