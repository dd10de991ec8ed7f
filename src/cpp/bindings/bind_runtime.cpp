#include <pybind11/stl.h>

#include "bindings/arrays.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

namespace {

/// An array in the core's memory: aligned, and its pages come back to life with the next array of the size.
template <class Real>
py::array empty_array(const std::vector<py::ssize_t>& shape) {
    std::size_t count = 1;
    for (const py::ssize_t length : shape) count = checked_product(count, std::size_t(length));
    Real* values = static_cast<Real*>(acquire_memory(checked_product(count, sizeof(Real))));
    const py::capsule owner(values, release_memory);
    return py::array_t<Real>(shape, values, owner);
}

}  // namespace

void bind_runtime(py::module_& module) {
    module.attr("version") = PYBPTT_VERSION;
    module.attr("compiler") = PYBPTT_COMPILER;
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("n"));
    module.def("tiers_built", &tiers_built);
    module.def("tiers_available", &tiers_available);
    module.def("active_tier", &active_tier);
    module.def("empty_float32", &empty_array<float>, py::arg("shape"));
    module.def("empty_float64", &empty_array<double>, py::arg("shape"));
}

}  // namespace pybptt
