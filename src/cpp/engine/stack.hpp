// Layers and directions: every recurrence's forward pass in order, and every recurrence's sweep in the opposite one.
//
// A layer's output goes to an array (T, B, K P), directions side by side, which the next layer reads as its input; dL/dx of
// a layer is the upstream of the one below, added up over its directions. Layers of one direction go through time together,
// chunk by chunk: then these arrays have a chunk's steps alone, and stay in the cache.
#pragma once

#include "engine/forward.hpp"
#include "engine/progress.hpp"
#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
class ForwardStack {
public:
    ForwardStack(const typename Tape<Real>::Contents& tape, const RnnInput<Real>& input, const RnnState<const Real>& state,
                 const RnnOutput<Real>& output);

    /// Packs the weights, of each recurrence; null if they are packed. Writes what does not depend on them. Must come before the
    /// first run of a call. Ends with a barrier.
    void prepare(const RnnParameters<Real>* parameters, const Member& member) {
        for (std::size_t i = 0; i < passes_.size(); ++i) {
            const RecurrenceTape<Real>& recurrence = *tape_.recurrences[i];
            if (parameters != nullptr) recurrence.weights->pack(parameters[i], recurrence.tokens.distinct.data(), member);
            passes_[i]->write_paddings(member);
        }
        member.wait();
    }
    /// Up to the first sweep, with a step after each chunk of the layers that go together; after_chunk(chunk) follows each chunk of
    /// the last recurrence. Ends with a barrier.
    template <class AfterChunk>
    void run(Steps& steps, const Member& member, AfterChunk after_chunk) {
        const std::size_t recurrences = passes_.size(), together = tape_.sizes.directions == 1 ? recurrences : 1;
        for (std::size_t first = 0; first < recurrences; first += together) {
            for (std::size_t i = 0; i < tape_.schedule.stretches().size() && i <= tape_.schedule.turn(); ++i)
                run(tape_.schedule.stretches()[i], first, together, steps, member, after_chunk);
            member.wait();
        }
    }
    void run(Steps& steps, const Member& member) {
        run(steps, member, [](const Chunk&) {});
    }
    /// The chunks of one stretch, all layers together.
    void run(const Stretch& stretch, Steps& steps, const Member& member) {
        run(stretch, 0, passes_.size(), steps, member, [](const Chunk&) {});
    }

private:
    template <class AfterChunk>
    void run(const Stretch& stretch, std::size_t first, std::size_t together, Steps& steps, const Member& member,
             AfterChunk after_chunk) {
        const std::size_t carry = tape_.schedule.carry();
        for (std::size_t c = 0; c < stretch.count; ++c) {
            const Chunk chunk = tape_.recurrences[first]->cut.chunk(stretch.first + c).in_place(stretch.place(c));
            for (std::size_t i = first; i < first + together; ++i) {
                passes_[i]->run(chunk, c == 0 ? stretch.from : carry, c + 1 == stretch.count ? stretch.to : carry, member);
                if (i + 1 == passes_.size()) after_chunk(chunk);
            }
            steps.next();
        }
    }

    const typename Tape<Real>::Contents& tape_;
    Buffer<Real> between_[2];  // (T or a chunk's steps, B, K P): layers below the last take turns
    std::vector<std::unique_ptr<ForwardPass<Real>>> passes_;
};

/// What the sweep of a recurrence reads and writes of the caller's arrays. Above the first layer, the input's gradient is left out.
template <class Real>
RecurrenceGradients<Real> recurrence_gradients(const typename Tape<Real>::Contents& tape, std::size_t recurrence,
                                               const RnnUpstream<Real>& upstream, const RnnGradients<Real>& gradients,
                                               const Real* d_last);

/// What follows the forward pass, for layers of one direction: sweep(chunk) for every chunk, from the last to the first, with a
/// step after each; those that are gone are run again.
template <class Real, class SweepChunk>
void sweep_chunks(const typename Tape<Real>::Contents& tape, ForwardStack<Real>* again, Steps& steps, const Member& member,
                  SweepChunk sweep) {
    const Schedule& schedule = tape.schedule;
    for (std::size_t i = schedule.turn(); i < schedule.stretches().size(); ++i) {
        const Stretch& stretch = schedule.stretches()[i];
        if (i != schedule.turn()) {
            again->run(stretch, steps, member);
            member.wait();  // the sweep's members may have other parts
        }
        for (std::size_t c = stretch.count; c-- > stretch.count - stretch.kept;) {
            sweep(tape.recurrences.front()->cut.chunk(stretch.first + c).in_place(stretch.place(c)));
            steps.next();
        }
    }
}

/// Steps of a call over all recurrences, before the first sweep and from there on.
template <class Real>
std::size_t forward_steps(const typename Tape<Real>::Contents& tape) {
    return tape.schedule.forward_steps() * (tape.sizes.directions == 1 ? 1 : tape.recurrences.size());
}
template <class Real>
std::size_t backward_steps(const typename Tape<Real>::Contents& tape) {
    return tape.schedule.backward_steps() * (tape.sizes.directions == 1 ? 1 : tape.recurrences.size());
}

template <class Real>
class SweepStack {
public:
    /// `d_last` (B, K P), if not null, is the upstream of the last layer's final states in place of the caller's.
    SweepStack(const typename Tape<Real>::Contents& tape, int team, const RnnUpstream<Real>& upstream, const Real* mask,
               const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits, const Real* d_last = nullptr);

    /// `top` is the last layer's upstream in place of the caller's array, or null; a layer of one direction alone has it. `again`
    /// runs chunks again; or null where there is a place for every chunk.
    void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member);

private:
    const typename Tape<Real>::Contents& tape_;
    Buffer<Real> between_[2];  // dL/d(a layer's output), likewise
    SweepSpace<Real> space_;
    std::size_t lowest_layer_;                          // nobody asks for anything below it
    std::vector<std::unique_ptr<Sweep<Real>>> sweeps_;  // of each recurrence
    std::vector<GivenUpstream<Real>> upstreams_;
};

}  // namespace pybptt
