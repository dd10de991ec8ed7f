#include "engine/forward.hpp"

namespace pybptt {

template <class Real>
ForwardPass<Real>::ForwardPass(typename Tape<Real>::Contents& tape, const Division& division, const RnnParameters<Real>& parameters,
                               const RnnInput<Real>& input, const Real* state, Real* output, Real* final_state)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      division_(division),
      p_(parameters),
      input_(input),
      state_(state),
      output_(output),
      final_state_(final_state),
      w_hh_t_(s_.hidden, s_.hidden),
      bias_(panel_count<Real>(s_.hidden) * kLanes<Real>) {
    if (tape.dense)
        w_ih_t_ = PanelBuffer<Real>(s_.inputs, s_.hidden);
    else
        token_row_ = PanelBuffer<Real>(tape.tokens.count, s_.hidden);
}

template <class Real>
void ForwardPass<Real>::prepare(int member, Barrier& barrier) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t H = s_.hidden, D = s_.inputs;
    // Each member packs the units [begin, end), rows of the weights.
    const Range units = share(H, L, member, division_.threads);
    const std::size_t panel = units.begin / L;
    if (units.size() != 0) {
        const Matrix<const Real> w_hh = row_major(p_.weight_hh + units.begin * H, H);
        k_.transpose(units.size(), H, w_hh, w_hh_t_.matrix().panels_from(panel));
        if (tape_.weight_hh.size() != 0) k_.copy(units.size(), H, w_hh, tape_.weight_hh.matrix().rows_from(units.begin));
        for (std::size_t u = units.begin; u < panel_count<Real>(units.end) * L; ++u)
            bias_[u] = u < H && p_.bias_ih != nullptr ? p_.bias_ih[u] + p_.bias_hh[u] : Real(0);
        if (tape_.dense) {
            const Matrix<const Real> w_ih = row_major(p_.weight_ih + units.begin * D, D);
            k_.transpose(units.size(), D, w_ih, w_ih_t_.matrix().panels_from(panel));
            if (tape_.weight_ih.size() != 0) k_.copy(units.size(), D, w_ih, tape_.weight_ih.matrix().rows_from(units.begin));
        } else {
            const Matrix<Real> rows = token_row_.matrix();
            for (std::size_t u = units.begin; u < panel_count<Real>(units.end) * L; ++u) {
                Real* to = rows.data + u / L * rows.panel_stride + u % L;
                for (std::size_t i = 0; i < tape_.tokens.count; ++i)
                    to[i * L] = u < H ? bias_[u] + p_.weight_ih[u * D + std::size_t(tape_.tokens.distinct[i])] : Real(0);
            }
        }
    }
    barrier.wait();
}

/// x_t into the tape, and what can be said of z_t before the recurrence runs.
template <class Real>
void ForwardPass<Real>::bring_input(const Chunk& chunk, const Part<Real>& part, int member, Barrier& barrier) {
    const std::size_t B = s_.batch, D = s_.inputs, rows = chunk.steps * B;
    const Matrix<Real> h = tape_.h(chunk);
    if (!tape_.dense) {
        for (std::size_t s = 0; s < chunk.steps; ++s)
            k_.gather_rows(part.rows.size(), part.cols, tape_.slots(chunk) + s * B + part.rows.begin,
                           token_row_.matrix().panels_from(part.panels.begin), part.of(h, (s + 1) * B));
        return;
    }
    const Real* x = input_.dense + chunk.first_step * B * D;
    const Matrix<Real> x_panels = tape_.x(chunk);
    if (division_.by_columns) {
        const Range own = share(rows, 1, member, division_.threads);
        k_.copy(own.size(), D, row_major(x + own.begin * D, D), x_panels.rows_from(own.begin));
        barrier.wait();
    } else {
        for (std::size_t s = 0; s < chunk.steps; ++s)
            k_.copy(part.rows.size(), D, row_major(x + (s * B + part.rows.begin) * D, D), x_panels.rows_from(s * B + part.rows.begin));
    }
    if (!division_.project_ahead) return;
    // z = b + x W_ih^T, a slice of W_ih at a time for all the steps: it stays in the cache for them.
    constexpr std::size_t L = kLanes<Real>, kSliceBytes = std::size_t{256} << 10;
    const std::size_t slice = std::max<std::size_t>(4, kSliceBytes / (D * kPanelBytes));
    const bool all_rows = part.rows.size() == B;  // then the rows of all steps are one run
    for (std::size_t panel = part.panels.begin; panel < part.panels.end; panel += slice) {
        const std::size_t end = std::min(panel + slice, part.panels.end), cols = std::min(end * L, s_.hidden) - panel * L;
        const Matrix<const Real> bias = every_row<Real>(bias_.data() + panel * L);
        const Matrix<const Real> w_ih_t = w_ih_t_.matrix().panels_from(panel);
        for (std::size_t s = 0; s < (all_rows ? 1 : chunk.steps); ++s) {
            const Term<Real> projection{x_panels.rows_from(s * B + part.rows.begin), w_ih_t, D};
            k_.product(all_rows ? rows : part.rows.size(), cols, &projection, 1, bias,
                       h.rows_from((s + 1) * B + part.rows.begin).panels_from(panel), {});
        }
    }
}

template <class Real>
void ForwardPass<Real>::run(const Chunk& chunk, int member, Barrier& barrier) {
    const std::size_t B = s_.batch, H = s_.hidden, D = s_.inputs;
    const Part<Real> part(s_, division_, member);
    const std::size_t rows = part.rows.size(), panels = part.panels.size(), first_col = part.panels.begin * kLanes<Real>;
    const Matrix<Real> h = tape_.h(chunk);
    const Cell<Real>& cell = k_.elman[int(s_.nonlinearity)];

    // The state before the chunk.
    if (chunk.index != 0) {
        const Chunk before = tape_.chunks[chunk.index - 1];
        k_.copy(rows, part.cols, part.of(tape_.h(before), before.steps * B), part.of(h, 0));
    } else if (state_ != nullptr) {
        k_.copy(rows, part.cols, row_major(state_ + part.rows.begin * H + first_col, H), part.of(h, 0));
    } else {
        k_.zero(rows, part.cols, part.of(h, 0));
    }
    bring_input(chunk, part, member, barrier);
    if (division_.by_columns) barrier.wait();

    const Matrix<const Real> w_hh_t = w_hh_t_.matrix().panels_from(part.panels.begin);
    const Matrix<const Real> w_ih_t = w_ih_t_.matrix().panels_from(part.panels.begin);
    const bool with_input = tape_.dense && !division_.project_ahead;
    for (std::size_t s = 0; s < chunk.steps; ++s) {
        const Matrix<Real> h_t = part.of(h, (s + 1) * B);
        const Matrix<const Real> h_before = h.rows_from(s * B + part.rows.begin);
        Ahead<Real> ahead;
        ahead.matrix[0] = part.of(h, (std::min(s + 1, chunk.steps - 1) + 1) * B);
        if (output_ != nullptr) ahead.matrix[1] = row_major<const Real>(output_ + ((chunk.first_step + s) * B + part.rows.begin) * H + first_col, H);
        if (with_input) {
            // z_t = b + x_t W_ih^T + h_{t-1} W_hh^T
            const Term<Real> terms[2] = {{tape_.x(chunk).rows_from(s * B + part.rows.begin), w_ih_t, D}, {h_before, w_hh_t, H}};
            k_.product(rows, part.cols, terms, 2, every_row<Real>(bias_.data() + first_col), h_t, ahead);
        } else {
            // z_t += h_{t-1} W_hh^T
            const Term<Real> recurrence{h_before, w_hh_t, H};
            k_.product(rows, part.cols, &recurrence, 1, h_t, h_t, ahead);
        }
        // h_t = phi(z_t)
        cell.forward(rows, panels, h_t);
        if (output_ != nullptr)
            k_.copy(rows, part.cols, h_t, row_major(output_ + ((chunk.first_step + s) * B + part.rows.begin) * H + first_col, H));
        if (division_.by_columns) barrier.wait();
    }
}

template <class Real>
void ForwardPass<Real>::finish(int member) {
    if (final_state_ == nullptr) return;
    if (tape_.chunks.count() == 0) {  // T = 0: h_T is h_0
        const Range own = share(s_.batch * s_.hidden, 1, member, division_.threads);
        for (std::size_t i = own.begin; i < own.end; ++i) final_state_[i] = state_ != nullptr ? state_[i] : Real(0);
        return;
    }
    const Part<Real> part(s_, division_, member);
    const Chunk last = tape_.chunks[tape_.chunks.count() - 1];
    k_.copy(part.rows.size(), part.cols, part.of(tape_.h(last), last.steps * s_.batch),
            row_major(final_state_ + part.rows.begin * s_.hidden + part.panels.begin * kLanes<Real>, s_.hidden));
}

template class ForwardPass<float>;
template class ForwardPass<double>;

}  // namespace pybptt
