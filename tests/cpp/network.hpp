// One network with all its arrays, run by the textbook and by the core.
//
// The textbook computes in double, one sample and one unit at a time, and differentiates what it has computed scalar by scalar
// (graph.hpp); a truncated gradient is the sum of the gradients of every loss on its own, over the steps that it may see. The
// core's memory is filled with NaN before each call (allocations.hpp), and so are the caller's arrays past a sequence's end.
#pragma once

#include "pybptt/model.hpp"
#include "support.hpp"

namespace pybptt::test {

using Values = std::vector<double>;

/// Parameters of one unit, or their gradients.
struct UnitValues {
    Values weight_ih, weight_hh, bias_ih, bias_hh, peephole;
};

struct Network {
    RnnSizes sizes{0, 0, 0, 0};  // without the lengths
    std::size_t outputs = 1;     // Q
    bool tokens = false, bias = true, initial_state = true, last_only = false;
    bool ragged = false, masked = false;
    bool d_every_step = true;  // or by the final states alone
    Loss loss = Loss::cross_entropy;
    double scale = 0.5;

    std::vector<std::int64_t> lengths;  // (B,), if ragged
    std::vector<UnitValues> units;
    Values x, mask, h, c;                  // (T, B, D), (L - 1, T, B, K H), (L K, B, H)
    std::vector<std::int64_t> ids;         // (T, B)
    Values d_output, d_h, d_c, d_cells;    // (T, B, K H), (L K, B, H), (L K, T, B, H): what backward is given
    Values output_weight, output_bias, y;  // (Q, K H), (Q,), (T, B, Q); without T with last_only
    std::vector<std::int64_t> classes;     // (T, B)

    /// Random values for everything, all of them floats.
    Network& fill(std::uint64_t seed);
    std::size_t rows() const { return sizes.steps * sizes.batch; }
    std::size_t width() const { return sizes.directions * sizes.hidden; }
    std::size_t target_rows() const { return last_only ? sizes.batch : rows(); }
    std::size_t length(std::size_t b) const { return lengths.empty() ? sizes.steps : std::size_t(lengths[b]); }
    /// What a unit reads: D, or K H above the first layer.
    std::size_t inputs(std::size_t unit) const { return unit < sizes.directions ? sizes.inputs : width(); }
    std::string describe() const;
};

/// What comes out of it; what was not asked for stays empty.
struct Result {
    Values loss, output, final_h, final_c, cells, prediction;  // one value, and shapes as above; (T, B, Q)
    std::vector<UnitValues> units;                             // derivatives of the loss
    Values x, h, c, hidden;                                    // by x, h_0, c_0, every h_t
    Values output_weight, output_bias;
    double nearest_kink = 0;  // of the textbook alone: see graph.hpp
};

/// How much is asked of the core: only what must be, the gradients of parameters and input as well, everything.
enum class Ask { least, gradients, everything };

/// "" if all arrays that both have agree to within `tolerance`, of the array's largest value if that is above 1. 0 asks for the
/// same bits.
std::string difference(const Result& expected, const Result& got, double tolerance);

/// Rounding errors grow with the sums: rows of time and batch, hidden units, inputs, outputs; and with the layers.
template <class Real>
double tolerance(const Network& n) {
    const RnnSizes& s = n.sizes;
    return double(kEpsilon<Real>) * double(s.layers * (32 + n.rows() + n.width() + s.inputs + n.outputs));
}

/// The layers alone, with d_output and the like given.
Result textbook_layer(const Network& n);
constexpr std::size_t kNoTruncation = std::size_t(-1);

/// With output layer and loss; every loss goes back `truncation` steps past its own (for one unit, and not ragged).
Result textbook_model(const Network& n, std::size_t truncation = kNoTruncation);

/// Of core_forward and core_backward, the arrays that the core reads are gone when the call returns.
template <class Real>
Tape<Real> core_forward(const Network& n, Result& result, Ask ask = Ask::everything, const MemoryPlan& plan = {},
                        const Report& report = {});
template <class Real>
void core_backward(const Tape<Real>& tape, const Network& n, Result& result, Ask ask = Ask::everything, const Report& report = {});
/// Both.
template <class Real>
Result core_layer(const Network& n, Ask ask = Ask::everything);
template <class Real>
Result core_infer(const Network& n);
template <class Real>
Result core_model(const Network& n, std::size_t truncation = kNoTruncation, Ask ask = Ask::everything, const MemoryPlan& plan = {},
                  const Report& report = {});
/// The loss without gradients, and the predictions.
template <class Real>
Result core_loss(const Network& n);
template <class Real>
Result core_predict(const Network& n);

template <class Real>
std::size_t core_tape_bytes(const Network& n);
/// Of core_forward and core_backward, or of core_model.
template <class Real>
MemoryPlan core_plan(const Network& n, bool model, std::size_t limit);

}  // namespace pybptt::test
