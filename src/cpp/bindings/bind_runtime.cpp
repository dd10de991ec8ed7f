#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/arrays.hpp"
#include "pybptt/version.h"
#include "runtime/memory.hpp"
#include "runtime/platform.hpp"
#include "runtime/processors.hpp"
#include "runtime/threads.hpp"
#include "runtime/tier.hpp"

// For threadpoolctl, which finds them in the loaded library (_threadpool.py). No exception can pass through its calls.
extern "C" PYBIND11_EXPORT int pybptt_get_num_threads() noexcept {
    try {
        return pybptt::num_threads();
    } catch (const std::exception&) {  // of PYBPTT_NUM_THREADS: the first call of a layer will say so
        return 0;
    }
}
extern "C" PYBIND11_EXPORT void pybptt_set_num_threads(int threads) noexcept {
    try {
        pybptt::set_num_threads(std::clamp(threads, 1, pybptt::kMostThreads));
    } catch (const std::exception&) {
    }
}

namespace pybptt {
namespace {

/// Kept memory back to the system: malloc, too, keeps what it is given back.
std::size_t release_all() {
    const std::size_t bytes = release_cached_memory();
    trim_malloc();
    return bytes;
}

/// TorchThreads for the body of a `with`, on one thread.
class TorchThreadsOfPython {
public:
    explicit TorchThreadsOfPython(int most) : most_(most) {}
    void enter() { now_.emplace(most_); }
    void exit(const py::args&) { now_.reset(); }

private:
    const int most_;
    std::optional<TorchThreads> now_;
};

py::dict processors_found() {
    const Processors& found = processors();
    const py::object quota = found.quota > 0 ? py::object(py::int_(found.quota)) : py::object(py::none());
    return py::dict(py::arg("allowed") = found.allowed, py::arg("cores") = found.cores, py::arg("quota") = quota);
}

py::dict caches_found() {
    const Caches& found = caches();
    return py::dict(py::arg("l1d") = found.l1d, py::arg("l2") = found.l2, py::arg("l3") = found.l3);
}

}  // namespace

void bind_runtime(py::module_& module) {
    module.attr("version") = PYBPTT_VERSION;
    module.attr("compiler") = PYBPTT_COMPILER;
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("n"));
    py::class_<TorchThreadsOfPython>(module, "TorchThreads")
        .def(py::init<int>(), py::arg("most"))
        .def("__enter__", &TorchThreadsOfPython::enter)
        .def("__exit__", &TorchThreadsOfPython::exit);
    module.def("processors", &processors_found);
    module.def("caches", &caches_found);
    module.def("release_memory", &release_all);
    module.def("tiers_built", &tiers_built);
    module.def("tiers_available", &tiers_available);
    module.def("active_tier", &active_tier);
    module.def("empty_float32", &new_array<float, std::vector<std::size_t>>, py::arg("shape"));
    module.def("empty_float64", &new_array<double, std::vector<std::size_t>>, py::arg("shape"));
}

}  // namespace pybptt
