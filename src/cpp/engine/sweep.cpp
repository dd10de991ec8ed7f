#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
Sweep<Real>::Sweep(const UnitTape<Real>& tape, const Division& division, const UnitGradients<Real>& gradients,
                   const SweepSpace<Real>& space, const SweepLimits<Real>& limits)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      cell_(tape.cell),
      division_(division),
      g_(gradients),
      weights_(tape, division.threads, gradients.parameters, gradients.input, space.dx),
      factors_(tape.cut, limits.factors),
      clipping_(limits, division, s_.batch),
      dz_(space.dz),
      carry_h_(tape.cut.apart_rows(), s_.hidden) {
    if (tape.has_blocks()) carry_ = PanelBuffer<Real>(tape.cut.apart_rows(), s_.hidden);
}

template <class Real>
template <class Visit>
void Sweep<Real>::for_each_range(const Part<Real>& part, Visit visit) const {
    for (std::size_t i = 0; i < tape_.cut.slices(); ++i) {
        const std::size_t begin = std::max(part.samples.begin, tape_.cut.first_position(i));
        const std::size_t end = std::min(part.samples.end, tape_.cut.first_position(i + 1));
        if (begin < end) visit(begin, end - begin, i);
    }
}

/// The carries hold the final state's own gradients: a sample meets them at its last step.
template <class Real>
void Sweep<Real>::start(int member) {
    const Part<Real> part(s_, division_, member);
    weights_.prepare(member);
    for_each_range(part, [&](std::size_t position, std::size_t count, std::size_t slice) {
        const auto bring = [&](const PanelBuffer<Real>& buffer, const UserRows<const Real>& given) {
            const Matrix<Real> to = apart(buffer, part, slice, position);
            if (!given) return k_.zero(count, part.cols, to);
            tape_.cut.for_each_sample_run(position, count, [&](std::size_t i, std::size_t n, std::size_t sample) {
                k_.copy(n, part.cols, part.of(given, Rows{sample}), to.rows_from(i));
            });
        };
        bring(carry_h_, g_.d_h);
        if (tape_.has_blocks()) bring(carry_, g_.d_c);
    });
}

template <class Real>
void Sweep<Real>::finish(int member) {
    const Part<Real> part(s_, division_, member);
    weights_.finish(member);
    for_each_range(part, [&](std::size_t position, std::size_t count, std::size_t slice) {
        if (cell_.carries_hidden)
            k_.add(count, part.cols, apart(carry_, part, slice, position), apart(carry_h_, part, slice, position));
        const auto give = [&](const PanelBuffer<Real>& buffer, Real* to) {
            if (to == nullptr) return;
            const UserRows<Real> rows{to, s_.hidden};
            tape_.cut.for_each_sample_run(position, count, [&](std::size_t i, std::size_t n, std::size_t sample) {
                k_.copy(n, part.cols, apart(buffer, part, slice, position + i), part.of(rows, Rows{sample}));
            });
        };
        give(carry_h_, g_.state.h);
        if (tape_.has_cell_state()) give(carry_, g_.state.c);
        if (!g_.hidden) return;
        for (std::size_t i = 0; i < count; ++i)  // past a sequence's end
            for (std::size_t t = tape_.cut.length(position + i); t < s_.steps; ++t)
                std::fill_n(g_.hidden.data + (t * s_.batch + tape_.cut.sample(position + i)) * g_.hidden.leading + part.first_col,
                            part.cols, Real(0));
    });
}

template <class Real>
void Sweep<Real>::run(const Chunk& chunk, Upstream<Real>& upstream, int member, Barrier& barrier) {
    const Part<Real> part(s_, division_, member);
    upstream.prepare_chunk(chunk, member, barrier, dz_.matrix());
    part.for_each_piece(tape_.cut, chunk, [&](const Piece& piece) { sweep_piece(chunk, upstream, part, piece, member, barrier); });
    barrier.wait();
    weights_.add(chunk, dz_.matrix(), member);
    barrier.wait();
}

template <class Real>
void Sweep<Real>::sweep_piece(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, const Piece& piece,
                              int member, Barrier& barrier) {
    const std::size_t S = chunk.steps, panels = tape_.panels(), first = piece.positions.begin;
    const Matrix<Real> dz = dz_.matrix();
    const Matrix<Real> carry_h = apart(carry_h_, part, piece.slice.index, first);
    const Matrix<Real> carry = tape_.has_blocks() ? apart(carry_, part, piece.slice.index, first) : Matrix<Real>{};
    Term<Real> terms[kMostTerms];
    std::size_t later = 0;  // samples that have the step after
    for (std::size_t s = S; s-- > 0;) {
        const std::size_t t = chunk.first_step + s, n = piece.active(tape_.cut, t), row = piece.row(S, s);
        const Matrix<Real> dz_t = part.of(dz, row);
        const Matrix<const Real> upstream_t = upstream.at(chunk, s, part, piece, dz);
        CellSweep<Real> step = cell_sweep(tape_, chunk, part, piece, s);
        step.dz = dz_t;
        step.dz_stride = panels * dz.panel_stride;
        step.carry = carry;
        // dh_t = upstream_t + xi_{t+1} dz_{t+1} W_hh
        // One way or the other for a whole slice: members share slices, and it decides the order in which terms are added.
        const bool scaled =
            factors_ && !factors_.all(t + 1, piece.slice.first, tape_.cut.active(piece.slice.index, t + 1), Real(1));
        if (later != 0) {
            Ahead<Real> ahead = ahead_of_sweep(tape_, step, s != 0 ? upstream.at(chunk, s - 1, part, piece, dz) : none<Real>());
            ahead.backwards = s % 2 != 0 && later <= Division::kFewRows;
            const int count = recurrent_terms(tape_, dz.rows_from(piece.row(S, s + 1)), part, -1, terms);
            if (!scaled) {
                k_.product(later, part.cols, terms, count, upstream_t, dz_t, ahead);
            } else if (factors_.all(t + 1, first, later, 0)) {
                k_.zero(later, part.cols, carry_h);
            } else {
                k_.product(later, part.cols, terms, count, none<Real>(), carry_h, ahead);
                factors_.scale(k_, t + 1, first, later, part.cols, carry_h);
            }
        }
        // Of these the carry has what comes from the step after: it lies in the next chunk, or was scaled, or there is none.
        const std::size_t done = scaled ? 0 : later;
        if (n != done) {
            k_.product(n - done, part.cols, nullptr, 0, upstream_t.data != nullptr ? upstream_t.rows_from(done) : upstream_t,
                       dz_t.rows_from(done), {});
            k_.add(n - done, part.cols, carry_h.rows_from(done), dz_t.rows_from(done));
        }
        if (cell_.carries_hidden) k_.add(n, part.cols, carry, dz_t);
        clipping_.run(n, s_.hidden, part, dz.rows_from(row), member, barrier);
        if (g_.d_cells || g_.hidden)
            tape_.cut.for_each_user_run(t, first, n, [&](std::size_t i, std::size_t count, const Rows& user) {
                if (g_.d_cells) k_.add(count, part.cols, part.of(g_.d_cells, user), carry.rows_from(i));
                if (g_.hidden) k_.copy(count, part.cols, dz_t.rows_from(i), part.of(g_.hidden, user));
            });
        // dz_t
        for (int phase = cell_.phases; phase-- > 0;) {
            cell_.backward[phase](n, part.panels.size(), step);
            if (phase == 0) break;
            if (division_.by_columns) barrier.wait();
            for (int r = 0; r < cell_.run_count; ++r) {
                const int source = cell_.runs[r].source;
                if (source < 0) continue;
                const int count = recurrent_terms(tape_, dz.rows_from(row), part, source, terms);
                k_.product(n, part.cols, terms, count, none<Real>(), dz_t.panels_from(std::size_t(source) * panels), {});
            }
        }
        if (tape_.has_blocks()) factors_.scale(k_, t, first, n, part.cols, carry);
        for (int b = 0; n != piece.size && b < cell_.blocks; ++b)
            k_.zero(piece.size - n, part.cols, dz_t.rows_from(n).panels_from(std::size_t(b) * panels));
        if (division_.by_columns) barrier.wait();
        later = n;
    }
    // What the chunk before receives: dL/dh through this chunk.
    const int count = recurrent_terms(tape_, dz.rows_from(piece.row(S, 0)), part, -1, terms);
    k_.product(piece.size, part.cols, terms, count, none<Real>(), carry_h, {});
    factors_.scale(k_, chunk.first_step, first, piece.size, part.cols, carry_h);
}

template class Sweep<float>;
template class Sweep<double>;

}  // namespace pybptt
