// Layers and directions: every unit's forward pass in order, and every unit's sweep in the opposite one.
//
// A layer's output goes to an array (T, B, K H), directions side by side, which the next layer reads as its input; dL/dx of
// a layer is the upstream of the one below, added up over its directions. Layers of one direction go through time together,
// chunk by chunk: then these arrays have a chunk's steps alone, and stay in the cache.
#pragma once

#include "engine/forward.hpp"
#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
class ForwardStack {
public:
    ForwardStack(typename Tape<Real>::Contents& tape, int threads, const RnnParameters<Real>* parameters,
                 const RnnInput<Real>& input, const RnnState<const Real>& state, const RnnOutput<Real>& output);

    /// after_chunk(chunk) follows each chunk of the last unit. Ends with a barrier.
    template <class AfterChunk>
    void run(int member, Barrier& barrier, AfterChunk after_chunk) {
        const std::size_t units = passes_.size(), together = tape_.sizes.directions == 1 ? units : 1;
        for (const auto& pass : passes_) pass->prepare(member, barrier);
        for (std::size_t first = 0; first < units; first += together) {
            const Cut& cut = tape_.units[first]->cut;
            for (std::size_t c = 0; c < cut.chunks(); ++c)
                for (std::size_t i = first; i < first + together; ++i) {
                    passes_[i]->run(cut.chunk(c), member, barrier);
                    if (i + 1 == units) after_chunk(cut.chunk(c));
                }
            barrier.wait();
        }
    }
    void run(int member, Barrier& barrier) {
        run(member, barrier, [](const Chunk&) {});
    }

private:
    typename Tape<Real>::Contents& tape_;
    Buffer<Real> between_[2];  // (T or a chunk's steps, B, K H): layers below the last take turns
    std::vector<std::unique_ptr<ForwardPass<Real>>> passes_;
};

/// What the sweep of a unit reads and writes of the caller's arrays. Above the first layer, the input's gradient is left out.
template <class Real>
UnitGradients<Real> unit_gradients(const typename Tape<Real>::Contents& tape, std::size_t unit, const RnnUpstream<Real>& upstream,
                                   const RnnGradients<Real>& gradients, const Real* d_last);

template <class Real>
class SweepStack {
public:
    /// `d_last` (B, K H), if not null, is the upstream of the last layer's final states in place of the caller's.
    SweepStack(const typename Tape<Real>::Contents& tape, int threads, const RnnUpstream<Real>& upstream, const Real* mask,
               const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits, const Real* d_last = nullptr);

    /// `top` is the last layer's upstream in place of the caller's array, or null; a layer of one direction alone has it.
    void run(Upstream<Real>* top, int member, Barrier& barrier);

private:
    const typename Tape<Real>::Contents& tape_;
    Buffer<Real> between_[2];  // dL/d(a layer's output), likewise
    SweepSpace<Real> space_;
    std::vector<std::unique_ptr<Sweep<Real>>> sweeps_;  // of each unit
    std::vector<GivenUpstream<Real>> upstreams_;
};

}  // namespace pybptt
