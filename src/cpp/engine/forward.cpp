#include "engine/forward.hpp"

namespace pybptt {

template <class Real>
ForwardPass<Real>::ForwardPass(UnitTape<Real>& tape, const Division& division, const RnnParameters<Real>& parameters,
                               const UnitArrays<Real>& arrays)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      cell_(tape.cell),
      division_(division),
      p_(parameters),
      a_(arrays),
      w_hh_t_(s_.hidden, block_cols<Real>(s_.cell.gates(), s_.hidden)),
      bias_(block_cols<Real>(cell_.blocks, s_.hidden)) {
    if (tape.dense)
        w_ih_t_ = PanelBuffer<Real>(s_.inputs, block_cols<Real>(s_.cell.gates(), s_.hidden));
    else
        token_row_ = PanelBuffer<Real>(tape.tokens.count, block_cols<Real>(cell_.blocks, s_.hidden));
}

template <class Real>
void ForwardPass<Real>::prepare(int member, Barrier& barrier) {
    pack(member);
    write_paddings(member);
    barrier.wait();
}

/// Each member packs the units [begin, end) of every gate.
template <class Real>
void ForwardPass<Real>::pack(int member) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t H = s_.hidden, D = s_.inputs, panels = tape_.panels();
    const Range units = share(H, L, member, division_.threads);
    if (units.size() == 0) return;
    const std::size_t panel = units.begin / L, padded_end = panel_count<Real>(units.end) * L;
    for (std::size_t g = 0; g < std::size_t(s_.cell.gates()); ++g) {
        const std::size_t row = g * H + units.begin;
        const Matrix<const Real> w_hh = row_major(p_.weight_hh + row * H, H);
        k_.transpose(units.size(), H, w_hh, w_hh_t_.matrix().panels_from(g * panels + panel));
        if (tape_.weight_hh.size() != 0) k_.copy(units.size(), H, w_hh, tape_.weight_hh.matrix().rows_from(row));
        if (!tape_.dense) continue;
        const Matrix<const Real> w_ih = row_major(p_.weight_ih + row * D, D);
        k_.transpose(units.size(), D, w_ih, w_ih_t_.matrix().panels_from(g * panels + panel));
        if (tape_.weight_ih.size() != 0) k_.copy(units.size(), D, w_ih, tape_.weight_ih.matrix().rows_from(row));
    }
    for (int p = 0; p < s_.cell.peepholes(); ++p)
        for (std::size_t u = units.begin; u < padded_end; ++u)
            tape_.peephole[std::size_t(p) * panels * L + u] = u < H ? p_.peephole[std::size_t(p) * H + u] : Real(0);
    for (std::size_t b = 0; b < std::size_t(cell_.blocks); ++b)
        std::fill_n(bias_.data() + b * panels * L + units.begin, padded_end - units.begin, Real(0));
    for (int r = 0; r < cell_.run_count; ++r) {
        const BlockRun& run = cell_.runs[r];
        for (int i = 0; i < run.count; ++i) {
            Real* to = bias_.data() + std::size_t(run.block + i) * panels * L;
            const auto add = [&](const Real* bias, int gate) {
                if (bias == nullptr || gate < 0) return;
                for (std::size_t u = units.begin; u < units.end; ++u) to[u] += bias[std::size_t(gate + i) * H + u];
            };
            add(p_.bias_ih, run.input_gate);
            add(p_.bias_hh, run.hidden_gate);
            if (tape_.dense) continue;
            const Matrix<Real> rows = token_row_.matrix();
            for (std::size_t u = units.begin; u < padded_end; ++u) {
                Real* value = rows.data + (std::size_t(run.block + i) * panels + u / L) * rows.panel_stride + u % L;
                const bool with_input = u < H && run.input_gate >= 0;
                const Real* w = with_input ? p_.weight_ih + (std::size_t(run.input_gate + i) * H + u) * D : nullptr;
                for (std::size_t t = 0; t < tape_.tokens.count; ++t)
                    value[t * L] = with_input ? to[u] + w[std::size_t(tape_.tokens.distinct[t])] : to[u];
            }
        }
    }
}

/// Outputs past a sequence's end, and final states of sequences without steps.
template <class Real>
void ForwardPass<Real>::write_paddings(int member) {
    const std::size_t H = s_.hidden;
    const Range own = share(s_.batch, 1, member, division_.threads);
    for (std::size_t position = own.begin; position < own.end; ++position) {
        const std::size_t length = tape_.cut.length(position), sample = tape_.cut.sample(position);
        for (std::size_t t = length; t < s_.steps; ++t)
            for (const UserRows<Real>& array : {a_.output, a_.cells})
                if (array && !array.of_chunk) std::fill_n(array.data + (t * s_.batch + sample) * array.leading, H, Real(0));
        if (length != 0) continue;
        const auto keep = [&](const Real* from, Real* to) {
            if (to == nullptr) return;
            for (std::size_t u = sample * H; u < (sample + 1) * H; ++u) to[u] = from != nullptr ? from[u] : Real(0);
        };
        keep(a_.state.h, a_.final_state.h);
        keep(a_.state.c, a_.final_state.c);
    }
}

template <class Real>
void ForwardPass<Real>::run(const Chunk& chunk, std::size_t from, std::size_t to, int member, Barrier& barrier) {
    const Part<Real> part(s_, division_, member);
    // A chunk of another shape in the place of the one before: its rows are where other members' rows were.
    if (tape_.moves_chunks && chunk.index != 0 && (tape_.cut.ragged() || chunk.rows != tape_.cut.chunk(chunk.index - 1).rows))
        barrier.wait();
    part.for_each_piece(tape_.cut, chunk, [&](const Piece& piece) {
        bring_state(chunk, from, part, piece);
        run_piece(chunk, part, piece, member, barrier);
        keep_state(chunk, to, part, piece);
    });
}

/// The state before the chunk.
template <class Real>
void ForwardPass<Real>::bring_state(const Chunk& chunk, std::size_t from, const Part<Real>& part, const Piece& piece) {
    const std::size_t n = piece.size, row = piece.row(chunk.steps + 1, 0);
    const auto bring = [&](Matrix<Real> to, const PanelBuffer<Real>& states, const Real* given) {
        if (from != kInitialState) {
            k_.copy(n, part.cols, part.of(states.matrix(from), piece.positions.begin), to);
        } else if (given != nullptr) {
            tape_.cut.for_each_sample_run(piece.positions.begin, n, [&](std::size_t i, std::size_t count, std::size_t sample) {
                k_.copy(count, part.cols, part.of(UserRows<const Real>{given, s_.hidden}, Rows{sample}), to.rows_from(i));
            });
        } else {
            k_.zero(n, part.cols, to);
        }
    };
    bring(part.of(tape_.h(chunk), row), tape_.states_h, a_.state.h);
    if (tape_.has_cell_state()) bring(part.of(tape_.c(chunk), row), tape_.states_c, a_.state.c);
}

/// The state after the chunk.
template <class Real>
void ForwardPass<Real>::keep_state(const Chunk& chunk, std::size_t to, const Part<Real>& part, const Piece& piece) {
    if (to == kNoState) return;
    const std::size_t n = piece.size, row = piece.row(chunk.steps + 1, chunk.steps);
    k_.copy(n, part.cols, part.of(tape_.h(chunk), row), part.of(tape_.states_h.matrix(to), piece.positions.begin));
    if (!tape_.has_cell_state()) return;
    k_.copy(n, part.cols, part.of(tape_.c(chunk), row), part.of(tape_.states_c.matrix(to), piece.positions.begin));
}

/// x_t into the tape, and what can be said of z_t before the recurrence runs.
template <class Real>
void ForwardPass<Real>::bring_input(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier) {
    const std::size_t D = s_.inputs, S = chunk.steps, panels = tape_.panels();
    if (!tape_.dense) {
        for (std::size_t s = 0; s < S; ++s)
            part.for_each_gate_run(cell_.blocks, panels, [&](int block, std::size_t cols) {
                const std::size_t panel = std::size_t(block) * panels + part.panels.begin;
                k_.gather_rows(piece.active(tape_.cut, chunk.first_step + s), cols, tape_.slots(chunk) + piece.row(S, s),
                               token_row_.matrix().panels_from(panel), z_at(chunk, piece, s).panels_from(panel));
            });
        return;
    }
    const Matrix<Real> x = tape_.x(chunk);
    const Range steps = division_.by_columns ? share(S, 1, member, division_.threads) : Range{0, S};
    for (std::size_t s = steps.begin; s < steps.end; ++s) {
        const std::size_t n = piece.active(tape_.cut, chunk.first_step + s);
        const Matrix<Real> x_t = x.rows_from(piece.row(S, s));
        tape_.cut.for_each_user_run(
            a_.x.first_step(chunk) + s, piece.positions.begin, n,
            [&](std::size_t i, std::size_t count, const Rows& rows) { k_.copy(count, D, a_.x.at(rows), x_t.rows_from(i)); });
        if (a_.mask)
            tape_.cut.for_each_user_run(chunk.first_step + s, piece.positions.begin, n,
                                        [&](std::size_t i, std::size_t count, const Rows& rows) {
                                            k_.multiply(count, D, a_.mask.at(rows), x_t.rows_from(i));
                                        });
        k_.zero(piece.size - n, D, x_t.rows_from(n));
    }
    if (division_.by_columns) barrier.wait();
    if (division_.project_ahead) project(chunk, part, piece);
}

/// z = b + x W_ih^T. Where the rows of all steps are one run they are one product; otherwise some columns of W_ih^T at a time, so
/// that they stay in the cache for all the steps.
template <class Real>
void ForwardPass<Real>::project(const Chunk& chunk, const Part<Real>& part, const Piece& piece) {
    constexpr std::size_t L = kLanes<Real>, kBytes = std::size_t{512} << 10;
    const std::size_t D = s_.inputs, S = chunk.steps, panels = tape_.panels();
    const bool whole = piece.size == piece.slice.size;
    const std::size_t some = whole ? panel_count<Real>(block_cols<Real>(cell_.blocks, s_.hidden))
                                   : std::max<std::size_t>(4, kBytes / (std::max<std::size_t>(1, D) * kPanelBytes));
    const Matrix<Real> x = tape_.x(chunk);
    for (int r = 0; r < cell_.run_count; ++r) {
        const BlockRun& run = cell_.runs[r];
        if (run.input_gate < 0) continue;
        part.for_each_gate_run(run.count, panels, [&](int i, std::size_t all_cols) {
            const std::size_t to = std::size_t(run.block + i) * panels + part.panels.begin;
            const std::size_t from = std::size_t(run.input_gate + i) * panels + part.panels.begin;
            for (std::size_t panel = 0; panel * L < all_cols; panel += some) {
                const std::size_t cols = std::min(some * L, all_cols - panel * L);
                for (std::size_t s = 0; s < (whole ? 1 : S); ++s) {
                    const Term<Real> projection{x.rows_from(piece.row(S, s)), w_ih_t_.matrix().panels_from(from + panel), D};
                    k_.product(whole ? S * piece.size : piece.size, cols, &projection, 1,
                               every_row<Real>(bias_.data() + (to + panel) * L), z_at(chunk, piece, s).panels_from(to + panel), {});
                }
            }
        });
    }
}

/// z_t = b + x_t W_ih^T + h_{t-1} W_hh^T, as far as it is not there yet: of one step, the blocks of one phase.
template <class Real>
void ForwardPass<Real>::make_z(const Chunk& chunk, const Part<Real>& part, const Piece& piece, std::size_t s, std::size_t n,
                               int phase) {
    constexpr std::size_t L = kLanes<Real>;
    const std::size_t S = chunk.steps, panels = tape_.panels();
    const Matrix<Real> z = z_at(chunk, piece, s);
    const bool projected = !tape_.dense || division_.project_ahead;
    for (int r = 0; r < cell_.run_count; ++r) {
        const BlockRun& run = cell_.runs[r];
        if ((run.source < 0 ? 0 : 1) != phase) continue;
        const bool with_input = run.input_gate >= 0 && !projected;
        if (!with_input && run.hidden_gate < 0) continue;
        const Matrix<const Real> before =
            run.source < 0 ? tape_.h(chunk).rows_from(piece.row(S + 1, s)) : z.panels_from(std::size_t(run.source) * panels);
        part.for_each_gate_run(run.count, panels, [&](int i, std::size_t cols) {
            const std::size_t to = std::size_t(run.block + i) * panels + part.panels.begin;
            Term<Real> terms[2];
            int count = 0;
            if (with_input)
                terms[count++] = {tape_.x(chunk).rows_from(piece.row(S, s)),
                                  w_ih_t_.matrix().panels_from(std::size_t(run.input_gate + i) * panels + part.panels.begin),
                                  s_.inputs};
            if (run.hidden_gate >= 0)
                terms[count++] = {
                    before, w_hh_t_.matrix().panels_from(std::size_t(run.hidden_gate + i) * panels + part.panels.begin), s_.hidden};
            const bool begun = !tape_.dense || (projected && run.input_gate >= 0);
            const Matrix<Real> z_t = z.panels_from(to);
            Ahead<Real> ahead;
            ahead.to_write = true;
            ahead.backwards = s % 2 != 0 && n <= Division::kFewRows;
            if (s + 1 < S) ahead.matrix[0] = z_at(chunk, piece, s + 1).panels_from(to);
            if (!tape_.has_blocks() && a_.output && !tape_.cut.ragged())
                ahead.matrix[1] =
                    part.of(a_.output, Rows{tape_.cut.user_row(a_.output.first_step(chunk) + s, piece.positions.begin)});
            k_.product(n, cols, terms, count, begun ? Matrix<const Real>(z_t) : every_row<Real>(bias_.data() + to * L), z_t, ahead);
        });
    }
}

template <class Real>
void ForwardPass<Real>::run_piece(const Chunk& chunk, const Part<Real>& part, const Piece& piece, int member, Barrier& barrier) {
    const std::size_t S = chunk.steps;
    const Matrix<Real> h = tape_.h(chunk), c = tape_.c(chunk);
    bring_input(chunk, part, piece, member, barrier);
    if (division_.by_columns) barrier.wait();

    for (std::size_t s = 0; s < S; ++s) {
        const std::size_t n = piece.active(tape_.cut, chunk.first_step + s);
        const Matrix<Real> z = z_at(chunk, piece, s);
        CellStep<Real> step{};
        step.z = z.panels_from(part.panels.begin);
        step.block_stride = tape_.panels() * z.panel_stride;
        step.h_before = part.of(h, piece.row(S + 1, s));
        step.h = part.of(h, piece.row(S + 1, s + 1));
        if (tape_.has_cell_state()) {
            step.c_before = part.of(c, piece.row(S + 1, s));
            step.c = part.of(c, piece.row(S + 1, s + 1));
        }
        step.peephole = tape_.peephole.data() + part.panels.begin * kLanes<Real>;
        step.peephole_stride = block_cols<Real>(1, s_.hidden);
        step.clip = Real(s_.cell.clip);
        for (int phase = 0; phase < cell_.phases; ++phase) {
            if (phase != 0 && division_.by_columns) barrier.wait();
            make_z(chunk, part, piece, s, n, phase);
            cell_.forward[phase](n, part.panels.size(), step);  // z_t -> h_t
        }
        const auto hand_out = [&](Matrix<Real> from, const UserRows<Real>& to) {
            if (!to) return;
            tape_.cut.for_each_user_run(to.first_step(chunk) + s, piece.positions.begin, n,
                                        [&](std::size_t i, std::size_t count, const Rows& rows) {
                                            k_.copy(count, part.cols, from.rows_from(i), part.of(to, rows));
                                        });
        };
        hand_out(step.h, a_.output);
        hand_out(step.c, a_.cells);
        if (n != piece.size) {  // what has ended is 0 to the weight gradients
            k_.zero(piece.size - n, part.cols, step.h.rows_from(n));
            if (tape_.has_cell_state()) k_.zero(piece.size - n, part.cols, step.c.rows_from(n));
            for (int b = 0; tape_.has_blocks() && b < cell_.blocks; ++b)
                k_.zero(piece.size - n, part.cols, part.of(z.panels_from(std::size_t(b) * tape_.panels()), n));
        }
        if (division_.by_columns) barrier.wait();
    }
    write_final_state(chunk, part, piece);
}

/// Of the samples that end within the chunk.
template <class Real>
void ForwardPass<Real>::write_final_state(const Chunk& chunk, const Part<Real>& part, const Piece& piece) {
    const Cut& cut = tape_.cut;
    const std::size_t S = chunk.steps, first = piece.active(cut, chunk.first_step + S);
    const auto write = [&](Matrix<Real> from, Real* to) {
        if (to == nullptr) return;
        const UserRows<Real> rows{to, s_.hidden};
        cut.for_each_sample_run(
            piece.positions.begin + first, piece.size - first, [&](std::size_t i, std::size_t count, std::size_t sample) {
                const std::size_t steps = cut.length(piece.positions.begin + first + i) - chunk.first_step;
                k_.copy(count, part.cols, part.of(from, piece.row(S + 1, steps) + first + i), part.of(rows, Rows{sample}));
            });
    };
    write(tape_.h(chunk), a_.final_state.h);
    if (tape_.has_cell_state()) write(tape_.c(chunk), a_.final_state.c);
}

template class ForwardPass<float>;
template class ForwardPass<double>;

}  // namespace pybptt
