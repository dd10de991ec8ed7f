#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
Sweep<Real>::Sweep(const RecurrenceTape<Real>& tape, int team, const RecurrenceGradients<Real>& gradients,
                   const SweepSpace<Real>& space, const SweepLimits<Real>& limits)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      cell_(tape.cell),
      g_(gradients),
      weights_(tape, gradients.parameters, gradients.input, space.dx),
      factors_(tape.cut, limits.factors),
      clipping_(limits, team, s_.batch),
      dz_(space.dz),
      carries_(tape) {}

/// The carries hold the final state's own gradients: a sample meets them at its last step.
template <class Real>
void Sweep<Real>::start(const Member& member) {
    const Part<Real> part = this->part(member);
    weights_.prepare(member);
    part.for_each_range(tape_.cut, [&](std::size_t position, std::size_t count, std::size_t slice) {
        carries_.set(part, slice, position, count, 0, g_.d_h, g_.d_c);
    });
}

template <class Real>
void Sweep<Real>::finish(const Member& member) {
    const Part<Real> part = this->part(member);
    weights_.finish(member);
    carries_.give(part, g_.state);
    tape_.cut.zero_paddings(g_.hidden, part.samples.begin, part.samples.size(), part.h.first, part.h.count);
}

template <class Real>
void Sweep<Real>::run(const Chunk& chunk, Upstream<Real>& upstream, const Member& member) {
    const Part<Real> part = this->part(member);
    upstream.prepare_chunk(chunk, part, dz_.matrix().panels_from(tape_.dh_panel()));
    part.for_each_piece(tape_.cut, chunk, [&](const Piece<Real>& piece) { sweep_piece(piece, upstream); });
    member.wait();
    weights_.add(chunk, dz_.matrix(), member);
    member.wait();
}

template <class Real>
void Sweep<Real>::sweep_piece(const Piece<Real>& piece, const Upstream<Real>& upstream) {
    const std::size_t S = piece.chunk.steps, panels = tape_.panels(), first = piece.positions.begin, cols = piece.h.count;
    const Matrix<Real> all = dz_.matrix(), all_dh = all.panels_from(tape_.dh_panel());
    const Matrix<Real> carry_h = carries_.h(piece, piece.slice.index, first);
    const Matrix<Real> carry = carries_.cell(piece, piece.slice.index, first);
    std::size_t later = 0;  // samples that have the step after
    for (std::size_t s = S; s-- > 0;) {
        const std::size_t t = piece.chunk.first_step + s, n = piece.active(s);
        const Matrix<Real> dz = all.rows_from(piece.row(s)), dz_t = piece.z.of(dz);
        const Matrix<Real> dh = all_dh.rows_from(piece.row(s)), dh_t = piece.h.of(dh);
        const Matrix<const Real> upstream_t = upstream.at(piece, s, all_dh);
        const CellSweep<Real> step = cell_sweep(tape_, piece, s);
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

template class Sweep<float>;
template class Sweep<double>;

}  // namespace pybptt
