// The contract between the engine, which knows about time, and the kernels, which know about SIMD: one layout for
// all matrices, and one table of functions for each tier and each of float and double.
//
// PANELS. A matrix of `rows` x `cols` is cut into panels of kLanes<Real> columns (16 floats or 8 doubles: one cache
// line of 64 bytes). A panel is its rows one after another, a cache line each:
//
//     element (r, c)  =  data[(c / lanes) * panel_stride + r * lanes + c % lanes],    panel_stride >= rows * lanes
//
// The lanes past the last column exist; products read them but no result uses them. A range of rows is the same view
// with `data` moved, so step t of a sequence is a range of rows of the whole, and h_{t-1} is h_t moved by the batch.
// Weights, hidden states and dz all have this layout, in every tier, and the products read both of their operands
// as whole cache lines in order: nothing is packed a second time.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "pybptt/cell.hpp"

namespace pybptt {

constexpr size_t kPanelBytes = 64;
template <class Real>
constexpr size_t kLanes = kPanelBytes / sizeof(Real);

template <class Real>
constexpr size_t panel_count(size_t cols) {
    return (cols + kLanes<Real> - 1) / kLanes<Real>;
}

/// A view of a matrix, in panels or row-major (a user's array): element (r, c) is at
/// data[(c / lanes) * panel_stride + r * row_stride + c % lanes]. Strides are in elements. With an index, r stands for index[r]:
/// copy, add, multiply, find_rows and scale_rows' factors know it, nothing else does.
template <class Real>
struct Matrix {
    Real* data;
    size_t row_stride;
    size_t panel_stride;
    bool padded;  ///< in panels: the lanes past the last column may be written
    const size_t* index = nullptr;

    Matrix() = default;
    Matrix(Real* data, size_t row_stride, size_t panel_stride, bool padded, const size_t* index = nullptr)
        : data(data), row_stride(row_stride), panel_stride(panel_stride), padded(padded), index(index) {}
    template <class Other>
    Matrix(const Matrix<Other>& m) : Matrix(m.data, m.row_stride, m.panel_stride, m.padded, m.index) {}

    Real* row(size_t r) const { return data + (index != nullptr ? index[r] : r) * row_stride; }
    Matrix rows_from(size_t row) const {
        if (index != nullptr) return {data, row_stride, panel_stride, padded, index + row};
        return {data + row * row_stride, row_stride, panel_stride, padded};
    }
    Matrix panels_from(size_t panel) const { return {data + panel * panel_stride, row_stride, panel_stride, padded, index}; }
};
template <class Real>
Matrix<Real> in_panels(Real* data, size_t panel_stride) {
    return {data, kPanelBytes / sizeof(Real), panel_stride, true};
}
template <class Real>
Matrix<Real> row_major(Real* data, size_t leading) {
    return {data, leading, kPanelBytes / sizeof(Real), false};
}

/// One term of a product, A.B or A^T.B, both in panels; `depth` is the length of the sums.
template <class Real>
struct Term {
    Matrix<const Real> a;
    Matrix<const Real> b;
    size_t depth;
};

constexpr int kMaxTerms = 16;  // of one product

/// The distinct rows that were found so far, in order of first appearance.
template <class Real>
struct DistinctRows {
    const Real** first;  // where each was seen first
    int32_t* table;      // open addressing: -1, or one of these
    size_t capacity;     // of the table: a power of two, more than `most`
    size_t most;
    size_t count;  // most + 1: there are more
};

/// No matrix: as a product's start, zero.
template <class Real>
Matrix<const Real> none() {
    return {nullptr, 0, 0, false};
}
/// The same row, in whole panels, for every row: a bias.
template <class Real>
Matrix<const Real> every_row(const Real* row) {
    return {row, 0, kPanelBytes / sizeof(Real), true};
}

// Every array that a cell's declaration is spread over has this room; a cell that needs more does not compile (see sound).
constexpr int kMostBlocks = 4, kMostGroups = 3, kMostVectors = 3, kMostPhases = 2;
static_assert(kMostBlocks <= kMaxTerms);

/// A product's right operand of this size comes from beyond the L2 cache at every pass: set for this machine before the first one,
/// of no effect on results.
extern size_t far_bytes;

/// Matrices of the shape of a product's target that will be wanted soon: they are brought into the L2 cache, tile by tile, while
/// the product computes. A sequence longer than the caches is otherwise read and written at their misses' pace.
template <class Real>
struct Ahead {
    static constexpr int kMost = 2 + kMostBlocks;
    Matrix<const Real> matrix[kMost];
    int count = 0;
    bool to_write = false;  ///< so that no other core keeps a copy
    /// From the last panel to the first: steps that take turns find in the cache what the one before used last, when the weights
    /// are too large for it. Of use to rows of one tile alone, whose product takes the whole depth at once.
    bool backwards = false;

    void add(const Matrix<const Real>& m) {
        if (m.data != nullptr) matrix[count++] = m;
    }
};

/// Blocks of z (H columns each) that the same products make. A cell's z_t is cut into blocks of H columns, each whole panels; block
/// b receives the input's gate input_gate + i and the recurrence's gate hidden_gate + i, for b = block + i; -1: neither.
struct BlockGroup {
    int block, count;
    int input_gate, hidden_gate;
    int source;  ///< what the recurrent product reads: -1 for h_{t-1}, or a block that the cell's first phase has made
};

/// A parameter vector of H values, whose gradient is the sum over time of dz of a block times a state, elementwise.
struct CellVector {
    int block;
    enum { c_before, c } factor;
};

/// What a step sends to the one before beside its products.
enum class Carry { nothing, d_c, part_of_d_h };

/// All that the engine knows of a cell.
struct CellShape {
    int gates;     ///< G
    int blocks;    ///< of z
    bool keeps_z;  ///< on the tape; otherwise its only block lies in the place of h_t, and becomes it
    bool has_c;    ///< a cell state beside h
    bool reads_h;  ///< elementwise: then h is as wide as the cell, and not projected
    Carry carry;
    int group_count;
    BlockGroup groups[kMostGroups];
    int vector_count;
    CellVector vectors[kMostVectors];
    int phases;  ///< the second one's groups have a source

    /// The group that a block is of; null if no product makes it.
    const BlockGroup* group_of(int block) const {
        for (int g = 0; g < group_count; ++g)
            if (groups[g].block <= block && block < groups[g].block + groups[g].count) return groups + g;
        return nullptr;
    }
};

/// Whether a declaration keeps to what the engine has room for.
constexpr bool sound(const CellShape& cell) {
    if (cell.blocks < 1 || cell.blocks > kMostBlocks || cell.group_count > kMostGroups || cell.vector_count > kMostVectors)
        return false;
    if (cell.phases < 1 || cell.phases > kMostPhases || (!cell.keeps_z && cell.blocks != 1)) return false;
    for (int g = 0; g < cell.group_count; ++g) {
        const BlockGroup& group = cell.groups[g];
        if (group.count < 1 || group.block < 0 || group.block + group.count > cell.blocks || group.source >= cell.blocks)
            return false;
        if (group.input_gate + group.count > cell.gates || group.hidden_gate + group.count > cell.gates) return false;
        if (group.source >= 0 && cell.phases == 1) return false;
        for (int before = 0; before < g; ++before)  // a block is made once: so many terms does a product have at most
            if (cell.groups[before].block + cell.groups[before].count > group.block) return false;
    }
    for (int v = 0; v < cell.vector_count; ++v)
        if (cell.vectors[v].block < 0 || cell.vectors[v].block >= cell.blocks || !cell.has_c) return false;
    return (cell.carry == Carry::d_c) == cell.has_c;
}
/// The same of an array of cells, of any dimensions.
template <class Cells, size_t n>
constexpr bool sound(const Cells (&cells)[n]) {
    for (const Cells& some : cells)
        if (!sound(some)) return false;
    return true;
}

/// One step of a cell, forward: views of rows x panels. Block b of z is `z` moved by b * block_stride.
template <class Real>
struct CellStep {
    Matrix<Real> z;  ///< z_t; becomes what the tape keeps
    size_t block_stride;
    Matrix<const Real> h_before;
    Matrix<Real> h;
    Matrix<const Real> c_before;
    Matrix<Real> c;
    const Real* vectors;  ///< the cell's parameter vectors, vector_stride apart
    size_t vector_stride;
    Real clip;
};

/// One step back.
template <class Real>
struct CellSweep {
    Matrix<const Real> saved;  ///< what forward left in z
    size_t saved_stride;
    Matrix<const Real> h_before, h, c_before, c;
    Matrix<Real> dz;  ///< its block 0 holds dh_t before; dz_t after, of every block
    size_t dz_stride;
    Matrix<Real> carry;  ///< what goes to step t-1 beside the products: see the cell's file
    const Real* vectors;
    size_t vector_stride;
    Real clip;
};

/// A cell: its declaration, and its arithmetic at one step, elementwise; its file in kernels/cells has the equations.
template <class Real>
struct Cell : CellShape {
    void (*forward[kMostPhases])(size_t rows, size_t panels, const CellStep<Real>& step);
    void (*backward[kMostPhases])(size_t rows, size_t panels, const CellSweep<Real>& step);  ///< called in the opposite order
};

/// Room that a linear recurrence asks for: 256 KB, so that rows up to that size are read whole.
template <class Real>
constexpr size_t kScanWindow = (size_t{1} << 18) / sizeof(Real);

/// a_t = b_t + c_t a_{t-1} for t = 1 .. steps, elementwise: row-major arrays of the user's (or some of their columns), whose row t
/// is `stride` values behind row t-1. past_caches: the result goes straight to memory.
template <class Real>
struct Scan {
    size_t steps, cols, stride;
    const Real *b, *c, *a_0;
    Real* a;
    bool past_caches;
    Real* window;  ///< kScanWindow values, of no particular content
};

/// Its gradient; at least one step.
template <class Real>
struct ScanBack {
    size_t steps, cols, stride;
    const Real *d_a, *c, *a, *a_0;
    Real *d_b, *d_c, *d_a_0;
    bool past_caches;  ///< only if d_b and d_c are equally far from a 64-byte boundary
    Real* window;
};

/// The kernels of one tier. `rows` and `cols` are the real sizes; all matrices are in panels unless said otherwise.
template <class Real>
struct Kernels {
    /// c = start + sum over terms of A.B;  start, c: rows x cols, in panels or row-major; start may be c.
    void (*product)(size_t rows, size_t cols, const Term<Real>* terms, int term_count, const Matrix<const Real>& start,
                    const Matrix<Real>& c, const Ahead<Real>& ahead);
    /// c = start + sum over terms of A^T.B;  A: depth x rows, B: depth x cols, otherwise as `product`.
    void (*product_transposed)(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start,
                               Matrix<Real> c);
    /// to = from (rows x cols), either of them in panels or row-major; in panels, the lanes past the last column become 0.
    void (*copy)(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to);
    /// to = from^T;  from: rows x cols in panels or row-major, to: cols x rows in panels, lanes past its last column 0. With data,
    /// as_it_is = from, in panels, likewise.
    void (*transpose)(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to, Matrix<Real> as_it_is);
    /// to = 0;  to += from and to *= from, of layouts as in `copy`.
    void (*zero)(size_t rows, size_t cols, Matrix<Real> to);
    void (*add)(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to);
    void (*multiply)(size_t rows, size_t cols, Matrix<const Real> from, Matrix<Real> to);
    /// to(r) *= factors(r), a matrix of one column; 0 where that is 0, whatever is there.
    void (*scale_rows)(size_t rows, size_t cols, Matrix<const Real> factors, Matrix<Real> to);
    /// to = max(-limit, min(limit, to)).
    void (*clip_values)(size_t rows, size_t cols, Real limit, Matrix<Real> to);
    /// factors[r] = limit / 2-norm of from(r) where the norm is larger; else, and where it is not finite, 1.
    void (*norm_factors)(size_t rows, size_t cols, Real limit, Matrix<const Real> from, Real* factors);
    /// sums[c] += sum over rows of from(r, c), in whole panels.
    void (*sum_rows)(size_t rows, size_t cols, Matrix<const Real> from, double* sums);
    /// sums[c] += sum over rows of a(r, c) b(r, c), in whole panels.
    void (*sum_products)(size_t rows, size_t cols, Matrix<const Real> a, Matrix<const Real> b, double* sums);
    /// slot[r] = which of the distinct rows `from` (r) is: the same bits in every column. Ends where there are more than `most`.
    void (*find_rows)(size_t rows, size_t cols, Matrix<const Real> from, DistinctRows<Real>& seen, int32_t* slot);
    /// to(r) = from(index[r]), whole rows: the product with one-hot rows.
    void (*gather_rows)(size_t rows, size_t cols, const int32_t* index, Matrix<const Real> from, Matrix<Real> to);
    /// Row index[r] of `to` += from(r), the product with their transpose; in whole panels, a row `stride` values behind the one
    /// before.
    void (*scatter_add_rows)(size_t rows, size_t cols, const int32_t* index, Matrix<const Real> from, double* to, size_t stride);
    /// `to` = rows of such sums, in whole panels.
    void (*round_rows)(size_t rows, size_t cols, const double* from, size_t stride, Matrix<Real> to);
    /// Softmax cross-entropy of columns. o: classes x cols holds o_t - b_o and becomes scale * dL/do_t, 0 in the lanes past
    /// the last column. losses[c] = -log softmax(o)_{target[c]}; bias: one value a class. A column whose target is -1 does not
    /// count: loss and gradient are 0.
    void (*softmax_cross_entropy)(size_t classes, size_t cols, const Real* bias, const int32_t* target, Real scale, Matrix<Real> o,
                                  double* losses);
    /// Squared error of columns, likewise: target: outputs x cols in panels, losses[c] = sum over outputs of (o - y)^2; counted[c]
    /// is -1 for a column that does not count.
    void (*squared_error)(size_t outputs, size_t cols, const Real* bias, Matrix<const Real> target, const int32_t* counted,
                          Real scale, Matrix<Real> o, double* losses);
    /// sums[r] += sum over columns of from(r, c); the lanes past the last column must be 0.
    void (*sum_columns)(size_t rows, size_t cols, Matrix<const Real> from, double* sums);
    /// The linear recurrence and its gradient; its file has the equations.
    void (*scan)(const Scan<Real>& arrays);
    void (*scan_backward)(const ScanBack<Real>& arrays);
    const Cell<Real>& (*cell)(const CellConfig& config);
    /// The activations alone, in place on `count` values at 64-byte alignment (rounded up to whole panels).
    void (*activate)(Nonlinearity nonlinearity, size_t count, Real* values);
};

}  // namespace pybptt
