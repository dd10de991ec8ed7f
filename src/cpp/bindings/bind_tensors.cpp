// Calls on memory that is not NumPy's: addresses come as integers, 0 for none, and results are written where the caller says. It
// has checked shapes, dtypes and contiguity (src/pybptt/torch).
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "bindings/layer.hpp"
#include "runtime/threads.hpp"

namespace pybptt {
namespace {

using Address = std::uintptr_t;

template <class Value>
Value* at(Address address) {
    return reinterpret_cast<Value*>(address);
}

/// A recurrence's arrays in PyTorch's order: weight_ih, weight_hh, bias_ih and bias_hh if there are biases, weight_hr if there is a
/// projection.
template <class Parameters>
std::vector<Parameters> recurrences_at(const std::vector<Address>& addresses, const LayerConfig& c) {
    using Value = std::remove_reference_t<decltype(*Parameters{}.weight_ih)>;
    const std::size_t each = 2 + (c.bias ? 2 : 0) + (c.projection != 0 ? 1 : 0);
    if (addresses.size() != each * c.recurrences()) throw py::value_error("parameters: expected others");
    std::vector<Parameters> all(c.recurrences());
    auto next = addresses.begin();
    for (Parameters& one : all) {
        one.weight_ih = at<Value>(*next++);
        one.weight_hh = at<Value>(*next++);
        if (c.bias) one.bias_ih = at<Value>(*next++);
        if (c.bias) one.bias_hh = at<Value>(*next++);
        if (c.projection != 0) one.weight_hr = at<Value>(*next++);
    }
    return all;
}

/// What every call has: T, B and the lengths, which are copied, because they are checked and then read again. `packed_rows` is 0
/// for arrays with padding.
struct TensorSizes {
    std::vector<std::int64_t> lengths;
    RnnSizes sizes;

    TensorSizes(const LayerConfig& c, std::size_t steps, std::size_t batch, std::size_t packed_rows, Address given) {
        const auto* const values = at<const std::int64_t>(given);
        if (values != nullptr) {
            lengths.assign(values, values + batch);
            check_lengths(lengths.data(), steps, batch);
        }
        sizes = c.sizes(steps, batch, values == nullptr ? nullptr : lengths.data());
        sizes.packed_rows = packed_rows;
        if (packed_rows == 0) return;
        if (!std::is_sorted(lengths.rbegin(), lengths.rend()) ||
            std::accumulate(lengths.begin(), lengths.end(), std::size_t{0},
                            [](std::size_t sum, std::int64_t n) { return sum + std::size_t(n); }) != packed_rows)
            throw py::value_error("lengths: expected falling ones with the sum " + std::to_string(packed_rows));
    }
};

/// The tape; or None, if none is to be kept.
template <class Real>
py::object forward(const LayerConfig& c, std::size_t steps, std::size_t batch, std::size_t packed_rows, Address lengths, Address x,
                   Address h_0, Address c_0, const std::vector<Address>& parameters, Address mask, Address output, Address h_n,
                   Address c_n, bool keep, const py::object& given_plan, int threads) {
    const TorchThreads use(threads);
    const TensorSizes call(c, steps, batch, packed_rows, lengths);
    const auto recurrences = recurrences_at<RnnParameters<Real>>(parameters, c);
    const RnnInput<Real> input{at<const Real>(x), nullptr, at<const Real>(mask)};
    const RnnState<const Real> state{at<const Real>(h_0), at<const Real>(c_0)};
    const RnnOutput<Real> to{at<Real>(output), {at<Real>(h_n), at<Real>(c_n)}, nullptr};
    if (!keep) {
        without_gil([&] {
            pybptt::infer<Real>(call.sizes, recurrences.data(), input, state, to);
            return 0;
        });
        return py::none();
    }
    const MemoryPlan plan = given_plan.is_none() ? MemoryPlan{} : given_plan.cast<MemoryPlan>();
    return py::cast(heard(py::none(), plan, [&](const Report& report) {
        return pybptt::forward<Real>(call.sizes, recurrences.data(), input, state, to, plan, report);
    }));
}

/// Gradients, of which those at 0 are not computed.
template <class Real>
void backward(const Tape<Real>& tape, const LayerConfig& c, Address mask, Address d_output, Address d_h, Address d_c,
              const std::vector<Address>& parameters, Address x, Address h_0, Address c_0, const py::object& limits, int threads) {
    const TorchThreads use(threads);
    const RnnSizes& s = tape.sizes();
    const auto recurrences = recurrences_at<RnnParameterGradients<Real>>(parameters, c);
    const RnnUpstream<Real> upstream{at<const Real>(d_output), {at<const Real>(d_h), at<const Real>(d_c)}, nullptr};
    const RnnGradients<Real> to{recurrences.data(), at<Real>(x), {at<Real>(h_0), at<Real>(c_0)}, nullptr};
    const SweepLimits<Real> sweep_limits = read_limits<Real>(c, s.time_rows(), 1, limits);
    heard(py::none(), tape.plan(), [&](const Report& report) {
        pybptt::backward<Real>(tape, upstream, at<const Real>(mask), to, sweep_limits, report);
        return 0;
    });
}

template <class Real>
MemoryPlan plan(const LayerConfig& c, std::size_t steps, std::size_t batch, std::size_t packed_rows, Address lengths, bool input,
                std::size_t limit) {
    return plan_memory<Real>(TensorSizes(c, steps, batch, packed_rows, lengths).sizes, false, input, limit);
}

template <class Real>
void bind_tensors_for(py::module_& module, const char* name) {
    py::module_ calls = module.def_submodule(name);
    calls.def("forward", &forward<Real>, py::arg("config"), py::arg("steps"), py::arg("batch"), py::arg("packed_rows"),
              py::arg("lengths"), py::arg("x"), py::arg("h_0"), py::arg("c_0"), py::arg("parameters"), py::arg("mask"),
              py::arg("output"), py::arg("h_n"), py::arg("c_n"), py::arg("keep"), py::arg("plan"), py::arg("threads"));
    calls.def("backward", &backward<Real>, py::arg("tape"), py::arg("config"), py::arg("mask"), py::arg("d_output"), py::arg("d_h"),
              py::arg("d_c"), py::arg("parameters"), py::arg("x"), py::arg("h_0"), py::arg("c_0"), py::arg("limits"),
              py::arg("threads"));
    calls.def("plan", &plan<Real>, py::arg("config"), py::arg("steps"), py::arg("batch"), py::arg("packed_rows"),
              py::arg("lengths"), py::arg("input"), py::arg("limit"));
}

}  // namespace

void bind_tensors(py::module_& module) {
    bind_tensors_for<float>(module, "tensors_float32");
    bind_tensors_for<double>(module, "tensors_float64");
}

}  // namespace pybptt
