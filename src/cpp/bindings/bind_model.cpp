#include <pybind11/stl.h>

#include "bindings/layer.hpp"

namespace pybptt {
namespace {

template <class Real>
class Model : public Network<Real> {
public:
    Model(const LayerConfig& config, const OutputConfig& output, bool classes, bool mean, const py::object& flat)
        : Network<Real>(config, flat, output.parameter_count(config), output.last_only ? 1 : 0),
          output_(output),
          loss_(classes ? Loss::cross_entropy : Loss::squared_error),
          mean_(mean) {}

    // Without options they return None where something is not to be read as it is; and the scale is None.

    /// loss, gradients as a layer's backward has them, state
    py::object loss_and_grad(py::handle x, py::handle y, py::handle scale, py::handle state, const py::object& given,
                             const py::object& given_limits, bool input, bool hidden) const {
        const Options options(given);
        if (options.unchecked && !takes(x, y, state)) return py::none();
        const LayerConfig& c = this->config;
        const Call<Real> call(*this, x, state, options);
        const RnnSizes& s = call.sizes;
        const Ids classes = read_classes(call, y, options);
        Targets<Real> targets = read_targets(call, y, classes, scale);
        if (!given_limits.is_none() && !output_.last_only)
            targets.counted = read<bool>("counted", given_limits.cast<py::tuple>()[4], output_.target_rows(s));
        const SweepLimits<Real> limits = read_limits<Real>(c, s.steps, s.batch, given_limits);
        NewGradients<Real> gradients(*this, s.steps, s.batch, input && call.input.tokens == nullptr, hidden);
        Real* const weight = gradients.values() + c.parameter_count();
        const OutputGradients<Real> output_gradients{weight, bias_after(weight)};
        const NewState<Real> final_state(c, s.batch);
        const RnnParameters<Real>* const parameters = this->parameters();
        const double loss = heard(options.progress, options.plan, [&](const Report& report) {
            return pybptt::loss_and_grad<Real>(s, parameters, call.input, call.state, layer(), targets, final_state.to,
                                               gradients.to, output_gradients, limits, options.plan, report);
        });
        return py::make_tuple(loss, gradients.objects(), final_state.object());
    }

    /// loss, state
    py::object loss(py::handle x, py::handle y, py::handle scale, py::handle state, const py::object& given) const {
        const Options options(given);
        if (options.unchecked && !takes(x, y, state)) return py::none();
        const Call<Real> call(*this, x, state, options);
        const Ids classes = read_classes(call, y, options);
        const Targets<Real> targets = read_targets(call, y, classes, scale);
        const NewState<Real> final_state(this->config, call.sizes.batch);
        const RnnParameters<Real>* const parameters = this->parameters();
        const double loss = without_gil(
            [&] { return pybptt::loss<Real>(call.sizes, parameters, call.input, call.state, layer(), targets, final_state.to); });
        return py::make_tuple(loss, final_state.object());
    }

    /// output, state
    py::object infer(py::handle x, py::handle state, const py::object& given, py::handle given_packed) const {
        const Options options(given);
        const Weights<Real> weights(this->parameters(), packed_of<Real>(given_packed));
        if (options.unchecked && !this->takes(x, state, weights.packed)) return py::none();
        const Call<Real> call(*this, x, state, options);
        const RnnSizes& s = call.sizes;
        py::array output =
            output_.last_only ? new_array<Real>({s.batch, output_.outputs}) : new_array<Real>({s.steps, s.batch, output_.outputs});
        const NewState<Real> final_state(this->config, s.batch);
        Real* const to = static_cast<Real*>(output.mutable_data());
        without_gil([&] {
            pybptt::predict<Real>(s, weights, call.input, call.state, layer(), to, final_state.to);
            return 0;
        });
        return py::make_tuple(output, final_state.object());
    }

    Packed<Real> pack(bool tokens) const {
        const RnnParameters<Real>* const parameters = this->parameters();
        return without_gil([&] { return pack_model<Real>(this->config.sizes(0, 0, nullptr), parameters, tokens, layer()); });
    }

    MemoryPlan plan(std::size_t steps, std::size_t batch, py::handle lengths, bool tokens, bool input, const py::object& limits,
                    std::size_t limit) const {
        const LayerConfig& c = this->config;
        return plan_model_memory<Real>(c.sizes(steps, batch, read_lengths(lengths, steps, batch)), tokens, input, output_.outputs,
                                       loss_, output_.last_only, limit, read_limits<Real>(c, steps, batch, limits));
    }

private:
    template <class Value>
    Value* bias_after(Value* weight) const {
        return output_.bias ? weight + output_.outputs * this->config.width() : nullptr;
    }
    OutputLayer<Real> layer() const {
        const Real* const weight = this->values() + this->config.parameter_count();
        return {output_.outputs, weight, bias_after(weight), output_.last_only};
    }
    using Network<Real>::takes;
    /// With targets.
    bool takes(py::handle x, py::handle y, py::handle state) const {
        if (!takes(x, state) || !is_own(y)) return false;
        const std::size_t T = length_of(x, 0), B = length_of(x, 1), Q = output_.outputs;
        if (loss_ == Loss::squared_error) return output_.last_only ? is_plain<Real>(y, {B, Q}) : is_plain<Real>(y, {T, B, Q});
        return output_.last_only ? is_plain<std::int64_t>(y, {B}) : is_plain<std::int64_t>(y, {T, B});
    }
    /// None for squared error.
    Ids read_classes(const Call<Real>& call, py::handle y, const Options& options) const {
        if (loss_ == Loss::squared_error) return {};
        const std::int64_t* const lengths = output_.last_only ? nullptr : call.sizes.lengths;
        return {"y", y, options.unchecked, output_.target_rows(call.sizes), output_.outputs, lengths};
    }
    /// Without a scale it is that of the reduction, where all sequences have all steps.
    Targets<Real> read_targets(const Call<Real>& call, py::handle y, const Ids& classes, py::handle given_scale) const {
        const std::size_t count = output_.target_rows(call.sizes) * (loss_ == Loss::squared_error ? output_.outputs : 1);
        const double of_reduction = mean_ ? 1.0 / double(std::max<std::size_t>(1, count)) : 1.0;
        const double scale = given_scale.is_none() ? of_reduction : given_scale.cast<double>();
        if (loss_ == Loss::cross_entropy) return {loss_, scale, classes.data(), nullptr};
        return {loss_, scale, nullptr, read<Real>("y", y, output_.target_rows(call.sizes) * output_.outputs)};
    }

    const OutputConfig output_;
    const Loss loss_;
    const bool mean_;
};

template <class Real>
void bind_for(py::module_& module, const char* name) {
    py::class_<Model<Real>>(module, name)
        .def(py::init<const LayerConfig&, const OutputConfig&, bool, bool, const py::object&>(), py::arg("config"),
             py::arg("output"), py::arg("classes"), py::arg("mean"), py::arg("flat"))
        .def("loss_and_grad", &Model<Real>::loss_and_grad, py::arg("x"), py::arg("y"), py::arg("scale"), py::arg("state"),
             py::arg("options"), py::arg("limits"), py::arg("input"), py::arg("hidden"))
        .def("loss", &Model<Real>::loss, py::arg("x"), py::arg("y"), py::arg("scale"), py::arg("state"), py::arg("options"))
        .def("infer", &Model<Real>::infer, py::arg("x"), py::arg("state"), py::arg("options"), py::arg("packed"))
        .def("pack", &Model<Real>::pack, py::arg("tokens"))
        .def("plan", &Model<Real>::plan, py::arg("steps"), py::arg("batch"), py::arg("lengths"), py::arg("tokens"),
             py::arg("input"), py::arg("limits"), py::arg("limit"));
}

}  // namespace

void bind_model(py::module_& module) {
    py::class_<OutputConfig>(module, "OutputConfig")
        .def(py::init([](std::size_t outputs, bool bias, bool last_only) { return OutputConfig{outputs, bias, last_only}; }),
             py::arg("outputs"), py::arg("bias"), py::arg("last_only"))
        .def(py::pickle(
            [](const OutputConfig& o) { return py::make_tuple(o.outputs, o.bias, o.last_only); },
            [](const py::tuple& o) { return OutputConfig{o[0].cast<std::size_t>(), o[1].cast<bool>(), o[2].cast<bool>()}; }));
    bind_for<float>(module, "ModelFloat32");
    bind_for<double>(module, "ModelFloat64");
}

}  // namespace pybptt
