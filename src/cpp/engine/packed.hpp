// The parameters of one recurrence in the layouts that its products read. They are packed once, and read by any number of steps and
// calls.
#pragma once

#include <atomic>

#include "engine/buffers.hpp"
#include "pybptt/model.hpp"
#include "runtime/threads.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

template <class Real>
const Cell<Real>& find_cell(const CellConfig& config) {
    return kernels<Real>().cell(config);
}

template <class Real>
struct PackedWeights {
    // Of the forward pass
    PanelBuffer<Real> w_hh_t;      // W_hh^T (P, blocks of G)
    PanelBuffer<Real> w_ih_t;      // W_ih^T (D, blocks of G); if dense
    PanelBuffer<Real> token_rows;  // otherwise b + W_ih's column, a row a token (count, blocks)
    Buffer<Real> bias;             // b of each block, in whole panels
    PanelBuffer<Real> w_hr_t;      // W_hr^T (H, P); if there is a projection
    // Of the sweep, if there is to be one
    PanelBuffer<Real> w_hh;  // (G H, P), for dz_t W_hh
    PanelBuffer<Real> w_ih;  // (G H, D), for dz_t W_ih; if dense
    PanelBuffer<Real> w_hr;  // (P, H), for dh_t W_hr; if there is a projection
    // Of both
    Buffer<Real> vectors;  // the cell's, each in whole panels

    /// Of all forward passes so far: every other one walks through the weights backwards, and finds what the last one left in the
    /// cache.
    std::atomic<std::size_t> steps{0};

    ///   sizes   of this recurrence
    ///   tokens  how many have a row
    PackedWeights(const RnnSizes& sizes, bool dense, std::size_t tokens, bool for_sweep);

    /// A member's share; they are complete after a barrier.
    ///   tokens  ids that have a row; null for 0, 1, ..
    void pack(const RnnParameters<Real>& parameters, const std::int64_t* tokens, const Member& member);
    /// Frees what the forward pass alone reads.
    void keep_for_sweep();
    std::size_t bytes() const;
    bool dense() const { return dense_; }

private:
    const Cell<Real>& cell_;
    const RnnSizes sizes_;
    const bool dense_;
    const std::size_t tokens_;
};

/// The output layer likewise: W_ho^T (K H, Q) and b_o in whole panels.
template <class Real>
struct PackedOutput {
    PanelBuffer<Real> weight_t;
    Buffer<Real> bias;

    PackedOutput(std::size_t width, std::size_t outputs)
        : weight_t(width, outputs), bias(panel_count<Real>(outputs) * kLanes<Real>) {}

    /// A member's share; it is complete after a barrier.
    void pack(const OutputLayer<Real>& layer, std::size_t width, const Member& member);
};

}  // namespace pybptt
