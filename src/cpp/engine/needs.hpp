// What a call will allocate: its own constructors say it, with memory counted in place of allocated (CountMemory).
#pragma once

#include "engine/tape.hpp"

namespace pybptt {

/// Arguments of a call that nobody reads or writes.
template <class Real>
struct SomeArrays {
    RnnInput<Real> input{};
    RnnState<const Real> state;
    std::vector<RnnParameterGradients<Real>> parameter_gradients;
    RnnGradients<Real> gradients{};
    OutputGradients<Real> output_gradients;

    SomeArrays(const RnnSizes& s, bool tokens, bool input_gradient) {
        static Real nothing;
        static std::int64_t id;
        input = {tokens ? nullptr : &nothing, tokens ? &id : nullptr};
        parameter_gradients.assign(s.recurrences(),
                                   {&nothing, &nothing, &nothing, &nothing, s.cell.vectors() != 0 ? &nothing : nullptr,
                                    s.projection != 0 ? &nothing : nullptr});
        gradients.parameters = parameter_gradients.data();
        output_gradients = {&nothing, &nothing};
        const Real* const p = &nothing;
        state = {p, s.cell.has_cell_state() ? p : nullptr};
        if (input_gradient && !tokens) gradients.input = &nothing;
    }
};

/// build(tape) constructs what a call constructs beside a tape.
template <class Real, class Build>
MemoryNeeds count_needs(const RnnSizes& sizes, const RnnInput<Real>& input, Build build) {
    MemoryNeeds needs{};
    const auto count = [&](const MemoryPlan& plan) {
        const CountMemory counted;
        typename Tape<Real>::Contents tape(sizes, input, true, plan);
        build(tape);
        const RecurrenceTape<Real>& first = *tape.recurrences.front();
        needs.chunks = first.cut.chunks();
        if (plan.limited())
            for (const auto& recurrence : tape.recurrences) recurrence->add_needs(needs);
        return counted.bytes();
    };
    MemoryPlan every;
    every.bytes = 1;  // as under a limit: dz has one place then, however many threads there are
    needs.all = count(every);
    if (sizes.directions != 1 || needs.chunks < 2) return needs;
    MemoryPlan least;
    least.places = 1;
    const std::size_t most_stretches = 2 * needs.chunks;
    needs.beside = count(least) + 2 * most_stretches * sizeof(Stretch);  // as a vector grows
    needs.beside -= needs.bytes(1, 0) - needs.beside;
    return needs;
}

}  // namespace pybptt
