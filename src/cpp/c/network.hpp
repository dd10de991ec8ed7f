// A network as C holds it, and what its calls read.
#pragma once

#include <variant>

#include "c/given.hpp"
#include "callers/network_config.hpp"
#include "callers/truncation.hpp"
#include "runtime/float_mode.hpp"

struct pybptt_network {
    bool float64;
    pybptt::LayerConfig layer;
    pybptt::OutputConfig output;  // of 0 outputs: none

    bool has_output() const { return output.outputs != 0; }
    std::size_t parameter_count() const { return layer.parameter_count() + (has_output() ? output.parameter_count(layer) : 0); }
};

struct pybptt_tape {
    pybptt_network network;
    pybptt::Buffer<std::int64_t> lengths;  // (B,), or empty
    bool masked;
    std::variant<pybptt::Tape<float>, pybptt::Tape<double>> tape;
};

struct pybptt_packed {
    pybptt_network network;
    bool tokens;
    std::variant<pybptt::Packed<float>, pybptt::Packed<double>> weights;
};

namespace pybptt::c {

/// work(0.0f) or work(0.0).
template <class Work>
void with_real(bool float64, Work work) {
    if (float64)
        work(0.0);
    else
        work(0.0f);
}

/// Whether two networks have the same parameters and read them in the same way.
bool same(const pybptt_network& one, const pybptt_network& other);

/// With an output layer, or without.
void expect_output(const pybptt_network* network, bool output);

inline Presence optional_if(bool possible) { return possible ? Presence::optional : Presence::absent; }

/// What every call reads.
template <class Real>
struct Call {
    const pybptt_network& network;
    Arrays arrays;
    Buffer<std::int64_t> lengths, tokens;
    RnnSizes sizes;
    RnnInput<Real> input{nullptr, nullptr};
    RnnState<const Real> state;
    const Real* values = nullptr;          // all parameters,
    const Packed<Real>* packed = nullptr;  // or these
    std::vector<RnnParameters<Real>> recurrences;

    /// `packable`: whether packed weights will do.
    Call(const pybptt_network& network, const pybptt_input* given, bool packable);

    const LayerConfig& layer() const { return network.layer; }
    Weights<Real> weights() const { return {recurrences.data(), packed}; }
    bool has_cells() const { return layer().cell.has_cell_state(); }
    std::size_t rows() const { return checked_product(sizes.steps, sizes.batch); }
    std::size_t output_size() const { return checked_product(rows(), layer().width()); }
    OutputLayer<Real> output_layer() const;
    std::size_t id_bytes() const { return (lengths.size() + tokens.size()) * sizeof(std::int64_t); }
    /// h_n and c_n.
    RnnState<Real> final_state(const pybptt_output& given);
};

/// Where a call's gradients go.
template <class Real>
struct Gradients {
    std::vector<RnnParameterGradients<Real>> recurrences;
    RnnGradients<Real> to;
    OutputGradients<Real> output{nullptr, nullptr};

    Gradients(const pybptt_network& network, std::size_t steps, std::size_t batch, bool dense, const pybptt_gradients* given,
              Arrays& arrays);
};

template <class Real>
Truncation<Real> read_truncation(const pybptt_network& network, std::size_t steps, std::size_t batch, const std::int64_t* lengths,
                                 const pybptt_truncation* given, Arrays& arrays);

/// Tells the caller's progress function, in the caller's floating-point mode.
class Progressing {
public:
    explicit Progressing(const pybptt_options& options) : options_(options) {}
    Report report() {
        if (options_.progress == nullptr) return {};
        return [this](std::size_t done, std::size_t total) {
            const FloatMode in_core = FloatMode::now();
            callers_.set();
            stopped_ = options_.progress(options_.progress_data, done, total) != 0;
            in_core.set();
            return !stopped_;
        };
    }
    /// After the call.
    void expect_finished() const {
        if (stopped_) throw Stopped{};
    }

private:
    const pybptt_options options_;
    const FloatMode callers_ = FloatMode::now();
    bool stopped_ = false;
};

/// make(limit) for the bytes that are left of a call's limit beside those of its other arrays; no plan for no limit.
template <class Make>
MemoryPlan choose_plan(const pybptt_network& network, std::size_t limit, std::size_t beside, Make make) {
    if (limit == 0) return {};
    if (network.layer.directions != 1)
        refuse(
            "memory_limit: expected a network of one direction; of two, each must be complete before the next layer begins, so "
            "that "
            "all steps are kept");
    const MemoryPlan plan = make(limit < beside ? 0 : limit - beside);
    if (plan.bytes + beside > limit)
        refuse("memory_limit: expected at least " + std::to_string(plan.bytes + beside) + " bytes for this call, got " +
               std::to_string(limit));
    return plan;
}

}  // namespace pybptt::c
