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
    if (!tape.keeps_all) carry_ = PanelBuffer<Real>(s_.batch, s_.hidden);
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
void ForwardPass<Real>::bring_input(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier) {
    const std::size_t B = s_.batch, D = s_.inputs, n = piece.size(), S = chunk.steps;
    const Matrix<Real> h = tape_.h(chunk);
    if (!tape_.dense) {
        for (std::size_t s = 0; s < S; ++s)
            k_.gather_rows(n, part.cols, tape_.slots(chunk) + piece.row(S, s), token_row_.matrix().panels_from(part.panels.begin),
                           part.of(h, piece.row(S + 1, s + 1)));
        return;
    }
    const Matrix<Real> x = tape_.x(chunk);
    const Range steps = division_.by_columns ? share(S, 1, member, division_.threads) : Range{0, S};
    for (std::size_t s = steps.begin; s < steps.end; ++s) {
        const std::size_t row = (chunk.first_step + s) * B + piece.samples.begin;
        k_.copy(n, D, row_major(input_.dense + row * D, D), x.rows_from(piece.row(S, s)));
    }
    if (division_.by_columns) barrier.wait();
    if (!division_.project_ahead) return;
    // z = b + x W_ih^T, some columns of W_ih^T at a time for all the steps: they stay in the cache for them.
    constexpr std::size_t L = kLanes<Real>, kBytes = std::size_t{256} << 10;
    const std::size_t some = std::max<std::size_t>(4, kBytes / (std::max<std::size_t>(1, D) * kPanelBytes));
    const bool whole = n == piece.slice.size;  // then the rows of all steps are one run
    for (std::size_t panel = part.panels.begin; panel < part.panels.end; panel += some) {
        const std::size_t end = std::min(panel + some, part.panels.end), cols = std::min(end * L, s_.hidden) - panel * L;
        const Matrix<const Real> bias = every_row<Real>(bias_.data() + panel * L);
        for (std::size_t s = 0; s < (whole ? 1 : S); ++s) {
            const Term<Real> projection{x.rows_from(piece.row(S, s)), w_ih_t_.matrix().panels_from(panel), D};
            k_.product(whole ? S * n : n, cols, &projection, 1, bias, h.rows_from(piece.row(S + 1, s + 1)).panels_from(panel), {});
        }
    }
}

template <class Real>
void ForwardPass<Real>::run(const Chunk& chunk, int member, Barrier& barrier) {
    const Part<Real> part(s_, division_, member);
    // A shorter chunk in the place of a longer one: its rows are where other members' rows were.
    if (!tape_.keeps_all && chunk.steps != tape_.cut.chunk_steps()) barrier.wait();
    part.for_each_piece(tape_.cut, [&](const Piece& piece) { run_piece(chunk, part, piece, member, barrier); });
}

template <class Real>
void ForwardPass<Real>::run_piece(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier) {
    const std::size_t B = s_.batch, H = s_.hidden, n = piece.size(), S = chunk.steps;
    const Matrix<Real> h = tape_.h(chunk);
    const Cell<Real>& cell = k_.elman[int(s_.nonlinearity)];

    // The state before the chunk.
    const Matrix<Real> h_0 = part.of(h, piece.row(S + 1, 0));
    if (chunk.index != 0 && !tape_.keeps_all) {
        k_.copy(n, part.cols, part.of(carry_.matrix(), piece.samples.begin), h_0);
    } else if (chunk.index != 0) {
        const Chunk before = tape_.cut.chunk(chunk.index - 1);
        k_.copy(n, part.cols, part.of(tape_.h(before), piece.row(before.steps + 1, before.steps)), h_0);
    } else if (state_ != nullptr) {
        k_.copy(n, part.cols, part.of(state_, H, piece.samples.begin), h_0);
    } else {
        k_.zero(n, part.cols, h_0);
    }
    bring_input(chunk, part, piece, member, barrier);
    if (division_.by_columns) barrier.wait();

    const Matrix<const Real> w_hh_t = w_hh_t_.matrix().panels_from(part.panels.begin);
    const Matrix<const Real> w_ih_t = w_ih_t_.matrix().panels_from(part.panels.begin);
    const bool with_input = tape_.dense && !division_.project_ahead;
    for (std::size_t s = 0; s < S; ++s) {
        const Matrix<Real> h_t = part.of(h, piece.row(S + 1, s + 1));
        const Matrix<const Real> h_before = h.rows_from(piece.row(S + 1, s));
        const std::size_t output_row = (chunk.first_step + s) * B + piece.samples.begin;
        Ahead<Real> ahead;
        ahead.to_write = true;
        if (s + 1 < S) ahead.matrix[0] = part.of(h, piece.row(S + 1, s + 2));
        if (output_ != nullptr) ahead.matrix[1] = part.of(output_, H, output_row);
        if (with_input) {
            // z_t = b + x_t W_ih^T + h_{t-1} W_hh^T
            const Term<Real> terms[2] = {{tape_.x(chunk).rows_from(piece.row(S, s)), w_ih_t, s_.inputs}, {h_before, w_hh_t, H}};
            k_.product(n, part.cols, terms, 2, every_row<Real>(bias_.data() + part.first_col), h_t, ahead);
        } else {
            // z_t += h_{t-1} W_hh^T
            const Term<Real> recurrence{h_before, w_hh_t, H};
            k_.product(n, part.cols, &recurrence, 1, h_t, h_t, ahead);
        }
        // h_t = phi(z_t)
        cell.forward(n, part.panels.size(), h_t);
        if (output_ != nullptr) k_.copy(n, part.cols, h_t, part.of(output_, H, output_row));
        if (division_.by_columns) barrier.wait();
    }
    if (!tape_.keeps_all) k_.copy(n, part.cols, part.of(h, piece.row(S + 1, S)), part.of(carry_.matrix(), piece.samples.begin));
}

template <class Real>
void ForwardPass<Real>::finish(int member) {
    if (final_state_ == nullptr) return;
    if (tape_.cut.chunks() == 0) {  // T = 0: h_T is h_0
        const Range own = share(s_.batch * s_.hidden, 1, member, division_.threads);
        for (std::size_t i = own.begin; i < own.end; ++i) final_state_[i] = state_ != nullptr ? state_[i] : Real(0);
        return;
    }
    const Part<Real> part(s_, division_, member);
    const Chunk last = tape_.cut.chunk(tape_.cut.chunks() - 1);
    part.for_each_piece(tape_.cut, [&](const Piece& piece) {
        k_.copy(piece.size(), part.cols, part.of(tape_.h(last), piece.row(last.steps + 1, last.steps)),
                part.of(final_state_, s_.hidden, piece.samples.begin));
    });
}

template class ForwardPass<float>;
template class ForwardPass<double>;

}  // namespace pybptt
