#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace pybptt {
namespace {

template <class Real, class X>
std::optional<Tape<Real>> run_forward(const Array<Real>& flat, const LayerConfig& config, const Array<X>& x,
                                      const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask,
                                      const MaybeArray<Real>& h_0, const MaybeArray<Real>& c_0, Array<Real>& output,
                                      MaybeArray<Real>& h_T, MaybeArray<Real>& c_T, MaybeArray<Real>& cells, bool keep_tape,
                                      const MemoryPlan& plan, const std::optional<py::object>& progress) {
    const InputArray<Real> in(x, config, lengths, mask);
    const auto parameters = units_in<RnnParameters<Real>>(read("flat", flat, config.parameter_count()), config);
    const std::size_t state_size = config.state_size(in.batch);
    const RnnState<const Real> state = read_state(h_0, c_0, state_size);
    const RnnOutput<Real> to{write("output", output, in.steps * in.batch * config.directions * config.hidden),
                             write_state(h_T, c_T, state_size), write("cells", cells, in.steps * state_size)};
    const RnnSizes sizes = config.sizes(in.steps, in.batch, in.lengths);
    return heard(progress, plan, [&](const Report& report) -> std::optional<Tape<Real>> {
        if (keep_tape) return forward<Real>(sizes, parameters.data(), in.input, state, to, plan, report);
        infer<Real>(sizes, parameters.data(), in.input, state, to);
        return std::nullopt;
    });
}

template <class Real>
void run_backward(const Tape<Real>& tape, const LayerConfig& config, const MaybeArray<Real>& mask, const MaybeArray<Real>& d_output,
                  const MaybeArray<Real>& d_h, const MaybeArray<Real>& d_c, const MaybeArray<Real>& d_cells, Array<Real>& flat,
                  MaybeArray<Real>& input, MaybeArray<Real>& h_0, MaybeArray<Real>& c_0, MaybeArray<Real>& hidden,
                  const MaybeArray<Real>& factors, std::pair<std::size_t, std::size_t> windows, int clip, double clip_limit) {
    const RnnSizes& s = tape.sizes();
    if (config.hidden != s.hidden || config.inputs != s.inputs || config.units() != s.recurrences())
        throw py::value_error("tape: expected one of this layer");
    const std::size_t state_size = config.state_size(s.batch), outputs = s.steps * s.batch * s.directions * s.hidden;
    const RnnUpstream<Real> upstream{read("d_output", d_output, outputs), read_state(d_h, d_c, state_size),
                                     read("d_cells", d_cells, s.steps * state_size)};
    const Real* dropout = read("dropout_mask", mask, (s.layers - 1) * outputs);
    const SweepLimits<Real> limits = read_limits(config, s.steps, s.batch, factors, windows, clip, clip_limit);
    const auto parameters = units_in<RnnParameterGradients<Real>>(write("gradient", flat, config.parameter_count()), config);
    const RnnGradients<Real> gradients{parameters.data(), write("input gradient", input, s.steps * s.batch * s.inputs),
                                       write_state(h_0, c_0, state_size), write("hidden gradient", hidden, s.steps * state_size)};
    heard(std::nullopt, tape.plan(), [&](const Report& report) {
        backward<Real>(tape, upstream, dropout, gradients, limits, report);
        return 0;
    });
}

template <class Real>
MemoryPlan run_plan(const LayerConfig& config, std::size_t steps, std::size_t batch, const MaybeArray<std::int64_t>& lengths,
                    bool tokens, bool input_gradient, std::size_t limit) {
    return plan_memory<Real>(config.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens, input_gradient, limit);
}

template <class Real>
std::size_t run_tape_bytes(const LayerConfig& config, std::size_t steps, std::size_t batch, const MaybeArray<std::int64_t>& lengths,
                           bool tokens) {
    return tape_bytes<Real>(config.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens);
}

template <class Real>
void bind_for(py::module_& module, const char* tape_name, const char* bytes_name, const char* plan_name) {
    py::class_<Tape<Real>>(module, tape_name)
        .def_property_readonly("steps", [](const Tape<Real>& t) { return t.sizes().steps; })
        .def_property_readonly("batch", [](const Tape<Real>& t) { return t.sizes().batch; })
        .def_property_readonly("dense", &Tape<Real>::has_dense_input)
        .def_property_readonly("nbytes", &Tape<Real>::bytes);
    const auto bind_forward = [&](auto function) {
        module.def("forward", function, py::arg("flat").noconvert(), py::arg("config"), py::arg("x").noconvert(),
                   py::arg("lengths").noconvert(), py::arg("mask").noconvert(), py::arg("h_0").noconvert(),
                   py::arg("c_0").noconvert(), py::arg("output").noconvert(), py::arg("h_T").noconvert(),
                   py::arg("c_T").noconvert(), py::arg("cells").noconvert(), py::arg("keep_tape"), py::arg("plan"),
                   py::arg("progress"));
    };
    bind_forward(&run_forward<Real, Real>);
    bind_forward(&run_forward<Real, std::int64_t>);
    module.def("backward", &run_backward<Real>, py::arg("tape"), py::arg("config"), py::arg("mask").noconvert(),
               py::arg("d_output").noconvert(), py::arg("d_h").noconvert(), py::arg("d_c").noconvert(),
               py::arg("d_cells").noconvert(), py::arg("flat").noconvert(), py::arg("input").noconvert(),
               py::arg("h_0").noconvert(), py::arg("c_0").noconvert(), py::arg("hidden").noconvert(),
               py::arg("factors").noconvert(), py::arg("windows"), py::arg("clip"), py::arg("clip_limit"));
    module.def(bytes_name, &run_tape_bytes<Real>, py::arg("config"), py::arg("steps"), py::arg("batch"),
               py::arg("lengths").noconvert(), py::arg("tokens"));
    module.def(plan_name, &run_plan<Real>, py::arg("config"), py::arg("steps"), py::arg("batch"), py::arg("lengths").noconvert(),
               py::arg("tokens"), py::arg("input_gradient"), py::arg("limit"));
}

LayerConfig make_config(std::size_t inputs, std::size_t hidden, std::size_t layers, std::size_t directions, bool bias, int cell,
                        int nonlinearity, bool peephole, bool coupled, bool reset_after, double clip) {
    if (cell < 0 || cell > int(CellKind::gru)) throw py::value_error("cell: out of range");
    if (nonlinearity < 0 || nonlinearity >= kNonlinearities) throw py::value_error("nonlinearity: out of range");
    if (layers < 1 || directions < 1 || directions > 2) throw py::value_error("layers, directions: out of range");
    const bool lstm = cell == int(CellKind::lstm);
    return {inputs, hidden,
            layers, directions,
            bias,   CellConfig{CellKind(cell), Nonlinearity(nonlinearity), lstm && peephole, lstm && coupled, reset_after, clip}};
}

}  // namespace

void bind_rnn(py::module_& module) {
    py::class_<LayerConfig>(module, "LayerConfig")
        .def(py::init(&make_config), py::arg("inputs"), py::arg("hidden"), py::arg("layers") = 1, py::arg("directions") = 1,
             py::arg("bias") = true, py::arg("cell") = 0, py::arg("nonlinearity") = 0, py::arg("peephole") = false,
             py::arg("coupled") = false, py::arg("reset_after") = true, py::arg("clip") = 0.0)
        .def(py::pickle(
            [](const LayerConfig& c) {
                return py::make_tuple(c.inputs, c.hidden, c.layers, c.directions, c.bias, int(c.cell.kind),
                                      int(c.cell.nonlinearity), c.cell.peephole, c.cell.coupled, c.cell.reset_after, c.cell.clip);
            },
            [](const py::tuple& c) {
                return make_config(c[0].cast<std::size_t>(), c[1].cast<std::size_t>(), c[2].cast<std::size_t>(),
                                   c[3].cast<std::size_t>(), c[4].cast<bool>(), c[5].cast<int>(), c[6].cast<int>(),
                                   c[7].cast<bool>(), c[8].cast<bool>(), c[9].cast<bool>(), c[10].cast<double>());
            }));
    py::class_<MemoryPlan>(module, "MemoryPlan")
        .def(py::init<>())
        .def_readonly("places", &MemoryPlan::places)
        .def_readonly("states", &MemoryPlan::states)
        .def_readonly("chunks", &MemoryPlan::chunks)
        .def_readonly("runs", &MemoryPlan::runs)
        .def_readonly("bytes", &MemoryPlan::bytes)
        .def_property_readonly("limited", &MemoryPlan::limited);
    bind_for<float>(module, "TapeFloat32", "tape_bytes_float32", "plan_float32");
    bind_for<double>(module, "TapeFloat64", "tape_bytes_float64", "plan_float64");
}

}  // namespace pybptt
