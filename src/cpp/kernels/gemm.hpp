// The products. One micro-kernel: a tile of M rows x N panels of C stays in registers while the depth streams by; at
// each depth, N cache lines of B and M broadcast values of A.
//
//     product              C = start + sum over terms of A . B      A: rows x depth,   B: depth x cols
//     product_transposed   C = start + A^T . B                      A: depth x rows,   B: depth x cols
//
// The two differ only in where A's element (i, k) lies, see `Walk`. Every element of C is one chain of fused
// multiply-adds in the order of the depth, whatever the tile, so a result does not depend on how rows and columns
// were divided: any number of threads gives the same bits.
#pragma once

#include "kernels/simd.hpp"

namespace pybptt {
namespace {

/// How a tile finds A's element (i, k). by_rows: in panel k / lanes, row i, lane k % lanes. by_columns (A^T): i is a
/// lane of one panel, k a row.
enum class Walk { by_rows, by_columns };

/// Accumulators, one line of B and one broadcast value must fit the registers.
constexpr bool tile_fits(int m, int n) { return (m * n + n) * kPanelVecs + 1 <= kRegisters; }
constexpr int kMaxPanels = 8;
constexpr int tile_panels(int m) {
    int n = 1;
    while (n < kMaxPanels && tile_fits(m, n + 1)) ++n;
    return n;
}
/// Rows of the tallest tile: enough for the loads of B to be hidden, on 32 wide registers beside two panels.
constexpr int kTileRows = kRegisters / kPanelVecs >= 32 ? 12 : tile_fits(6, 1) ? 6 : 2;
/// For A^T a tile's rows are lanes of one panel, so they divide its lanes.
constexpr int kTileColumns = kRegisters / kPanelVecs >= 32 ? 8 : tile_fits(4, 1) ? 4 : 2;
/// A^T . B takes the depth in blocks that stay in the caches while all of C is updated.
constexpr size_t kDepthBlock = 512;
/// Lanes of A that take part in one pass over B: they stay in the L2 cache.
template <class Real>
constexpr size_t kLaneBlock = 16 * kLanes<Real>;

/// A term as a tile sees it: where its own rows of A and panels of B begin.
template <class Real>
struct Operands {
    const Real* a;
    size_t a_stride;
    const Real* b;
    size_t b_stride;
    size_t depth;
};
constexpr int kMaxTerms = 16;

/// What a tile starts from and where it goes: rows (at most the tile's) and, of its last panel, columns that exist.
template <class Real>
struct Ends {
    Matrix<const Real> start;
    int start_cols;
    Matrix<Real> c;
    int c_cols;
    int rows;
};

template <class Real>
using TileFunction = void (*)(const Operands<Real>*, int term_count, const Ends<Real>&);

/// Vector j of row i of a tile, and how many of its lanes exist when the tile's last panel has `last_cols` columns.
template <class Real>
PYBPTT_INLINE Real* vector_at(const Matrix<Real>& m, int i, int j) {
    return m.data + size_t(i) * m.row_stride + size_t(j / kPanelVecs) * m.panel_stride + j % kPanelVecs * kVecLanes<Real>;
}
template <class Real, int N>
PYBPTT_INLINE int lanes_at(int j, int last_cols) {
    return lanes_left<Real>(j / kPanelVecs + 1 < N ? int(kLanes<Real>) : last_cols, j % kPanelVecs);
}

/// M rows x N panels of C.
template <class Real, int M, int N, Walk walk>
void tile(const Operands<Real>* terms, int term_count, const Ends<Real>& ends) {
    constexpr int L = int(kLanes<Real>), VL = kVecLanes<Real>, NV = N * kPanelVecs;
    const int rows = ends.rows;
    Vec<Real> acc[M][NV];
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) acc[i][j] = Vec<Real>{};
    if (ends.start.data != nullptr) {
#pragma GCC unroll 16
        for (int i = 0; i < M; ++i) {
            if (i >= rows) break;
#pragma GCC unroll 16
            for (int j = 0; j < NV; ++j) acc[i][j] = load_first(vector_at(ends.start, i, j), lanes_at<Real, N>(j, ends.start_cols));
        }
    }
    for (int term = 0; term < term_count; ++term) {
        const Real* a = terms[term].a;
        const Real* b = terms[term].b;
        const size_t a_stride = terms[term].a_stride, b_stride = terms[term].b_stride;
        size_t depth = terms[term].depth;
        auto step = [&](const Real* a_k) __attribute__((always_inline)) {  // a_k: A's element (0, k)
            Vec<Real> line[NV];
#pragma GCC unroll 16
            for (int j = 0; j < NV; ++j) line[j] = load(b + size_t(j / kPanelVecs) * b_stride + (j % kPanelVecs) * VL);
#pragma GCC unroll 16
            for (int i = 0; i < M; ++i) {
                const Vec<Real> value = splat(a_k[walk == Walk::by_rows ? i * L : i]);
#pragma GCC unroll 16
                for (int j = 0; j < NV; ++j) acc[i][j] = fma(value, line[j], acc[i][j]);
            }
            b += L;
        };
        if (walk == Walk::by_columns) {
            for (; depth != 0; --depth, a += L) step(a);
        } else {
            for (; depth >= size_t(L); depth -= size_t(L), a += a_stride)
                for (int k = 0; k < L; ++k) step(a + k);
            for (size_t k = 0; k < depth; ++k) step(a + k);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
        if (i >= rows) break;
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) store_first(vector_at(ends.c, i, j), acc[i][j], lanes_at<Real, N>(j, ends.c_cols));
    }
}

/// tiles[m - 1][n - 1], for every m and n that fit.
template <class Real, int M, int N>
constexpr TileFunction<Real> tile_if_it_fits() {
    if constexpr (N <= tile_panels(M))
        return tile<Real, M, N, Walk::by_rows>;
    else
        return nullptr;
}
template <class Real>
struct TilesOfHeight {
    TileFunction<Real> of_panels[kMaxPanels];
};
template <class Real, int M>
constexpr TilesOfHeight<Real> tiles_of_height() {
    if constexpr (M <= kTileRows)
        return {{tile_if_it_fits<Real, M, 1>(), tile_if_it_fits<Real, M, 2>(), tile_if_it_fits<Real, M, 3>(),
                 tile_if_it_fits<Real, M, 4>(), tile_if_it_fits<Real, M, 5>(), tile_if_it_fits<Real, M, 6>(),
                 tile_if_it_fits<Real, M, 7>(), tile_if_it_fits<Real, M, 8>()}};
    else
        return {};
}
template <class Real>
constexpr TilesOfHeight<Real> kTiles[12] = {tiles_of_height<Real, 1>(),  tiles_of_height<Real, 2>(),  tiles_of_height<Real, 3>(),
                                            tiles_of_height<Real, 4>(),  tiles_of_height<Real, 5>(),  tiles_of_height<Real, 6>(),
                                            tiles_of_height<Real, 7>(),  tiles_of_height<Real, 8>(),  tiles_of_height<Real, 9>(),
                                            tiles_of_height<Real, 10>(), tiles_of_height<Real, 11>(), tiles_of_height<Real, 12>()};
constexpr int kColumnTilePanels = tile_panels(kTileColumns) < 3 ? tile_panels(kTileColumns) : 3;
template <class Real, int N>
constexpr TileFunction<Real> column_tile() {
    if constexpr (N <= kColumnTilePanels)
        return tile<Real, kTileColumns, N, Walk::by_columns>;
    else
        return nullptr;
}
template <class Real>
constexpr TileFunction<Real> kColumnTiles[3] = {column_tile<Real, 1>(), column_tile<Real, 2>(), column_tile<Real, 3>()};

/// Columns of the last of `panels` panels that begin at column `first` and of which `cols` exist in all.
template <class Real>
int last_columns(const Matrix<Real>& c, size_t cols, size_t panel, size_t panels) {
    constexpr size_t L = kLanes<Real>;
    const size_t end = (panel + panels) * L;
    return int(c.padded || end <= cols ? L : L - (end - cols));
}

/// `count` things in as few groups of at most `most` as will do, all of nearly the same size.
struct Groups {
    size_t count, size, larger;
    Groups(size_t things, size_t most) : count((things + most - 1) / most), size(things / count), larger(things % count) {}
    size_t operator[](size_t group) const { return size + (group < larger); }
    /// Where a group begins.
    size_t first(size_t group) const { return group * size + (group < larger ? group : larger); }
};

template <class Real>
PYBPTT_INLINE void prefetch(size_t rows, size_t panels, Matrix<const Real> m, bool to_write) {
    for (size_t panel = 0; panel < panels; ++panel)
        for (size_t row = 0; row < rows; ++row) {
            const Real* line = m.data + panel * m.panel_stride + row * m.row_stride;
            if (to_write)
                __builtin_prefetch(line, 1, 2);
            else
                __builtin_prefetch(line, 0, 2);
        }
}

template <class Real>
void product(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c,
             const Ahead<Real>& ahead) {
    constexpr size_t L = kLanes<Real>;
    if (rows == 0 || cols == 0) return;
    const Groups heights(rows, kTileRows);
    const Groups widths(panel_count<Real>(cols), size_t(tile_panels(int(heights[0]))));
    Operands<Real> at[kMaxTerms];
    for (int t = 0; t < term_count; ++t)
        at[t] = {nullptr, terms[t].a.panel_stride, nullptr, terms[t].b.panel_stride, terms[t].depth};
    Ends<Real> ends{start, 0, c, 0, 0};
    const auto run_tile = [&](size_t row, size_t m, size_t panel, size_t n) __attribute__((always_inline)) {
        for (const Matrix<const Real>& next : ahead.matrix)
            if (next.data != nullptr) prefetch(m, n, next.rows_from(row).panels_from(panel), ahead.to_write);
        for (int t = 0; t < term_count; ++t) {
            at[t].a = terms[t].a.data + row * L;
            at[t].b = terms[t].b.data + panel * at[t].b_stride;
        }
        if (start.data != nullptr) ends.start.data = start.data + row * start.row_stride + panel * start.panel_stride;
        ends.start_cols = last_columns(start, cols, panel, n);
        ends.c.data = c.data + row * c.row_stride + panel * c.panel_stride;
        ends.c_cols = last_columns(c, cols, panel, n);
        ends.rows = int(m);
        kTiles<Real>[m - 1].of_panels[n - 1](at, term_count, ends);
    };
    // The larger operand passes once; what the inner loop needs of the other stays in the cache.
    if (rows > 4 * cols) {
        for (size_t i = 0, row = 0; i < heights.count; row += heights[i], ++i)
            for (size_t j = 0, panel = 0; j < widths.count; panel += widths[j], ++j) run_tile(row, heights[i], panel, widths[j]);
    } else {
        for (size_t k = 0; k < widths.count; ++k) {
            const size_t j = ahead.backwards ? widths.count - 1 - k : k, panel = widths.first(j);
            for (size_t i = 0, row = 0; i < heights.count; row += heights[i], ++i) run_tile(row, heights[i], panel, widths[j]);
        }
    }
}

/// One pass over C adds the terms [0, term_count), of a depth that stays in the caches. `rows` are at most a lane block.
template <class Real>
void add_transposed(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c) {
    constexpr size_t L = kLanes<Real>, M = kTileColumns;
    const Groups widths(panel_count<Real>(cols), kColumnTilePanels);
    Operands<Real> at[kMaxTerms];
    for (int t = 0; t < term_count; ++t)
        at[t] = {nullptr, terms[t].a.panel_stride, nullptr, terms[t].b.panel_stride, terms[t].depth};
    Ends<Real> ends{start, 0, c, 0, 0};
    for (size_t j = 0, panel = 0; j < widths.count; panel += widths[j], ++j) {
        const size_t n = widths[j];
        ends.start_cols = last_columns(start, cols, panel, n);
        ends.c_cols = last_columns(c, cols, panel, n);
        for (int t = 0; t < term_count; ++t) at[t].b = terms[t].b.data + panel * at[t].b_stride;
        for (size_t row = 0; row < rows; row += M) {
            for (int t = 0; t < term_count; ++t) at[t].a = terms[t].a.data + row / L * at[t].a_stride + row % L;
            if (start.data != nullptr) ends.start.data = start.data + row * start.row_stride + panel * start.panel_stride;
            ends.c.data = c.data + row * c.row_stride + panel * c.panel_stride;
            ends.rows = int(rows - row < M ? rows - row : M);
            kColumnTiles<Real>[n - 1](at, term_count, ends);
        }
    }
}

template <class Real>
void product_of_lanes(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c) {
    if (rows == 0 || cols == 0) return;
    Term<Real> block[kMaxTerms];
    int count = 0;
    size_t depth = 0;
    const auto flush = [&] {
        add_transposed(rows, cols, block, count, start, c);
        start = c;
        count = 0;
        depth = 0;
    };
    for (int t = 0; t < term_count; ++t)
        for (size_t k = 0; k < terms[t].depth;) {
            const size_t room = kDepthBlock - depth, left = terms[t].depth - k, some = left < room ? left : room;
            block[count++] = {terms[t].a.rows_from(k), terms[t].b.rows_from(k), some};
            k += some;
            depth += some;
            if (depth == kDepthBlock || count == kMaxTerms) flush();
        }
    if (count != 0 || start.data != c.data) flush();
}

template <class Real>
void product_transposed(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start,
                        Matrix<Real> c) {
    Term<Real> some[kMaxTerms];
    for (size_t first = 0; first < rows; first += kLaneBlock<Real>) {
        for (int t = 0; t < term_count; ++t) some[t] = {terms[t].a.panels_from(first / kLanes<Real>), terms[t].b, terms[t].depth};
        const size_t left = rows - first;
        product_of_lanes(left < kLaneBlock<Real> ? left : kLaneBlock<Real>, cols, some, term_count,
                         start.data != nullptr ? start.rows_from(first) : start, c.rows_from(first));
    }
}

}  // namespace
}  // namespace pybptt
