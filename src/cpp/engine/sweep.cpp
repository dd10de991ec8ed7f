#include "engine/sweep.hpp"

namespace pybptt {

template <class Real>
Sweep<Real>::Sweep(const UnitTape<Real>& tape, const Division& division, const UnitGradients<Real>& gradients,
                   const SweepSpace<Real>& space)
    : k_(kernels<Real>()),
      tape_(tape),
      s_(tape.sizes),
      cell_(tape.cell),
      division_(division),
      g_(gradients),
      weights_(tape, division.threads, gradients.parameters, gradients.input, space.dx),
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
    part.for_each_piece(tape_.cut, chunk, [&](const Piece& piece) { sweep_piece(chunk, upstream, part, piece, barrier); });
    barrier.wait();
    weights_.add(chunk, dz_.matrix(), member);
    barrier.wait();
}

template <class Real>
int Sweep<Real>::recurrent_terms(Matrix<const Real> dz, const Part<Real>& part, int source, Term<Real>* terms) const {
    const std::size_t H = s_.hidden, panels = tape_.panels();
    const bool together = H % kLanes<Real> == 0;  // then a run's blocks make one term
    int count = 0;
    for (int r = 0; r < cell_.run_count; ++r) {
        const BlockRun& run = cell_.runs[r];
        if (run.hidden_gate < 0 || run.source != source) continue;
        for (int i = 0; i < (together ? 1 : run.count); ++i) {
            const std::size_t gate = std::size_t(run.hidden_gate + i);
            terms[count++] = {dz.panels_from(std::size_t(run.block + i) * panels),
                              tape_.weight_hh.matrix().rows_from(gate * H).panels_from(part.panels.begin),
                              together ? std::size_t(run.count) * H : H};
        }
    }
    return count;
}

template <class Real>
void Sweep<Real>::sweep_piece(const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part, const Piece& piece,
                              Barrier& barrier) {
    const std::size_t S = chunk.steps, panels = tape_.panels();
    const Matrix<Real> h = tape_.h(chunk), c = tape_.c(chunk), dz = dz_.matrix();
    const Matrix<Real> carry_h = apart(carry_h_, part, piece.slice.index, piece.positions.begin);
    CellSweep<Real> step{};
    step.dz_stride = panels * dz.panel_stride;
    if (tape_.has_blocks()) step.carry = apart(carry_, part, piece.slice.index, piece.positions.begin);
    step.peephole = tape_.peephole.data() + part.panels.begin * kLanes<Real>;
    step.peephole_stride = block_cols<Real>(1, s_.hidden);
    step.clip = Real(s_.cell.clip);
    Term<Real> terms[4];
    std::size_t later = 0;  // samples that have the step after
    for (std::size_t s = S; s-- > 0;) {
        const std::size_t n = piece.active(tape_.cut, chunk.first_step + s), row = piece.row(S, s);
        const Matrix<Real> dz_t = part.of(dz, row);
        const Matrix<const Real> upstream_t = upstream.at(chunk, s, part, piece, dz);
        if (tape_.has_blocks()) {
            const Matrix<Real> saved = tape_.saved(chunk);
            step.saved = part.of(saved, row);
            step.saved_stride = panels * saved.panel_stride;
        }
        step.h_before = part.of(h, piece.row(S + 1, s));
        step.h = part.of(h, piece.row(S + 1, s + 1));
        if (tape_.has_cell_state()) {
            step.c_before = part.of(c, piece.row(S + 1, s));
            step.c = part.of(c, piece.row(S + 1, s + 1));
        }
        step.dz = dz_t;
        // dh_t = upstream_t + dz_{t+1} W_hh
        if (later != 0) {
            Ahead<Real> ahead;
            ahead.backwards = s % 2 != 0 && later <= Division::kFewRows;
            if (!tape_.has_blocks()) ahead.matrix[0] = step.h_before;
            if (s != 0) ahead.matrix[1] = upstream.at(chunk, s - 1, part, piece, dz);
            for (int b = 0; tape_.has_blocks() && b < cell_.blocks; ++b)
                ahead.matrix[2 + b] = step.saved.panels_from(std::size_t(b) * panels);
            const int count = recurrent_terms(dz.rows_from(piece.row(S, s + 1)), part, -1, terms);
            k_.product(later, part.cols, terms, count, upstream_t, dz_t, ahead);
        }
        if (n != later) {  // the step after lies in the next chunk, or there is none: the carry has what comes from there
            k_.product(n - later, part.cols, nullptr, 0, upstream_t.data != nullptr ? upstream_t.rows_from(later) : upstream_t,
                       dz_t.rows_from(later), {});
            k_.add(n - later, part.cols, carry_h.rows_from(later), dz_t.rows_from(later));
        }
        if (cell_.carries_hidden) k_.add(n, part.cols, step.carry, dz_t);
        if (g_.d_cells || g_.hidden)
            tape_.cut.for_each_user_run(chunk.first_step + s, piece.positions.begin, n,
                                        [&](std::size_t i, std::size_t count, const Rows& user) {
                                            if (g_.d_cells)
                                                k_.add(count, part.cols, part.of(g_.d_cells, user), step.carry.rows_from(i));
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
                const int count = recurrent_terms(dz.rows_from(row), part, source, terms);
                k_.product(n, part.cols, terms, count, none<Real>(), dz_t.panels_from(std::size_t(source) * panels), {});
            }
        }
        for (int b = 0; n != piece.size && b < cell_.blocks; ++b)
            k_.zero(piece.size - n, part.cols, dz_t.rows_from(n).panels_from(std::size_t(b) * panels));
        if (division_.by_columns) barrier.wait();
        later = n;
    }
    // What the chunk before receives: dL/dh through this chunk.
    const int count = recurrent_terms(dz.rows_from(piece.row(S, 0)), part, -1, terms);
    k_.product(piece.size, part.cols, terms, count, none<Real>(), carry_h, {});
}

template class Sweep<float>;
template class Sweep<double>;

}  // namespace pybptt
