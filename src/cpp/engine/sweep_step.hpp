// One step of the sweep, with and without windows: the products that take dz_t to the state before and to the input, and the cell's
// own arithmetic.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

/// to = start + dz W, some columns of it: W_ih or W_hh, the gates that `gate` names of all groups, or those whose products
/// read `source`.
template <class Real>
void multiply_back(const RecurrenceTape<Real>& tape, const PanelBuffer<Real>& w, int BlockGroup::* gate, const int* source,
                   std::size_t rows, const Matrix<const Real>& dz, const Columns<Real>& own, const Matrix<const Real>& start,
                   const Matrix<Real>& to, const Ahead<Real>& ahead) {
    const std::size_t H = tape.sizes.hidden;
    const bool together = H % kLanes<Real> == 0;  // then a group's blocks make one term
    Term<Real> terms[kMostBlocks];
    int count = 0;
    for (int g = 0; g < tape.cell.group_count; ++g) {
        const BlockGroup& group = tape.cell.groups[g];
        if (group.*gate < 0 || (source != nullptr && group.source != *source)) continue;
        for (int i = 0; i < (together ? 1 : group.count); ++i)
            terms[count++] = {dz.panels_from(std::size_t(group.block + i) * tape.panels()),
                              own.of(w.matrix().rows_from(std::size_t(group.*gate + i) * H)),
                              together ? std::size_t(group.count) * H : H};
    }
    tape.k.product(rows, own.count, terms, count, start, to, ahead);
}
/// To what the recurrent products read: h_{t-1} (source -1), or a block.
template <class Real>
void multiply_w_hh(const RecurrenceTape<Real>& tape, const Part<Real>& part, std::size_t rows, const Matrix<const Real>& dz,
                   int source, const Matrix<const Real>& start, const Matrix<Real>& to, const Ahead<Real>& ahead = {}) {
    const Columns<Real>& own = source < 0 ? part.h : part.z;
    multiply_back(tape, tape.weights->w_hh, &BlockGroup::hidden_gate, &source, rows, dz, own, start, to, ahead);
}
/// dx_t = dz_t W_ih
template <class Real>
void multiply_w_ih(const RecurrenceTape<Real>& tape, std::size_t rows, Matrix<const Real> dz, const Columns<Real>& own,
                   Matrix<Real> to) {
    multiply_back(tape, tape.weights->w_ih, &BlockGroup::input_gate, nullptr, rows, dz, own, none<Real>(), to, {});
}

/// What goes from a chunk to the one before: dL/dh through the later chunks, and what the cell carries, if anything; a row a
/// sample, slices apart, for one copy of the samples or several.
template <class Real>
class Carries {
public:
    Carries(const RecurrenceTape<Real>& tape, std::size_t copies) : tape_(tape), copies_(copies) {
        const std::size_t rows = checked_product(copies, tape.cut.apart_rows());
        h_ = PanelBuffer<Real>(rows, tape.sizes.h_width());
        if (any()) cell_ = PanelBuffer<Real>(rows, tape.sizes.hidden);
    }

    /// A member's columns from a sample on; of what the cell carries, nothing if there is nothing.
    Matrix<Real> h(const Part<Real>& part, std::size_t slice, std::size_t position, std::size_t copy = 0) const {
        return part.h.of(h_.matrix().rows_from(row(slice, position, copy)));
    }
    Matrix<Real> cell(const Part<Real>& part, std::size_t slice, std::size_t position, std::size_t copy = 0) const {
        return any() ? part.z.of(cell_.matrix().rows_from(row(slice, position, copy))) : Matrix<Real>{};
    }
    /// Begins with derivatives by a state, (B, P) and (B, H), or with 0.
    void set(const Part<Real>& part, std::size_t slice, std::size_t position, std::size_t count, std::size_t copy,
             const UserRows<const Real>& d_h = {}, const UserRows<const Real>& d_c = {}) const {
        read_samples(tape_.k, tape_.cut, d_h, position, count, part.h, h(part, slice, position, copy));
        if (any()) read_samples(tape_.k, tape_.cut, d_c, position, count, part.z, cell(part, slice, position, copy));
    }
    /// Ends as the derivatives by the initial state, sums over the copies.
    void give(const Part<Real>& part, const RnnState<Real>& to) const {
        part.for_each_range(tape_.cut, [&](std::size_t position, std::size_t count, std::size_t slice) {
            const Matrix<Real> d_h = h(part, slice, position), carried = cell(part, slice, position);
            for (std::size_t copy = 1; copy < copies_; ++copy) {
                tape_.k.add(count, part.h.count, h(part, slice, position, copy), d_h);
                if (any()) tape_.k.add(count, part.z.count, cell(part, slice, position, copy), carried);
            }
            if (tape_.cell.carry == Carry::part_of_d_h) tape_.k.add(count, part.h.count, carried, d_h);
            write_samples<Real>(tape_.k, tape_.cut, {to.h, tape_.sizes.h_width()}, position, count, part.h, d_h);
            if (tape_.cell.has_c)
                write_samples<Real>(tape_.k, tape_.cut, {to.c, tape_.sizes.hidden}, position, count, part.z, carried);
        });
    }

private:
    bool any() const { return tape_.cell.carry != Carry::nothing; }
    std::size_t row(std::size_t slice, std::size_t position, std::size_t copy) const {
        return copy * tape_.cut.apart_rows() + tape_.cut.apart_row(slice, position);
    }

    const RecurrenceTape<Real>& tape_;
    const std::size_t copies_;
    PanelBuffer<Real> h_, cell_;  // (B, P) and (B, H)
};

/// What a piece's sweep reads of the tape, step by step; dz and the carry are to be filled in.
template <class Real>
struct TapeSteps {
    const Cell<Real>& cell;
    const Piece<Real>& piece;
    const Matrix<Real> saved, h, c;
    CellSweep<Real> step{};
    TapeSteps(const RecurrenceTape<Real>& tape, const Piece<Real>& piece)
        : cell(tape.cell), piece(piece), saved(tape.saved(piece.chunk)), h(tape.h(piece.chunk)), c(tape.c(piece.chunk)) {
        step.saved_stride = tape.panels() * saved.panel_stride;
        step.vectors = tape.weights->vectors.data() + piece.z.panels.begin * kLanes<Real>;
        step.vector_stride = block_cols<Real>(1, tape.sizes.hidden);
        step.clip = Real(tape.sizes.cell.clip);
    }
    CellSweep<Real>& at(std::size_t s) {
        const std::size_t before = piece.state_row(s), after = piece.state_row(s + 1);
        if (cell.keeps_z) step.saved = piece.z.of(saved.rows_from(piece.row(s)));
        step.h_before = piece.h.of(h.rows_from(before)), step.h = piece.h.of(h.rows_from(after));
        if (cell.has_c) step.c_before = piece.z.of(c.rows_from(before)), step.c = piece.z.of(c.rows_from(after));
        return step;
    }
};

/// What the cell is about to read, and the upstream of the step before: to be brought into the cache by this step's product.
template <class Real>
Ahead<Real> ahead_of_sweep(const RecurrenceTape<Real>& tape, const CellSweep<Real>& step, Matrix<const Real> upstream_before) {
    Ahead<Real> ahead;
    if (tape.fits_cache) return ahead;
    if (!tape.cell.keeps_z) ahead.add(step.h_before);
    ahead.add(upstream_before);
    for (int b = 0; tape.cell.keeps_z && b < tape.cell.blocks; ++b)
        ahead.add(step.saved.panels_from(std::size_t(b) * tape.panels()));
    return ahead;
}

/// dz_t from dh_t: some rows of both (all columns, dh_t behind dh_panel). each(visit) calls visit(n, dz, carry) for every run of n
/// active rows among them: a member's columns of dz and of what the cell carries.
template <class Real, class Each>
void sweep_cell(const RecurrenceTape<Real>& tape, const Piece<Real>& piece, CellSweep<Real>& step, std::size_t rows,
                const Matrix<Real>& dz, Each each) {
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
