// One step of the sweep, with and without windows: the products that take dz_t to the state before and to the input, and the cell's
// own arithmetic.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

/// to = start + dz W, some columns of it: W_ih or W_hh, the gates that `gate` names of the groups that `takes` accepts.
template <class Real, class Takes>
void multiply_back(const RecurrenceTape<Real>& tape, const PanelBuffer<Real>& w, int BlockGroup::* gate, Takes takes,
                   std::size_t rows, Matrix<const Real> dz, const Columns<Real>& own, Matrix<const Real> start, Matrix<Real> to,
                   const Ahead<Real>& ahead = {}) {
    const std::size_t H = tape.sizes.hidden;
    const bool together = H % kLanes<Real> == 0;  // then a group's blocks make one term
    Term<Real> terms[kMostBlocks];
    int count = 0;
    for (int g = 0; g < tape.cell.group_count; ++g) {
        const BlockGroup& group = tape.cell.groups[g];
        for (int i = 0; group.*gate >= 0 && takes(group) && i < (together ? 1 : group.count); ++i)
            terms[count++] = {dz.panels_from(std::size_t(group.block + i) * tape.panels()),
                              own.of(w.matrix().rows_from(std::size_t(group.*gate + i) * H)),
                              together ? std::size_t(group.count) * H : H};
    }
    tape.k.product(rows, own.count, terms, count, start, to, ahead);
}
/// To what the recurrent products read: h_{t-1} (source -1), or a block.
template <class Real>
void multiply_w_hh(const RecurrenceTape<Real>& tape, const Part<Real>& part, std::size_t rows, Matrix<const Real> dz, int source,
                   Matrix<const Real> start, Matrix<Real> to, const Ahead<Real>& ahead = {}) {
    multiply_back(
        tape, tape.weights->w_hh, &BlockGroup::hidden_gate, [&](const BlockGroup& group) { return group.source == source; }, rows,
        dz, source < 0 ? part.h : part.z, start, to, ahead);
}
/// dx_t = dz_t W_ih
template <class Real>
void multiply_w_ih(const RecurrenceTape<Real>& tape, std::size_t rows, Matrix<const Real> dz, const Columns<Real>& own,
                   Matrix<Real> to) {
    multiply_back(
        tape, tape.weights->w_ih, &BlockGroup::input_gate, [](const BlockGroup&) { return true; }, rows, dz, own, none<Real>(), to);
}

/// What a piece's sweep reads of the tape at step s; dz and the carry are to be filled in.
template <class Real>
CellSweep<Real> cell_sweep(const RecurrenceTape<Real>& tape, const Piece<Real>& piece, std::size_t s) {
    CellSweep<Real> step{};
    step.vectors = tape.weights->vectors.data() + piece.z.panels.begin * kLanes<Real>;
    step.vector_stride = block_cols<Real>(1, tape.sizes.hidden);
    step.clip = Real(tape.sizes.cell.clip);
    if (tape.cell.keeps_z) {
        const Matrix<Real> saved = tape.saved(piece.chunk);
        step.saved = piece.z.of(saved.rows_from(piece.row(s)));
        step.saved_stride = tape.panels() * saved.panel_stride;
    }
    const Matrix<Real> h = piece.h.of(tape.h(piece.chunk));
    step.h_before = h.rows_from(piece.state_row(s));
    step.h = h.rows_from(piece.state_row(s + 1));
    if (tape.cell.has_c) {
        const Matrix<Real> c = piece.z.of(tape.c(piece.chunk));
        step.c_before = c.rows_from(piece.state_row(s));
        step.c = c.rows_from(piece.state_row(s + 1));
    }
    return step;
}

/// What the cell is about to read, and the upstream of the step before: to be brought into the cache by this step's product.
template <class Real>
Ahead<Real> ahead_of_sweep(const RecurrenceTape<Real>& tape, const CellSweep<Real>& step, Matrix<const Real> upstream_before) {
    Ahead<Real> ahead;
    if (!tape.cell.keeps_z) ahead.matrix[0] = step.h_before;
    ahead.matrix[1] = upstream_before;
    for (int b = 0; tape.cell.keeps_z && b < tape.cell.blocks; ++b)
        ahead.matrix[2 + b] = step.saved.panels_from(std::size_t(b) * tape.panels());
    return ahead;
}

/// dz_t from dh_t: some rows of both (all columns, dh_t behind dh_panel). each(visit) calls visit(n, dz, carry) for every run of n
/// active rows among them: a member's columns of dz and of what the cell carries.
template <class Real, class Each>
void sweep_cell(const RecurrenceTape<Real>& tape, const Piece<Real>& piece, CellSweep<Real> step, std::size_t rows, Matrix<Real> dz,
                Each each) {
    step.dz_stride = tape.panels() * dz.panel_stride;
    if (tape.projects()) {  // the derivative by o_t tanh(c_t) = dh_t W_hr, in the place that the cell reads
        piece.wait();
        const Term<Real> term{dz.panels_from(tape.dh_panel()), piece.z.of(tape.weights->w_hr.matrix()), tape.sizes.projection};
        tape.k.product(rows, piece.z.count, &term, 1, none<Real>(), piece.z.of(dz), {});
    }
    for (int phase = tape.cell.phases; phase-- > 0;) {
        each([&](std::size_t n, Matrix<Real> own_dz, Matrix<Real> carry) {
            step.dz = own_dz;
            step.carry = carry;
            tape.cell.backward[phase](n, piece.z.panels.size(), step);
        });
        if (phase == 0) break;
        piece.wait();
        for (int g = 0; g < tape.cell.group_count; ++g) {
            const int source = tape.cell.groups[g].source;
            if (source < 0) continue;
            multiply_w_hh<Real>(tape, piece, rows, dz, source, none<Real>(),
                                piece.z.of(dz.panels_from(std::size_t(source) * tape.panels())));
        }
    }
}

}  // namespace pybptt
