// Gradients of an Elman network by backpropagation through time: the public C++ interface.
//
// Words (the same in Python, tests and documents)
//   T, B, D, H   time steps, batch, input size, hidden size
//   x_t          input, (B, D); or token ids, (B,), which select columns of W_ih
//   h_t          hidden state, (B, H); h_0 is given or zero
//   z_t          pre-activation, (B, H):  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh,  h_t = phi(z_t)
//   dh_t         dL/dh_t, (B, H): the total derivative of the loss by h_t, through every later step; the memoised term
//   dz_t         dL/dz_t, (B, H)
//   sweep        the backward pass over time, which carries dh_t from T to 1
//   tape         what forward keeps so that the sweep can run
//
// Arrays are plain pointers to row-major, time-major values that the caller owns; none may overlap one that is written.
// `Real` is float or double. Sizes are not checked against the arrays: the caller does that. Any size may be 0.
// All functions may be called from several threads at once. They throw, before anything is written, std::bad_alloc if memory cannot
// be had, std::runtime_error for a PYBPTT_TIER and std::invalid_argument for a PYBPTT_NUM_THREADS that is none; nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "pybptt/nonlinearity.hpp"

namespace pybptt {

struct RnnSizes {
    std::size_t steps, batch, inputs, hidden;  // T, B, D, H
    Nonlinearity nonlinearity;
};

/// PyTorch's names, shapes and order. Both biases may be null: then they are zero.
template <class Real>
struct RnnParameters {
    const Real* weight_ih;  // (H, D)
    const Real* weight_hh;  // (H, H)
    const Real* bias_ih;    // (H,)
    const Real* bias_hh;    // (H,)
};

/// One of the two is null.
template <class Real>
struct RnnInput {
    const Real* dense;           // (T, B, D)
    const std::int64_t* tokens;  // (T, B), each in [0, D)
};

/// Where gradients go; they are overwritten. All but the two weights may be null: then they are not computed.
template <class Real>
struct RnnGradients {
    Real* weight_ih;  // (H, D)
    Real* weight_hh;  // (H, H)
    Real* bias_ih;    // (H,)
    Real* bias_hh;    // (H,)
    Real* input;      // (T, B, D): dL/dx_t; dense input only
    Real* state;      // (B, H): dL/dh_0
    Real* hidden;     // (T, B, H): dL/dh_t
};

/// What forward keeps: hidden states, inputs and packed weights, all copies of its own. Reading it changes nothing, so
/// several threads may run `backward` on one tape.
template <class Real>
class Tape {
public:
    struct Contents;

    explicit Tape(std::unique_ptr<Contents> contents);
    Tape(Tape&&) noexcept;
    Tape& operator=(Tape&&) noexcept;
    ~Tape();

    const RnnSizes& sizes() const;
    bool has_dense_input() const;
    std::size_t bytes() const;
    const Contents& contents() const { return *contents_; }

private:
    std::unique_ptr<Contents> contents_;
};

/// Runs the network over all T steps.
///   state        (B, H): h_0, or null for zero
///   output       (T, B, H): h_1 .. h_T; may be null
///   final_state  (B, H): h_T (h_0 if T = 0); may be null
template <class Real>
Tape<Real> forward(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
                   Real* output, Real* final_state);

/// The same without a tape: memory does not grow with T, but for some 20 bytes a token.
template <class Real>
void infer(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
           Real* output, Real* final_state);

/// The sweep.
///   d_output     (T, B, H): derivative of the loss by `output` alone; null for zero
///   d_state      (B, H): derivative of the loss by `final_state` alone; null for zero
template <class Real>
void backward(const Tape<Real>& tape, const Real* d_output, const Real* d_state, const RnnGradients<Real>& gradients);

}  // namespace pybptt
