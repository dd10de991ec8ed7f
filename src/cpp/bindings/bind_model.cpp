#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace pybptt {
namespace {

/// The output layer follows the recurrent one in the flat vector: weight (Q, H), bias (Q,) or none.
struct OutputConfig {
    std::size_t outputs;
    bool bias, last_only;

    std::size_t parameter_count(std::size_t hidden) const { return outputs * (hidden + (bias ? 1 : 0)); }
    std::size_t target_rows(std::size_t steps, std::size_t batch) const {
        return last_only ? (steps == 0 ? 0 : batch) : steps * batch;
    }
};

/// A model's parameters in its flat vector.
template <class Real>
struct Model {
    RnnParameters<Real> rnn;
    OutputLayer<Real> output;

    Model(const Array<Real>& flat, const LayerConfig& c, const OutputConfig& o) {
        const Real* data = read("flat", flat, c.parameter_count() + o.parameter_count(c.hidden));
        rnn = parameters_in(data, c);
        const Real* weight = data + c.parameter_count();
        output = {o.outputs, weight, o.bias ? weight + o.outputs * c.hidden : nullptr, o.last_only};
    }
};

template <class Real>
Targets<Real> targets_in(const Array<std::int64_t>& y, std::size_t rows, std::size_t outputs, double scale) {
    return {Loss::cross_entropy, scale, read_ids("y", y, rows, outputs), nullptr};
}
template <class Real>
Targets<Real> targets_in(const Array<Real>& y, std::size_t rows, std::size_t outputs, double scale) {
    return {Loss::squared_error, scale, nullptr, read("y", y, rows * outputs)};
}

template <class Real, class X, class Y>
double run_loss_and_grad(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                         const Array<Y>& y, double scale, const MaybeArray<Real>& state, Array<Real>& final_state,
                         Array<Real>& gradient, MaybeArray<Real>& input_gradient, MaybeArray<Real>& state_gradient,
                         MaybeArray<Real>& hidden_gradient, std::optional<std::size_t> truncation) {
    if (truncation && (state_gradient || hidden_gradient))
        throw py::value_error("truncation: expected none with a gradient by the states, got both");
    const InputArray<Real> in(x, config);
    const Model<Real> model(flat, config, output);
    const std::size_t state_size = in.batch * config.hidden;
    const Targets<Real> targets = targets_in<Real>(y, output.target_rows(in.steps, in.batch), output.outputs, scale);
    const Real* h_0 = read("state", state, state_size);
    Real* h_T = write("final_state", final_state, state_size);
    Real* to = write("gradient", gradient, config.parameter_count() + output.parameter_count(config.hidden));
    const RnnGradients<Real> gradients = gradients_in(
        to, config, write("input gradient", input_gradient, in.steps * in.batch * config.inputs),
        write("state gradient", state_gradient, state_size), write("hidden gradient", hidden_gradient, in.steps * state_size));
    Real* to_output = to + config.parameter_count();
    const OutputGradients<Real> output_gradients{to_output, output.bias ? to_output + output.outputs * config.hidden : nullptr};
    return without_gil([&] {
        return loss_and_grad<Real>(config.sizes(in.steps, in.batch), model.rnn, in.input, h_0, model.output, targets, h_T,
                                   gradients, output_gradients, truncation.value_or(kNoTruncation));
    });
}

template <class Real, class X, class Y>
double run_loss(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                const Array<Y>& y, double scale, const MaybeArray<Real>& state, Array<Real>& final_state) {
    const InputArray<Real> in(x, config);
    const Model<Real> model(flat, config, output);
    const std::size_t state_size = in.batch * config.hidden;
    const Targets<Real> targets = targets_in<Real>(y, output.target_rows(in.steps, in.batch), output.outputs, scale);
    const Real* h_0 = read("state", state, state_size);
    Real* h_T = write("final_state", final_state, state_size);
    return without_gil(
        [&] { return loss<Real>(config.sizes(in.steps, in.batch), model.rnn, in.input, h_0, model.output, targets, h_T); });
}

template <class Real, class X>
void run_predict(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                 const MaybeArray<Real>& state, Array<Real>& to, Array<Real>& final_state) {
    const InputArray<Real> in(x, config);
    const Model<Real> model(flat, config, output);
    const std::size_t state_size = in.batch * config.hidden;
    const Real* h_0 = read("state", state, state_size);
    Real* out = write("output", to, output.target_rows(in.steps, in.batch) * output.outputs);
    Real* h_T = write("final_state", final_state, state_size);
    without_gil([&] {
        predict<Real>(config.sizes(in.steps, in.batch), model.rnn, in.input, h_0, model.output, out, h_T);
        return 0;
    });
}

template <class Real, class X, class Y>
void bind_losses(py::module_& module) {
    module.def("loss_and_grad", &run_loss_and_grad<Real, X, Y>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("scale"), py::arg("state").noconvert(),
               py::arg("final_state").noconvert(), py::arg("gradient").noconvert(), py::arg("input_gradient").noconvert(),
               py::arg("state_gradient").noconvert(), py::arg("hidden_gradient").noconvert(), py::arg("truncation"));
    module.def("loss", &run_loss<Real, X, Y>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("scale"), py::arg("state").noconvert(),
               py::arg("final_state").noconvert());
}

template <class Real, class X>
void bind_for(py::module_& module) {
    bind_losses<Real, X, std::int64_t>(module);
    bind_losses<Real, X, Real>(module);
    module.def("predict", &run_predict<Real, X>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("state").noconvert(), py::arg("to").noconvert(),
               py::arg("final_state").noconvert());
}

}  // namespace

void bind_model(py::module_& module) {
    py::class_<OutputConfig>(module, "OutputConfig")
        .def(py::init([](std::size_t outputs, bool bias, bool last_only) { return OutputConfig{outputs, bias, last_only}; }),
             py::arg("outputs"), py::arg("bias"), py::arg("last_only"))
        .def(py::pickle(
            [](const OutputConfig& o) { return py::make_tuple(o.outputs, o.bias, o.last_only); },
            [](const py::tuple& o) { return OutputConfig{o[0].cast<std::size_t>(), o[1].cast<bool>(), o[2].cast<bool>()}; }));
    bind_for<float, float>(module);
    bind_for<float, std::int64_t>(module);
    bind_for<double, double>(module);
    bind_for<double, std::int64_t>(module);
}

}  // namespace pybptt
