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
               const OutputGradients<Real>* gradients, Real* d_array = nullptr)
        : k_(kernels<Real>()),
          rows_(rows),
          layer_(layer),
          targets_(targets),
          d_array_(d_array),
          block_rows_(rows_of_a_block(rows, layer.outputs)),
          weight_(layer.outputs, rows.width()),
          h_(block_rows_, rows.width()),
          h_t_(rows.width(), block_rows_),
          o_t_(layer.outputs, block_rows_),
          bias_(layer.outputs),
          d_bias_(layer.outputs),
          classes_(rows.total()),
          losses_(rows.total()) {
        if (gradients != nullptr) {
            g_ = *gradients;
            d_weight_ = ChunkSum<Real>(g_.weight, checked_product(layer.outputs, rows.width()), rows.chunks());
        }
        if (d_array != nullptr) d_h_ = PanelBuffer<Real>(block_rows_, rows.width());
        if (targets.loss == Loss::squared_error) {
            values_ = PanelBuffer<Real>(block_rows_, layer.outputs);
            values_t_ = PanelBuffer<Real>(layer.outputs, block_rows_);
        }
        if (CountMemory::active()) return;
        std::fill_n(classes_.data(), classes_.size(), -1);
        for (std::size_t c = 0; c < rows.chunks(); ++c) {
            const Chunk chunk = rows.chunk(c);
            rows.for_each_rows(chunk, 0, chunk.rows, [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& target) {
                for (std::size_t i = 0; i < n; ++i) {
                    if (targets.counted != nullptr && !targets.counted[target[i]]) continue;
                    classes_[chunk.first_row + row + i] = targets.classes == nullptr ? 0 : std::int32_t(targets.classes[target[i]]);
                }
            });
        }
    }

    /// Ends with a barrier.
    void prepare(const Member& member) {
        const std::size_t H = rows_.width();
        const Range own = member.share(layer_.outputs, kLanes<Real>);
        k_.copy(own.size(), H, row_major(layer_.weight + own.begin * H, H), weight_.matrix().rows_from(own.begin));
        for (std::size_t q = own.begin; q < own.end; ++q) bias_[q] = layer_.bias != nullptr ? layer_.bias[q] : Real(0);
        std::fill_n(d_bias_.data() + own.begin, own.size(), 0.0);
        if (g_.weight != nullptr && losses_.size() == 0) std::fill_n(g_.weight + own.begin * H, own.size() * H, Real(0));
        member.wait();
    }
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
    void record_losses(const Chunk& chunk, const Member& member) {
        member.wait();
        for_each_block(chunk, [&](const Block& block) { losses_of(chunk, block, member); });
        member.wait();
    }
    void finish(const Member& member) {
        const Range own = member.share(layer_.outputs, kLanes<Real>);
        for (std::size_t q = own.begin; g_.bias != nullptr && q < own.end; ++q) g_.bias[q] = Real(d_bias_[q]);
    }
    /// The sum of all losses, times the scale: always in the same order.
    double total() const {
        double sum = 0;
        for (std::size_t i = 0; i < losses_.size(); ++i) sum += losses_[i];
        return sum * targets_.scale;
    }

private:
    // No machine's own: how many rows are summed at a time is in the last bits of the results.
    static constexpr std::size_t kBlockBytes = std::size_t{2} << 20, kMostRows = 1024, kClasses = 1024;

    static std::size_t rows_of_a_block(const OutputRows<Real>& rows, std::size_t outputs) {
        const std::size_t fitting = kBlockBytes / sizeof(Real) / std::max<std::size_t>(1, outputs) / kLanes<Real> * kLanes<Real>;
        const std::size_t most = std::max<std::size_t>(4 * kLanes<Real>, std::min(fitting, kMostRows));
        return std::min(std::max<std::size_t>(1, rows.most_rows()), most);
    }
    /// Rows of a chunk whose o fits the cache.
    struct Block {
        std::size_t first_row, rows;
    };
    template <class Visit>
    void for_each_block(const Chunk& chunk, Visit visit) const {
        for (std::size_t row = 0; row < chunk.rows; row += block_rows_) visit(Block{row, std::min(block_rows_, chunk.rows - row)});
    }
    void run(const Chunk& chunk, const Member& member, Matrix<Real> space) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t H = rows_.width(), Q = layer_.outputs;
        member.wait();
        for_each_block(chunk, [&](const Block& block) {
            losses_of(chunk, block, member);
            const Range lanes = member.share(block.rows, L);
            const Matrix<Real> upstream =
                d_array_ != nullptr ? d_h_.matrix().rows_from(lanes.begin) : space.rows_from(block.first_row + lanes.begin);
            // Some classes at a time: their do and W_ho serve both products from the cache.
            for (std::size_t q = 0; q < Q; q += kClasses) {
                const std::size_t classes = std::min(kClasses, Q - q);
                const Matrix<const Real> d_o = o_t_.matrix().rows_from(q);
                // upstream = do W_ho
                const Term<Real> back{d_o.panels_from(lanes.begin / L), weight_.matrix().rows_from(q), classes};
                k_.product_transposed(lanes.size(), H, &back, 1, q == 0 ? none<Real>() : Matrix<const Real>(upstream), upstream);
                // dW_ho += do^T h,  db_o += sum do
                const Range own = member.share(classes, L);
                const Term<Real> term{d_o.rows_from(own.begin), h_.matrix(), block.rows};
                const std::size_t row = q + own.begin;
                const Matrix<Real> dw = row_major(g_.weight + row * H, H);
                k_.product(own.size(), H, &term, 1, block.first_row == 0 ? d_weight_.so_far(chunk, dw) : Matrix<const Real>(dw), dw,
                           {});
                if (block.first_row + block.rows == chunk.rows) d_weight_.end(chunk, row * H, own.size() * H);
                k_.sum_columns(own.size(), block.rows, d_o.rows_from(own.begin), d_bias_.data() + row);
            }
            if (d_array_ != nullptr)
                rows_.for_each_rows(chunk, block.first_row + lanes.begin, lanes.size(),
                                    [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& to) {
                                        k_.copy(n, H, d_h_.matrix().rows_from(row - block.first_row),
                                                UserRows<Real>{d_array_, H}.at(to));
                                    });
            member.wait();
        });
    }
    /// o of the block, then its losses and do. Ends with a barrier.
    void losses_of(const Chunk& chunk, const Block& block, const Member& member) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t H = rows_.width(), Q = layer_.outputs;
        const Range lanes = member.share(block.rows, L);
        const std::size_t panel = lanes.begin / L;
        // h_t in the order of the rows of dz; 0 past a sequence's end
        std::size_t end = lanes.begin;
        const auto zero_until = [&](std::size_t row) {
            k_.zero(row - end, H, h_.matrix().rows_from(end));
            end = row;
        };
        rows_.for_each_rows(chunk, block.first_row + lanes.begin, lanes.size(),
                            [&](std::size_t row, std::size_t n, Matrix<const Real> h, const Rows&) {
                                zero_until(row - block.first_row);
                                k_.copy(n, H, h, h_.matrix().rows_from(row - block.first_row));
                                end += n;
                            });
        zero_until(lanes.end);
        k_.transpose(lanes.size(), H, h_.matrix().rows_from(lanes.begin), h_t_.matrix().panels_from(panel), {});
        member.wait();
        // o^T = W_ho h^T
        const Range own = member.share(Q, L);
        const Term<Real> term{weight_.matrix().rows_from(own.begin), h_t_.matrix(), H};
        k_.product(own.size(), block.rows, &term, 1, none<Real>(), o_t_.matrix().rows_from(own.begin), {});
        member.wait();
        const std::size_t first = chunk.first_row + block.first_row + lanes.begin;  // target
        const Matrix<Real> o = o_t_.matrix().panels_from(panel);
        if (targets_.loss == Loss::cross_entropy) {
            k_.softmax_cross_entropy(Q, lanes.size(), bias_.data(), classes_.data() + first, Real(targets_.scale), o,
                                     losses_.data() + first);
        } else {
            rows_.for_each_rows(chunk, block.first_row + lanes.begin, lanes.size(),
                                [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& target) {
                                    k_.copy(n, Q, UserRows<const Real>{targets_.values, Q}.at(target),
                                            values_.matrix().rows_from(row - block.first_row));
                                });
            const Matrix<Real> y = values_t_.matrix().panels_from(panel);
            k_.transpose(lanes.size(), Q, values_.matrix().rows_from(lanes.begin), y, {});
            k_.squared_error(Q, lanes.size(), bias_.data(), y, classes_.data() + first, Real(targets_.scale), o,
                             losses_.data() + first);
        }
        member.wait();
    }

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

/// The outputs alone.
template <class Real>
class PredictPass {
public:
    /// `packed` is complete when the first chunk is run.
    PredictPass(const OutputRows<Real>& rows, int team, const PackedOutput<Real>& packed, std::size_t outputs, Real* output)
        : k_(kernels<Real>()),
          rows_(rows),
          packed_(packed),
          outputs_(outputs),
          output_(output),
          block_rows_(std::min<std::size_t>(256, rows.most_rows())),
          h_(block_rows_, rows.width(), std::size_t(team)),
          o_(block_rows_, outputs, std::size_t(team)) {}

    /// Begins and ends with a barrier.
    void run(const Chunk& chunk, const Member& member) {
        const std::size_t H = rows_.width(), Q = outputs_;
        const Range own = member.share(chunk.rows, 1);
        const Matrix<Real> h = h_.matrix(std::size_t(member.index)), o = o_.matrix(std::size_t(member.index));
        member.wait();
        for (std::size_t first = own.begin; first < own.end; first += block_rows_) {
            const std::size_t rows = std::min(block_rows_, own.end - first);
            rows_.for_each_rows(chunk, first, rows, [&](std::size_t row, std::size_t n, Matrix<const Real> from, const Rows&) {
                k_.copy(n, H, from, h.rows_from(row - first));
            });
            const Term<Real> term{h, packed_.weight_t.matrix(), H};  // rows past a sequence's end are not copied out
            k_.product(rows, Q, &term, 1, every_row<Real>(packed_.bias.data()), o, {});
            rows_.for_each_rows(chunk, first, rows, [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& to) {
                k_.copy(n, Q, o.rows_from(row - first), UserRows<Real>{output_, Q}.at(to));
            });
        }
        member.wait();
    }

private:
    const Kernels<Real>& k_;
    const OutputRows<Real>& rows_;
    const PackedOutput<Real>& packed_;
    const std::size_t outputs_;
    Real* output_;
    std::size_t block_rows_;
    PanelBuffer<Real> h_;  // (block rows, H) for each member
    PanelBuffer<Real> o_;  // (block rows, Q)
};

}  // namespace pybptt
