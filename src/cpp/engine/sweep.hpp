// The backward pass over time: the products of a step carry dh_t from T to 1.
//
//     dh_t = upstream_t + dz_{t+1} W_hh + what the cell carries        dz_t from dh_t: kernels/cells
//
// With factors (limits.hpp), what comes from step t + 1 is multiplied by xi_{t+1}: the product and the carry.
#pragma once

#include "engine/limits.hpp"
#include "engine/stack.hpp"
#include "engine/sweep_step.hpp"
#include "engine/weight_gradients.hpp"

namespace pybptt {

/// What the sweep of one recurrence reads beside the upstream, and where its results go: of the caller's arrays. All but the
/// parameters may be null, and above the first layer the input's gradient is.
template <class Real>
struct RecurrenceGradients {
    UserRows<const Real> d_h, d_c;  // (B, P), (B, H): derivatives by the final state alone
    UserRows<const Real> d_cells;   // (T, B, H): by c_t alone
    RnnParameterGradients<Real> parameters;
    InputGradient<Real> input;
    RnnState<Real> state;   // (B, P), (B, H)
    UserRows<Real> hidden;  // (T, B, P): dh_t

    RecurrenceGradients(const RnnSizes& s, std::size_t recurrence, const BackwardArrays<Real>& arrays) {
        const std::size_t P = s.h_width(), K = s.directions, layer = recurrence / K, direction = recurrence % K;
        const RnnState<const Real> d_final = state_of(s, arrays.upstream.final_state, recurrence);
        d_h = {d_final.h, P};
        if (arrays.d_last != nullptr && layer + 1 == s.layers) d_h = {arrays.d_last + direction * P, K * P};
        d_c = {d_final.c, s.hidden};
        d_cells = {moved(arrays.upstream.cells, recurrence * s.time_rows() * s.hidden), s.hidden};
        parameters = arrays.gradients.parameters[recurrence];
        if (layer == 0) input.rows = {arrays.gradients.input, s.inputs};
        if (layer != 0) input.mask = {moved(arrays.mask, (layer - 1) * s.time_rows() * K * P), K * P};
        input.add = direction + 1 != K;  // the last one is swept first
        state = state_of(s, arrays.gradients.state, recurrence);
        hidden = {moved(arrays.gradients.hidden, recurrence * s.time_rows() * P), P};
    }

    /// Whether anything is asked for.
    bool any() const {
        const RnnParameterGradients<Real>& p = parameters;
        return p.weight_ih || p.weight_hh || p.bias_ih || p.bias_hh || p.vectors || p.weight_hr || input.rows || state.h ||
               state.c || hidden;
    }
};

/// Called by every member of a team: chunk after chunk from the last to the first.
template <class Real>
class Sweep {
public:
    ///   dx  as in WeightGradients
    Sweep(const RecurrenceTape<Real>& tape, int team, const RecurrenceGradients<Real>& gradients, const PanelBuffer<Real>& dx,
          const SweepLimits<Real>& limits)
        : tape_(tape),
          g_(gradients),
          weights_(tape, team, gradients.parameters, gradients.input, dx),
          factors_(tape.cut, limits.factors),
          clipping_(limits, team, s_.batch) {}

    /// The carries hold the final state's own gradients: a sample meets them at its last step.
    void start(const Member& member) {
        const Part<Real> part = this->part(member);
        weights_.prepare(member);
        part.for_each_range(tape_.cut, [&](std::size_t position, std::size_t count, std::size_t slice) {
            carries_.set(part, slice, position, count, 0, g_.d_h, g_.d_c);
        });
    }
    /// Fills in a chunk's dz. Begins where the chunk after is complete, and is complete itself after a barrier.
    void run(const Chunk& chunk, Upstream<Real>& upstream, Matrix<Real> dz, const Member& member) {
        const Part<Real> part = this->part(member);
        upstream.prepare_chunk(chunk, part, dz.panels_from(tape_.dh_panel()));
        part.for_each_piece(tape_.cut, chunk, [&](const Piece<Real>& piece) { sweep_piece(piece, upstream, dz); });
    }
    /// Adds that chunk to the weight gradients; complete after a barrier.
    void add(const Chunk& chunk, Matrix<const Real> dz, const Member& member) { weights_.add(chunk, dz, member); }
    void finish(const Member& member) {
        const Part<Real> part = this->part(member);
        weights_.finish(member);
        carries_.give(part, g_.state);
        tape_.cut.zero_paddings(g_.hidden, part.samples.begin, part.samples.size(), part.h.first, part.h.count);
    }

private:
    Part<Real> part(const Member& member) const { return {s_, Division(s_, member.team), member}; }
    void sweep_piece(const Piece<Real>& piece, const Upstream<Real>& upstream, Matrix<Real> all) {
        const std::size_t S = piece.chunk.steps, panels = tape_.panels(), first = piece.positions.begin, cols = piece.h.count;
        const Matrix<Real> all_dh = all.panels_from(tape_.dh_panel());
        const Matrix<Real> carry_h = carries_.h(piece, piece.slice.index, first);
        const Matrix<Real> carry = carries_.cell(piece, piece.slice.index, first);
        TapeSteps<Real> tape_steps(tape_, piece);
        std::size_t later = 0;  // samples that have the step after
        for (std::size_t s = S; s-- > 0;) {
            const std::size_t t = piece.chunk.first_step + s, n = piece.active(s);
            const Matrix<Real> dz = all.rows_from(piece.row(s)), dz_t = piece.z.of(dz);
            const Matrix<Real> dh = all_dh.rows_from(piece.row(s)), dh_t = piece.h.of(dh);
            const Matrix<const Real> upstream_t = upstream.at(piece, s, all_dh);
            CellSweep<Real>& step = tape_steps.at(s);
            // dh_t = upstream_t + xi_{t+1} dz_{t+1} W_hh
            // One way or the other for a whole slice: members share slices, and it decides the order in which terms are added.
            const bool scaled =
                factors_ && !factors_.all(t + 1, piece.slice.first, tape_.cut.active(piece.slice.index, t + 1), Real(1));
            if (later != 0) {
                Ahead<Real> ahead = ahead_of_sweep(tape_, step, s != 0 ? upstream.at(piece, s - 1, all_dh) : none<Real>());
                ahead.backwards = s % 2 != 0 && later <= Division::kFewRows;
                const Matrix<const Real> dz_later = all.rows_from(piece.row(s + 1));
                if (!scaled) {
                    multiply_w_hh(tape_, piece, later, dz_later, -1, upstream_t, dh_t, ahead);
                } else if (factors_.all(t + 1, first, later, 0)) {
                    k_.zero(later, cols, carry_h);
                } else {
                    multiply_w_hh(tape_, piece, later, dz_later, -1, none<Real>(), carry_h, ahead);
                    factors_.scale(k_, t + 1, first, later, cols, carry_h);
                }
            }
            // Of these the carry has what comes from the step after: it lies in the next chunk, or was scaled, or there is none.
            const std::size_t done = scaled ? 0 : later;
            if (n != done) {
                k_.product(n - done, cols, nullptr, 0, upstream_t.data != nullptr ? upstream_t.rows_from(done) : upstream_t,
                           dh_t.rows_from(done), {});
                k_.add(n - done, cols, carry_h.rows_from(done), dh_t.rows_from(done));
            }
            if (cell_.carry == Carry::part_of_d_h) k_.add(n, cols, carry, dh_t);
            clipping_.run(piece, n, s_.h_width(), dh);
            piece.for_each_row(g_.d_cells, s, n, [&](std::size_t i, std::size_t count, Matrix<const Real> from) {
                k_.add(count, piece.z.count, piece.z.of(from), carry.rows_from(i));
            });
            piece.for_each_row(g_.hidden, s, n, [&](std::size_t i, std::size_t count, Matrix<Real> to) {
                k_.copy(count, cols, dh_t.rows_from(i), piece.h.of(to));
            });
            sweep_cell(tape_, piece, step, n, dz, [&](auto visit) { visit(n, dz_t, carry); });
            if (cell_.carry != Carry::nothing) factors_.scale(k_, t, first, n, piece.z.count, carry);
            for (int b = 0; n != piece.size && b < cell_.blocks; ++b)
                k_.zero(piece.size - n, piece.z.count, dz_t.rows_from(n).panels_from(std::size_t(b) * panels));
            if (tape_.projects()) k_.zero(piece.size - n, cols, dh_t.rows_from(n));
            piece.wait();
            later = n;
        }
        // What the chunk before receives: dL/dh through this chunk.
        multiply_w_hh<Real>(tape_, piece, piece.size, all.rows_from(piece.row(0)), -1, none<Real>(), carry_h);
        factors_.scale(k_, piece.chunk.first_step, first, piece.size, cols, carry_h);
    }

    const RecurrenceTape<Real>& tape_;
    const Kernels<Real>& k_ = tape_.k;
    const RnnSizes& s_ = tape_.sizes;
    const Cell<Real>& cell_ = tape_.cell;
    const RecurrenceGradients<Real> g_;
    WeightGradients<Real> weights_;
    const Factors<Real> factors_;
    Clipping<Real> clipping_;
    Carries<Real> carries_{tape_, 1};
};

}  // namespace pybptt
