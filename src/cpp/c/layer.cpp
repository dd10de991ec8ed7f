// Calls of networks without an output layer.
#include <algorithm>

#include "c/network.hpp"

using namespace pybptt;
using namespace pybptt::c;

namespace {

template <class Real>
RnnOutput<Real> read_output(Call<Real>& call, const pybptt_output* given) {
    const pybptt_output o = read_struct("output", given);
    const RnnSizes& s = call.sizes;
    return {call.arrays.template write<Real>("output.output", o.output, call.output_size(), Presence::optional),
            call.final_state(o),
            call.arrays.template write<Real>("output.cells", o.cells, s.steps * call.layer().c_size(s.batch),
                                             optional_if(call.has_cells()))};
}

}  // namespace

pybptt_status pybptt_forward(const pybptt_network* network, const pybptt_input* input, const pybptt_options* options,
                             const pybptt_output* output, pybptt_tape** tape) {
    return guarded([&] {
        expect_output(network, false);
        expect_given("tape", tape);
        const pybptt_options o = read_optional("options", options);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Call<Real> call(*network, input, true);
            const RnnOutput<Real> to = read_output(call, output);
            call.arrays.expect_apart();
            if (call.packed != nullptr && o.memory_limit != 0) refuse("options.memory_limit: expected 0 with packed weights");
            const MemoryPlan plan = choose_plan(*network, o.memory_limit, call.id_bytes(), [&](std::size_t limit) {
                return plan_memory<Real>(call.sizes, call.input.tokens != nullptr, true, limit);
            });
            Progressing progress(o);
            Tape<Real> made = forward<Real>(call.sizes, call.weights(), call.input, call.state, to, plan, progress.report());
            progress.expect_finished();
            *tape = new pybptt_tape{*network, std::move(call.lengths), call.input.mask != nullptr, std::move(made)};
        });
    });
}

size_t pybptt_tape_bytes(const pybptt_tape* tape) {
    return tape == nullptr ? 0 : std::visit([](const auto& one) { return one.bytes(); }, tape->tape);
}
void pybptt_tape_destroy(pybptt_tape* tape) { delete tape; }

pybptt_status pybptt_backward(const pybptt_tape* tape, const pybptt_upstream* upstream, const pybptt_truncation* truncation,
                              const pybptt_options* options, const pybptt_gradients* gradients) {
    return guarded([&] {
        expect_given("tape", tape);
        const pybptt_upstream u = read_struct("upstream", upstream);
        const pybptt_options o = read_optional("options", options);
        if (o.memory_limit != 0) refuse("options.memory_limit: expected 0, because forward's counts");
        if ((u.dropout_mask != nullptr) != tape->masked)
            refuse(tape->masked ? "upstream.dropout_mask: expected the one that forward was given, got null"
                                : "upstream.dropout_mask: expected null, because forward was given none");
        with_real(tape->network.float64, [&](auto zero) {
            using Real = decltype(zero);
            const auto& kept = std::get<Tape<Real>>(tape->tape);
            const LayerConfig& c = tape->network.layer;
            const std::size_t steps = kept.sizes().steps, batch = kept.sizes().batch, outputs = steps * batch * c.width();
            const bool has_cells = c.cell.has_cell_state();
            const std::int64_t* const lengths = tape->lengths.data();
            Arrays arrays;
            RnnUpstream<Real> from{
                arrays.read<Real>("upstream.d_output", u.d_output, outputs, Presence::optional),
                {arrays.read<Real>("upstream.d_h_n", u.d_h_n, c.h_size(batch), Presence::optional),
                 arrays.read<Real>("upstream.d_c_n", u.d_c_n, c.c_size(batch), optional_if(has_cells))},
                arrays.read<Real>("upstream.d_cells", u.d_cells, steps * c.c_size(batch), optional_if(has_cells))};
            const Real* const mask =
                arrays.read<Real>("upstream.dropout_mask", u.dropout_mask, (c.layers - 1) * outputs, Presence::optional);
            const Gradients<Real> to(tape->network, steps, batch, kept.has_dense_input(), gradients, arrays);
            const Truncation<Real> limits = read_truncation<Real>(tape->network, steps, batch, lengths, truncation, arrays);
            arrays.expect_apart();
            // Derivatives by outputs that no window reaches are to be 0.
            const auto reached = [&](const Real* given, std::size_t blocks, std::size_t width) {
                Buffer<Real> own;
                if (given == nullptr || limits.counted.size() == 0) return own;
                own = Buffer<Real>(blocks * steps * batch * width);
                for (std::size_t row = 0; row < blocks * steps * batch; ++row) {
                    const bool counted = limits.counted[row % (steps * batch)];
                    for (std::size_t i = row * width; i < (row + 1) * width; ++i) own[i] = counted ? given[i] : Real(0);
                }
                return own;
            };
            const Buffer<Real> d_output = reached(from.output, 1, c.width());
            const Buffer<Real> d_cells = reached(from.cells, c.recurrences(), c.hidden);
            if (d_output.data() != nullptr) from.output = d_output.data();
            if (d_cells.data() != nullptr) from.cells = d_cells.data();
            Progressing progress(o);
            backward<Real>(kept, from, mask, to.to, limits.limits, progress.report());
            progress.expect_finished();
        });
    });
}

pybptt_status pybptt_infer(const pybptt_network* network, const pybptt_input* input, const pybptt_output* output) {
    return guarded([&] {
        expect_output(network, false);
        with_real(network->float64, [&](auto zero) {
            using Real = decltype(zero);
            Call<Real> call(*network, input, true);
            const RnnOutput<Real> to = read_output(call, output);
            call.arrays.expect_apart();
            infer<Real>(call.sizes, call.weights(), call.input, call.state, to);
        });
    });
}
