// NumPy arrays as the core's pointers. Python has checked shapes and dtypes and allocated every result (src/pybptt); what is
// here only keeps a mistake there from becoming a wild pointer.
#pragma once

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <exception>
#include <optional>
#include <string>

#include "pybptt/model.hpp"

namespace pybptt {

namespace py = pybind11;

/// C-contiguous, of exactly this dtype: nothing is converted.
template <class Value>
using Array = py::array_t<Value, py::array::c_style>;
template <class Value>
using MaybeArray = std::optional<Array<Value>>;

template <class Value>
void expect_size(const char* name, const Array<Value>& array, std::size_t size) {
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

/// IndexError unless every id is in [0, limit); `name` and the place of the first one that is not are in the message.
inline const std::int64_t* read_ids(const char* name, const Array<std::int64_t>& ids, std::size_t size, std::size_t limit) {
    const std::int64_t* data = read(name, ids, size);
    for (std::size_t i = 0; i < size; ++i) {
        if (std::uint64_t(data[i]) < limit) continue;
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

/// What a layer is, as Python passes it.
struct LayerConfig {
    std::size_t inputs, hidden;
    bool bias;
    int nonlinearity;

    std::size_t parameter_count() const { return hidden * (inputs + hidden + (bias ? 2 : 0)); }
    RnnSizes sizes(std::size_t steps, std::size_t batch) const {
        return {steps, batch, inputs, hidden, static_cast<Nonlinearity>(nonlinearity)};
    }
};

/// The flat vector: weight_ih, weight_hh, bias_ih, bias_hh.
template <class Real>
RnnParameters<Real> parameters_in(const Real* flat, const LayerConfig& c) {
    const Real* weight_hh = flat + c.hidden * c.inputs;
    const Real* bias = c.bias ? weight_hh + c.hidden * c.hidden : nullptr;
    return {flat, weight_hh, bias, c.bias ? bias + c.hidden : nullptr};
}
template <class Real>
RnnGradients<Real> gradients_in(Real* flat, const LayerConfig& c, Real* input, Real* state, Real* hidden) {
    Real* weight_hh = flat + c.hidden * c.inputs;
    Real* bias = c.bias ? weight_hh + c.hidden * c.hidden : nullptr;
    return {flat, weight_hh, bias, c.bias ? bias + c.hidden : nullptr, input, state, hidden};
}

/// Dense (T, B, D) of the layer's type, or token ids (T, B).
template <class Real>
struct InputArray {
    RnnInput<Real> input;
    std::size_t steps, batch;

    InputArray(const Array<Real>& x, const LayerConfig& c) : input{x.data(), nullptr} {
        expect_dimensions(x, 3);
        if (std::size_t(x.shape(2)) != c.inputs) throw py::value_error("x: expected a last axis of " + std::to_string(c.inputs));
    }
    InputArray(const Array<std::int64_t>& x, const LayerConfig& c) : input{nullptr, nullptr} {
        expect_dimensions(x, 2);
        input.tokens = read_ids("x", x, steps * batch, c.inputs);
    }

private:
    void expect_dimensions(const py::array& x, py::ssize_t dimensions) {
        if (x.ndim() != dimensions) throw py::value_error("x: expected " + std::to_string(dimensions) + " axes");
        steps = std::size_t(x.shape(0));
        batch = std::size_t(x.shape(1));
    }
};

void bind_rnn(py::module_& module);
void bind_model(py::module_& module);
void bind_runtime(py::module_& module);

}  // namespace pybptt
