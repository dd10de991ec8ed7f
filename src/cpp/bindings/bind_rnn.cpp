#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace pybptt {
namespace {

template <class Real, class X>
std::optional<Tape<Real>> run_forward(const Array<Real>& flat, const LayerConfig& config, const Array<X>& x,
                                      const MaybeArray<Real>& state, Array<Real>& output, Array<Real>& final_state,
                                      bool keep_tape) {
    const InputArray<Real> in(x, config);
    const std::size_t H = config.hidden, state_size = in.batch * H;
    const RnnParameters<Real> parameters = parameters_in(read("flat", flat, config.parameter_count()), config);
    const Real* h_0 = read("state", state, state_size);
    Real* out = write("output", output, in.steps * state_size);
    Real* h_T = write("final_state", final_state, state_size);
    const RnnSizes sizes = config.sizes(in.steps, in.batch);
    return without_gil([&]() -> std::optional<Tape<Real>> {
        if (keep_tape) return forward<Real>(sizes, parameters, in.input, h_0, out, h_T);
        infer<Real>(sizes, parameters, in.input, h_0, out, h_T);
        return std::nullopt;
    });
}

template <class Real>
void run_backward(const Tape<Real>& tape, bool bias, const MaybeArray<Real>& d_output, const MaybeArray<Real>& d_state,
                  Array<Real>& flat, MaybeArray<Real>& input, MaybeArray<Real>& state, MaybeArray<Real>& hidden) {
    const RnnSizes& s = tape.sizes();
    const LayerConfig config{s.inputs, s.hidden, bias, int(s.nonlinearity)};
    const std::size_t state_size = s.batch * s.hidden, all = s.steps * state_size;
    const Real* from_output = read("d_output", d_output, all);
    const Real* from_state = read("d_state", d_state, state_size);
    Real* to = write("gradient", flat, config.parameter_count());
    Real* to_input = write("input gradient", input, s.steps * s.batch * s.inputs);
    Real* to_state = write("state gradient", state, state_size);
    Real* to_hidden = write("hidden gradient", hidden, all);
    without_gil([&] {
        backward<Real>(tape, from_output, from_state, gradients_in(to, config, to_input, to_state, to_hidden));
        return 0;
    });
}

template <class Real>
void bind_for(py::module_& module, const char* tape_name) {
    py::class_<Tape<Real>>(module, tape_name)
        .def_property_readonly("steps", [](const Tape<Real>& t) { return t.sizes().steps; })
        .def_property_readonly("batch", [](const Tape<Real>& t) { return t.sizes().batch; })
        .def_property_readonly("dense", &Tape<Real>::has_dense_input)
        .def_property_readonly("nbytes", &Tape<Real>::bytes);
    const auto bind_forward = [&](auto function) {
        module.def("forward", function, py::arg("flat").noconvert(), py::arg("config"), py::arg("x").noconvert(),
                   py::arg("state").noconvert(), py::arg("output").noconvert(), py::arg("final_state").noconvert(),
                   py::arg("keep_tape"));
    };
    bind_forward(&run_forward<Real, Real>);
    bind_forward(&run_forward<Real, std::int64_t>);
    module.def("backward", &run_backward<Real>, py::arg("tape"), py::arg("bias"), py::arg("d_output").noconvert(),
               py::arg("d_state").noconvert(), py::arg("flat").noconvert(), py::arg("input").noconvert(),
               py::arg("state").noconvert(), py::arg("hidden").noconvert());
}

}  // namespace

void bind_rnn(py::module_& module) {
    py::class_<LayerConfig>(module, "LayerConfig")
        .def(py::init([](std::size_t inputs, std::size_t hidden, bool bias, int nonlinearity) {
                 if (nonlinearity < 0 || nonlinearity >= kNonlinearities) throw py::value_error("nonlinearity: out of range");
                 return LayerConfig{inputs, hidden, bias, nonlinearity};
             }),
             py::arg("inputs"), py::arg("hidden"), py::arg("bias"), py::arg("nonlinearity"))
        .def(py::pickle([](const LayerConfig& c) { return py::make_tuple(c.inputs, c.hidden, c.bias, c.nonlinearity); },
                        [](const py::tuple& c) {
                            return LayerConfig{c[0].cast<std::size_t>(), c[1].cast<std::size_t>(), c[2].cast<bool>(),
                                               c[3].cast<int>()};
                        }));
    bind_for<float>(module, "TapeFloat32");
    bind_for<double>(module, "TapeFloat64");
}

}  // namespace pybptt
