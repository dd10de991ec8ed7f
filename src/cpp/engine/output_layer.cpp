#include "engine/output_layer.hpp"

namespace pybptt {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{2} << 20;

/// Rows with targets in the whole sequence.
std::size_t target_rows(const RnnSizes& s, bool last_only) {
    return last_only ? (s.steps == 0 ? 0 : s.batch) : checked_product(s.steps, s.batch);
}

template <class Real>
std::size_t rows_of_a_block(const RnnSizes& s, const Chunks& chunks, const OutputLayer<Real>& layer) {
    const std::size_t whole = layer.last_only ? s.batch : chunks.longest() * s.batch;
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
      block_rows_(rows_of_a_block(s_, tape.chunks, layer)),
      weight_(layer.outputs, s_.hidden),
      h_t_(s_.hidden, block_rows_),
      o_t_(layer.outputs, block_rows_),
      bias_(layer.outputs),
      d_bias_(layer.outputs),
      losses_(target_rows(s_, layer.last_only)) {
    if (gradients != nullptr) g_ = *gradients;
    if (targets.loss == Loss::squared_error) {
        values_t_ = PanelBuffer<Real>(layer.outputs, block_rows_);
    } else {
        classes_ = Buffer<std::int32_t>(losses_.size());
        std::transform(targets.classes, targets.classes + losses_.size(), classes_.data(),
                       [](std::int64_t id) { return std::int32_t(id); });
    }
}

template <class Real>
void OutputPass<Real>::prepare(int member, Barrier& barrier) {
    const std::size_t H = s_.hidden;
    const Range own = share(layer_.outputs, kLanes<Real>, member, threads_);
    k_.copy(own.size(), H, row_major(layer_.weight + own.begin * H, H), weight_.matrix().rows_from(own.begin));
    for (std::size_t q = own.begin; q < own.end; ++q) bias_[q] = layer_.bias != nullptr ? layer_.bias[q] : Real(0);
    std::fill_n(d_bias_.data() + own.begin, own.size(), Real(0));
    if (g_.weight != nullptr) std::fill_n(g_.weight + own.begin * H, own.size() * H, Real(0));
    barrier.wait();
}

template <class Real>
template <class Visit>
void OutputPass<Real>::for_each_block(const Chunk& chunk, Visit visit) const {
    const std::size_t B = s_.batch, rows = chunk.steps * B;
    const bool is_last = chunk.index + 1 == tape_.chunks.count();
    std::size_t row = layer_.last_only ? (is_last ? rows - B : rows) : 0;
    while (row < rows) {
        const std::size_t count = std::min(block_rows_, rows - row);
        visit(Block{row, count, layer_.last_only ? row - (rows - B) : chunk.first_step * B + row});
        row += count;
    }
}

template <class Real>
void OutputPass<Real>::losses_of(const Chunk& chunk, const Block& block, int member, Barrier& barrier) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t H = s_.hidden, Q = layer_.outputs;
    const Range lanes = share(block.rows, L, member, threads_);
    const std::size_t panel = lanes.begin / L;
    const Matrix<const Real> h = tape_.h(chunk).rows_from(s_.batch + block.first_row);
    k_.transpose(lanes.size(), H, h.rows_from(lanes.begin), h_t_.matrix().panels_from(panel));
    barrier.wait();
    // o^T = W_ho h^T
    const Range own = share(Q, L, member, threads_);
    const Term<Real> term{weight_.matrix().rows_from(own.begin), h_t_.matrix(), H};
    k_.product(own.size(), block.rows, &term, 1, none<Real>(), o_t_.matrix().rows_from(own.begin), {});
    barrier.wait();
    const std::size_t target = block.first_target + lanes.begin;
    const Matrix<Real> o = o_t_.matrix().panels_from(panel);
    if (targets_.loss == Loss::cross_entropy) {
        k_.softmax_cross_entropy(Q, lanes.size(), bias_.data(), classes_.data() + target, Real(targets_.scale), o,
                                 losses_.data() + target);
    } else {
        const Matrix<Real> y = values_t_.matrix().panels_from(panel);
        k_.transpose(lanes.size(), Q, row_major(targets_.values + target * Q, Q), y);
        k_.squared_error(Q, lanes.size(), bias_.data(), y, Real(targets_.scale), o, losses_.data() + target);
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
        const Matrix<const Real> d_o = o_t_.matrix();
        // dW_ho += do^T h,  db_o += sum do
        const Range own = share(Q, L, member, threads_);
        const Matrix<const Real> own_d_o = d_o.rows_from(own.begin);
        const Term<Real> term{own_d_o, tape_.h(chunk).rows_from(s_.batch + block.first_row), block.rows};
        const Matrix<Real> dw = row_major(g_.weight + own.begin * H, H);
        k_.product(own.size(), H, &term, 1, dw, dw, {});
        k_.sum_columns(own.size(), block.rows, own_d_o, d_bias_.data() + own.begin);
        // upstream = do W_ho
        const Range lanes = share(block.rows, L, member, threads_);
        k_.product_transposed(lanes.size(), H, Q, d_o.panels_from(lanes.begin / L), weight_.matrix(), none<Real>(),
                              dz.rows_from(block.first_row + lanes.begin));
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
