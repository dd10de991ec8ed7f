// The public functions of rnn.hpp: allocate, divide, run.
#include "pybptt/rnn.hpp"

#include "engine/needs.hpp"
#include "engine/stack.hpp"

namespace pybptt {

template <class Real>
MemoryPlan plan_memory(const RnnSizes& sizes, bool tokens, bool input_gradient, std::size_t limit) {
    const SomeArrays<Real> some(sizes, tokens, input_gradient);
    return count_needs<Real>(sizes, some.input,
                             [&](typename Tape<Real>::Contents& tape) {
                                 if (tape.plan.limited())
                                     tape.source = std::make_unique<TapeSource<Real>>(sizes, some.input, some.state);
                                 ForwardStack<Real>(tape, some.input, some.state, {});
                                 BackwardStack<Real>::make(tape, 1, {{}, nullptr, some.gradients, {}});
                             })
        .plan(limit);
}

template <class Real>
std::size_t tape_bytes(const RnnSizes& s, bool tokens) {
    const CountMemory count;
    auto tape = std::make_shared<typename Tape<Real>::Contents>(s, SomeArrays<Real>(s, tokens, false).input, true);
    for (const auto& recurrence : tape->recurrences) recurrence->weights->keep_for_sweep();
    return Tape<Real>(std::move(tape)).bytes();
}

template <class Real>
Packed<Real>::Packed(const RnnSizes& sizes, const RnnParameters<Real>* parameters, bool tokens)
    : contents_(std::make_shared<Contents>()) {
    Team alone(1);
    run_team(alone, [&](const Member& member) {
        for (std::size_t i = 0; i < sizes.recurrences(); ++i) {
            const bool dense = !tokens || i >= sizes.directions;
            const RnnSizes one = recurrence_sizes(sizes, i);
            contents_->recurrences.push_back(std::make_shared<PackedWeights<Real>>(one, dense, dense ? 0 : one.inputs, true));
            contents_->recurrences.back()->pack(parameters[i], nullptr, member);
        }
    });
}

template <class Real>
bool Packed<Real>::has_dense_input() const {
    return contents_->recurrences.front()->dense();
}

namespace {

template <class Real>
void run_forward(const typename Tape<Real>::Contents& tape, const Weights<Real>& weights, const RnnInput<Real>& input,
                 const RnnState<const Real>& state, const RnnOutput<Real>& output, const Report& report) {
    Team team(threads_now(tape.sizes, threads_wanted(tape.sizes, input.tokens == nullptr)));
    ForwardStack<Real> stack(tape, input, state, output, team.size());
    Progress progress(report, tape.forward_steps(), Division(tape.sizes, team.size()).by_columns);
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        stack.prepare(weights, member);
        stack.run(steps, member);
    });
}

}  // namespace

template <class Real>
Tape<Real> forward(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input,
                   const RnnState<const Real>& state, const RnnOutput<Real>& output, const MemoryPlan& plan, const Report& report) {
    if (plan.under_limit()) release_cached_memory();  // which is memory beside the call's own
    auto tape = std::make_shared<typename Tape<Real>::Contents>(sizes, input, true, plan, weights.packed);
    const bool needs_x = tape->recurrences.front()->multiplies();
    if (plan.limited()) tape->source = std::make_unique<TapeSource<Real>>(sizes, needs_x ? input : RnnInput<Real>{}, state);
    run_forward(*tape, weights, input, state, output, report);
    if (!plan.limited())
        for (const auto& recurrence : tape->recurrences) {
            recurrence->selection.z = {};
            if (weights.packed == nullptr) recurrence->weights->keep_for_sweep();
        }
    return Tape<Real>(std::move(tape));
}

template <class Real>
void infer(const RnnSizes& sizes, const Weights<Real>& weights, const RnnInput<Real>& input, const RnnState<const Real>& state,
           const RnnOutput<Real>& output) {
    run_forward<Real>({sizes, input, false, {}, weights.packed}, weights, input, state, output, {});
}

template <class Real>
void backward(const Tape<Real>& given, const RnnUpstream<Real>& upstream, const Real* mask, const RnnGradients<Real>& gradients,
              const SweepLimits<Real>& limits, const Report& report) {
    const typename Tape<Real>::Contents& tape = given.contents();
    TapeSource<Real>* const source = tape.source.get();
    std::unique_lock<TapeSource<Real>> turn;
    if (source != nullptr) turn = std::unique_lock<TapeSource<Real>>(*source);
    if (tape.plan.under_limit()) release_cached_memory();
    const RnnSizes s = with_windows(tape.sizes, limits);
    Team team(threads_now(s, threads_wanted(s, given.has_dense_input())));
    std::unique_ptr<ForwardStack<Real>> again;
    bool from_the_start = false;
    if (source != nullptr) {
        RnnInput<Real> input = source->input;
        input.mask = mask;
        again = std::make_unique<ForwardStack<Real>>(tape, input, source->state, RnnOutput<Real>{});
        from_the_start = !source->as_forward_left_it;
    }
    const auto stack = BackwardStack<Real>::make(tape, team.size(), {upstream, mask, gradients, limits});
    Progress progress(report, tape.backward_steps() + (from_the_start ? tape.forward_steps() : 0),
                      Division(tape.sizes, team.size()).by_columns);
    if (source != nullptr) source->as_forward_left_it = false;
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        if (from_the_start) again->run(steps, member);
        stack->run(nullptr, again.get(), steps, member);
    });
}

#define PYBPTT_INSTANTIATE(Real)                                                                                           \
    template std::size_t tape_bytes<Real>(const RnnSizes&, bool);                                                          \
    template MemoryPlan plan_memory<Real>(const RnnSizes&, bool, bool, std::size_t);                                       \
    template Tape<Real> forward(const RnnSizes&, const Weights<Real>&, const RnnInput<Real>&, const RnnState<const Real>&, \
                                const RnnOutput<Real>&, const MemoryPlan&, const Report&);                                 \
    template class Packed<Real>;                                                                                           \
    template void infer(const RnnSizes&, const Weights<Real>&, const RnnInput<Real>&, const RnnState<const Real>&,         \
                        const RnnOutput<Real>&);                                                                           \
    template void backward(const Tape<Real>&, const RnnUpstream<Real>&, const Real*, const RnnGradients<Real>&,            \
                           const SweepLimits<Real>&, const Report&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)
#undef PYBPTT_INSTANTIATE

}  // namespace pybptt
