// The public functions of model.hpp.
#include "pybptt/model.hpp"

#include "engine/forward.hpp"
#include "engine/output_layer.hpp"
#include "engine/sweep.hpp"
#include "engine/truncated.hpp"

namespace pybptt {
namespace {

template <class Real>
double output_flops(const RnnSizes& s, const OutputLayer<Real>& layer) {
    return 2.0 * double(layer.last_only ? 1 : s.steps) * double(s.batch) * double(s.hidden) * double(layer.outputs);
}

}  // namespace

template <class Real>
double loss_and_grad(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
                     const OutputLayer<Real>& layer, const Targets<Real>& targets, Real* final_state,
                     const RnnGradients<Real>& gradients, const OutputGradients<Real>& output_gradients, std::size_t truncation) {
    const bool truncated = sizes.steps > 0 && truncation < sizes.steps - 1;
    // Truncation windows reach across chunks, so all steps make one; the last step of all samples is to be one run of rows.
    const Cut cut = truncated ? Cut(sizes, sizes.steps, 1) : Cut::of(sizes, sizeof(Real), !layer.last_only);
    typename Tape<Real>::Contents tape(sizes, cut, input, true);
    Team team(threads_wanted(sizes, 3 * output_flops(sizes, layer)));
    const Division division(sizes, team.size());
    Barrier barrier(team.size());
    ForwardPass<Real> pass(tape, division, parameters, input, state, nullptr, final_state);
    OutputPass<Real> output(tape, team.size(), layer, targets, &output_gradients);
    const auto run = [&](auto& sweep) {
        team.run([&](int member) {
            pass.prepare(member, barrier);
            for (std::size_t i = 0; i < tape.cut.chunks(); ++i) pass.run(tape.cut.chunk(i), member, barrier);
            pass.finish(member);
            output.prepare(member, barrier);
            sweep.run(output, member, barrier);
            output.finish(member);
        });
    };
    if (truncated) {
        TruncatedSweep<Real> sweep(tape, team.size(), truncation, gradients);
        run(sweep);
    } else {
        Sweep<Real> sweep(tape, division, nullptr, gradients);
        run(sweep);
    }
    return output.total();
}

template <class Real>
double loss(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
            const OutputLayer<Real>& layer, const Targets<Real>& targets, Real* final_state) {
    typename Tape<Real>::Contents tape(sizes, Cut::of(sizes, sizeof(Real), !layer.last_only), input, false);
    Team team(threads_wanted(sizes, output_flops(sizes, layer)));
    Barrier barrier(team.size());
    ForwardPass<Real> pass(tape, Division(sizes, team.size()), parameters, input, state, nullptr, final_state);
    OutputPass<Real> output(tape, team.size(), layer, targets, nullptr);
    team.run([&](int member) {
        pass.prepare(member, barrier);
        output.prepare(member, barrier);
        for (std::size_t i = 0; i < tape.cut.chunks(); ++i) {
            pass.run(tape.cut.chunk(i), member, barrier);
            output.record_losses(tape.cut.chunk(i), member, barrier);
        }
        pass.finish(member);
    });
    return output.total();
}

template <class Real>
void predict(const RnnSizes& sizes, const RnnParameters<Real>& parameters, const RnnInput<Real>& input, const Real* state,
             const OutputLayer<Real>& layer, Real* output, Real* final_state) {
    const Kernels<Real>& k = kernels<Real>();
    const std::size_t B = sizes.batch, H = sizes.hidden, Q = layer.outputs;
    typename Tape<Real>::Contents tape(sizes, Cut::of(sizes, sizeof(Real), false), input, false);
    Team team(threads_wanted(sizes, output_flops(sizes, layer)));
    const int threads = team.size();
    Barrier barrier(threads);
    ForwardPass<Real> pass(tape, Division(sizes, threads), parameters, input, state, nullptr, final_state);
    const PanelBuffer<Real> weight_t(H, Q);  // W_ho^T
    const Buffer<Real> bias(panel_count<Real>(Q) * kLanes<Real>);
    for (std::size_t q = 0; q < bias.size(); ++q) bias[q] = q < Q && layer.bias != nullptr ? layer.bias[q] : Real(0);
    team.run([&](int member) {
        const Range own = share(Q, kLanes<Real>, member, threads);
        k.transpose(own.size(), H, row_major(layer.weight + own.begin * H, H),
                    weight_t.matrix().panels_from(own.begin / kLanes<Real>));
        pass.prepare(member, barrier);
        for (std::size_t i = 0; i < tape.cut.chunks(); ++i) {
            const Chunk chunk = tape.cut.chunk(i);
            pass.run(chunk, member, barrier);
            barrier.wait();
            if (!layer.last_only || i + 1 == tape.cut.chunks()) {
                // o = b_o + h W_ho^T
                const std::size_t first = layer.last_only ? (chunk.steps - 1) * B : 0;
                const Range rows = share(chunk.steps * B - first, 1, member, threads);
                const Term<Real> term{tape.h(chunk).rows_from(B + first + rows.begin), weight_t.matrix(), H};
                const std::size_t to = (layer.last_only ? 0 : chunk.first_step * B) + rows.begin;
                k.product(rows.size(), Q, &term, 1, every_row<Real>(bias.data()), row_major(output + to * Q, Q), {});
            }
            barrier.wait();
        }
        pass.finish(member);
    });
}

#define PYBPTT_INSTANTIATE(Real)                                                                                    \
    template double loss_and_grad(const RnnSizes&, const RnnParameters<Real>&, const RnnInput<Real>&, const Real*,  \
                                  const OutputLayer<Real>&, const Targets<Real>&, Real*, const RnnGradients<Real>&, \
                                  const OutputGradients<Real>&, std::size_t);                                       \
    template double loss(const RnnSizes&, const RnnParameters<Real>&, const RnnInput<Real>&, const Real*,           \
                         const OutputLayer<Real>&, const Targets<Real>&, Real*);                                    \
    template void predict(const RnnSizes&, const RnnParameters<Real>&, const RnnInput<Real>&, const Real*,          \
                          const OutputLayer<Real>&, Real*, Real*);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt
