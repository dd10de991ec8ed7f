// Layers and directions: every recurrence's forward pass in order, and every recurrence's sweep in the opposite one.
//
// A layer's output goes to an array (T, B, K P), directions side by side, which the next layer reads as its input; dL/dx of
// a layer is the upstream of the one below, added up over its directions. Layers of one direction go through time together,
// chunk by chunk: then these arrays have a chunk's steps alone, and stay in the cache.
#pragma once

#include "engine/forward.hpp"
#include "engine/progress.hpp"
#include "engine/upstream.hpp"

namespace pybptt {

/// array + offset, or null.
template <class Real>
Real* moved(Real* array, std::size_t offset) {
    return array == nullptr ? nullptr : array + offset;
}
/// A recurrence's part of arrays of states.
template <class Real>
RnnState<Real> state_of(const RnnSizes& s, const RnnState<Real>& all, std::size_t recurrence) {
    return {moved(all.h, recurrence * s.batch * s.h_width()), moved(all.c, recurrence * s.batch * s.hidden)};
}

template <class Real>
class ForwardStack {
public:
    using AfterChunk = std::function<void(const Chunk&)>;

    ForwardStack(const typename Tape<Real>::Contents& tape, const RnnInput<Real>& input, const RnnState<const Real>& state,
                 const RnnOutput<Real>& output, int team = 1);

    /// Packs the weights, unless they are, and writes what does not depend on them. Must come before the first run of a call. Ends
    /// with a barrier.
    void prepare(const Weights<Real>& weights, const Member& member);
    /// Up to the first sweep, with a step after each chunk of the layers that go together; after_chunk(chunk) follows each chunk of
    /// the last recurrence, and is to be passed as a std::ref, which allocates nothing. Ends with a barrier.
    void run(Steps& steps, const Member& member, const AfterChunk& after_chunk = nullptr);
    /// The chunks of one stretch, all layers together. Ends with a barrier.
    void run(const Stretch& stretch, Steps& steps, const Member& member) {
        run(stretch, 0, steps, member);
        member.wait();
    }

private:
    /// Of the recurrences that go together from `first` on.
    void run(const Stretch& stretch, std::size_t first, Steps& steps, const Member& member, const AfterChunk& after_chunk = nullptr,
             Relay* own = nullptr);
    /// The c-th chunk of a stretch.
    Chunk run(const Stretch& stretch, std::size_t c, std::size_t first, const Member& member);

    const typename Tape<Real>::Contents& tape_;
    Buffer<Real> between_[2];  // (T or a chunk's steps, B, K P): layers below the last take turns
    std::vector<std::unique_ptr<ForwardPass<Real>>> passes_;
    std::unique_ptr<Relay[]> relays_;  // of each round, one a member, if there are several, who don't meet on the way
};

/// What the sweeps of all recurrences read and write beside the tape.
template <class Real>
struct BackwardArrays {
    RnnUpstream<Real> upstream;
    const Real* mask;
    RnnGradients<Real> gradients;
    SweepLimits<Real> limits;
    const Real* d_last = nullptr;  // (B, K P), upstream of the last layer's final states in place of the caller's; or null
};

/// The sweep of all recurrences, with or without windows.
template <class Real>
class BackwardStack {
public:
    static std::unique_ptr<BackwardStack> make(const typename Tape<Real>::Contents& tape, int team,
                                               const BackwardArrays<Real>& arrays);
    virtual ~BackwardStack() = default;

    /// `top` is the last layer's upstream in place of the caller's array, or null; a layer of one direction alone has it. `again`
    /// runs chunks again; or null where there is a place for every chunk.
    virtual void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member) = 0;

protected:
    explicit BackwardStack(const typename Tape<Real>::Contents& tape) : tape_(tape) {}

    /// sweep(chunk) for every chunk, from the last to the first, with a step after each; those that are gone are run again.
    template <class SweepChunk>
    void sweep_chunks(ForwardStack<Real>* again, Steps& steps, const Member& member, SweepChunk sweep) const {
        const Schedule& schedule = tape_.schedule;
        for (std::size_t i = schedule.turn(); i < schedule.stretches().size(); ++i) {
            const Stretch& stretch = schedule.stretches()[i];
            if (i != schedule.turn()) again->run(stretch, steps, member);
            for (std::size_t c = stretch.count; c-- > stretch.count - stretch.kept;) {
                sweep(tape_.recurrences.front()->cut.chunk(stretch.first + c, stretch.place(c)));
                steps.next();
            }
        }
    }

    const typename Tape<Real>::Contents& tape_;
};

}  // namespace pybptt
