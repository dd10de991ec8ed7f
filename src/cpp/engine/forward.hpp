// The forward pass of one recurrence over time.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

/// A recurrence's part of the user's arrays; all but x may be null.
template <class Real>
struct RecurrenceArrays {
    UserRows<const Real> x;     // (T, B, D), if dense
    UserRows<const Real> mask;  // of x
    RnnState<const Real> state;
    UserRows<Real> output;  // (T, B, P)
    RnnState<Real> final_state;
    UserRows<Real> cells;  // (T, B, H)
};

/// One call's forward pass. What follows the constructor is called by every member of the team, and neither throws nor allocates.
template <class Real>
class ForwardPass {
public:
    ForwardPass(const RecurrenceTape<Real>& tape, const RecurrenceArrays<Real>& arrays) : tape_(tape), a_(arrays) {}

    /// Outputs past a sequence's end, and final states of sequences without steps.
    void write_paddings(const Member& member) {
        const std::size_t H = s_.hidden, P = s_.h_width();
        const Range own = member.share(s_.batch, 1);
        if (!a_.output.of_chunk) tape_.cut.zero_paddings(a_.output, own.begin, own.size(), 0, P);
        tape_.cut.zero_paddings(a_.cells, own.begin, own.size(), 0, H);
        for (std::size_t position = own.begin; position < own.end; ++position) {
            if (tape_.cut.length(position) != 0) continue;
            const std::size_t sample = tape_.cut.sample(position);
            const auto keep = [&](const Real* from, Real* to, std::size_t width) {
                for (std::size_t u = sample * width; to != nullptr && u < (sample + 1) * width; ++u)
                    to[u] = from != nullptr ? from[u] : 0;
            };
            keep(a_.state.h, a_.final_state.h, P);
            keep(a_.state.c, a_.final_state.c, H);
        }
    }
    /// z = b + X W_ih^T, from which steps select: some rows and columns of it; complete after a barrier.
    void project_selection(const Member& member) {
        const Part<Real> part(s_, Division(s_, member.team), member);
        const Range own = part.share_of_groups(tape_.selection.count);
        const Matrix<Real> x = tape_.selection.rows.matrix(), z = tape_.selection.z.matrix();
        project(part, x.rows_from(own.begin), z.rows_from(own.begin), own.size());
    }
    /// Runs one chunk from the state in the place `from`, and keeps the one after it in `to`. A member's own part of h is complete
    /// when it returns, other members' parts after a barrier. If chunks move, a chunk run before was the one before it in time, or
    /// there was a sweep in between.
    void run(const Chunk& chunk, std::size_t from, std::size_t to, const Member& member) {
        const Part<Real> part(s_, Division(s_, member.team), member);
        // A chunk of another shape in the place of the one before: its rows are where other members' rows were.
        if (tape_.moves_chunks && chunk.index != 0 && (tape_.cut.ragged() || chunk.rows != tape_.cut.chunk(chunk.index - 1).rows))
            member.wait();
        part.for_each_piece(tape_.cut, chunk, [&](const Piece<Real>& piece) {
            bring_state(piece, from);
            run_piece(piece);
            keep_state(piece, to);
        });
    }

private:
    void run_piece(const Piece<Real>& piece) {
        const Matrix<Real> h = piece.h.of(tape_.h(piece.chunk)), c = piece.z.of(tape_.c(piece.chunk));
        const auto hand_out = [&](std::size_t s, std::size_t n) {
            const auto copy = [&](const Matrix<Real>& states, const Columns<Real>& own, const UserRows<Real>& array) {
                piece.for_each_row(array, s, n, [&](std::size_t i, std::size_t count, Matrix<Real> to) {
                    k_.copy(count, own.count, states.rows_from(piece.state_row(s + 1) + i), own.of(to));
                });
            };
            copy(h, piece.h, a_.output);
            copy(c, piece.z, a_.cells);
        };
        const bool together = piece.together(0, piece.chunk.steps) != 1;
        CellStep<Real> step{};
        step.vectors = w_.vectors.data() + piece.z.panels.begin * kLanes<Real>;
        step.vector_stride = block_cols<Real>(1, s_.hidden);
        step.clip = Real(s_.cell.clip);
        bring_input(piece);
        piece.wait();
        for (std::size_t s = 0; s < piece.chunk.steps; ++s) {
            const std::size_t n = piece.active(s), before = piece.state_row(s), after = piece.state_row(s + 1);
            const Matrix<Real> z = piece.z.of(z_at(piece, s)), h_t = h.rows_from(after);
            const Matrix<Real> unprojected = tape_.projects() ? tape_.unprojected(piece.chunk).rows_from(piece.row(s)) : h_t;
            step.z = z;
            step.block_stride = tape_.panels() * z.panel_stride;
            step.h_before = h.rows_from(before);
            step.h = tape_.projects() ? piece.z.of(unprojected) : h_t;
            if (cell_.has_c) {
                step.c_before = c.rows_from(before);
                step.c = c.rows_from(after);
            }
            for (int phase = 0; phase < cell_.phases; ++phase) {
                if (phase != 0) piece.wait();
                make_z(piece, s, n, phase);
                cell_.forward[phase](n, piece.z.panels.size(), step);  // z_t -> h_t
            }
            if (tape_.projects()) {  // h_t = (o_t tanh(c_t)) W_hr^T
                piece.wait();
                const Term<Real> term{unprojected, piece.h.of(w_.w_hr_t.matrix()), s_.hidden};
                k_.product(n, piece.h.count, &term, 1, none<Real>(), h_t, {});
            }
            if (!together)
                hand_out(s, n);
            else if (s + 1 == piece.chunk.steps)  // before the barrier: the layer above reads it after that
                hand_out(0, piece.chunk.steps * n);
            if (n != piece.size) {  // what has ended is 0 to the weight gradients
                const std::size_t ended = piece.size - n;
                k_.zero(ended, piece.h.count, h_t.rows_from(n));
                if (cell_.has_c) k_.zero(ended, piece.z.count, step.c.rows_from(n));
                for (int b = 0; b < tape_.kept_blocks(); ++b)
                    k_.zero(ended, piece.z.count, z.rows_from(n).panels_from(std::size_t(b) * tape_.panels()));
            }
            piece.wait();
        }
    }
    /// visit(columns of a chunk's states that are a member's, states between chunks, which columns, initial state, final state): of
    /// h and, if the cell has one, c.
    template <class Visit>
    void for_each_state(const Piece<Real>& piece, Visit visit) const {
        const auto of = [&](const ChunkBuffer<Real>& tape, const PanelBuffer<Real>& states, const Columns<Real>& own,
                            std::size_t width, const Real* given, Real* wanted) {
            visit(own.of(tape(piece.chunk)), states, own, UserRows<const Real>{given, width}, UserRows<Real>{wanted, width});
        };
        of(tape_.h, tape_.states_h, piece.h, s_.h_width(), a_.state.h, a_.final_state.h);
        if (cell_.has_c) of(tape_.c, tape_.states_c, piece.z, s_.hidden, a_.state.c, a_.final_state.c);
    }
    /// The state before the chunk.
    void bring_state(const Piece<Real>& piece, std::size_t from) {
        const std::size_t first = piece.positions.begin, n = piece.size;
        for_each_state(piece, [&](Matrix<Real> h, const auto& states, const auto& own, const auto& given, const auto&) {
            const Matrix<Real> before = h.rows_from(piece.state_row(0));
            if (from == kInitialState) return read_samples(k_, tape_.cut, given, first, n, own, before);
            k_.copy(n, own.count, own.of(states.matrix(from).rows_from(first)), before);
        });
    }
    /// The state after the chunk, and the final states of the samples that end within it.
    void keep_state(const Piece<Real>& piece, std::size_t to) {
        const std::size_t S = piece.chunk.steps, n = piece.size, together = tape_.cut.ragged() ? 1 : n;
        for_each_state(piece, [&](Matrix<Real> h, const auto& states, const auto& own, const auto&, const auto& wanted) {
            if (to != kNoState)
                k_.copy(n, own.count, h.rows_from(piece.state_row(S)), own.of(states.matrix(to).rows_from(piece.positions.begin)));
            for (std::size_t i = piece.active(S); wanted && i < n; i += together) {
                const std::size_t position = piece.positions.begin + i, steps = tape_.cut.length(position) - piece.chunk.first_step;
                k_.copy(together, own.count, h.rows_from(piece.state_row(steps) + i),
                        own.of(wanted.at(tape_.cut.samples(position))));
            }
        });
    }
    /// x_t into the tape, and what can be said of z_t before the recurrence runs.
    void bring_input(const Piece<Real>& piece) {
        const std::size_t D = s_.inputs, S = piece.chunk.steps, panels = tape_.panels();
        if (tape_.selects()) {
            for (std::size_t s = 0; s < S; ++s)
                piece.for_each_block(cell_.blocks, panels, [&](int block, std::size_t cols) {
                    const std::size_t panel = std::size_t(block) * panels + piece.z.panels.begin;
                    k_.gather_rows(piece.active(s), cols, tape_.z_rows(piece.chunk) + piece.row(s),
                                   tape_.z_table().panels_from(panel), z_at(piece, s).panels_from(panel));
                });
            return;
        }
        const Matrix<Real> x = tape_.x(piece.chunk);
        const Range steps = piece.share_of_group(S);
        for (std::size_t s = steps.begin, some; s < steps.end; s += some) {
            some = piece.together(s, steps.end);
            const std::size_t n = some * piece.active(s);
            const Matrix<Real> x_t = x.rows_from(piece.row(s));
            piece.for_each_row(a_.x, s, n, [&](std::size_t i, std::size_t count, Matrix<const Real> from) {
                k_.copy(count, D, from, x_t.rows_from(i));
            });
            piece.for_each_row(a_.mask, s, n, [&](std::size_t i, std::size_t count, Matrix<const Real> mask) {
                k_.multiply(count, D, mask, x_t.rows_from(i));
            });
            k_.zero(some * piece.size - n, D, x_t.rows_from(n));
        }
        piece.wait();
        if (!piece.division.project_ahead) return;
        const bool whole = piece.size == piece.slice.size;  // the rows of all steps are one run
        project(piece, x.rows_from(piece.row(0)), z_at(piece, 0), whole ? S * piece.size : piece.size, whole ? 1 : S,
                piece.slice.size);
    }
    /// z = b + x W_ih^T, a member's columns of several runs of rows, `apart` from one to the next: some columns of W_ih^T at a
    /// time, so that they stay in the cache for all the runs.
    void project(const Part<Real>& part, Matrix<const Real> x, Matrix<Real> z, std::size_t rows, std::size_t runs = 1,
                 std::size_t apart = 0) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t D = s_.inputs, panels = tape_.panels();
        const std::size_t some = runs == 1
                                     ? panel_count<Real>(block_cols<Real>(cell_.blocks, s_.hidden))
                                     : std::max<std::size_t>(4, caches().l2 / 2 / (std::max<std::size_t>(1, D) * kPanelBytes));
        for (int g = 0; g < cell_.group_count; ++g) {
            const BlockGroup& group = cell_.groups[g];
            if (group.input_gate < 0) continue;
            part.for_each_block(group.count, panels, [&](int i, std::size_t all_cols) {
                const std::size_t to = std::size_t(group.block + i) * panels + part.z.panels.begin;
                const std::size_t from = std::size_t(group.input_gate + i) * panels + part.z.panels.begin;
                for (std::size_t panel = 0; panel * L < all_cols; panel += some) {
                    const std::size_t cols = std::min(some * L, all_cols - panel * L);
                    for (std::size_t run = 0; run < runs; ++run) {
                        const Term<Real> projection{x.rows_from(run * apart), w_.w_ih_t.matrix().panels_from(from + panel), D};
                        k_.product(rows, cols, &projection, 1, every_row<Real>(w_.bias.data() + (to + panel) * L),
                                   z.rows_from(run * apart).panels_from(to + panel), {});
                    }
                }
            });
        }
    }
    /// z_t = b + x_t W_ih^T + h_{t-1} W_hh^T, as far as it is not there yet: of one step, the blocks of one phase.
    void make_z(const Piece<Real>& piece, std::size_t s, std::size_t n, int phase) {
        constexpr std::size_t L = kLanes<Real>;
        const std::size_t panels = tape_.panels();
        const Matrix<Real> z = z_at(piece, s);
        const bool projected = tape_.selects() || piece.division.project_ahead;
        for (int g = 0; g < cell_.group_count; ++g) {
            const BlockGroup& group = cell_.groups[g];
            if ((group.source < 0 ? 0 : 1) != phase) continue;
            const bool with_input = group.input_gate >= 0 && !projected;
            if (!with_input && group.hidden_gate < 0) continue;
            const Matrix<const Real> before = group.source < 0 ? tape_.h(piece.chunk).rows_from(piece.state_row(s))
                                                               : z.panels_from(std::size_t(group.source) * panels);
            piece.for_each_block(group.count, panels, [&](int i, std::size_t cols) {
                const std::size_t to = std::size_t(group.block + i) * panels + piece.z.panels.begin;
                const auto gate = [&](const PanelBuffer<Real>& w_t, int first) {
                    return w_t.matrix().panels_from(std::size_t(first + i) * panels + piece.z.panels.begin);
                };
                Term<Real> terms[2];
                int count = 0;
                if (with_input)
                    terms[count++] = {tape_.x(piece.chunk).rows_from(piece.row(s)), gate(w_.w_ih_t, group.input_gate), s_.inputs};
                if (group.hidden_gate >= 0) terms[count++] = {before, gate(w_.w_hh_t, group.hidden_gate), s_.h_width()};
                const bool begun = projected && group.input_gate >= 0;
                const Matrix<Real> z_t = z.panels_from(to);
                Ahead<Real> ahead;
                ahead.to_write = true;
                ahead.backwards = (steps_before_ + piece.chunk.first_step + s) % 2 != 0 && n <= Division::kFewRows;
                if (!tape_.fits_cache && s + 1 < piece.chunk.steps) ahead.add(z_at(piece, s + 1).panels_from(to));
                if (!tape_.fits_cache && !cell_.keeps_z && a_.output && !tape_.cut.ragged())
                    ahead.add(piece.h.of(
                        a_.output.at(tape_.cut.user_rows(a_.output.first_step(piece.chunk) + s, piece.positions.begin))));
                k_.product(n, cols, terms, count, begun ? Matrix<const Real>(z_t) : every_row<Real>(w_.bias.data() + to * L), z_t,
                           ahead);
            });
        }
    }
    /// z of step s of a piece, all its blocks.
    Matrix<Real> z_at(const Piece<Real>& piece, std::size_t s) const {
        return cell_.keeps_z ? tape_.saved(piece.chunk).rows_from(piece.row(s))
                             : tape_.h(piece.chunk).rows_from(piece.state_row(s + 1));
    }

    const RecurrenceTape<Real>& tape_;
    const Kernels<Real>& k_ = tape_.k;
    const RnnSizes& s_ = tape_.sizes;
    const Cell<Real>& cell_ = tape_.cell;
    const PackedWeights<Real>& w_ = *tape_.weights;
    const RecurrenceArrays<Real> a_;
    const std::size_t steps_before_ = tape_.weights->steps.fetch_add(s_.steps);  // with these weights
};

}  // namespace pybptt
