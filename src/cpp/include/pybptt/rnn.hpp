// Gradients of recurrent networks by backpropagation through time: the public C++ interface.
//
// Words (the same in Python, tests and documents)
//   T, B, D, H   time steps, batch, input size, hidden size
//   P            width of h_t: H, or what an LSTM with recurrent projection projects it to, h_t = W_hr (o_t tanh(c_t))
//   L, K         layers, and directions of each (1 or 2); a RECURRENCE is one direction of one layer, in PyTorch's order: layer
//                0 forward, layer 0 reverse, layer 1 forward, ..
//   G            gates: 1 (Elman), 4 (LSTM, order i f g o; coupled 3: i g o), 3 (GRU, order r z n)
//   x_t          input, (B, D); or token ids, (B,), which select columns of W_ih. A layer above the first reads (B, K P)
//   h_t, c_t     hidden state, (B, P), and LSTM cell state, (B, H); h_0, c_0 are given or zero
//   z_t          pre-activation, (B, G H):  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh; what becomes of it: kernels/cells
//   dh_t         dL/dh_t, (B, P): the total derivative of the loss by h_t, through every later step; the memoised term
//   dz_t         dL/dz_t, (B, G H)
//   sweep        the backward pass over time, which carries dh_t from T to 1
//   tape         what forward keeps so that the sweep can run
//
// Arrays are plain pointers to row-major, time-major values that the caller owns; none may overlap one that is written.
// `Real` is float or double. Sizes are not checked against the arrays: the caller does that. Any size but L and K may be 0.
// All functions may be called from several threads at once. They throw, before anything is written, std::bad_alloc if memory cannot
// be had, std::runtime_error for a PYBPTT_TIER and std::invalid_argument for a PYBPTT_NUM_THREADS that is none; nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "pybptt/cell.hpp"
#include "pybptt/export.h"

namespace pybptt {

struct RnnSizes {
    std::size_t steps, batch, inputs, hidden;  // T, B, D, H
    CellConfig cell{};
    std::size_t layers = 1, directions = 1;  // L, K
    /// (B,), each in [0, T]; null: all T. Steps past a sequence's end are not computed: outputs there are 0, the final state is the
    /// one at its own end, the reverse direction starts there, and whatever the caller's arrays hold there is not read.
    const std::int64_t* lengths = nullptr;

    /// P of an LSTM with recurrent projection, the width of h_t; 0: h_t has H columns.
    std::size_t projection = 0;

    /// Of a PACKED batch, the sum of its lengths, which fall: arrays (T, B, ..) then have no rows for padding, but at each step
    /// those of the samples that have it, as PyTorch's PackedSequence. 0: they have all T B rows. Models (model.hpp) need those.
    std::size_t packed_rows = 0;

    /// Of arrays (T, B, ..).
    std::size_t time_rows() const { return packed_rows != 0 ? packed_rows : steps * batch; }
    std::size_t recurrences() const { return layers * directions; }
    /// Columns of h_t: P, or H.
    std::size_t h_width() const { return projection != 0 ? projection : hidden; }
};

/// Of one recurrence; PyTorch's names, shapes and order. Both biases may be null: then they are zero.
template <class Real>
struct RnnParameters {
    const Real* weight_ih;            // (G H, D), or (G H, K P) above the first layer
    const Real* weight_hh;            // (G H, P)
    const Real* bias_ih;              // (G H,)
    const Real* bias_hh;              // (G H,)
    const Real* vectors = nullptr;    // of cells that have any. LSTM with peephole: (3, H), rows i f o; coupled (2, H): i o
    const Real* weight_hr = nullptr;  // (P, H), with projection
};

/// One of the two is null.
template <class Real>
struct RnnInput {
    const Real* dense;           // (T, B, D)
    const std::int64_t* tokens;  // (T, B), each in [0, D)
    /// (L - 1, T, B, K P): what a layer's output is multiplied by before the next layer reads it (dropout); null for 1.
    const Real* mask = nullptr;
};

/// h (L K, B, P) and c (L K, B, H); `c` for LSTM alone. Null: zero where it is read, not wanted where it is written.
template <class Real>
struct RnnState {
    Real* h = nullptr;
    Real* c = nullptr;
};

/// What forward writes. Any may be null.
template <class Real>
struct RnnOutput {
    Real* output;                // (T, B, K P): h_1 .. h_T of the last layer, directions side by side
    RnnState<Real> final_state;  // h_T, c_T of each recurrence
    Real* cells = nullptr;       // (L K, T, B, H): c_t, LSTM alone
};

/// What the sweep starts from: derivatives of the loss by each of forward's results alone. Null for zero.
template <class Real>
struct RnnUpstream {
    const Real* output;  // (T, B, K P)
    RnnState<const Real> final_state;
    const Real* cells = nullptr;  // (L K, T, B, H)
};

/// Where one recurrence's gradients go; they are overwritten. Any may be null: then it is not computed.
template <class Real>
struct RnnParameterGradients {
    Real* weight_ih;
    Real* weight_hh;
    Real* bias_ih;
    Real* bias_hh;
    Real* vectors = nullptr;
    Real* weight_hr = nullptr;
};

/// Any may be null: then it is not computed.
template <class Real>
struct RnnGradients {
    const RnnParameterGradients<Real>* parameters;  // of each recurrence; not null
    Real* input = nullptr;                          // (T, B, D): dL/dx_t; dense input only
    RnnState<Real> state{};                         // dL/dh_0, dL/dc_0
    Real* hidden = nullptr;                         // (L K, T, B, P): dL/dh_t
};

enum class HiddenClip { none, norm, value };

/// How far back derivatives go through the recurrence, and how large they may get there; as it stands, all the way and any size.
/// Factors and windows are for layers of one direction alone.
template <class Real>
struct SweepLimits {
    /// (T, B): xi_t, which the derivative of h_t (and c_t) of every layer by the state before it is multiplied by; where it is 0,
    /// nothing passes, infinities neither. Null for 1.
    const Real* factors = nullptr;
    /// TBPTT(k1, k2): at the boundaries t = k1, 2 k1, .. and at each sequence's end, the derivatives by the outputs of the steps
    /// since the boundary before go back through the uses t, t-1, .., t-k2+1 of the parameters, no further. Every gradient is the
    /// sum over these windows. Derivatives by outputs that no window reaches (k2 < k1) must be 0. k2 = 0 for no truncation; not
    /// together with factors.
    std::size_t k1 = 0, k2 = 0;
    /// Each row of dL/dh_t is scaled down to a 2-norm of `clip_limit`, or its values are cut off at +-clip_limit, before dz_t is
    /// made of it.
    HiddenClip clip = HiddenClip::none;
    Real clip_limit = 0;
};

/// What a call may keep. A tape is cut into CHUNKS of steps; if there is not room for all of them, chunks are run again from a
/// state that was kept, by the same operations: no bit of a result depends on the plan.
struct MemoryPlan {
    static constexpr std::size_t kEveryChunk = std::size_t(-1);

    std::size_t places = kEveryChunk;  // for chunks
    std::size_t states = 0;            // kept between chunks
    // What comes of it:
    std::size_t chunks = 0, runs = 0;  // of chunks: forward passes over everything are runs / chunks
    std::size_t bytes = 0;             // of all that forward and backward, or loss_and_grad, allocate

    bool limited() const { return places != kEveryChunk; }
    /// Whether there was a limit, even if there is room for everything.
    bool under_limit() const { return bytes != 0; }
};

/// Told by the calling thread how much of a call is done, after every chunk; false ends the call, whose results are then undefined.
/// What it throws ends the call too, and is thrown by it. A child of fork() that it makes gets std::runtime_error from a call on
/// several threads, because it has only one of them.
using Report = std::function<bool(std::size_t done, std::size_t total)>;

/// What forward keeps: states, activations, inputs and packed weights, all copies of its own. Reading it changes nothing, so
/// several threads may run `backward` on one tape. One with a limited plan has only some of that, and copies of dense input and
/// initial state for the rest: threads take turns, and only the first `backward` finds what forward left. A thread that is
/// in `backward` (in `report`) must not call it again for that tape: std::logic_error.
template <class Real>
class Tape {
public:
    struct Contents;

    explicit Tape(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

    /// Without the lengths.
    PYBPTT_API const RnnSizes& sizes() const;
    PYBPTT_API bool has_dense_input() const;
    PYBPTT_API std::size_t bytes() const;
    /// The places that it has.
    PYBPTT_API const MemoryPlan& plan() const;
    const Contents& contents() const { return *contents_; }

private:
    std::shared_ptr<const Contents> contents_;
};

/// A network's parameters as its products read them: packed once, and read by any number of calls, on several threads at once, too.
/// Copies: what happens to the parameters later does not change them.
template <class Real>
class Packed {
public:
    struct Contents;

    ///   sizes       steps, batch and lengths do not matter
    ///   parameters  of each recurrence
    ///   tokens      whether calls are to have token ids as input; then there is a row for each of the D
    PYBPTT_API Packed(const RnnSizes& sizes, const RnnParameters<Real>* parameters, bool tokens);

    PYBPTT_API bool has_dense_input() const;
    Contents& contents() const { return *contents_; }

private:
    std::shared_ptr<Contents> contents_;
};

/// What a call computes with: parameters, of each recurrence, which it packs; or, if that is not null, what is packed.
template <class Real>
struct Weights {
    const RnnParameters<Real>* parameters;
    const Packed<Real>* packed;

    Weights(const RnnParameters<Real>* parameters, const Packed<Real>* packed = nullptr) : parameters(parameters), packed(packed) {}
    Weights(const Packed<Real>& packed) : Weights(nullptr, &packed) {}
};

/// Bytes that the tape of these sizes holds at most. Token input: `tokens`, and as many distinct ids as there can be; dense input:
/// no row comes twice.
template <class Real>
PYBPTT_API std::size_t tape_bytes(const RnnSizes& sizes, bool tokens);

/// The plan for `forward` and `backward` with the fewest runs that takes no more than `limit` bytes; if there is none, the one that
/// takes least. A limit is for layers of one direction: two have arrays of all steps between them.
///   input_gradient  whether backward is to compute dL/dx_t
template <class Real>
PYBPTT_API MemoryPlan plan_memory(const RnnSizes& sizes, bool tokens, bool input_gradient, std::size_t limit);

/// Runs the network over all T steps.
///   weights  if they are packed, the tape shares them
///   plan     of plan_memory for these sizes
template <class Real>
PYBPTT_API Tape<Real> forward(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input,
                              const RnnState<const Real>& state, const RnnOutput<Real>& output, const MemoryPlan& plan = {},
                              const Report& report = {});

/// forward without a tape: memory does not grow with T (but for some 30 bytes a token, and G H values a distinct token) if there
/// is one direction; layers of two directions take T B K H values twice.
template <class Real>
PYBPTT_API void infer(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input,
                      const RnnState<const Real>& state, const RnnOutput<Real>& output);

/// The sweep.
///   mask  the one that forward was given
template <class Real>
PYBPTT_API void backward(const Tape<Real>& tape, const RnnUpstream<Real>& upstream, const Real* mask,
                         const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits = {}, const Report& report = {});

}  // namespace pybptt
