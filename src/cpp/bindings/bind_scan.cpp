#include "bindings/layer.hpp"
#include "pybptt/scan.hpp"

namespace pybptt {
namespace {

/// (T, ..): T, and how many values a step has.
struct TimeMajor {
    std::size_t steps, cols = 1;

    explicit TimeMajor(py::handle array) {
        if (!(is_plain<float>(array) || is_plain<double>(array)) || axes_of(array) == 0)
            throw py::value_error("expected a plain array with an axis of time");
        steps = length_of(array, 0);
        for (std::size_t axis = 1; axis < axes_of(array); ++axis) cols *= length_of(array, axis);
    }
    std::size_t size() const { return steps * cols; }
};

template <class Real>
void run_scan(py::handle b, py::handle c, py::handle a_0, py::handle a) {
    const TimeMajor s(b);
    const Real *b_data = read<Real>("b", b, s.size()), *c_data = read<Real>("c", c, s.size()),
               *start = read<Real>("a0", a_0, s.cols);
    Real* const to = write<Real>("out", a, s.size());
    without_gil([&] {
        linear_scan<Real>(s.steps, s.cols, b_data, c_data, start, to);
        return 0;
    });
}

template <class Real>
py::tuple run_scan_backward(py::handle d_a, py::handle c, py::handle a, py::handle a_0) {
    const TimeMajor s(d_a);
    const Real *upstream = read<Real>("d_a", d_a, s.size()), *c_data = read<Real>("c", c, s.size());
    const Real *a_data = read<Real>("a", a, s.size()), *start = read<Real>("a0", a_0, s.cols);
    const auto* const lengths = fields_of(d_a)->dimensions;
    const std::vector<std::size_t> shape(lengths, lengths + axes_of(d_a)), of_step(shape.begin() + 1, shape.end());
    py::array d_b = new_array<Real>(shape), d_c = new_array<Real>(shape), d_a_0 = new_array<Real>(of_step);
    Real *to_b = static_cast<Real*>(d_b.mutable_data()), *to_c = static_cast<Real*>(d_c.mutable_data());
    Real* const to_start = static_cast<Real*>(d_a_0.mutable_data());
    without_gil([&] {
        linear_scan_backward<Real>(s.steps, s.cols, upstream, c_data, a_data, start, to_b, to_c, to_start);
        return 0;
    });
    return py::make_tuple(d_b, d_c, d_a_0);
}

}  // namespace

void bind_scan(py::module_& module) {
    module.def(
        "linear_scan",
        [](py::handle b, py::handle c, py::handle a_0, py::handle a) {
            return is_plain<float>(b) ? run_scan<float>(b, c, a_0, a) : run_scan<double>(b, c, a_0, a);
        },
        py::arg("b"), py::arg("c"), py::arg("a_0"), py::arg("a"));
    module.def(
        "linear_scan_backward",
        [](py::handle d_a, py::handle c, py::handle a, py::handle a_0) {
            return is_plain<float>(d_a) ? run_scan_backward<float>(d_a, c, a, a_0) : run_scan_backward<double>(d_a, c, a, a_0);
        },
        py::arg("d_a"), py::arg("c"), py::arg("a"), py::arg("a_0"));
}

}  // namespace pybptt
