// NumPy arrays as the core's pointers. Python has checked shapes and dtypes and allocated every result (src/pybptt); what is
// here only keeps a mistake there from becoming a wild pointer.
#pragma once

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pybptt/model.hpp"
#include "runtime/float_mode.hpp"

namespace pybptt {

namespace py = pybind11;

/// C-contiguous, of exactly this dtype: nothing is converted.
template <class Value>
using Array = py::array_t<Value, py::array::c_style>;
template <class Value>
using MaybeArray = std::optional<Array<Value>>;

template <class Value>
void expect_size(const char* name, const Array<Value>& array, std::size_t size) {
    if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(Value) != 0)
        throw py::value_error(std::string(name) + ": expected aligned values");
    if (std::size_t(array.size()) != size)
        throw py::value_error(std::string(name) + ": expected " + std::to_string(size) + " values, got " +
                              std::to_string(array.size()));
}

template <class Value>
const Value* read(const char* name, const Array<Value>& array, std::size_t size) {
    expect_size(name, array, size);
    return array.data();
}
template <class Value>
const Value* read(const char* name, const MaybeArray<Value>& array, std::size_t size) {
    return array ? read(name, *array, size) : nullptr;
}
template <class Value>
Value* write(const char* name, Array<Value>& array, std::size_t size) {
    expect_size(name, array, size);
    return array.mutable_data();  // throws if read-only
}
template <class Value>
Value* write(const char* name, MaybeArray<Value>& array, std::size_t size) {
    return array ? write(name, *array, size) : nullptr;
}

/// (B,), each in [0, steps]; null if none are given.
inline const std::int64_t* read_lengths(const MaybeArray<std::int64_t>& lengths, std::size_t steps, std::size_t batch) {
    const std::int64_t* data = read("lengths", lengths, batch);
    for (std::size_t b = 0; data != nullptr && b < batch; ++b)
        if (std::uint64_t(data[b]) > steps)
            throw py::value_error("lengths: expected values in [0, " + std::to_string(steps) + "], got " + std::to_string(data[b]) +
                                  " at [" + std::to_string(b) + "]");
    return data;
}

/// IndexError unless every id is in [0, limit); `name` and the place of the first one that is not are in the message. With lengths,
/// of the axes (T, B), those past a sequence's end may be anything.
inline const std::int64_t* read_ids(const char* name, const Array<std::int64_t>& ids, std::size_t size, std::size_t limit,
                                    const std::int64_t* lengths = nullptr) {
    const std::int64_t* data = read(name, ids, size);
    for (std::size_t i = 0; i < size; ++i) {
        if (std::uint64_t(data[i]) < limit) continue;
        if (lengths != nullptr) {
            const std::size_t batch = std::size_t(ids.shape(1));
            if (i / batch >= std::size_t(lengths[i % batch])) continue;
        }
        std::string place;
        std::size_t rest = i;
        for (py::ssize_t axis = ids.ndim(); axis-- > 0; rest /= std::size_t(ids.shape(axis)))
            place = std::to_string(rest % std::size_t(ids.shape(axis))) + (place.empty() ? "" : ", ") + place;
        throw py::index_error(std::string(name) + ": expected ids in [0, " + std::to_string(limit) + "), got " +
                              std::to_string(data[i]) + " at [" + place + "]");
    }
    return data;
}

/// Takes the GIL again. If the interpreter has come to its end meanwhile, this thread (a daemon) waits here for the process to end,
/// as Python 3.14 does: older ones end the thread by unwinding its stack, which must not pass through C++.
inline void take_gil(PyThreadState* thread) {
    try {
        PyEval_RestoreThread(thread);
    } catch (abi::__forced_unwind&) {
        while (true) pause();
    }
}

/// work() without the GIL.
template <class Work>
auto without_gil(Work work) {
    PyThreadState* const thread = PyEval_SaveThread();
    try {
        auto result = work();
        take_gil(thread);
        return result;
    } catch (const std::exception&) {
        take_gil(thread);
        throw;
    }
}

/// Hears how far a call has come while the GIL is released, and tells Python a few times a second: a callback, or only whoever has
/// pressed Ctrl-C. What is raised there ends the call, and is raised from it.
class Listener {
public:
    /// `callback` may be None.
    explicit Listener(py::object callback) : callback_(std::move(callback)) {}

    Report report() {
        return [this](std::size_t done, std::size_t total) { return hear(done, total); };
    }
    /// With the GIL, after the call.
    void rethrow() {
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

private:
    bool hear(std::size_t done, std::size_t total) {
        constexpr std::chrono::milliseconds kPause(50);
        const auto now = std::chrono::steady_clock::now();
        if (done != total && now < next_) return true;
        const FloatMode in_core = FloatMode::now();
        callers_.set();
        take_gil(thread_);
        try {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!callback_.is_none()) callback_(done, total);
        } catch (abi::__forced_unwind&) {  // as in take_gil
            while (true) pause();
        } catch (...) {
            thrown_ = std::current_exception();
        }
        PyEval_SaveThread();
        in_core.set();
        next_ = std::chrono::steady_clock::now() + kPause;
        return !thrown_;
    }

    py::object callback_;
    PyThreadState* const thread_ = PyThreadState_Get();
    const FloatMode callers_ = FloatMode::now();
    std::chrono::steady_clock::time_point next_{};
    std::exception_ptr thrown_;
};

/// Of a call from Python: it is heard if it has a callback or a limit on memory, which is a long call's.
template <class Call>
auto heard(const std::optional<py::object>& progress, const MemoryPlan& plan, Call call) {
    Listener listener(progress ? *progress : py::object(py::none()));
    const bool silent = !progress && !plan.under_limit();
    auto result = without_gil([&] { return call(silent ? Report{} : listener.report()); });
    listener.rethrow();
    return result;
}

/// What a layer is, as Python passes it.
struct LayerConfig {
    std::size_t inputs, hidden, layers, directions;
    bool bias;
    CellConfig cell;

    RnnSizes sizes(std::size_t steps, std::size_t batch, const std::int64_t* lengths) const {
        return {steps, batch, inputs, hidden, cell, layers, directions, lengths};
    }
    std::size_t units() const { return layers * directions; }
    /// Values in a state, (L K, B, H).
    std::size_t state_size(std::size_t batch) const { return units() * batch * hidden; }
    /// Columns of a unit's W_ih.
    std::size_t unit_inputs(std::size_t unit) const { return unit < directions ? inputs : directions * hidden; }
    std::size_t parameter_count() const {
        std::size_t count = 0;
        for (std::size_t i = 0; i < units(); ++i)
            count +=
                hidden * (std::size_t(cell.gates()) * (unit_inputs(i) + hidden + (bias ? 2 : 0)) + std::size_t(cell.vectors()));
        return count;
    }
};

/// A unit's arrays in the flat vector, one after another: weight_ih, weight_hh, bias_ih, bias_hh, peephole; unit after unit.
template <class Unit, class Value>
std::vector<Unit> units_in(Value* flat, const LayerConfig& c) {
    std::vector<Unit> units;
    const std::size_t rows = std::size_t(c.cell.gates()) * c.hidden;
    for (std::size_t i = 0; i < c.units(); ++i) {
        const auto take = [&](std::size_t count) {
            Value* const array = flat;
            flat += count;
            return count == 0 ? nullptr : array;
        };
        Unit unit{};
        unit.weight_ih = take(rows * c.unit_inputs(i));
        unit.weight_hh = take(rows * c.hidden);
        unit.bias_ih = take(c.bias ? rows : 0);
        unit.bias_hh = take(c.bias ? rows : 0);
        unit.vectors = take(std::size_t(c.cell.vectors()) * c.hidden);
        units.push_back(unit);
    }
    return units;
}

/// Arrays of a state; c for LSTM alone.
template <class Real>
RnnState<const Real> read_state(const MaybeArray<Real>& h, const MaybeArray<Real>& c, std::size_t size) {
    return {read("h", h, size), read("c", c, size)};
}
template <class Real>
RnnState<Real> write_state(MaybeArray<Real>& h, MaybeArray<Real>& c, std::size_t size) {
    return {write("h", h, size), write("c", c, size)};
}

/// How far derivatives go back, as Python passes it: (T, B) factors, windows (k1, k2) and clipping ("none", "norm", "value";
/// limit).
template <class Real>
SweepLimits<Real> read_limits(const LayerConfig& c, std::size_t steps, std::size_t batch, const MaybeArray<Real>& factors,
                              std::pair<std::size_t, std::size_t> windows, int clip, double clip_limit) {
    if (clip < 0 || clip > int(HiddenClip::value)) throw py::value_error("clip_hidden: out of range");
    if (windows.second != 0 && (windows.first == 0 || factors)) throw py::value_error("windows: expected k1 > 0 and no factors");
    if ((windows.second != 0 || factors) && c.directions != 1) throw py::value_error("truncation: expected one direction");
    return {read("factors", factors, steps * batch), windows.first, windows.second, HiddenClip(clip), Real(clip_limit)};
}

/// Dense (T, B, D) of the layer's type, or token ids (T, B); lengths (B,) and a mask (L - 1, T, B, K H) where they are given.
template <class Real>
struct InputArray {
    RnnInput<Real> input;
    std::size_t steps, batch;
    const std::int64_t* lengths;

    InputArray(const Array<Real>& x, const LayerConfig& c, const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask)
        : input{x.data(), nullptr} {
        expect(x, 3, c, lengths, mask);
        if (std::size_t(x.shape(2)) != c.inputs) throw py::value_error("x: expected a last axis of " + std::to_string(c.inputs));
    }
    InputArray(const Array<std::int64_t>& x, const LayerConfig& c, const MaybeArray<std::int64_t>& lengths,
               const MaybeArray<Real>& mask)
        : input{nullptr, nullptr} {
        expect(x, 2, c, lengths, mask);
        input.tokens = read_ids("x", x, steps * batch, c.inputs, this->lengths);
    }

private:
    void expect(const py::array& x, py::ssize_t dimensions, const LayerConfig& c, const MaybeArray<std::int64_t>& given_lengths,
                const MaybeArray<Real>& mask) {
        if (x.ndim() != dimensions) throw py::value_error("x: expected " + std::to_string(dimensions) + " axes");
        steps = std::size_t(x.shape(0));
        batch = std::size_t(x.shape(1));
        lengths = read_lengths(given_lengths, steps, batch);
        input.mask = read("dropout_mask", mask, (c.layers - 1) * steps * batch * c.directions * c.hidden);
    }
};

void bind_rnn(py::module_& module);
void bind_model(py::module_& module);
void bind_runtime(py::module_& module);
void bind_scan(py::module_& module);

}  // namespace pybptt
