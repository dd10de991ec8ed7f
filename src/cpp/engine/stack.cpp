#include "engine/stack.hpp"

namespace pybptt {
namespace {

/// array + offset, or null.
template <class Real>
Real* moved(Real* array, std::size_t offset) {
    return array == nullptr ? nullptr : array + offset;
}

/// Values from one unit, or one layer's outputs, to the next in an array.
struct Strides {
    std::size_t state, sequence, output;

    explicit Strides(const RnnSizes& s)
        : state(checked_product(s.batch, s.hidden)),
          sequence(checked_product(s.steps, state)),
          output(checked_product(sequence, s.directions)) {}
};

}  // namespace

template <class Real>
ForwardStack<Real>::ForwardStack(typename Tape<Real>::Contents& tape, int threads, const RnnParameters<Real>* parameters,
                                 const RnnInput<Real>& input, const RnnState<const Real>& state, const RnnOutput<Real>& output)
    : tape_(tape) {
    const RnnSizes& s = tape.sizes;
    const Strides stride(s);
    const std::size_t H = s.hidden, K = s.directions, width = K * H;
    for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(stride.output);
    for (std::size_t i = 0; i < tape.units.size(); ++i) {
        const std::size_t layer = i / K, side = i % K * H;
        UnitArrays<Real> a;
        if (layer == 0) {
            a.x = {input.dense, s.inputs};
        } else {
            a.x = {between_[(layer - 1) % 2].data(), width};
            a.mask = {moved(input.mask, (layer - 1) * stride.output), width};
        }
        a.state = {moved(state.h, i * stride.state), moved(state.c, i * stride.state)};
        a.output = {moved(layer + 1 < s.layers ? between_[layer % 2].data() : output.output, side), width};
        a.final_state = {moved(output.final_state.h, i * stride.state), moved(output.final_state.c, i * stride.state)};
        a.cells = {moved(output.cells, i * stride.sequence), H};
        RnnSizes work = tape.units[i]->sizes;
        if (!tape.units[i]->dense) work.inputs = 0;  // tokens select, they do not multiply
        passes_.push_back(std::make_unique<ForwardPass<Real>>(*tape.units[i], Division(work, threads), parameters[i], a));
    }
}

template <class Real>
SweepStack<Real>::SweepStack(const typename Tape<Real>::Contents& tape, int threads, const RnnUpstream<Real>& upstream,
                             const Real* mask, const RnnGradients<Real>& gradients, const Real* d_last)
    : tape_(tape) {
    const RnnSizes& s = tape.sizes;
    const Strides stride(s);
    const std::size_t H = s.hidden, K = s.directions, width = K * H;
    for (std::size_t i = 0; i < 2 && i + 1 < s.layers; ++i) between_[i] = Buffer<Real>(stride.output);
    for (std::size_t i = 0; i < tape.units.size(); ++i) {
        const UnitTape<Real>& unit = *tape.units[i];
        const std::size_t layer = i / K, direction = i % K;
        UnitGradients<Real> g;
        g.d_h = {moved(upstream.final_state.h, i * stride.state), H};
        if (d_last != nullptr && layer + 1 == s.layers) g.d_h = {d_last + direction * H, width};
        g.d_c = {moved(upstream.final_state.c, i * stride.state), H};
        g.d_cells = {moved(upstream.cells, i * stride.sequence), H};
        g.parameters = gradients.parameters[i];
        if (layer == 0) {
            g.input.rows = {gradients.input, s.inputs};
        } else {
            g.input.rows = {between_[(layer - 1) % 2].data(), width};
            g.input.mask = {moved(mask, (layer - 1) * stride.output), width};
        }
        g.input.add = direction != 0;
        g.state = {moved(gradients.state.h, i * stride.state), moved(gradients.state.c, i * stride.state)};
        g.hidden = {moved(gradients.hidden, i * stride.sequence), H};
        const Division division(unit.sizes, threads);
        sweeps_.push_back(std::make_unique<Sweep<Real>>(unit, division, g));
        const Real* from = layer + 1 < s.layers ? between_[layer % 2].data() : upstream.output;
        upstreams_.emplace_back(unit, division, UserRows<const Real>{moved(from, direction * H), width});
    }
}

template <class Real>
void SweepStack<Real>::run(Upstream<Real>* top, int member, Barrier& barrier) {
    const std::size_t K = tape_.sizes.directions;
    for (std::size_t layer = tape_.sizes.layers; layer-- > 0;)
        for (std::size_t i = layer * K; i < (layer + 1) * K; ++i) {
            const bool is_last = i + 1 == sweeps_.size();
            sweeps_[i]->run(is_last && top != nullptr ? *top : static_cast<Upstream<Real>&>(upstreams_[i]), member, barrier);
        }
}

template class ForwardStack<float>;
template class ForwardStack<double>;
template class SweepStack<float>;
template class SweepStack<double>;

}  // namespace pybptt
