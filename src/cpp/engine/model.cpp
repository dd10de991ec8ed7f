// The public functions of model.hpp.
#include "pybptt/model.hpp"

#include <optional>

#include "engine/needs.hpp"
#include "engine/output_layer.hpp"
#include "engine/stack.hpp"

namespace pybptt {
namespace {

/// Everything that loss_and_grad allocates.
template <class Real>
struct LossAndGrad {
    const OutputRows<Real> rows;
    ForwardStack<Real> stack;
    OutputPass<Real> output;
    const std::unique_ptr<BackwardStack<Real>> sweeps;

    LossAndGrad(const typename Tape<Real>::Contents& tape, int team, const RnnInput<Real>& input, const RnnState<const Real>& state,
                const OutputLayer<Real>& layer, const Targets<Real>& targets, const RnnState<Real>& final_state,
                const RnnGradients<Real>& gradients, const OutputGradients<Real>& output_gradients, const SweepLimits<Real>& limits)
        : rows(tape, layer.last_only, final_state, true),
          stack(tape, input, state, rows.output(), team),
          output(rows, layer, targets, output_gradients, rows.d_array()),
          sweeps(BackwardStack<Real>::make(tape, team,
                                           {{layer.last_only ? nullptr : rows.d_array(), {}},
                                            input.mask,
                                            gradients,
                                            limits,
                                            layer.last_only ? rows.d_array() : nullptr})) {}
};

/// Threads worth waking, crowd or not.
///   passes  over the output layer
template <class Real>
int threads_for(const RnnSizes& s, const RnnInput<Real>& input, const OutputLayer<Real>& layer, double passes,
                const SweepLimits<Real>& limits = {}) {
    const double flops =
        2.0 * double(layer.last_only ? 1 : s.steps) * double(s.batch) * double(s.directions * s.h_width()) * double(layer.outputs);
    return threads_wanted(with_windows(s, limits), input.tokens == nullptr, passes * flops);
}

/// The forward pass, and read(chunk) for each chunk of the output layer's rows as soon as it is there.
template <class Real, class Read>
void run_forward(ForwardStack<Real>& stack, const Weights<Real>& weights, const OutputRows<Real>& rows, Steps& steps,
                 const Member& member, Read read) {
    stack.prepare(weights, member);
    if (rows.in_tape()) return stack.run(steps, member, std::ref(read));
    stack.run(steps, member);
    rows.bring(member);
    for (std::size_t c = 0; c < rows.chunks(); ++c) read(rows.chunk(c));
}

}  // namespace

template <class Real>
MemoryPlan plan_model_memory(const RnnSizes& sizes, bool tokens, bool input_gradient, std::size_t outputs, Loss loss,
                             bool last_only, std::size_t limit, const SweepLimits<Real>& limits) {
    const SomeArrays<Real> some(sizes, tokens, input_gradient);
    const OutputLayer<Real> layer{outputs, nullptr, nullptr, last_only};
    const Targets<Real> targets{loss, 1, nullptr, nullptr};
    const int threads = threads_for(sizes, some.input, layer, 3, limits);  // the more there are, the more windows go back at a time
    return count_needs<Real>(sizes, some.input,
                             [&](const typename Tape<Real>::Contents& tape) {
                                 LossAndGrad<Real>(tape, threads, some.input, some.state, layer, targets, {}, some.gradients,
                                                   some.output_gradients, limits);
                             })
        .plan(limit);
}

template <class Real>
double loss_and_grad(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
                     const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
                     const RnnState<Real>& final_state, const RnnGradients<Real>& gradients,
                     const OutputGradients<Real>& output_gradients, const SweepLimits<Real>& limits, const MemoryPlan& plan,
                     const Report& report) {
    if (plan.under_limit()) release_cached_memory();  // which is memory beside the call's own
    const typename Tape<Real>::Contents tape(sizes, input, true, plan);
    Team team(threads_now(sizes, threads_for(sizes, input, layer, 3, limits)));
    LossAndGrad<Real> call(tape, team.size(), input, state, layer, targets, final_state, gradients, output_gradients, limits);
    Progress progress(report, tape.forward_steps() + tape.backward_steps(), Division(sizes, team.size()).by_columns);
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        call.stack.prepare(parameters, member);
        call.stack.run(steps, member);
        call.rows.bring(member);
        call.output.prepare(member);
        if (!call.rows.in_tape()) call.output.run(member);
        call.sweeps->run(call.rows.in_tape() ? &call.output : nullptr, &call.stack, steps, member);
        call.output.finish(member);
    });
    return call.output.total();
}

template <class Real>
double loss(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
            const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
            const RnnState<Real>& final_state) {
    typename Tape<Real>::Contents tape(sizes, input, false);
    Team team(threads_now(sizes, threads_for(sizes, input, layer, 1)));
    const OutputRows<Real> rows(tape, layer.last_only, final_state, false);
    ForwardStack<Real> stack(tape, input, state, rows.output());
    OutputPass<Real> output(rows, layer, targets, {});
    Progress progress({}, 0, Division(sizes, team.size()).by_columns);
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        output.prepare(member);
        run_forward<Real>(stack, parameters, rows, steps, member, [&](const Chunk& chunk) { output.record_losses(chunk, member); });
    });
    return output.total();
}

template <class Real>
void predict(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input, const RnnState<const Real>& state,
             const OutputLayer<Real>& layer, Real* output, const RnnState<Real>& final_state) {
    const typename Tape<Real>::Contents tape(sizes, input, false, {}, weights.packed);
    Team team(threads_now(sizes, threads_for(sizes, input, layer, 1)));
    const OutputRows<Real> rows(tape, layer.last_only, final_state, false);
    ForwardStack<Real> stack(tape, input, state, rows.output());
    std::optional<PackedOutput<Real>> own;
    if (weights.packed == nullptr) own.emplace(rows.width(), layer.outputs);
    PredictPass<Real> pass(rows, team.size(), own ? *own : *weights.packed->contents().output, layer.outputs, output);
    const Cut& cut = tape.recurrences.back()->cut;
    Progress progress({}, 0, Division(sizes, team.size()).by_columns);
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        if (own) own->pack(layer, rows.width(), member);
        const Range samples = member.share(layer.last_only ? 0 : sizes.batch, 1);
        cut.zero_paddings(UserRows<Real>{output, layer.outputs}, samples.begin, samples.size(), 0, layer.outputs);
        run_forward(stack, weights, rows, steps, member, [&](const Chunk& chunk) { pass.run(chunk, member); });
    });
}

template <class Real>
Packed<Real> pack_model(const RnnSizes& sizes, const RnnParameters<Real>* parameters, bool tokens, const OutputLayer<Real>& layer) {
    Packed<Real> packed(sizes, parameters, tokens);
    const std::size_t width = sizes.directions * sizes.h_width();
    auto output = std::make_unique<PackedOutput<Real>>(width, layer.outputs);
    Team alone(1);
    run_team(alone, [&](const Member& member) { output->pack(layer, width, member); });
    packed.contents().output = std::move(output);
    return packed;
}

#define PYBPTT_INSTANTIATE(Real)                                                                                                   \
    template double loss_and_grad(const RnnSizes&, const RnnParameters<Real>*, const RnnInput<Real>&, const RnnState<const Real>&, \
                                  const OutputLayer<Real>&, const Targets<Real>&, const RnnState<Real>&,                           \
                                  const RnnGradients<Real>&, const OutputGradients<Real>&, const SweepLimits<Real>&,               \
                                  const MemoryPlan&, const Report&);                                                               \
    template MemoryPlan plan_model_memory<Real>(const RnnSizes&, bool, bool, std::size_t, Loss, bool, std::size_t,                 \
                                                const SweepLimits<Real>&);                                                         \
    template double loss(const RnnSizes&, const RnnParameters<Real>*, const RnnInput<Real>&, const RnnState<const Real>&,          \
                         const OutputLayer<Real>&, const Targets<Real>&, const RnnState<Real>&);                                   \
    template void predict(const RnnSizes&, const Weights<Real>&, const RnnInput<Real>&, const RnnState<const Real>&,               \
                          const OutputLayer<Real>&, Real*, const RnnState<Real>&);                                                 \
    template Packed<Real> pack_model(const RnnSizes&, const RnnParameters<Real>*, bool, const OutputLayer<Real>&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)
#undef PYBPTT_INSTANTIATE

}  // namespace pybptt
