// One network with all its arrays, run by the textbook and by the core.
//
// The textbook computes in double, one sample and one unit at a time, and differentiates what it has computed scalar by scalar
// (graph.hpp); a truncated gradient is the sum of one gradient a window, of the window's losses alone, with the state before its
// first step held fixed. The core's memory is filled with NaN before each call (allocations.hpp), and so are the caller's arrays
// past a sequence's end.
#pragma once

#include "pybptt/model.hpp"
#include "runtime/threads.hpp"
#include "support.hpp"

namespace pybptt::test {

using Values = std::vector<double>;

/// Parameters of one recurrence, or their gradients.
struct RecurrenceValues {
    Values weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr;
};

struct Network {
    RnnSizes sizes{0, 0, 0, 0};  // without the lengths
    std::size_t outputs = 1;     // Q
    bool tokens = false, bias = true, initial_state = true, last_only = false;
    bool ragged = false, masked = false;
    bool packed = false;       // the core's arrays have no rows for padding; those here do. Lengths must fall
    bool d_every_step = true;  // or by the final states alone
    Loss loss = Loss::cross_entropy;
    double scale = 0.5;

    std::vector<std::int64_t> lengths;  // (B,), if ragged
    std::vector<RecurrenceValues> recurrences;
    Values x, mask, h, c;                  // (T, B, D), (L - 1, T, B, K P), (L K, B, P), (L K, B, H)
    std::vector<std::int64_t> ids;         // (T, B)
    Values d_output, d_h, d_c, d_cells;    // (T, B, K P), (L K, B, P), (L K, B, H), (L K, T, B, H): what backward is given
    Values output_weight, output_bias, y;  // (Q, K P), (Q,), (T, B, Q); without T with last_only
    std::vector<std::int64_t> classes;     // (T, B)

    /// Random values for everything, all of them floats.
    Network& fill(std::uint64_t seed);
    std::size_t rows() const { return sizes.steps * sizes.batch; }
    /// Of the core's arrays (T, B, ..).
    std::size_t time_rows() const;
    std::size_t width() const { return sizes.directions * sizes.h_width(); }
    std::size_t target_rows() const { return last_only ? sizes.batch : rows(); }
    std::size_t length(std::size_t b) const { return lengths.empty() ? sizes.steps : std::size_t(lengths[b]); }
    /// Whether a row of a (.., T, B, ..) array is past its sequence's end.
    bool is_padding(std::size_t row) const { return row % rows() / sizes.batch >= length(row % sizes.batch); }
    /// What a recurrence reads: D, or K P above the first layer.
    std::size_t inputs(std::size_t recurrence) const { return recurrence < sizes.directions ? sizes.inputs : width(); }
    std::string describe() const;
};

/// SweepLimits and Targets::counted of a network.
struct Limits {
    Values factors;              // (T, B); empty for 1
    std::size_t k1 = 0, k2 = 0;  // k2 = 0 for no windows
    HiddenClip clip = HiddenClip::none;
    double clip_limit = 0;
    std::vector<char> counted;  // (T, B), or (B,) with last_only; empty for all

    /// The window of the output of step t (from 1): the first one for the final state of no step.
    std::size_t window_of(std::size_t t) const { return k2 == 0 || t == 0 ? 1 : (t + k1 - 1) / k1; }
    /// The last step of a window of a sequence of so many.
    std::size_t end_of(std::size_t window, std::size_t length) const { return k2 == 0 ? length : std::min(window * k1, length); }
    /// Whether a window gets to the output of step t. The core wants 0 for derivatives by the others, and targets that do not
    /// count: network.cpp sees to it.
    bool reach(std::size_t t, std::size_t length) const { return k2 == 0 || t + k2 > end_of(window_of(t), length); }
    std::string describe() const;
};
inline Limits windows(std::size_t k1, std::size_t k2) {
    Limits limits;
    limits.k1 = k1;
    limits.k2 = k2;
    return limits;
}

/// What comes out of it; what was not asked for stays empty.
struct Result {
    Values loss, output, final_h, final_c, cells, prediction;  // one value, and shapes as above; (T, B, Q)
    std::vector<RecurrenceValues> recurrences;                 // derivatives of the loss
    Values x, h, c, hidden;                                    // by x, h_0, c_0, every h_t
    Values output_weight, output_bias;
    double nearest_kink = 0;  // of the textbook alone: see graph.hpp
};

/// One of a recurrence's gradients: none may be written there, and the core is given null for it.
template <class Real>
using LeftOut = Real* RnnParameterGradients<Real>::*;

/// Sets the number of threads for a while.
class Threads {
public:
    explicit Threads(int count) : before_(num_threads()) { set_num_threads(count); }
    ~Threads() { set_num_threads(before_); }

private:
    int before_;
};

/// How much is asked of the core: only what must be, the gradients of parameters and input as well, everything.
enum class Ask { least, gradients, everything };

/// "" if all arrays that both have agree to within `tolerance`, of the array's largest value if that is above 1. 0 asks for the
/// same bits.
std::string difference(const Result& expected, const Result& got, double tolerance);

/// Rounding errors grow with the sums: rows of time and batch, hidden recurrences, inputs, outputs; and with the layers.
template <class Real>
double tolerance(const Network& n) {
    const RnnSizes& s = n.sizes;
    return double(kEpsilon<Real>) * double(s.layers * (32 + n.rows() + n.width() + s.inputs + n.outputs));
}

/// The layers alone, with d_output and the like given.
Result textbook_layer(const Network& n, const Limits& limits = {});
/// With output layer and loss.
Result textbook_model(const Network& n, const Limits& limits = {});

/// Of core_forward and core_backward, the arrays that the core reads are gone when the call returns.
template <class Real>
Tape<Real> core_forward(const Network& n, Result& result, Ask ask = Ask::everything, const MemoryPlan& plan = {},
                        const Report& report = {});
template <class Real>
void core_backward(const Tape<Real>& tape, const Network& n, Result& result, Ask ask = Ask::everything, const Limits& limits = {},
                   const Report& report = {}, LeftOut<Real> left_out = nullptr);
/// Both.
template <class Real>
Result core_layer(const Network& n, Ask ask = Ask::everything, const Limits& limits = {}, LeftOut<Real> left_out = nullptr,
                  const MemoryPlan& plan = {});
template <class Real>
Result core_infer(const Network& n);
template <class Real>
Result core_model(const Network& n, Ask ask = Ask::everything, const Limits& limits = {}, const MemoryPlan& plan = {},
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

// Networks that more than one suite tests.

struct Shape {
    std::size_t T, B, D, H, Q;
};
/// Small ones for what has many variants: one chunk and several, one slice and several.
constexpr Shape kSmall[] = {{4, 9, 5, 17, 3}, {1, 2, 3, 4, 2}, {70, 9, 2, 3, 4}, {6, 70, 2, 5, 2}, {7, 3, 17, 16, 5}};
/// T, B or D may be 0 and a layer is still a layer. So may H, and Q with a squared error.
constexpr Shape kEmpty[] = {{0, 3, 4, 5, 2}, {3, 0, 4, 5, 2}, {3, 2, 0, 5, 2}, {3, 2, 4, 0, 2}, {0, 0, 0, 0, 1}, {0, 1, 1, 1, 1}};

/// Of an LSTM, with another width of h_t.
Network projected(Network n, std::size_t projection);

CellConfig elman(Nonlinearity nonlinearity, double clip = 0);
CellConfig lstm(bool peephole, bool coupled, double clip = 0);
CellConfig gru(bool reset_after, double clip = 0);
constexpr double kClip = 0.6;  // of a third of all values, in the networks below
extern const std::vector<CellConfig> kElman, kCells, kClipped;

/// What is not the cell or a size, chosen by the bits of `variant`.
constexpr std::size_t kVariants = 256;
Network network(const Shape& s, const CellConfig& cell, std::size_t variant, std::size_t layers = 1, std::size_t directions = 1);
/// Values at which a derivative jumps are further away than float rounds.
Network clear_of_kinks(Network n);

}  // namespace pybptt::test
