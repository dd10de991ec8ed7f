#include "engine/stack.hpp"

namespace pybptt {
namespace {

/// array + offset, or null.
template <class Real>
Real* moved(Real* array, std::size_t offset) {
    return array == nullptr ? nullptr : array + offset;
}

/// Values of an array between two layers.
std::size_t between_size(const RnnSizes& s, const Cut& cut) {
    const std::size_t steps = s.directions == 1 ? cut.most_steps() : s.steps;
    return checked_product(checked_product(steps, s.batch), s.directions * s.h_width());
}

/// Values from one recurrence, or one layer's outputs, to the next in an array.
struct Strides {
    std::size_t h, c, all_h, all_c, output;

    explicit Strides(const RnnSizes& s)
        : h(checked_product(s.batch, s.h_width())),
          c(checked_product(s.batch, s.hidden)),
          all_h(checked_product(s.time_rows(), s.h_width())),
          all_c(checked_product(s.time_rows(), s.hidden)),
          output(checked_product(all_h, s.directions)) {}
};

/// A recurrence's part of an array of states.
template <class Real>
RnnState<Real> moved(const RnnState<Real>& state, const Strides& stride, std::size_t recurrence) {
    return {moved(state.h, recurrence * stride.h), moved(state.c, recurrence * stride.c)};
}

}  // namespace

template <class Real>
ForwardStack<Real>::ForwardStack(const typename Tape<Real>::Contents& tape, const RnnInput<Real>& input,
                                 const RnnState<const Real>& state, const RnnOutput<Real>& output)
    : tape_(tape) {
    const RnnSizes& s = tape.sizes;
    const Strides stride(s);
    const std::size_t P = s.h_width(), K = s.directions, width = K * P;
    const bool of_chunk = K == 1;
    for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(between_size(s, tape.recurrences[0]->cut));
    for (std::size_t i = 0; i < tape.recurrences.size(); ++i) {
        const std::size_t layer = i / K, side = i % K * P;
        RecurrenceArrays<Real> a;
        if (layer == 0) {
            a.x = {input.dense, s.inputs};
        } else {
            a.x = {between_[(layer - 1) % 2].data(), width, of_chunk};
            a.mask = {moved(input.mask, (layer - 1) * stride.output), width};
        }
        a.state = moved(state, stride, i);
        const bool last = layer + 1 == s.layers;
        a.output = {moved(last ? output.output : between_[layer % 2].data(), side), width, of_chunk && !last};
        a.final_state = moved(output.final_state, stride, i);
        a.cells = {moved(output.cells, i * stride.all_c), s.hidden};
        passes_.push_back(std::make_unique<ForwardPass<Real>>(*tape.recurrences[i], a));
    }
}

template <class Real>
RecurrenceGradients<Real> recurrence_gradients(const typename Tape<Real>::Contents& tape, std::size_t recurrence,
                                               const RnnUpstream<Real>& upstream, const RnnGradients<Real>& gradients,
                                               const Real* d_last) {
    const RnnSizes& s = tape.sizes;
    const Strides stride(s);
    const std::size_t P = s.h_width(), K = s.directions, layer = recurrence / K, direction = recurrence % K;
    RecurrenceGradients<Real> g;
    const RnnState<const Real> d_final = moved(upstream.final_state, stride, recurrence);
    g.d_h = {d_final.h, P};
    if (d_last != nullptr && layer + 1 == s.layers) g.d_h = {d_last + direction * P, K * P};
    g.d_c = {d_final.c, s.hidden};
    g.d_cells = {moved(upstream.cells, recurrence * stride.all_c), s.hidden};
    g.parameters = gradients.parameters[recurrence];
    if (layer == 0) g.input.rows = {gradients.input, s.inputs};
    g.input.add = direction != 0;
    g.state = moved(gradients.state, stride, recurrence);
    g.hidden = {moved(gradients.hidden, recurrence * stride.all_h), P};
    return g;
}

template <class Real>
SweepStack<Real>::SweepStack(const typename Tape<Real>::Contents& tape, int team, const RnnUpstream<Real>& upstream,
                             const Real* mask, const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits,
                             const Real* d_last)
    : tape_(tape), lowest_layer_(tape.sizes.layers - 1) {  // the last is swept in any case: its upstream may be a loss
    const RnnSizes& s = tape.sizes;
    const Strides stride(s);
    const std::size_t P = s.h_width(), K = s.directions, width = K * P;
    const bool of_chunk = K == 1;
    for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(between_size(s, tape.recurrences[0]->cut));
    const RecurrenceTape<Real>& first = *tape.recurrences.front();
    space_.dz = PanelBuffer<Real>(first.cut.most_rows(), first.dz_cols());
    const std::size_t widest = std::max(gradients.input != nullptr ? s.inputs : 0, s.layers > 1 ? width : 0);
    if (widest != 0) space_.dx = PanelBuffer<Real>(first.cut.most_rows(), widest);
    for (std::size_t i = 0; i < tape.recurrences.size(); ++i) {
        const RecurrenceTape<Real>& recurrence = *tape.recurrences[i];
        const std::size_t layer = i / K, direction = i % K;
        RecurrenceGradients<Real> g = recurrence_gradients(tape, i, upstream, gradients, d_last);
        if (g.any()) lowest_layer_ = std::min(lowest_layer_, layer);
        if (layer > lowest_layer_) {
            g.input.rows = {between_[(layer - 1) % 2].data(), width, of_chunk};
            g.input.mask = {moved(mask, (layer - 1) * stride.output), width};
        }
        sweeps_.push_back(std::make_unique<Sweep<Real>>(recurrence, team, g, space_, limits));
        const bool last = layer + 1 == s.layers;
        const Real* from = last ? upstream.output : between_[layer % 2].data();
        upstreams_.emplace_back(recurrence.cut, UserRows<const Real>{moved(from, direction * P), width, of_chunk && !last});
    }
}

template <class Real>
void SweepStack<Real>::run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member) {
    const std::size_t K = tape_.sizes.directions, recurrences = sweeps_.size(), layers = tape_.sizes.layers;
    for (const auto& sweep : sweeps_) sweep->start(member);
    member.wait();  // what the second direction adds to is there
    const auto run = [&](std::size_t recurrence, const Chunk& chunk) {
        if (recurrence / K < lowest_layer_) return;
        Upstream<Real>& given = upstreams_[recurrence];
        sweeps_[recurrence]->run(chunk, recurrence + 1 == recurrences && top != nullptr ? *top : given, member);
    };
    if (K == 1) {
        sweep_chunks<Real>(tape_, again, steps, member, [&](const Chunk& chunk) {
            for (std::size_t i = recurrences; i-- > 0;) run(i, chunk);
        });
    } else {
        for (std::size_t layer = layers; layer-- > 0;)
            for (std::size_t i = layer * K; i < (layer + 1) * K; ++i)
                for (std::size_t c = tape_.recurrences[i]->cut.chunks(); c-- > 0;) {
                    run(i, tape_.recurrences[i]->cut.chunk(c));
                    steps.next();
                }
    }
    for (const auto& sweep : sweeps_) sweep->finish(member);
}

#define PYBPTT_INSTANTIATE(Real)                                                                                                \
    template RecurrenceGradients<Real> recurrence_gradients(const Tape<Real>::Contents&, std::size_t, const RnnUpstream<Real>&, \
                                                            const RnnGradients<Real>&, const Real*);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)
template class ForwardStack<float>;
template class ForwardStack<double>;
template class SweepStack<float>;
template class SweepStack<double>;

}  // namespace pybptt
