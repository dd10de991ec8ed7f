// The public functions of rnn.hpp: allocate, divide, run.
#include "pybptt/rnn.hpp"

#include "engine/forward.hpp"
#include "engine/sweep.hpp"

namespace pybptt {
namespace {

template <class Real>
void run_forward(typename Tape<Real>::Contents& tape, const RnnParameters<Real>& parameters, const RnnInput<Real>& input,
                 const Real* state, Real* output, Real* final_state) {
    const RnnSizes& s = tape.sizes;
    RnnSizes work = s;
    if (!tape.dense) work.inputs = 0;  // tokens select, they do not multiply
    Team team(threads_wanted(work));
    const Division division(work, team.size());
    ForwardPass<Real> pass(tape, division, parameters, input, state, output, final_state);
    Barrier barrier(team.size());
    team.run([&](int member) {
        pass.prepare(member, barrier);
        for (std::size_t i = 0; i < tape.cut.chunks(); ++i) pass.run(tape.cut.chunk(i), member, barrier);
        pass.finish(member);
    });
}

}  // namespace

template <class Real>
Tape<Real> forward(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
                   Real* output, Real* final_state) {
    auto contents = std::make_unique<typename Tape<Real>::Contents>(sizes, Cut::of(sizes, sizeof(Real), true), input, true);
    run_forward(*contents, parameters, input, state, output, final_state);
    return Tape<Real>(std::move(contents));
}

template <class Real>
void infer(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
           Real* output, Real* final_state) {
    typename Tape<Real>::Contents contents(sizes, Cut::of(sizes, sizeof(Real), true), input, false);
    run_forward(contents, parameters, input, state, output, final_state);
}

template <class Real>
void backward(const Tape<Real>& tape, const Real* d_output, const Real* d_state, const RnnGradients<Real>& gradients) {
    const RnnSizes& s = tape.sizes();
    GivenUpstream<Real> upstream(s, d_output);
    Team team(threads_wanted(s));
    Sweep<Real> sweep(tape.contents(), Division(s, team.size()), d_state, gradients);
    Barrier barrier(team.size());
    team.run([&](int member) { sweep.run(upstream, member, barrier); });
}

#define PYBPTT_INSTANTIATE(Real)                                                                                                \
    template Tape<Real> forward(const RnnSizes&, const RnnParameters<Real>&, const RnnInput<Real>&, const Real*, Real*, Real*); \
    template void infer(const RnnSizes&, const RnnParameters<Real>&, const RnnInput<Real>&, const Real*, Real*, Real*);         \
    template void backward(const Tape<Real>&, const Real*, const Real*, const RnnGradients<Real>&);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt
