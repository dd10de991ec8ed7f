// The output layer and the loss, for the steps of one chunk at a time.
//
//     o_t  = W_ho h_t + b_o                       dW_ho = sum_t do_t^T h_t,   db_o = sum_t do_t
//     do_t = scale * dl(o_t, y_t)/do_t            upstream_t = do_t W_ho
//
// o is held transposed, (Q, rows), one step of one sequence in each lane: the softmax then never adds lanes, and W_ho is used as it
// is by all three products.
#pragma once

#include "engine/chunk_sum.hpp"
#include "engine/output_rows.hpp"
#include "engine/upstream.hpp"
#include "pybptt/model.hpp"

namespace pybptt {

template <class Real>
class OutputPass final : public Upstream<Real> {
public:
    /// `gradients` is null for the loss alone. Rows of an array have their gradients written to the same rows of `d_array`.
    OutputPass(const OutputRows<Real>& rows, const OutputLayer<Real>& layer, const Targets<Real>& targets,
               const OutputGradients<Real>* gradients, Real* d_array = nullptr);

    /// Ends with a barrier.
    void prepare(const Member& member);
    /// Upstream of the recurrence; adds to the layer's gradients and records the losses on the way. Begins and ends with a barrier.
    void prepare_chunk(const Chunk& chunk, const Part<Real>& part, Matrix<Real> space) override { run(chunk, part.member, space); }
    Matrix<const Real> at(const Piece<Real>& piece, std::size_t s, Matrix<Real> space) const override {
        return piece.h.of(space.rows_from(piece.row(s)));
    }
    /// The same for the rows of an array.
    void run(const Member& member) {
        for (std::size_t c = rows_.chunks(); c-- > 0;) run(rows_.chunk(c), member, {});
    }
    /// Records the losses of a chunk alone. Begins and ends with a barrier.
    void record_losses(const Chunk& chunk, const Member& member);
    void finish(const Member& member);
    /// The sum of all losses, times the scale: always in the same order.
    double total() const;

private:
    /// Rows of a chunk whose o fits the cache.
    struct Block {
        std::size_t first_row, rows;  // of the chunk
        std::size_t first_target;     // index in classes_ and losses_ of its first row
        bool is_first, is_last;       // of the chunk
    };
    template <class Visit>
    void for_each_block(const Chunk& chunk, Visit visit) const;
    void run(const Chunk& chunk, const Member& member, Matrix<Real> space);
    /// o of the block, then its losses and do. Ends with a barrier.
    void losses_of(const Chunk& chunk, const Block& block, const Member& member);

    const Kernels<Real>& k_;
    const OutputRows<Real>& rows_;
    const OutputLayer<Real> layer_;
    const Targets<Real> targets_;
    OutputGradients<Real> g_{nullptr, nullptr};
    Real* d_array_;
    std::size_t block_rows_;
    PanelBuffer<Real> weight_;      // W_ho (Q, H)
    PanelBuffer<Real> h_;           // h_t (block rows, H)
    PanelBuffer<Real> d_h_;         // do W_ho (block rows, H), for rows of an array
    PanelBuffer<Real> h_t_;         // h^T (H, block rows)
    PanelBuffer<Real> o_t_;         // o^T, then do^T (Q, block rows)
    PanelBuffer<Real> values_;      // y (block rows, Q), for squared error
    PanelBuffer<Real> values_t_;    // y^T (Q, block rows)
    Buffer<Real> bias_;             // (Q,)
    ChunkSum<Real> d_weight_;       // (Q, H)
    Buffer<double> d_bias_;         // (Q,)
    Buffer<std::int32_t> classes_;  // all targets (0 for squared error); -1 for those that do not count
    Buffer<double> losses_;         // one a target row
};

}  // namespace pybptt
