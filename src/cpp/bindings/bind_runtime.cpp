#include <pybind11/stl.h>

#include "bindings/arrays.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

void bind_runtime(py::module_& module) {
    module.attr("version") = PYBPTT_VERSION;
    module.attr("compiler") = PYBPTT_COMPILER;
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("n"));
    module.def("tiers_built", &tiers_built);
    module.def("tiers_available", &tiers_available);
    module.def("active_tier", &active_tier);
    module.def("release_cached_memory", &release_cached_memory);
}

}  // namespace pybptt
