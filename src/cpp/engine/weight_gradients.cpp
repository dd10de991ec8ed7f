#include "engine/weight_gradients.hpp"

namespace pybptt {

template <class Real>
WeightGradients<Real>::WeightGradients(const typename Tape<Real>::Contents& tape, int threads, const RnnGradients<Real>& gradients)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      threads_(threads),
      g_(gradients),
      bias_(panel_count<Real>(s_.hidden) * kLanes<Real>) {
    if (tape.dense && g_.input != nullptr) dx_ = PanelBuffer<Real>(tape.cut.chunk_steps() * s_.batch, s_.inputs);
    if (!tape.dense) token_row_ = PanelBuffer<Real>(tape.tokens.count, s_.hidden);
}

template <class Real>
void WeightGradients<Real>::prepare(int member) {
    const Range own = units(member);
    const std::size_t panel = own.begin / kLanes<Real>;
    const bool empty = tape_.cut.chunks() == 0;  // otherwise the first chunk overwrites them
    if (empty) std::fill_n(g_.weight_hh + own.begin * s_.hidden, own.size() * s_.hidden, Real(0));
    if (empty || !tape_.dense) std::fill_n(g_.weight_ih + own.begin * s_.inputs, own.size() * s_.inputs, Real(0));
    std::fill_n(bias_.data() + own.begin, panel_count<Real>(own.size()) * kLanes<Real>, Real(0));
    if (!tape_.dense) k_.zero(tape_.tokens.count, own.size(), token_row_.matrix().panels_from(panel));
}

template <class Real>
void WeightGradients<Real>::add(const Chunk& chunk, Matrix<const Real> dz, int member) {
    const std::size_t H = s_.hidden, D = s_.inputs, S = chunk.steps, rows = S * s_.batch;
    const Range own = units(member);
    const std::size_t panel = own.begin / kLanes<Real>;
    const Matrix<const Real> own_dz = dz.panels_from(panel);
    const bool first = chunk.index + 1 == tape_.cut.chunks();  // the sweep begins with the last chunk
    const auto sum_so_far = [&](Matrix<const Real> dw) { return first ? none<Real>() : dw; };
    if (own.size() != 0) {
        // dW_hh += dz^T h_{t-1}, a term a slice
        Term<Real> terms[Cut::kMostSlices];
        for (std::size_t i = 0; i < tape_.cut.slices(); ++i) {
            const Slice slice = tape_.cut.slice(i);
            terms[i] = {own_dz.rows_from(S * slice.begin), tape_.h(chunk).rows_from((S + 1) * slice.begin), S * slice.size};
        }
        const Matrix<Real> dw_hh = row_major(g_.weight_hh + own.begin * H, H);
        k_.product_transposed(own.size(), H, terms, int(tape_.cut.slices()), sum_so_far(dw_hh), dw_hh);
        // dW_ih += dz^T x; a token's x is one-hot
        if (tape_.dense) {
            const Term<Real> term{own_dz, tape_.x(chunk), rows};
            const Matrix<Real> dw_ih = row_major(g_.weight_ih + own.begin * D, D);
            k_.product_transposed(own.size(), D, &term, 1, sum_so_far(dw_ih), dw_ih);
        } else {
            k_.scatter_add_rows(rows, own.size(), tape_.slots(chunk), own_dz, token_row_.matrix().panels_from(panel));
        }
        // db += sum dz
        k_.sum_rows(rows, own.size(), own_dz, bias_.data() + own.begin);
    }
    if (g_.input != nullptr && tape_.dense) {
        // dx = dz W_ih, here in the order of the tape's rows
        const Range own_rows = share(rows, 1, member, threads_);
        const Term<Real> term{dz.rows_from(own_rows.begin), tape_.weight_ih.matrix(), H};
        k_.product(own_rows.size(), D, &term, 1, none<Real>(), dx_.matrix().rows_from(own_rows.begin), {});
        tape_.cut.for_each_run(chunk, own_rows.begin, own_rows.size(),
                               [&](std::size_t row, std::size_t count, std::size_t step, std::size_t sample, Slice) {
                                   Real* to = g_.input + ((chunk.first_step + step) * s_.batch + sample) * D;
                                   k_.copy(count, D, dx_.matrix().rows_from(row), row_major(to, D));
                               });
    }
}

template <class Real>
void WeightGradients<Real>::finish(int member) {
    constexpr std::size_t L = kLanes<Real>;
    const Range own = units(member);
    if (g_.bias_ih != nullptr) std::copy_n(bias_.data() + own.begin, own.size(), g_.bias_ih + own.begin);
    if (g_.bias_hh != nullptr) std::copy_n(bias_.data() + own.begin, own.size(), g_.bias_hh + own.begin);
    if (tape_.dense) return;
    const Matrix<Real> rows = token_row_.matrix();
    for (std::size_t u = own.begin; u < own.end; ++u) {
        const Real* from = rows.data + u / L * rows.panel_stride + u % L;
        for (std::size_t i = 0; i < tape_.tokens.count; ++i)
            g_.weight_ih[u * s_.inputs + std::size_t(tape_.tokens.distinct[i])] = from[i * L];
    }
}

template class WeightGradients<float>;
template class WeightGradients<double>;

}  // namespace pybptt
