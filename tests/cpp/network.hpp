// One network with all its arrays, run by the textbook and by the core.
//
// The textbook here is the two-loop one, in double and one sample at a time: every loss goes back through every earlier step on its
// own, O(T^2), as far as the truncation lets it. The core's memory is filled with NaN before each call (allocations.hpp).
#pragma once

#include "pybptt/model.hpp"
#include "support.hpp"

namespace pybptt::test {

using Values = std::vector<double>;

struct Network {
    RnnSizes sizes{0, 0, 0, 0, Nonlinearity::tanh};
    std::size_t outputs = 1;  // Q
    bool tokens = false, bias = true, initial_state = true, last_only = false;
    Loss loss = Loss::cross_entropy;
    double scale = 0.5;

    Values weight_ih, weight_hh, bias_ih, bias_hh, x, state;  // (H, D), (H, H), (H,), (H,), (T, B, D), (B, H)
    std::vector<std::int64_t> ids;                            // (T, B)
    Values d_output, d_state;                                 // (T, B, H), (B, H): what a layer's backward is given
    Values output_weight, output_bias, y;                     // (Q, H), (Q,), (T, B, Q); one step with last_only
    std::vector<std::int64_t> classes;                        // (T, B)

    /// Random values for everything, all of them floats.
    Network& fill(std::uint64_t seed);
    std::size_t target_rows() const { return last_only ? (sizes.steps == 0 ? 0 : sizes.batch) : sizes.steps * sizes.batch; }
    std::string describe() const;
};

/// What comes out of it; what was not asked for stays empty.
struct Result {
    Values loss, output, final_state, prediction;                     // one value, (T, B, H), (B, H), (T, B, Q)
    Values weight_ih, weight_hh, bias_ih, bias_hh, x, state, hidden;  // derivatives of the loss
    Values output_weight, output_bias;
};

/// How much is asked of the core: only what must be, the gradients of parameters and input as well, everything.
enum class Ask { least, gradients, everything };

/// "" if all arrays that both have agree to within `tolerance`, of the array's largest value if that is above 1. 0 asks for the
/// same bits.
std::string difference(const Result& expected, const Result& got, double tolerance);

/// Rounding errors grow with the sums: rows of time and batch, hidden units, inputs, outputs.
template <class Real>
double tolerance(const Network& n) {
    const RnnSizes& s = n.sizes;
    return double(kEpsilon<Real>) * double(32 + s.steps * s.batch + s.hidden + s.inputs + n.outputs);
}

/// The layer alone, with d_output and d_state given.
Result textbook_layer(const Network& n);
/// With output layer and loss; every loss goes back `truncation` steps past its own.
Result textbook_model(const Network& n, std::size_t truncation = kNoTruncation);

/// forward and backward.
template <class Real>
Result core_layer(const Network& n, Ask ask = Ask::everything);
template <class Real>
Result core_infer(const Network& n);
template <class Real>
Result core_model(const Network& n, std::size_t truncation = kNoTruncation, Ask ask = Ask::everything);
/// The loss without gradients, and the predictions.
template <class Real>
Result core_loss(const Network& n);
template <class Real>
Result core_predict(const Network& n);

}  // namespace pybptt::test
