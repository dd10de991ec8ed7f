#include <pybind11/stl.h>

#include "bindings/arrays.hpp"
#include "pybptt/scan.hpp"

namespace pybptt {
namespace {

/// (T, ..): T, and how many values a step has.
struct TimeMajor {
    std::size_t steps, cols;
};

template <class Real>
TimeMajor sizes_of(const Array<Real>& array) {
    if (array.ndim() == 0) throw py::value_error("expected an axis of time");
    std::size_t cols = 1;
    for (py::ssize_t axis = 1; axis < array.ndim(); ++axis) cols *= std::size_t(array.shape(axis));
    return {std::size_t(array.shape(0)), cols};
}

template <class Real>
void run_scan(const Array<Real>& b, const Array<Real>& c, const MaybeArray<Real>& a_0, Array<Real>& a) {
    const auto [steps, cols] = sizes_of(b);
    const std::size_t size = steps * cols;
    const Real *b_data = read("b", b, size), *c_data = read("c", c, size), *start = read("a0", a_0, cols);
    Real* const to = write("out", a, size);
    without_gil([&, steps = steps, cols = cols] {
        linear_scan<Real>(steps, cols, b_data, c_data, start, to);
        return 0;
    });
}

template <class Real>
void run_scan_backward(const Array<Real>& d_a, const Array<Real>& c, const Array<Real>& a, const MaybeArray<Real>& a_0,
                       Array<Real>& d_b, Array<Real>& d_c, Array<Real>& d_a_0) {
    const auto [steps, cols] = sizes_of(d_a);
    const std::size_t size = steps * cols;
    const Real *upstream = read("d_a", d_a, size), *c_data = read("c", c, size), *a_data = read("a", a, size);
    const Real* const start = read("a0", a_0, cols);
    Real *to_b = write("d_b", d_b, size), *to_c = write("d_c", d_c, size), *to_start = write("d_a0", d_a_0, cols);
    without_gil([&, steps = steps, cols = cols] {
        linear_scan_backward<Real>(steps, cols, upstream, c_data, a_data, start, to_b, to_c, to_start);
        return 0;
    });
}

template <class Real>
void bind_for(py::module_& module) {
    module.def("linear_scan", &run_scan<Real>, py::arg("b").noconvert(), py::arg("c").noconvert(), py::arg("a_0").noconvert(),
               py::arg("a").noconvert());
    module.def("linear_scan_backward", &run_scan_backward<Real>, py::arg("d_a").noconvert(), py::arg("c").noconvert(),
               py::arg("a").noconvert(), py::arg("a_0").noconvert(), py::arg("d_b").noconvert(), py::arg("d_c").noconvert(),
               py::arg("d_a_0").noconvert());
}

}  // namespace

void bind_scan(py::module_& module) {
    bind_for<float>(module);
    bind_for<double>(module);
}

}  // namespace pybptt
