#include <pybind11/stl.h>

#include "bindings/layer.hpp"

namespace pybptt {
namespace {

template <class Real>
class Layer : public Network<Real> {
public:
    Layer(const LayerConfig& config, const py::object& flat) : Network<Real>(config, flat, 0, 0) {}

    // What forward, infer and backward return is None where there are no options, and something is not to be read as it is.

    /// output, state, cells or None, tape
    py::object forward(py::handle x, py::handle state, const py::object& given, py::handle given_packed) const {
        const Options options(given);
        const Weights<Real> weights(this->parameters(), packed_of<Real>(given_packed));
        if (options.unchecked && !this->takes(x, state, weights.packed)) return py::none();
        const Call<Real> call(*this, x, state, options);
        const Results results(this->config, call.sizes, options.cells);
        Tape<Real> tape = heard(options.progress, options.plan, [&](const Report& report) {
            return pybptt::forward<Real>(call.sizes, weights, call.input, call.state, results.to, options.plan, report);
        });
        return py::make_tuple(results.output, results.state.object(), results.cells, std::move(tape));
    }

    /// output, state
    py::object infer(py::handle x, py::handle state, const py::object& given, py::handle given_packed) const {
        const Options options(given);
        const Weights<Real> weights(this->parameters(), packed_of<Real>(given_packed));
        if (options.unchecked && !this->takes(x, state, weights.packed)) return py::none();
        const Call<Real> call(*this, x, state, options);
        const Results results(this->config, call.sizes, false);
        without_gil([&] {
            pybptt::infer<Real>(call.sizes, weights, call.input, call.state, results.to);
            return 0;
        });
        return py::make_tuple(results.output, results.state.object());
    }

    /// gradients by the parameters, by the input or None, by the state, and by every h_t or None
    py::object backward(const Tape<Real>& tape, py::handle mask, py::handle d_output, py::handle d_state, py::handle d_cells,
                        const py::object& given_limits, bool input, bool hidden) const {
        const LayerConfig& c = this->config;
        const RnnSizes& s = tape.sizes();
        if (c.hidden != s.hidden || c.projection != s.projection || c.inputs != s.inputs || c.recurrences() != s.recurrences())
            throw py::value_error("tape: expected one of this layer");
        if (!this->takes_output(d_output, s.steps, s.batch) || !this->takes_state(d_state, s.batch)) return py::none();
        const std::size_t outputs = s.steps * s.batch * c.width();
        const RnnUpstream<Real> upstream{read<Real>("d_output", d_output, outputs), read_state<Real>(c, s.batch, d_state),
                                         read<Real>("d_cells", d_cells, s.steps * c.c_size(s.batch))};
        const Real* const dropout = read<Real>("dropout_mask", mask, (s.layers - 1) * outputs);
        const SweepLimits<Real> limits = read_limits<Real>(c, s.steps, s.batch, given_limits);
        const NewGradients<Real> gradients(*this, s.steps, s.batch, input && tape.has_dense_input(), hidden);
        heard(py::none(), tape.plan(), [&](const Report& report) {
            pybptt::backward<Real>(tape, upstream, dropout, gradients.to, limits, report);
            return 0;
        });
        return gradients.objects();
    }

    Packed<Real> pack(bool tokens) const {
        const RnnParameters<Real>* const parameters = this->parameters();
        return without_gil([&] { return Packed<Real>(this->config.sizes(0, 0, nullptr), parameters, tokens); });
    }

    MemoryPlan plan(std::size_t steps, std::size_t batch, py::handle lengths, bool tokens, std::size_t limit) const {
        return plan_memory<Real>(this->config.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens, true, limit);
    }
    std::size_t tape_bytes(std::size_t steps, std::size_t batch, py::handle lengths, bool tokens) const {
        return pybptt::tape_bytes<Real>(this->config.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens);
    }

private:
    struct Results {
        py::array output;
        NewState<Real> state;
        py::object cells = py::none();
        RnnOutput<Real> to;

        Results(const LayerConfig& c, const RnnSizes& s, bool with_cells)
            : output(new_array<Real>({s.steps, s.batch, c.width()})), state(c, s.batch) {
            to = {static_cast<Real*>(output.mutable_data()), state.to, nullptr};
            if (!with_cells) return;
            py::array all = new_array<Real>({c.recurrences(), s.steps, s.batch, c.hidden});
            to.cells = static_cast<Real*>(all.mutable_data());
            cells = std::move(all);
        }
    };
};

template <class Real>
void bind_for(py::module_& module, const char* layer, const char* tape, const char* packed) {
    py::class_<Packed<Real>>(module, packed);
    py::class_<Tape<Real>>(module, tape)
        .def_property_readonly("steps", [](const Tape<Real>& t) { return t.sizes().steps; })
        .def_property_readonly("batch", [](const Tape<Real>& t) { return t.sizes().batch; })
        .def_property_readonly("nbytes", &Tape<Real>::bytes);
    py::class_<Layer<Real>>(module, layer)
        .def(py::init<const LayerConfig&, const py::object&>(), py::arg("config"), py::arg("flat"))
        .def("forward", &Layer<Real>::forward, py::arg("x"), py::arg("state"), py::arg("options"), py::arg("packed"))
        .def("infer", &Layer<Real>::infer, py::arg("x"), py::arg("state"), py::arg("options"), py::arg("packed"))
        .def("pack", &Layer<Real>::pack, py::arg("tokens"))
        .def("backward", &Layer<Real>::backward, py::arg("tape"), py::arg("mask"), py::arg("d_output"), py::arg("d_state"),
             py::arg("d_cells"), py::arg("limits"), py::arg("input"), py::arg("hidden"))
        .def("plan", &Layer<Real>::plan, py::arg("steps"), py::arg("batch"), py::arg("lengths"), py::arg("tokens"),
             py::arg("limit"))
        .def("tape_bytes", &Layer<Real>::tape_bytes, py::arg("steps"), py::arg("batch"), py::arg("lengths"), py::arg("tokens"));
}

LayerConfig make_config(std::size_t inputs, std::size_t hidden, std::size_t layers, std::size_t directions, bool bias, int cell,
                        int nonlinearity, bool peephole, bool coupled, bool reset_after, double clip, std::size_t projection) {
    if (cell < 0 || cell >= kCellKinds) throw py::value_error("cell: out of range");
    if (nonlinearity < 0 || nonlinearity >= kNonlinearities) throw py::value_error("nonlinearity: out of range");
    if (layers < 1 || directions < 1 || directions > 2) throw py::value_error("layers, directions: out of range");
    const bool lstm = cell == int(CellKind::lstm);
    const CellConfig config{CellKind(cell), Nonlinearity(nonlinearity), lstm && peephole, lstm && coupled, reset_after, clip};
    if (projection != 0 && !config.projectable()) throw py::value_error("proj_size: expected 0 for this cell");
    return {inputs, hidden, layers, directions, bias, config, projection};
}

}  // namespace

void bind_rnn(py::module_& module) {
    py::class_<LayerConfig>(module, "LayerConfig")
        .def(py::init(&make_config), py::arg("inputs"), py::arg("hidden"), py::arg("layers") = 1, py::arg("directions") = 1,
             py::arg("bias") = true, py::arg("cell") = 0, py::arg("nonlinearity") = 0, py::arg("peephole") = false,
             py::arg("coupled") = false, py::arg("reset_after") = true, py::arg("clip") = 0.0, py::arg("proj_size") = 0)
        .def(py::pickle(
            [](const LayerConfig& c) {
                return py::make_tuple(c.inputs, c.hidden, c.layers, c.directions, c.bias, int(c.cell.kind),
                                      int(c.cell.nonlinearity), c.cell.peephole, c.cell.coupled, c.cell.reset_after, c.cell.clip,
                                      c.projection);
            },
            [](const py::tuple& c) {
                return make_config(c[0].cast<std::size_t>(), c[1].cast<std::size_t>(), c[2].cast<std::size_t>(),
                                   c[3].cast<std::size_t>(), c[4].cast<bool>(), c[5].cast<int>(), c[6].cast<int>(),
                                   c[7].cast<bool>(), c[8].cast<bool>(), c[9].cast<bool>(), c[10].cast<double>(),
                                   c[11].cast<std::size_t>());
            }));
    py::class_<MemoryPlan>(module, "MemoryPlan")
        .def_readonly("places", &MemoryPlan::places)
        .def_readonly("states", &MemoryPlan::states)
        .def_readonly("chunks", &MemoryPlan::chunks)
        .def_readonly("runs", &MemoryPlan::runs)
        .def_readonly("bytes", &MemoryPlan::bytes)
        .def_property_readonly("limited", &MemoryPlan::limited);
    bind_for<float>(module, "LayerFloat32", "TapeFloat32", "PackedFloat32");
    bind_for<double>(module, "LayerFloat64", "TapeFloat64", "PackedFloat64");
}

}  // namespace pybptt
