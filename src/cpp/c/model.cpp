// Calls of networks with an output layer.
#include <algorithm>

#include "c/network.hpp"
#include "callers/ids.hpp"

using namespace pybptt;
using namespace pybptt::c;

namespace {

template <class Real>
struct GivenTargets {
    Buffer<std::int64_t> classes;
    Targets<Real> targets;

    GivenTargets(Call<Real>& call, const pybptt_targets* given) {
        const pybptt_targets y = read_struct("targets", given);
        const OutputConfig& o = call.network.output;
        const RnnSizes& s = call.sizes;
        const std::size_t rows = o.target_rows(s);
        if ((y.classes == nullptr) == (y.values == nullptr) && rows != 0)
            refuse("targets.classes, targets.values: expected one of the two");
        std::size_t count = rows;
        if (s.lengths != nullptr && !o.last_only) {
            count = 0;
            for (std::size_t b = 0; b < s.batch; ++b) count += std::size_t(s.lengths[b]);
        }
        if (y.classes != nullptr) {
            classes = call.arrays.copy("targets.classes", y.classes, rows, Presence::required);
            check_ids("targets.classes", classes.data(), o.last_only ? kNoSteps : s.steps, s.batch, o.outputs,
                      o.last_only ? nullptr : s.lengths);
        } else {
            count *= o.outputs;
        }
        const bool sum = read_choice("targets.reduction", y.reduction, 2) == PYBPTT_SUM;
        targets = {y.classes != nullptr ? Loss::cross_entropy : Loss::squared_error,
                   sum ? 1.0 : 1.0 / double(std::max<std::size_t>(1, count)), classes.data(),
                   y.classes != nullptr
                       ? nullptr
                       : call.arrays.template read<Real>("targets.values", y.values, rows * o.outputs, Presence::required)};
    }
};

/// The final state, of calls that have no other output.
template <class Real>
RnnState<Real> read_final_state(Call<Real>& call, const pybptt_output* given) {
    const pybptt_output o = read_optional("output", given);
    if (o.output != nullptr || o.cells != nullptr) refuse("output.output, output.cells: expected null for this call");
    return call.final_state(o);
}

}  // namespace

pybptt_status pybptt_loss_and_grad(const pybptt_network* network, const pybptt_input* input, const pybptt_targets* targets,
                                   const pybptt_truncation* truncation, const pybptt_options* options, const pybptt_output* output,
                                   const pybptt_gradients* gradients, double* loss) {
    return guarded([&] {
        expect_output(network, true);
        expect_given("loss", loss);
        const pybptt_options o = read_optional("options", options);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Call<Real> call(*network, input, false);
            GivenTargets<Real> y(call, targets);
            const RnnSizes& s = call.sizes;
            const RnnState<Real> final_state = read_final_state(call, output);
            const bool tokens = call.input.tokens != nullptr;
            const Gradients<Real> to(*network, s.steps, s.batch, !tokens, gradients, call.arrays);
            const Truncation<Real> limits = read_truncation<Real>(*network, s.steps, s.batch, s.lengths, truncation, call.arrays);
            if (!network->output.last_only) y.targets.counted = limits.counted_or_all();
            call.arrays.template write<double>("loss", loss, 1, Presence::required);
            call.arrays.expect_apart();
            const std::size_t beside = call.id_bytes() + y.classes.size() * sizeof(std::int64_t) + limits.bytes();
            const MemoryPlan plan = choose_plan(*network, o.memory_limit, beside, [&](std::size_t limit) {
                return plan_model_memory<Real>(s, tokens, to.to.input != nullptr, network->output.outputs, y.targets.loss,
                                               network->output.last_only, limit, limits.limits);
            });
            Progressing progress(o);
            const double result =
                loss_and_grad<Real>(s, call.recurrences.data(), call.input, call.state, call.output_layer(), y.targets, final_state,
                                    to.to, to.output, limits.limits, plan, progress.report());
            progress.expect_finished();
            *loss = result;
        });
    });
}

pybptt_status pybptt_loss(const pybptt_network* network, const pybptt_input* input, const pybptt_targets* targets,
                          const pybptt_output* output, double* loss) {
    return guarded([&] {
        expect_output(network, true);
        expect_given("loss", loss);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Call<Real> call(*network, input, false);
            const GivenTargets<Real> y(call, targets);
            const RnnState<Real> final_state = read_final_state(call, output);
            call.arrays.template write<double>("loss", loss, 1, Presence::required);
            call.arrays.expect_apart();
            *loss = pybptt::loss<Real>(call.sizes, call.recurrences.data(), call.input, call.state, call.output_layer(), y.targets,
                                       final_state);
        });
    });
}

pybptt_status pybptt_predict(const pybptt_network* network, const pybptt_input* input, const pybptt_output* output) {
    return guarded([&] {
        expect_output(network, true);
        const pybptt_output o = read_struct("output", output);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Call<Real> call(*network, input, true);
            if (o.cells != nullptr) refuse("output.cells: expected null for this call");
            const OutputConfig& layer = network->output;
            Real* const to = call.arrays.template write<Real>("output.output", o.output,
                                                              layer.target_rows(call.sizes) * layer.outputs, Presence::required);
            const RnnState<Real> final_state = call.final_state(o);
            call.arrays.expect_apart();
            predict<Real>(call.sizes, call.weights(), call.input, call.state, call.output_layer(), to, final_state);
        });
    });
}

pybptt_status pybptt_plan_memory(const pybptt_network* network, const pybptt_memory_query* query, pybptt_memory* memory) {
    return guarded([&] {
        const pybptt_memory_query q = read_struct("query", query);
        const int loss = read_choice("query.loss", q.loss, 3);
        expect_output(network, loss != PYBPTT_NO_LOSS);
        const std::size_t size = known_size("memory", memory);
        const bool tokens = read_flag("query.tokens", q.tokens), input = read_flag("query.input_gradient", q.input_gradient);
        const OutputConfig& o = network->output;
        const LayerConfig& c = network->layer;
        Arrays arrays;
        const Buffer<std::int64_t> lengths = arrays.copy("query.lengths", q.lengths, q.batch, Presence::optional);
        if (q.lengths != nullptr) check_lengths(lengths.data(), q.steps, q.batch);
        const RnnSizes sizes = c.sizes(q.steps, q.batch, lengths.data());
        const std::size_t rows = checked_product(checked_product(q.steps, q.batch), sizeof(std::int64_t)) / sizeof(std::int64_t);
        std::size_t ids = lengths.size() + (tokens ? rows : 0);  // copies of the call's own
        if (loss == PYBPTT_CROSS_ENTROPY) ids += o.last_only ? q.batch : rows;
        const std::size_t beside = ids * sizeof(std::int64_t);
        const std::size_t limit = q.memory_limit == 0 ? std::size_t(-1) / 4 : q.memory_limit - std::min(q.memory_limit, beside);
        MemoryPlan plan;
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            plan = loss == PYBPTT_NO_LOSS
                       ? plan_memory<Real>(sizes, tokens, true, limit)
                       : plan_model_memory<Real>(sizes, tokens, input, o.outputs,
                                                 loss == PYBPTT_CROSS_ENTROPY ? Loss::cross_entropy : Loss::squared_error,
                                                 o.last_only, limit);
        });
        const pybptt_memory result{size, plan.bytes + beside, plan.chunks, plan.runs};
        std::memcpy(memory, &result, size);
    });
}
