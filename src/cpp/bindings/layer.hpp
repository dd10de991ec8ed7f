// A recurrent layer as Python holds it, and what its calls read.
#pragma once

#include <string>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/calls.hpp"
#include "callers/ids.hpp"
#include "callers/network_config.hpp"
#include "pybptt/model.hpp"

namespace pybptt {

/// Of a call from Python: a tuple, or None for a call without any, whose arrays are as the user gave them.
struct Options {
    bool unchecked;
    py::object lengths = py::none();  // (B,) of int64
    py::object mask = py::none();     // (L - 1, T, B, K P)
    bool cells = false;               // whether c_t of all steps is asked for
    MemoryPlan plan{};
    py::object progress = py::none();

    explicit Options(const py::object& given) : unchecked(given.is_none()) {
        if (unchecked) return;
        const auto items = given.cast<py::tuple>();
        lengths = items[0];
        mask = items[1];
        cells = items[2].cast<bool>();
        if (!items[3].is_none()) plan = items[3].cast<MemoryPlan>();
        progress = items[4];
    }
};

/// Null for None. (A pointer in the signature would do, but pybind11 tries twice before it takes None for one: half a microsecond.)
template <class Real>
const Packed<Real>* packed_of(py::handle given) {
    return given.is_none() ? nullptr : given.cast<const Packed<Real>*>();
}

/// (B,), each in [0, steps]; null for None. Like ids, they must be the call's own: no other thread has them.
inline const std::int64_t* read_lengths(py::handle given, std::size_t steps, std::size_t batch) {
    const auto* const lengths = read<std::int64_t>("lengths", given, batch);
    if (lengths != nullptr) check_lengths(lengths, steps, batch);
    return lengths;
}

/// (T, B), or (B,), each in [0, limit). Of an array that is the user's, to whom other threads may write, a copy.
class Ids {
public:
    Ids() = default;
    Ids(const char* name, py::handle given, bool of_user, std::size_t size, std::size_t limit,
        const std::int64_t* lengths = nullptr)
        : data_(read<std::int64_t>(name, given, size)) {
        if (of_user) {
            copy_ = Buffer<std::int64_t>(size);
            data_ = std::copy_n(data_, size, copy_.data()) - size;
        }
        const std::size_t axes = axes_of(given), batch = length_of(given, axes - 1);
        check_ids(name, data_, axes == 1 ? kNoSteps : length_of(given, 0), batch, limit, lengths);
    }
    const std::int64_t* data() const { return data_; }

private:
    Buffer<std::int64_t> copy_;
    const std::int64_t* data_ = nullptr;
};

/// A state as Python has it: None, h, or of a cell that has a c the pair.
struct GivenState {
    py::handle h, c = Py_None;

    GivenState(const LayerConfig& config, py::handle given) : h(given) {
        if (!config.cell.has_cell_state() || !PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != 2) return;
        h = PyTuple_GET_ITEM(given.ptr(), 0);
        c = PyTuple_GET_ITEM(given.ptr(), 1);
    }
};

template <class Real>
RnnState<const Real> read_state(const LayerConfig& config, std::size_t batch, py::handle given) {
    const GivenState state(config, given);
    return {read<Real>("h", state.h, config.h_size(batch)), read<Real>("c", state.c, config.c_size(batch))};
}

/// How far derivatives go back, as Python says it: None, or a tuple of (T, B) factors, windows (k1, k2), clipping ("none", "norm",
/// "value"), its limit, and which of the losses count.
template <class Real>
SweepLimits<Real> read_limits(const LayerConfig& c, std::size_t steps, std::size_t batch, const py::object& given) {
    if (given.is_none()) return {};
    const auto items = given.cast<py::tuple>();
    const auto windows = items[1].cast<py::tuple>();
    const auto k1 = windows[0].cast<std::size_t>(), k2 = windows[1].cast<std::size_t>();
    const int clip = items[2].cast<int>();
    const bool factors = !items[0].is_none();
    if (clip < 0 || clip > int(HiddenClip::value)) throw py::value_error("clip_hidden: out of range");
    if (k2 != 0 && (k1 == 0 || factors)) throw py::value_error("windows: expected k1 > 0 and no factors");
    if ((k2 != 0 || factors) && c.directions != 1) throw py::value_error("truncation: expected one direction");
    return {read<Real>("factors", items[0], steps * batch), k1, k2, HiddenClip(clip), Real(items[3].cast<double>())};
}

/// The network that calls are made of: its sizes and its parameters where they lie, for as long as it lives.
template <class Real>
class Network {
public:
    /// The layer's parameters come first in `flat`, `others` follow.
    ///   least_steps  that a call must have
    Network(const LayerConfig& config, const py::object& flat, std::size_t others, std::size_t least_steps)
        : config(config),
          least_steps_(least_steps),
          flat_(flat),
          count_(config.parameter_count() + others),
          values_(read<Real>("flat", flat, count_)),
          recurrences_(recurrences_in<RnnParameters<Real>>(values_, config)) {}

    const LayerConfig config;

    std::size_t count() const { return count_; }
    bool is_dense(py::handle x) const { return is_plain<Real>(x) && axes_of(x) == 3 && length_of(x, 2) == config.inputs; }
    static bool is_tokens(py::handle x) { return is_plain<std::int64_t>(x) && axes_of(x) == 2; }
    // Whether arrays that a user gave, no subclass's, can be read as they are, which spares Python's checks; a state and d_output
    // may be None.
    bool takes(py::handle x, py::handle state, const Packed<Real>* packed = nullptr) const {
        if (!is_own(x)) return false;
        const bool dense = is_dense(x);
        if ((!dense && !is_tokens(x)) || length_of(x, 0) < least_steps_) return false;
        return (packed == nullptr || packed->has_dense_input() == dense) && takes_state(state, length_of(x, 1));
    }
    bool takes_state(py::handle given, std::size_t batch) const {
        if (given.is_none()) return true;
        const GivenState state(config, given);
        if (!is_own(state.h) || !is_plain<Real>(state.h, {config.recurrences(), batch, config.h_width()})) return false;
        return !config.cell.has_cell_state() ||
               (is_own(state.c) && is_plain<Real>(state.c, {config.recurrences(), batch, config.hidden}));
    }
    bool takes_output(py::handle d_output, std::size_t steps, std::size_t batch) const {
        return d_output.is_none() || (is_own(d_output) && is_plain<Real>(d_output, {steps, batch, config.width()}));
    }
    /// Of each recurrence. An array that was given other memory since is a mistake.
    const RnnParameters<Real>* parameters() const {
        if (read<Real>("flat", flat_, count_) != values_) throw py::value_error("flat: expected to stay where it is");
        return recurrences_.data();
    }
    const Real* values() const { return values_; }

private:
    const std::size_t least_steps_;
    const py::object flat_;
    const std::size_t count_;
    const Real* const values_;
    const std::vector<RnnParameters<Real>> recurrences_;
};

/// Results: h (L K, B, P), and c (L K, B, H) for a cell that has one.
template <class Real>
struct NewState {
    py::array h;
    py::object c = py::none();
    RnnState<Real> to;

    NewState(const LayerConfig& config, std::size_t batch) : h(new_array<Real>({config.recurrences(), batch, config.h_width()})) {
        to.h = static_cast<Real*>(h.mutable_data());
        if (!config.cell.has_cell_state()) return;
        py::array cell_state = new_array<Real>({config.recurrences(), batch, config.hidden});
        to.c = static_cast<Real*>(cell_state.mutable_data());
        c = std::move(cell_state);
    }
    /// As Python has it: h, or the pair.
    py::object object() const { return c.is_none() ? py::object(h) : py::object(py::make_tuple(h, c)); }
};

/// What every call reads: x, (T, B, D) of the layer's type or (T, B) token ids; the state before; lengths and a mask if there are.
template <class Real>
struct Call {
    RnnInput<Real> input{nullptr, nullptr};
    RnnState<const Real> state;
    RnnSizes sizes;

    Call(const Network<Real>& network, py::handle x, py::handle given_state, const Options& options) {
        const LayerConfig& c = network.config;
        const bool dense = network.is_dense(x);
        if (!dense && !network.is_tokens(x)) throw py::value_error("x: expected a plain array");
        const std::size_t steps = length_of(x, 0), batch = length_of(x, 1);
        sizes = c.sizes(steps, batch, read_lengths(options.lengths, steps, batch));
        if (dense)
            input.dense = read<Real>("x", x, steps * batch * c.inputs);
        else
            tokens_ = Ids("x", x, options.unchecked, steps * batch, c.inputs, sizes.lengths);
        input.tokens = tokens_.data();
        input.mask = read<Real>("dropout_mask", options.mask, (c.layers - 1) * steps * batch * c.width());
        state = read_state<Real>(c, batch, given_state);
    }

private:
    Ids tokens_;
};

/// Where a call's gradients go.
template <class Real>
struct NewGradients {
    py::array flat;
    py::object input = py::none(), hidden = py::none();
    NewState<Real> state;
    std::vector<RnnParameterGradients<Real>> recurrences;
    RnnGradients<Real> to;

    NewGradients(const Network<Real>& network, std::size_t steps, std::size_t batch, bool with_input, bool with_hidden)
        : flat(new_array<Real>({network.count()})),
          state(network.config, batch),
          recurrences(recurrences_in<RnnParameterGradients<Real>>(values(), network.config)) {
        const LayerConfig& c = network.config;
        to = {recurrences.data(), nullptr, state.to, nullptr};
        if (with_input) input = result({steps, batch, c.inputs}, to.input);
        if (with_hidden) hidden = result({c.recurrences(), steps, batch, c.h_width()}, to.hidden);
    }
    Real* values() { return static_cast<Real*>(flat.mutable_data()); }
    py::tuple objects() const { return py::make_tuple(flat, input, state.object(), hidden); }

private:
    static py::array result(std::initializer_list<std::size_t> shape, Real*& to) {
        py::array array = new_array<Real>(shape);
        to = static_cast<Real*>(array.mutable_data());
        return array;
    }
};

void bind_rnn(py::module_& module);
void bind_model(py::module_& module);
void bind_runtime(py::module_& module);
void bind_scan(py::module_& module);
void bind_tensors(py::module_& module);

}  // namespace pybptt
