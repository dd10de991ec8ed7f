#include "engine/output_layer.hpp"

namespace pybptt {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{2} << 20;
constexpr std::size_t kClasses = 1024;

/// Rows with targets in the whole sequence.
std::size_t target_rows(const RnnSizes& s, bool last_only) {
    return last_only ? (s.steps == 0 ? 0 : s.batch) : checked_product(s.steps, s.batch);
}

template <class Real>
std::size_t rows_of_a_block(const RnnSizes& s, const Cut& cut, const OutputLayer<Real>& layer) {
    const std::size_t whole = layer.last_only ? s.batch : cut.chunk_steps() * s.batch;
    const std::size_t fitting = kBlockBytes / sizeof(Real) / std::max<std::size_t>(1, layer.outputs) / kLanes<Real> * kLanes<Real>;
    return std::min(std::max<std::size_t>(1, whole), std::max<std::size_t>(4 * kLanes<Real>, fitting));
}

}  // namespace

template <class Real>
OutputPass<Real>::OutputPass(const typename Tape<Real>::Contents& tape, int threads, const OutputLayer<Real>& layer,
                             const Targets<Real>& targets, const OutputGradients<Real>* gradients)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      threads_(threads),
      layer_(layer),
      targets_(targets),
      block_rows_(rows_of_a_block(s_, tape.cut, layer)),
      weight_(layer.outputs, s_.hidden),
      h_(block_rows_, s_.hidden),
      h_t_(s_.hidden, block_rows_),
      o_t_(layer.outputs, block_rows_),
      bias_(layer.outputs),
      d_bias_(layer.outputs),
      losses_(target_rows(s_, layer.last_only)) {
    if (gradients != nullptr) g_ = *gradients;
    if (targets.loss == Loss::squared_error) {
        values_ = PanelBuffer<Real>(block_rows_, layer.outputs);
        values_t_ = PanelBuffer<Real>(layer.outputs, block_rows_);
    } else {
        classes_ = Buffer<std::int32_t>(losses_.size());
        for (std::size_t c = 0; c < tape.cut.chunks(); ++c)
            for_each_block(tape.cut.chunk(c), [&](const Block& block) {
                for_each_target_run(tape.cut.chunk(c), block, [&](std::size_t row, std::size_t count, std::size_t target) {
                    for (std::size_t i = 0; i < count; ++i)
                        classes_[block.first_target + row + i] = std::int32_t(targets.classes[target + i]);
                });
            });
    }
}

template <class Real>
void OutputPass<Real>::prepare(int member, Barrier& barrier) {
    const std::size_t H = s_.hidden;
    const Range own = share(layer_.outputs, kLanes<Real>, member, threads_);
    k_.copy(own.size(), H, row_major(layer_.weight + own.begin * H, H), weight_.matrix().rows_from(own.begin));
    for (std::size_t q = own.begin; q < own.end; ++q) bias_[q] = layer_.bias != nullptr ? layer_.bias[q] : Real(0);
    std::fill_n(d_bias_.data() + own.begin, own.size(), Real(0));
    if (g_.weight != nullptr && losses_.size() == 0) std::fill_n(g_.weight + own.begin * H, own.size() * H, Real(0));
    barrier.wait();
}

template <class Real>
template <class Visit>
void OutputPass<Real>::for_each_block(const Chunk& chunk, Visit visit) const {
    const std::size_t B = s_.batch, rows = chunk.steps * B;
    const bool is_last = chunk.index + 1 == tape_.cut.chunks();
    const std::size_t first = layer_.last_only ? (is_last ? rows - B : rows) : 0;
    for (std::size_t row = first; row < rows; row += block_rows_)
        visit(Block{row, std::min(block_rows_, rows - row), (layer_.last_only ? 0 : chunk.first_step * B) + row - first,
                    row == first});
}

/// visit(row in the block, count, index of the first target in the user's array)
template <class Real>
template <class Visit>
void OutputPass<Real>::for_each_target_run(const Chunk& chunk, const Block& block, Visit visit) const {
    tape_.cut.for_each_run(chunk, block.first_row, block.rows,
                           [&](std::size_t row, std::size_t count, std::size_t step, std::size_t sample, Slice) {
                               const std::size_t t = layer_.last_only ? 0 : chunk.first_step + step;
                               visit(row - block.first_row, count, t * s_.batch + sample);
                           });
}

template <class Real>
void OutputPass<Real>::losses_of(const Chunk& chunk, const Block& block, int member, Barrier& barrier) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t H = s_.hidden, Q = layer_.outputs;
    const Range lanes = share(block.rows, L, member, threads_);
    const std::size_t panel = lanes.begin / L;
    // h_t in the order of the rows of dz
    tape_.cut.for_each_run(chunk, block.first_row + lanes.begin, lanes.size(),
                           [&](std::size_t row, std::size_t count, std::size_t, std::size_t, Slice slice) {
                               k_.copy(count, H, tape_.h(chunk).rows_from(row + slice.begin + slice.size),
                                       h_.matrix().rows_from(row - block.first_row));
                           });
    k_.transpose(lanes.size(), H, h_.matrix().rows_from(lanes.begin), h_t_.matrix().panels_from(panel));
    barrier.wait();
    // o^T = W_ho h^T
    const Range own = share(Q, L, member, threads_);
    const Term<Real> term{weight_.matrix().rows_from(own.begin), h_t_.matrix(), H};
    k_.product(own.size(), block.rows, &term, 1, none<Real>(), o_t_.matrix().rows_from(own.begin), {});
    barrier.wait();
    const std::size_t first = block.first_target + lanes.begin;
    const Matrix<Real> o = o_t_.matrix().panels_from(panel);
    if (targets_.loss == Loss::cross_entropy) {
        k_.softmax_cross_entropy(Q, lanes.size(), bias_.data(), classes_.data() + first, Real(targets_.scale), o,
                                 losses_.data() + first);
    } else {
        const Block own_rows{block.first_row + lanes.begin, lanes.size(), first, false};
        for_each_target_run(chunk, own_rows, [&](std::size_t row, std::size_t count, std::size_t target) {
            k_.copy(count, Q, row_major(targets_.values + target * Q, Q), values_.matrix().rows_from(lanes.begin + row));
        });
        const Matrix<Real> y = values_t_.matrix().panels_from(panel);
        k_.transpose(lanes.size(), Q, values_.matrix().rows_from(lanes.begin), y);
        k_.squared_error(Q, lanes.size(), bias_.data(), y, Real(targets_.scale), o, losses_.data() + first);
    }
    barrier.wait();
}

template <class Real>
void OutputPass<Real>::prepare_chunk(const Chunk& chunk, int member, Barrier& barrier, Matrix<Real> dz) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t H = s_.hidden, Q = layer_.outputs;
    if (layer_.last_only) {
        const Range rows = share(chunk.steps * s_.batch, 1, member, threads_);
        k_.zero(rows.size(), H, dz.rows_from(rows.begin));
    }
    barrier.wait();
    for_each_block(chunk, [&](const Block& block) {
        losses_of(chunk, block, member, barrier);
        const bool first = chunk.index + 1 == tape_.cut.chunks() && block.is_first;
        const Range lanes = share(block.rows, L, member, threads_);
        const Matrix<Real> upstream = dz.rows_from(block.first_row + lanes.begin);
        // Some classes at a time: their do and W_ho serve both products from the cache.
        for (std::size_t q = 0; q < Q; q += kClasses) {
            const std::size_t classes = std::min(kClasses, Q - q);
            const Matrix<const Real> d_o = o_t_.matrix().rows_from(q);
            // upstream = do W_ho
            const Term<Real> back{d_o.panels_from(lanes.begin / L), weight_.matrix().rows_from(q), classes};
            k_.product_transposed(lanes.size(), H, &back, 1, q == 0 ? none<Real>() : Matrix<const Real>(upstream), upstream);
            // dW_ho += do^T h,  db_o += sum do
            const Range own = share(classes, L, member, threads_);
            const Term<Real> term{d_o.rows_from(own.begin), h_.matrix(), block.rows};
            const Matrix<Real> dw = row_major(g_.weight + (q + own.begin) * H, H);
            k_.product(own.size(), H, &term, 1, first ? none<Real>() : Matrix<const Real>(dw), dw, {});
            k_.sum_columns(own.size(), block.rows, d_o.rows_from(own.begin), d_bias_.data() + q + own.begin);
        }
        barrier.wait();
    });
}

template <class Real>
void OutputPass<Real>::record_losses(const Chunk& chunk, int member, Barrier& barrier) {
    barrier.wait();
    for_each_block(chunk, [&](const Block& block) { losses_of(chunk, block, member, barrier); });
    barrier.wait();
}

template <class Real>
void OutputPass<Real>::finish(int member) {
    const Range own = share(layer_.outputs, kLanes<Real>, member, threads_);
    if (g_.bias != nullptr) std::copy_n(d_bias_.data() + own.begin, own.size(), g_.bias + own.begin);
}

template <class Real>
double OutputPass<Real>::total() const {
    double sum = 0;
    for (std::size_t i = 0; i < losses_.size(); ++i) sum += losses_[i];
    return sum * targets_.scale;
}

template class OutputPass<float>;
template class OutputPass<double>;

}  // namespace pybptt
