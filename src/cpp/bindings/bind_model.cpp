#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace pybptt {
namespace {

/// The output layer follows the recurrent one in the flat vector: weight (Q, K H), bias (Q,) or none.
struct OutputConfig {
    std::size_t outputs;
    bool bias, last_only;

    std::size_t parameter_count(const LayerConfig& c) const { return outputs * (c.directions * c.hidden + (bias ? 1 : 0)); }
    std::size_t target_rows(std::size_t steps, std::size_t batch) const { return last_only ? batch : steps * batch; }
};

/// What all three functions read.
template <class Real>
struct Call {
    InputArray<Real> in;
    RnnSizes sizes;
    std::vector<RnnParameters<Real>> parameters;
    OutputLayer<Real> output;
    RnnState<const Real> state;
    RnnState<Real> final_state;
    std::size_t rows;

    template <class X>
    Call(const Array<Real>& flat, const LayerConfig& c, const OutputConfig& o, const Array<X>& x,
         const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask, const MaybeArray<Real>& h_0,
         const MaybeArray<Real>& c_0, MaybeArray<Real>& h_T, MaybeArray<Real>& c_T)
        : in(x, c, lengths, mask), sizes(c.sizes(in.steps, in.batch, in.lengths)) {
        const Real* data = read("flat", flat, c.parameter_count() + o.parameter_count(c));
        parameters = units_in<RnnParameters<Real>>(data, c);
        const Real* weight = data + c.parameter_count();
        output = {o.outputs, weight, o.bias ? weight + o.outputs * c.directions * c.hidden : nullptr, o.last_only};
        state = read_state(h_0, c_0, c.state_size(in.batch));
        final_state = write_state(h_T, c_T, c.state_size(in.batch));
        rows = o.target_rows(in.steps, in.batch);
    }
    Targets<Real> targets(const Array<std::int64_t>& y, double scale) const {
        return {Loss::cross_entropy, scale, read_ids("y", y, rows, output.outputs, output.last_only ? nullptr : in.lengths),
                nullptr};
    }
    Targets<Real> targets(const Array<Real>& y, double scale) const {
        return {Loss::squared_error, scale, nullptr, read("y", y, rows * output.outputs)};
    }
};

template <class Real, class X, class Y>
double run_loss_and_grad(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                         const Array<Y>& y, double scale, const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask,
                         const MaybeArray<Real>& h_0, const MaybeArray<Real>& c_0, MaybeArray<Real>& h_T, MaybeArray<Real>& c_T,
                         Array<Real>& gradient, MaybeArray<Real>& input_gradient, MaybeArray<Real>& d_h_0, MaybeArray<Real>& d_c_0,
                         MaybeArray<Real>& hidden_gradient, const MaybeArray<bool>& counted, const MaybeArray<Real>& factors,
                         std::pair<std::size_t, std::size_t> windows, int clip, double clip_limit, const MemoryPlan& plan,
                         const std::optional<py::object>& progress) {
    const Call<Real> call(flat, config, output, x, lengths, mask, h_0, c_0, h_T, c_T);
    Targets<Real> targets = call.targets(y, scale);
    targets.counted = read("counted", counted, call.rows);
    const SweepLimits<Real> limits = read_limits(config, call.in.steps, call.in.batch, factors, windows, clip, clip_limit);
    const std::size_t state_size = config.state_size(call.in.batch);
    Real* to = write("gradient", gradient, config.parameter_count() + output.parameter_count(config));
    const auto parameters = units_in<RnnParameterGradients<Real>>(to, config);
    const RnnGradients<Real> gradients{
        parameters.data(), write("input gradient", input_gradient, call.in.steps * call.in.batch * config.inputs),
        write_state(d_h_0, d_c_0, state_size), write("hidden gradient", hidden_gradient, call.in.steps * state_size)};
    Real* weight = to + config.parameter_count();
    const OutputGradients<Real> output_gradients{
        weight, output.bias ? weight + output.outputs * config.directions * config.hidden : nullptr};
    return heard(progress, plan, [&](const Report& report) {
        return loss_and_grad<Real>(call.sizes, call.parameters.data(), call.in.input, call.state, call.output, targets,
                                   call.final_state, gradients, output_gradients, limits, plan, report);
    });
}

template <class Real, class X, class Y>
double run_loss(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                const Array<Y>& y, double scale, const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask,
                const MaybeArray<Real>& h_0, const MaybeArray<Real>& c_0, MaybeArray<Real>& h_T, MaybeArray<Real>& c_T) {
    const Call<Real> call(flat, config, output, x, lengths, mask, h_0, c_0, h_T, c_T);
    const Targets<Real> targets = call.targets(y, scale);
    return without_gil([&] {
        return loss<Real>(call.sizes, call.parameters.data(), call.in.input, call.state, call.output, targets, call.final_state);
    });
}

template <class Real, class X>
void run_predict(const Array<Real>& flat, const LayerConfig& config, const OutputConfig& output, const Array<X>& x,
                 const MaybeArray<std::int64_t>& lengths, const MaybeArray<Real>& mask, const MaybeArray<Real>& h_0,
                 const MaybeArray<Real>& c_0, Array<Real>& to, MaybeArray<Real>& h_T, MaybeArray<Real>& c_T) {
    const Call<Real> call(flat, config, output, x, lengths, mask, h_0, c_0, h_T, c_T);
    Real* out = write("output", to, call.rows * output.outputs);
    without_gil([&] {
        predict<Real>(call.sizes, call.parameters.data(), call.in.input, call.state, call.output, out, call.final_state);
        return 0;
    });
}

template <class Real>
MemoryPlan run_plan(const LayerConfig& config, const OutputConfig& output, bool classes, std::size_t steps, std::size_t batch,
                    const MaybeArray<std::int64_t>& lengths, bool tokens, bool input_gradient, std::size_t limit,
                    std::pair<std::size_t, std::size_t> windows, int clip) {
    return plan_model_memory<Real>(config.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens, input_gradient,
                                   output.outputs, classes ? Loss::cross_entropy : Loss::squared_error, output.last_only, limit,
                                   read_limits<Real>(config, steps, batch, std::nullopt, windows, clip, 1));
}

template <class Real, class X, class Y>
void bind_losses(py::module_& module) {
    module.def("loss_and_grad", &run_loss_and_grad<Real, X, Y>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("scale"), py::arg("lengths").noconvert() = py::none(),
               py::arg("mask").noconvert() = py::none(), py::arg("h_0").noconvert() = py::none(),
               py::arg("c_0").noconvert() = py::none(), py::arg("h_T").noconvert() = py::none(),
               py::arg("c_T").noconvert() = py::none(), py::arg("gradient").noconvert(),
               py::arg("input_gradient").noconvert() = py::none(), py::arg("d_h_0").noconvert() = py::none(),
               py::arg("d_c_0").noconvert() = py::none(), py::arg("hidden_gradient").noconvert() = py::none(),
               py::arg("counted").noconvert() = py::none(), py::arg("factors").noconvert() = py::none(),
               py::arg("windows") = std::pair<std::size_t, std::size_t>(0, 0), py::arg("clip") = 0, py::arg("clip_limit") = 0.0,
               py::arg("plan") = MemoryPlan{}, py::arg("progress") = py::none());
    module.def("loss", &run_loss<Real, X, Y>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("y").noconvert(), py::arg("scale"), py::arg("lengths").noconvert() = py::none(),
               py::arg("mask").noconvert() = py::none(), py::arg("h_0").noconvert() = py::none(),
               py::arg("c_0").noconvert() = py::none(), py::arg("h_T").noconvert() = py::none(),
               py::arg("c_T").noconvert() = py::none());
}

template <class Real, class X>
void bind_for(py::module_& module) {
    bind_losses<Real, X, std::int64_t>(module);
    bind_losses<Real, X, Real>(module);
    module.def("predict", &run_predict<Real, X>, py::arg("flat").noconvert(), py::arg("config"), py::arg("output"),
               py::arg("x").noconvert(), py::arg("lengths").noconvert() = py::none(), py::arg("mask").noconvert() = py::none(),
               py::arg("h_0").noconvert() = py::none(), py::arg("c_0").noconvert() = py::none(), py::arg("to").noconvert(),
               py::arg("h_T").noconvert() = py::none(), py::arg("c_T").noconvert() = py::none());
}

}  // namespace

void bind_model(py::module_& module) {
    py::class_<OutputConfig>(module, "OutputConfig")
        .def(py::init([](std::size_t outputs, bool bias, bool last_only) { return OutputConfig{outputs, bias, last_only}; }),
             py::arg("outputs"), py::arg("bias"), py::arg("last_only"))
        .def(py::pickle(
            [](const OutputConfig& o) { return py::make_tuple(o.outputs, o.bias, o.last_only); },
            [](const py::tuple& o) { return OutputConfig{o[0].cast<std::size_t>(), o[1].cast<bool>(), o[2].cast<bool>()}; }));
    const auto bind_plan = [&](auto function, const char* name) {
        module.def(name, function, py::arg("config"), py::arg("output"), py::arg("classes"), py::arg("steps"), py::arg("batch"),
                   py::arg("lengths").noconvert(), py::arg("tokens"), py::arg("input_gradient"), py::arg("limit"),
                   py::arg("windows") = std::pair<std::size_t, std::size_t>(0, 0), py::arg("clip") = 0);
    };
    bind_plan(&run_plan<float>, "plan_model_float32");
    bind_plan(&run_plan<double>, "plan_model_float64");
    bind_for<float, float>(module);
    bind_for<float, std::int64_t>(module);
    bind_for<double, double>(module);
    bind_for<double, std::int64_t>(module);
}

}  // namespace pybptt
