// The public functions of model.hpp.
#include "pybptt/model.hpp"

#include <numeric>
#include <optional>

#include "engine/needs.hpp"
#include "engine/output_layer.hpp"
#include "engine/stack.hpp"

namespace pybptt {
namespace {

template <class Real>
double output_flops(const RnnSizes& s, const OutputLayer<Real>& layer) {
    return 2.0 * double(layer.last_only ? 1 : s.steps) * double(s.batch) * double(s.directions * s.h_width()) *
           double(layer.outputs);
}

/// What the output layer reads, and the arrays that it needs for that if it can't read the last layer's tape.
template <class Real>
struct Top {
    bool last_only, in_tape;
    std::size_t width;       // K P
    std::size_t array_rows;  // T B, or B
    RnnState<Real> final_state;
    Buffer<Real> final_h;  // (L K, B, P), if the caller does not want it
    Buffer<Real> array;    // (array rows, K P)
    Buffer<Real> d_array;

    Top(const RnnSizes& s, bool last_only, const RnnState<Real>& wanted, bool gradients)
        : last_only(last_only),
          in_tape(!last_only && s.directions == 1),
          width(s.directions * s.h_width()),
          array_rows(last_only ? s.batch : checked_product(s.steps, s.batch)),
          final_state(wanted) {
        if (in_tape) return;
        if (last_only && wanted.h == nullptr) {
            final_h = Buffer<Real>(checked_product(s.recurrences() * s.batch, s.h_width()));
            final_state.h = final_h.data();
        }
        array = Buffer<Real>(checked_product(array_rows, width));
        if (gradients) d_array = Buffer<Real>(array.size());
    }
    RnnOutput<Real> output() const { return {last_only || in_tape ? nullptr : array.data(), final_state}; }
    OutputRows<Real> rows(const typename Tape<Real>::Contents& tape) const {
        const RecurrenceTape<Real>& last = *tape.recurrences.back();
        if (in_tape) return OutputRows<Real>(last);
        std::vector<std::size_t> rows;
        if (last_only) {
            rows.resize(array_rows);
            std::iota(rows.begin(), rows.end(), std::size_t{0});
        } else {
            for (std::size_t position = 0; position < last.sizes.batch; ++position)
                for (std::size_t t = 0; t < last.cut.length(position); ++t)
                    rows.push_back(t * last.sizes.batch + last.cut.sample(position));
            std::sort(rows.begin(), rows.end());
        }
        return OutputRows<Real>(array.data(), width, std::move(rows));
    }
    /// The final states of the last layer's directions, side by side.
    void bring(const RnnSizes& s, const Member& member) const {
        if (!last_only) return;
        const Range own = member.share(s.batch, 1);
        for (std::size_t b = own.begin; b < own.end; ++b)
            for (std::size_t k = 0; k < s.directions; ++k)
                std::copy_n(final_state.h + ((s.recurrences() - s.directions + k) * s.batch + b) * s.h_width(), s.h_width(),
                            array.data() + b * width + k * s.h_width());
        member.wait();
    }
};

/// Everything that loss_and_grad allocates.
template <class Real>
struct LossAndGrad {
    const typename Tape<Real>::Contents& tape;
    const bool last_only;
    const Top<Real> top;
    ForwardStack<Real> stack;
    const OutputRows<Real> rows;
    OutputPass<Real> output;
    const std::unique_ptr<BackwardStack<Real>> sweeps;

    LossAndGrad(const RnnSizes& sizes, const typename Tape<Real>::Contents& tape, int team, const RnnInput<Real>& input,
                const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
                const RnnState<Real>& final_state, const RnnGradients<Real>& gradients,
                const OutputGradients<Real>& output_gradients, const SweepLimits<Real>& limits)
        : tape(tape),
          last_only(layer.last_only),
          top(sizes, last_only, final_state, true),
          stack(tape, input, state, top.output()),
          rows(top.rows(tape)),
          output(rows, layer, targets, &output_gradients, top.in_tape ? nullptr : top.d_array.data()),
          sweeps(BackwardStack<Real>::make(tape, team,
                                           {{last_only ? nullptr : top.d_array.data(), {}},
                                            input.mask,
                                            gradients,
                                            limits,
                                            last_only ? top.d_array.data() : nullptr})) {}
};

/// Of loss and predict.
template <class Real>
int threads_for(const RnnSizes& sizes, const RnnInput<Real>& input, const OutputLayer<Real>& layer) {
    const int wanted = threads_wanted(sizes, input.tokens == nullptr ? sizes.inputs : 0, output_flops(sizes, layer));
    return threads_now(sizes, wanted);
}

/// Of loss_and_grad, crowd or not: its memory is planned for so many.
template <class Real>
int threads_for(const RnnSizes& sizes, const RnnInput<Real>& input, const OutputLayer<Real>& layer,
                const SweepLimits<Real>& limits) {
    return threads_wanted(with_windows(sizes, limits), input.tokens == nullptr ? sizes.inputs : 0, 3 * output_flops(sizes, layer));
}

}  // namespace

template <class Real>
MemoryPlan plan_model_memory(const RnnSizes& sizes, bool tokens, bool input_gradient, std::size_t outputs, Loss loss,
                             bool last_only, std::size_t limit, const SweepLimits<Real>& limits) {
    const SomeArrays<Real> some(sizes, tokens, input_gradient);
    const OutputLayer<Real> layer{outputs, nullptr, nullptr, last_only};
    const Targets<Real> targets{loss, 1, nullptr, nullptr};
    const int threads = threads_for(sizes, some.input, layer, limits);  // the more there are, the more windows go back at a time
    return count_needs<Real>(sizes, some.input,
                             [&](const typename Tape<Real>::Contents& tape) {
                                 LossAndGrad<Real>(sizes, tape, threads, some.input, some.state, layer, targets, {}, some.gradients,
                                                   {}, limits);
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
    Team team(threads_now(sizes, threads_for(sizes, input, layer, limits)));
    LossAndGrad<Real> call(sizes, tape, team.size(), input, state, layer, targets, final_state, gradients, output_gradients,
                           limits);
    Progress progress(report, tape.forward_steps() + tape.backward_steps(), Division(sizes, team.size()).by_columns);
    run_team(team, progress, [&](const Member& member, Steps& steps) {
        call.stack.prepare(parameters, member);
        call.stack.run(steps, member);
        call.top.bring(sizes, member);
        call.output.prepare(member);
        if (!call.top.in_tape) call.output.run(member);
        call.sweeps->run(call.top.in_tape ? &call.output : nullptr, &call.stack, steps, member);
        call.output.finish(member);
    });
    return call.output.total();
}

template <class Real>
double loss(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
            const RnnState<const Real>& state, const OutputLayer<Real>& layer, const Targets<Real>& targets,
            const RnnState<Real>& final_state) {
    typename Tape<Real>::Contents tape(sizes, input, false);
    Team team(threads_for(sizes, input, layer));
    const Top<Real> top(sizes, layer.last_only, final_state, false);
    ForwardStack<Real> stack(tape, input, state, top.output());
    const OutputRows<Real> rows = top.rows(tape);
    OutputPass<Real> output(rows, layer, targets, nullptr);
    Progress progress({}, 0, Division(sizes, team.size()).by_columns);
    run_team(team, progress, [&](const Member& member, Steps& steps) {
        output.prepare(member);
        stack.prepare(parameters, member);
        const auto record = [&](const Chunk& chunk) { output.record_losses(chunk, member); };
        top.in_tape ? stack.run(steps, member, std::ref(record)) : stack.run(steps, member);
        top.bring(sizes, member);
        for (std::size_t c = 0; !top.in_tape && c < rows.chunks(); ++c) output.record_losses(rows.chunk(c), member);
    });
    return output.total();
}

namespace {

/// Of `parameters`, which are packed first, or of packed ones: the other is null.
template <class Real>
void run_predict(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const Packed<Real>* packed,
                 const RnnInput<Real>& input, const RnnState<const Real>& state, const OutputLayer<Real>& layer, Real* output,
                 const RnnState<Real>& final_state) {
    const typename Tape<Real>::Contents tape(sizes, input, false, {}, packed);
    Team team(threads_for(sizes, input, layer));
    const Top<Real> top(sizes, layer.last_only, final_state, false);
    ForwardStack<Real> stack(tape, input, state, top.output());
    const OutputRows<Real> rows = top.rows(tape);
    std::optional<PackedOutput<Real>> own;
    if (packed == nullptr) own.emplace(rows.width(), layer.outputs);
    PredictPass<Real> pass(rows, team.size(), own ? *own : *packed->contents().output, layer.outputs, output);
    const Cut& cut = tape.recurrences.back()->cut;
    Progress progress({}, 0, Division(sizes, team.size()).by_columns);
    run_team(team, progress, [&](const Member& member, Steps& steps) {
        if (own) own->pack(layer, rows.width(), member);
        if (!layer.last_only && cut.ragged()) {
            const Range own = member.share(sizes.batch, 1);
            for (std::size_t position = own.begin; position < own.end; ++position)
                for (std::size_t t = cut.length(position); t < sizes.steps; ++t)
                    std::fill_n(output + (t * sizes.batch + cut.sample(position)) * layer.outputs, layer.outputs, Real(0));
        }
        stack.prepare(parameters, member);
        const auto write = [&](const Chunk& chunk) { pass.run(chunk, member); };
        top.in_tape ? stack.run(steps, member, std::ref(write)) : stack.run(steps, member);
        top.bring(sizes, member);
        for (std::size_t c = 0; !top.in_tape && c < rows.chunks(); ++c) pass.run(rows.chunk(c), member);
    });
}

}  // namespace

template <class Real>
void predict(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
             const RnnState<const Real>& state, const OutputLayer<Real>& layer, Real* output, const RnnState<Real>& final_state) {
    run_predict<Real>(sizes, parameters, nullptr, input, state, layer, output, final_state);
}

template <class Real>
void predict(const RnnSizes& sizes, const Packed<Real>& packed, const RnnInput<Real>& input, const RnnState<const Real>& state,
             const OutputLayer<Real>& layer, Real* output, const RnnState<Real>& final_state) {
    run_predict<Real>(sizes, nullptr, &packed, input, state, layer, output, final_state);
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
    template void predict(const RnnSizes&, const RnnParameters<Real>*, const RnnInput<Real>&, const RnnState<const Real>&,         \
                          const OutputLayer<Real>&, Real*, const RnnState<Real>&);                                                 \
    template Packed<Real> pack_model(const RnnSizes&, const RnnParameters<Real>*, bool, const OutputLayer<Real>&);                 \
    template void predict(const RnnSizes&, const Packed<Real>&, const RnnInput<Real>&, const RnnState<const Real>&,                \
                          const OutputLayer<Real>&, Real*, const RnnState<Real>&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt
