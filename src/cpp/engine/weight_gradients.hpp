// The sums over time: once dz_t is known for a chunk of steps, each weight gradient is one product over all its rows.
//
//     dW_hh = sum_t dz_t^T h_{t-1},    dW_ih = sum_t dz_t^T x_t,    db = sum_t dz_t,    dx_t = dz_t W_ih
//     with projection    dW_hr = sum_t dh_t^T (o_t tanh(c_t))
//
// for each gate: dz_t is the block that the gate's product is in, and h_{t-1} what that product read.
#pragma once

#include "engine/chunk_sum.hpp"
#include "engine/sweep_step.hpp"

namespace pybptt {

/// Where dL/dx_t goes: added to what is there or in its place.
template <class Real>
struct InputGradient {
    UserRows<Real> rows;        // (T, B, D); may be null
    UserRows<const Real> mask;  // that x was multiplied by; may be null
    bool add = false;
};

/// Members own rows of the weight gradients (columns of dz) over all of time: there is no reduction across threads.
template <class Real>
class WeightGradients {
public:
    ///   dx  (chunk rows, D), to work in; needed if there are rows for dL/dx_t
    WeightGradients(const RecurrenceTape<Real>& tape, const RnnParameterGradients<Real>& gradients,
                    const InputGradient<Real>& input, const PanelBuffer<Real>& dx);

    void prepare(const Member& member);
    /// Adds one chunk, the last one first; every member's dz must be complete.
    void add(const Chunk& chunk, Matrix<const Real> dz, const Member& member);
    void finish(const Member& member);

private:
    bool biases() const { return g_.bias_ih != nullptr || g_.bias_hh != nullptr; }
    /// Of the i-th distinct token, gate g.
    double* token_row(std::size_t i, std::size_t g) const {
        return token_row_.data() + (i * std::size_t(cell_.gates) + g) * block_cols<Real>(1, s_.hidden);
    }
    void add_gate(const Chunk& chunk, Matrix<const Real> dz, const BlockGroup& group, int i, const Range& own);
    void add_vector(const Chunk& chunk, Matrix<const Real> dz, int v, const Range& own);
    void add_projection(const Chunk& chunk, Matrix<const Real> dz, const Member& member);
    void add_input(const Chunk& chunk, Matrix<const Real> dz, const Member& member);

    const Kernels<Real>& k_;
    const RecurrenceTape<Real>& tape_;
    const RnnSizes& s_;
    const Cell<Real>& cell_;
    const RnnParameterGradients<Real> g_;
    const InputGradient<Real> input_;
    ChunkSum<Real> weight_ih_, weight_hh_, weight_hr_;
    Buffer<double> bias_;     // db of each block, in whole panels
    Buffer<double> vectors_;  // dp of each of the cell's vectors, likewise
    const PanelBuffer<Real>& dx_;
    Buffer<double> token_row_;  // W_ih's gradient for the distinct tokens, one row each (count, blocks of G)
};

}  // namespace pybptt
