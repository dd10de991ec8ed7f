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
    /// `gradients` are null for the loss alone. Rows of an array have their gradients written to the same rows of `d_array`.
    OutputPass(const OutputRows<Real>& rows, const OutputLayer<Real>& layer, const Targets<Real>& targets,
               const OutputGradients<Real>& gradients, Real* d_array = nullptr)
        : rows_(rows), layer_(layer), targets_(targets), g_(gradients), d_array_(d_array) {
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
        zero_share(d_bias_.data(), d_bias_.size(), member);
        d_weight_.begin(member);
        member.wait();
    }
    /// Upstream of the recurrence; adds to the layer's gradients and records the losses on the way. Begins and ends with a barrier.
    void prepare_chunk(const Chunk& chunk, const Part<Real>& part, Matrix<Real> space) override { run(chunk, part.member, space); }
    /// The same for the rows of an array.
    void run(const Member& member) {
        for (std::size_t c = rows_.chunks(); c-- > 0;) run(rows_.chunk(c), member, {});
    }
    /// Records the losses of a chunk alone. Begins and ends with a barrier.
    void record_losses(const Chunk& chunk, const Member& member) {
        member.wait();
        for_each_block(chunk, [&](const Range& block) { losses_of(chunk, block, member); });
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
    /// visit(block): rows of a chunk whose o fits the cache.
    template <class Visit>
    void for_each_block(const Chunk& chunk, Visit visit) const {
        for (std::size_t row = 0; row < chunk.rows; row += block_rows_) visit(Range{row, std::min(row + block_rows_, chunk.rows)});
    }
    void run(const Chunk& chunk, const Member& member, Matrix<Real> space) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t H = rows_.width(), Q = layer_.outputs;
        member.wait();
        for_each_block(chunk, [&](const Range& block) {
            losses_of(chunk, block, member);
            const Range lanes = member.share(block.size(), L);
            const Matrix<Real> upstream =
                d_array_ != nullptr ? d_h_.matrix().rows_from(lanes.begin) : space.rows_from(block.begin + lanes.begin);
            // Some classes at a time: their do and W_ho serve both products from the cache.
            for (std::size_t q = 0; q < Q; q += kClasses) {
                const std::size_t classes = std::min(kClasses, Q - q);
                const Matrix<const Real> d_o = o_t_.matrix().rows_from(q);
                // upstream = do W_ho
                const Term<Real> back{d_o.panels_from(lanes.begin / L), weight_.matrix().rows_from(q), classes};
                k_.product_transposed(lanes.size(), H, &back, 1, q == 0 ? none<Real>() : Matrix<const Real>(upstream), upstream);
                // dW_ho += do^T h,  db_o += sum do
                const Range own = member.share(classes, L);
                const Term<Real> term{d_o.rows_from(own.begin), h_.matrix(), block.size()};
                const std::size_t row = q + own.begin;
                const Matrix<Real> dw = row_major(g_.weight + row * H, H);
                k_.product(own.size(), H, &term, 1, block.begin == 0 ? d_weight_.so_far(chunk, dw) : Matrix<const Real>(dw), dw,
                           {});
                if (block.end == chunk.rows) d_weight_.end(chunk, row * H, own.size() * H);
                k_.sum_columns(own.size(), block.size(), d_o.rows_from(own.begin), d_bias_.data() + row);
            }
            if (d_array_ != nullptr)
                rows_.for_each_rows(chunk, block.begin + lanes.begin, lanes.size(),
                                    [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& to) {
                                        k_.copy(n, H, d_h_.matrix().rows_from(row - block.begin),
                                                UserRows<Real>{d_array_, H}.at(to));
                                    });
            member.wait();
        });
    }
    /// o of the block, then its losses and do. Ends with a barrier.
    void losses_of(const Chunk& chunk, const Range& block, const Member& member) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t H = rows_.width(), Q = layer_.outputs;
        const Range lanes = member.share(block.size(), L);
        const std::size_t panel = lanes.begin / L;
        // h_t in the order of the rows of dz; 0 past a sequence's end
        if (rows_.ragged()) k_.zero(lanes.size(), H, h_.matrix().rows_from(lanes.begin));
        rows_.for_each_rows(chunk, block.begin + lanes.begin, lanes.size(),
                            [&](std::size_t row, std::size_t n, Matrix<const Real> h, const Rows&) {
                                k_.copy(n, H, h, h_.matrix().rows_from(row - block.begin));
                            });
        k_.transpose(lanes.size(), H, h_.matrix().rows_from(lanes.begin), h_t_.matrix().panels_from(panel), {});
        member.wait();
        // o^T = W_ho h^T
        const Range own = member.share(Q, L);
        const Term<Real> term{weight_.matrix().rows_from(own.begin), h_t_.matrix(), H};
        k_.product(own.size(), block.size(), &term, 1, none<Real>(), o_t_.matrix().rows_from(own.begin), {});
        member.wait();
        const std::size_t first = chunk.first_row + block.begin + lanes.begin;  // target
        const Matrix<Real> o = o_t_.matrix().panels_from(panel);
        if (targets_.loss == Loss::cross_entropy) {
            k_.softmax_cross_entropy(Q, lanes.size(), bias_.data(), classes_.data() + first, Real(targets_.scale), o,
                                     losses_.data() + first);
        } else {
            rows_.for_each_rows(chunk, block.begin + lanes.begin, lanes.size(),
                                [&](std::size_t row, std::size_t n, Matrix<const Real>, const Rows& target) {
                                    k_.copy(n, Q, UserRows<const Real>{targets_.values, Q}.at(target),
                                            values_.matrix().rows_from(row - block.begin));
                                });
            const Matrix<Real> y = values_t_.matrix().panels_from(panel);
            k_.transpose(lanes.size(), Q, values_.matrix().rows_from(lanes.begin), y, {});
            k_.squared_error(Q, lanes.size(), bias_.data(), y, classes_.data() + first, Real(targets_.scale), o,
                             losses_.data() + first);
        }
        member.wait();
    }

    const Kernels<Real>& k_ = kernels<Real>();
    const OutputRows<Real>& rows_;
    const OutputLayer<Real> layer_;
    const Targets<Real> targets_;
    const OutputGradients<Real> g_;
    Real* d_array_;
    const std::size_t block_rows_ = rows_of_a_block(rows_, layer_.outputs);
    PanelBuffer<Real> weight_{layer_.outputs, rows_.width()};  // W_ho
    PanelBuffer<Real> h_{block_rows_, rows_.width()};          // h_t
    PanelBuffer<Real> d_h_;                                    // do W_ho (block rows, H), for rows of an array
    PanelBuffer<Real> h_t_{rows_.width(), block_rows_};        // h^T
    PanelBuffer<Real> o_t_{layer_.outputs, block_rows_};       // o^T, then do^T
    PanelBuffer<Real> values_;                                 // y (block rows, Q), for squared error
    PanelBuffer<Real> values_t_;                               // y^T (Q, block rows)
    Buffer<Real> bias_{layer_.outputs};
    ChunkSum<Real> d_weight_{g_.weight, checked_product(layer_.outputs, rows_.width()), rows_.chunks()};
    Buffer<double> d_bias_{layer_.outputs};
    Buffer<std::int32_t> classes_{rows_.total()};  // all targets (0 for squared error); -1 for those that do not count
    Buffer<double> losses_{rows_.total()};         // one a target row
};

/// The outputs alone.
template <class Real>
class PredictPass {
public:
    /// `packed` is complete when the first chunk is run.
    PredictPass(const OutputRows<Real>& rows, int team, const PackedOutput<Real>& packed, std::size_t outputs, Real* output)
        : rows_(rows), packed_(packed), outputs_(outputs), output_(output), team_(std::size_t(team)) {}

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
    const Kernels<Real>& k_ = kernels<Real>();
    const OutputRows<Real>& rows_;
    const PackedOutput<Real>& packed_;
    const std::size_t outputs_;
    Real* output_;
    const std::size_t team_, block_rows_ = std::min<std::size_t>(256, rows_.most_rows());
    PanelBuffer<Real> h_{block_rows_, rows_.width(), team_};  // for each member
    PanelBuffer<Real> o_{block_rows_, outputs_, team_};
};

}  // namespace pybptt
