// A recurrent network with an output layer and a loss: loss and all gradients in one call.
//
//   Q    outputs (classes)
//   o_t  output, (B, Q):  o_t = W_ho h_t + b_o, h_t of the last layer, its directions side by side
//   L    loss:  cross-entropy  sum of -log softmax(o_t)_{y_t},  or squared error  sum of |o_t - y_t|^2,  times `scale`
#pragma once

#include "pybptt/rnn.hpp"

namespace pybptt {

enum class Loss { cross_entropy, squared_error };

template <class Real>
struct OutputLayer {
    std::size_t outputs;  // Q
    const Real* weight;   // (Q, K P)
    const Real* bias;     // (Q,), or null for zero
    bool last_only;       // one output a sequence, from the final states of the last layer (many-to-one)
};

/// Targets have T steps, or none with `last_only`. Those past a sequence's end are not read and do not count.
template <class Real>
struct Targets {
    Loss loss;
    double scale;                 // 1 for a sum, 1 / count for a mean
    const std::int64_t* classes;  // (T, B) each in [0, Q), for cross_entropy
    const Real* values;           // (T, B, Q), for squared_error
    /// (T, B), or (B,) with `last_only`: which targets count; null for all. The others' losses and gradients are 0.
    const bool* counted = nullptr;
};

template <class Real>
struct OutputGradients {
    Real* weight;  // (Q, K P)
    Real* bias;    // (Q,); may be null
};

/// Returns L and writes all its gradients.
///   plan  of plan_model_memory for these sizes and limits
template <class Real>
PYBPTT_API double loss_and_grad(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
                                const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
                                const RnnState<Real>& final_state, const RnnGradients<Real>& gradients,
                                const OutputGradients<Real>& output_gradients, const SweepLimits<Real>& limits = {},
                                const MemoryPlan& plan = {}, const Report& report = {});

/// The plan for `loss_and_grad`; see plan_memory.
template <class Real>
PYBPTT_API MemoryPlan plan_model_memory(const RnnSizes& sizes, bool tokens, bool input_gradient, std::size_t outputs, Loss loss,
                                        bool last_only, std::size_t limit, const SweepLimits<Real>& limits = {});

/// Returns L alone; with one direction, memory grows with T by some 30 bytes a token and target alone, and G H values a distinct
/// token.
template <class Real>
PYBPTT_API double loss(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
                       const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
                       const RnnState<Real>& final_state);

/// Packs the output layer, too: for `predict`.
template <class Real>
PYBPTT_API Packed<Real> pack_model(const RnnSizes& sizes, const RnnParameters<Real>* parameters, bool tokens,
                                   const OutputLayer<Real>& layer);

/// Writes o_t: output is (T, B, Q), 0 past a sequence's end, or (B, Q) with `last_only`.
///   weights  if they are packed, of pack_model
template <class Real>
PYBPTT_API void predict(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input,
                        const RnnState<const Real>& state, const OutputLayer<Real>& layer, Real* output,
                        const RnnState<Real>& final_state);

}  // namespace pybptt
