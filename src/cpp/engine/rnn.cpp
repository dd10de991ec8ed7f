// The public functions of rnn.hpp: allocate, divide, run.
#include "pybptt/rnn.hpp"

#include "engine/windows.hpp"

namespace pybptt {
namespace {

template <class Real>
void run_forward(typename Tape<Real>::Contents& tape, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
                 const RnnState<const Real>& state, const RnnOutput<Real>& output) {
    Team team(threads_wanted(tape.sizes, input.tokens == nullptr ? tape.sizes.inputs : 0));
    ForwardStack<Real> stack(tape, team.size(), parameters, input, state, output);
    Barrier barrier(team.size());
    team.run([&](int member) { stack.run(member, barrier); });
}

}  // namespace

template <class Real>
Tape<Real> forward(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
                   const RnnState<const Real>& state, const RnnOutput<Real>& output) {
    auto contents = std::make_unique<typename Tape<Real>::Contents>(sizes, input, true);
    run_forward(*contents, parameters, input, state, output);
    return Tape<Real>(std::move(contents));
}

template <class Real>
void infer(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
           const RnnState<const Real>& state, const RnnOutput<Real>& output) {
    typename Tape<Real>::Contents contents(sizes, input, false);
    run_forward(contents, parameters, input, state, output);
}

template <class Real>
void backward(const Tape<Real>& tape, const RnnUpstream<Real>& upstream, const Real* mask, const RnnGradients<Real>& gradients,
              const SweepLimits<Real>& limits) {
    const RnnSizes& s = tape.sizes();
    Team team(threads_wanted(with_windows(s, limits), tape.has_dense_input() ? s.inputs : 0));
    BackwardPass<Real> pass(tape.contents(), team.size(), upstream, mask, gradients, limits);
    Barrier barrier(team.size());
    team.run([&](int member) { pass.run(nullptr, member, barrier); });
}

#define PYBPTT_INSTANTIATE(Real)                                                                                                 \
    template Tape<Real> forward(const RnnSizes&, const RnnParameters<Real>*, const RnnInput<Real>&, const RnnState<const Real>&, \
                                const RnnOutput<Real>&);                                                                         \
    template void infer(const RnnSizes&, const RnnParameters<Real>*, const RnnInput<Real>&, const RnnState<const Real>&,         \
                        const RnnOutput<Real>&);                                                                                 \
    template void backward(const Tape<Real>&, const RnnUpstream<Real>&, const Real*, const RnnGradients<Real>&,                  \
                           const SweepLimits<Real>&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt
