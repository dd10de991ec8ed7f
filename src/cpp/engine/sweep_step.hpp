// One step of the sweep: the products that take dz_t to the state before and to the input, and what the cell reads.
#pragma once

#include "engine/division.hpp"

namespace pybptt {

/// At most so many terms make a product of dz_t.
constexpr int kMostTerms = 4;

/// Terms of dz W_hh, a member's columns of it, for the runs whose products read h_{t-1} (source -1) or a block.
template <class Real, class Dz>
int recurrent_terms(const UnitTape<Real>& tape, Matrix<Dz> dz, const Part<Real>& part, int source, Term<Real>* terms) {
    const std::size_t H = tape.sizes.hidden, panels = tape.panels();
    const bool together = H % kLanes<Real> == 0;  // then a run's blocks make one term
    int count = 0;
    for (int r = 0; r < tape.cell.run_count; ++r) {
        const BlockRun& run = tape.cell.runs[r];
        if (run.hidden_gate < 0 || run.source != source) continue;
        for (int i = 0; i < (together ? 1 : run.count); ++i)
            terms[count++] = {
                dz.panels_from(std::size_t(run.block + i) * panels),
                tape.weight_hh.matrix().rows_from(std::size_t(run.hidden_gate + i) * H).panels_from(part.panels.begin),
                together ? std::size_t(run.count) * H : H};
    }
    return count;
}

/// Terms of dz W_ih, its columns from a panel on.
template <class Real, class Dz>
int input_terms(const UnitTape<Real>& tape, Matrix<Dz> dz, std::size_t panel, Term<Real>* terms) {
    const std::size_t H = tape.sizes.hidden, panels = tape.panels();
    const bool together = H % kLanes<Real> == 0;
    int count = 0;
    for (int r = 0; r < tape.cell.run_count; ++r) {
        const BlockRun& run = tape.cell.runs[r];
        for (int i = 0; run.input_gate >= 0 && i < (together ? 1 : run.count); ++i)
            terms[count++] = {dz.panels_from(std::size_t(run.block + i) * panels),
                              tape.weight_ih.matrix().rows_from(std::size_t(run.input_gate + i) * H).panels_from(panel),
                              together ? std::size_t(run.count) * H : H};
    }
    return count;
}

/// What a piece's sweep reads of the tape at step s of a chunk; dz and the carry are to be filled in.
template <class Real>
CellSweep<Real> cell_sweep(const UnitTape<Real>& tape, const Chunk& chunk, const Part<Real>& part, const Piece& piece,
                           std::size_t s) {
    const std::size_t S = chunk.steps;
    CellSweep<Real> step{};
    step.peephole = tape.peephole.data() + part.panels.begin * kLanes<Real>;
    step.peephole_stride = block_cols<Real>(1, tape.sizes.hidden);
    step.clip = Real(tape.sizes.cell.clip);
    if (tape.has_blocks()) {
        const Matrix<Real> saved = tape.saved(chunk);
        step.saved = part.of(saved, piece.row(S, s));
        step.saved_stride = tape.panels() * saved.panel_stride;
    }
    step.h_before = part.of(tape.h(chunk), piece.row(S + 1, s));
    step.h = part.of(tape.h(chunk), piece.row(S + 1, s + 1));
    if (tape.has_cell_state()) {
        step.c_before = part.of(tape.c(chunk), piece.row(S + 1, s));
        step.c = part.of(tape.c(chunk), piece.row(S + 1, s + 1));
    }
    return step;
}

/// What the cell is about to read, and the upstream of the step before: to be brought into the cache by this step's product.
template <class Real>
Ahead<Real> ahead_of_sweep(const UnitTape<Real>& tape, const CellSweep<Real>& step, Matrix<const Real> upstream_before) {
    Ahead<Real> ahead;
    if (!tape.has_blocks()) ahead.matrix[0] = step.h_before;
    ahead.matrix[1] = upstream_before;
    for (int b = 0; tape.has_blocks() && b < tape.cell.blocks; ++b)
        ahead.matrix[2 + b] = step.saved.panels_from(std::size_t(b) * tape.panels());
    return ahead;
}

}  // namespace pybptt
