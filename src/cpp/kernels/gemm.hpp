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
/// lane of one panel, k a row. by_rows_ahead: by rows, while a part of the panels of B that come next is fetched.
enum class Walk { by_rows, by_rows_ahead, by_columns };

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
/// A . B takes the depth in blocks of about this: a tile's panels of B stay in the L1 cache for all rows of A.
constexpr size_t kRowsDepth = 256;
/// A^T . B takes the depth in blocks that stay in the caches while all of C is updated.
constexpr size_t kColumnsDepth = 512;
/// Lanes of A that take part in one pass over B.
template <class Real>
constexpr size_t kLaneBlock = 4 * kLanes<Real>;
/// A B of this size comes from beyond the L2 cache at every pass.
constexpr size_t kFarBytes = size_t{3} << 20;

/// A term as a tile sees it: where its own rows of A and panels of B begin.
template <class Real>
struct Operands {
    const Real* a;
    size_t a_stride;
    const Real* b;
    size_t b_stride;
    size_t depth;
    const Real* b_next;  ///< to be fetched
};

/// What a tile starts from and where it goes: rows (at most the tile's) and, of its last panel, columns that exist. Of each panel's
/// depth of what comes next, it fetches the lines [fetch_begin, fetch_end) of every kLanes.
template <class Real>
struct Ends {
    Matrix<const Real> start;
    int start_cols;
    Matrix<Real> c;
    int c_cols;
    int rows;
    int fetch_begin, fetch_end;
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
                const Vec<Real> value = splat(a_k[walk == Walk::by_columns ? i : i * L]);
#pragma GCC unroll 16
                for (int j = 0; j < NV; ++j) acc[i][j] = fma(value, line[j], acc[i][j]);
            }
            b += L;
        };
        if (walk == Walk::by_columns) {
            for (; depth != 0; --depth, a += L) step(a);
        } else {
            const Real* next = terms[term].b_next;
            for (; depth >= size_t(L); depth -= size_t(L), a += a_stride) {
                if (walk == Walk::by_rows_ahead) {
                    for (int k = ends.fetch_begin; k < ends.fetch_end; ++k)
#pragma GCC unroll 8
                        for (int n = 0; n < N; ++n) __builtin_prefetch(next + size_t(n) * b_stride + k * L, 0, 2);
                    next += L * L;
                }
                for (int k = 0; k < L; ++k) step(a + k);
            }
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

/// Tiles of M rows, by panels - 1, for as many as fit. Only products of several heights fetch ahead: their tiles are tall.
template <class Real>
struct TilesOfHeight {
    TileFunction<Real> of_panels[kMaxPanels];
};
template <class Real, int M, int N, Walk walk>
constexpr TileFunction<Real> tile_if_it_fits() {
    if constexpr (N <= tile_panels(M))
        return tile<Real, M, N, walk>;
    else
        return nullptr;
}
template <class Real, int M, Walk walk>
constexpr TilesOfHeight<Real> tiles_of_height() {
    if constexpr (M <= kTileRows && (walk == Walk::by_rows || 2 * M >= kTileRows))
        return {{tile_if_it_fits<Real, M, 1, walk>(), tile_if_it_fits<Real, M, 2, walk>(), tile_if_it_fits<Real, M, 3, walk>(),
                 tile_if_it_fits<Real, M, 4, walk>(), tile_if_it_fits<Real, M, 5, walk>(), tile_if_it_fits<Real, M, 6, walk>(),
                 tile_if_it_fits<Real, M, 7, walk>(), tile_if_it_fits<Real, M, 8, walk>()}};
    else
        return {};
}
template <class Real, Walk walk>
constexpr TilesOfHeight<Real> kTiles[12] = {
    tiles_of_height<Real, 1, walk>(),  tiles_of_height<Real, 2, walk>(),  tiles_of_height<Real, 3, walk>(),
    tiles_of_height<Real, 4, walk>(),  tiles_of_height<Real, 5, walk>(),  tiles_of_height<Real, 6, walk>(),
    tiles_of_height<Real, 7, walk>(),  tiles_of_height<Real, 8, walk>(),  tiles_of_height<Real, 9, walk>(),
    tiles_of_height<Real, 10, walk>(), tiles_of_height<Real, 11, walk>(), tiles_of_height<Real, 12, walk>()};
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

/// Cuts the depth of all terms together into blocks of at most `most` and calls add(terms of a block, their count). A term's piece
/// begins at a whole panel of an A by rows.
template <class Real, class Add>
void for_each_depth_block(Walk walk, const Term<Real>* terms, int term_count, size_t most, Add add) {
    constexpr size_t L = kLanes<Real>;
    Term<Real> block[kMaxTerms];
    int count = 0;
    size_t depth = 0;
    const auto flush = [&] {
        if (count != 0) add(block, count);
        count = 0;
        depth = 0;
    };
    for (int t = 0; t < term_count; ++t)
        for (size_t k = 0; k < terms[t].depth;) {
            const size_t space = most - depth, room = walk == Walk::by_columns ? space : space / L * L;
            const size_t left = terms[t].depth - k, some = left < room ? left : room;
            if (some != 0)
                block[count++] = {walk == Walk::by_columns ? terms[t].a.rows_from(k) : terms[t].a.panels_from(k / L),
                                  terms[t].b.rows_from(k), some};
            k += some;
            depth += some;
            if (some == room || count == kMaxTerms) flush();
        }
    flush();
}

/// One pass over C adds the terms [0, term_count).
template <class Real>
void add_by_rows(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c,
                 const Ahead<Real>& ahead, bool far) {
    constexpr size_t L = kLanes<Real>;
    const Groups heights(rows, kTileRows);
    const Groups widths(panel_count<Real>(cols), size_t(tile_panels(int(heights[0]))));
    const TilesOfHeight<Real>* tiles = far ? kTiles<Real, Walk::by_rows_ahead> : kTiles<Real, Walk::by_rows>;
    Operands<Real> at[kMaxTerms];
    for (int t = 0; t < term_count; ++t)
        at[t] = {nullptr, terms[t].a.panel_stride, nullptr, terms[t].b.panel_stride, terms[t].depth, nullptr};
    Ends<Real> ends{start, 0, c, 0, 0, 0, 0};
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
        tiles[m - 1].of_panels[n - 1](at, term_count, ends);
    };
    // The larger operand passes once; what the inner loop needs of the other stays in the cache.
    if (rows > 4 * cols) {
        for (size_t i = 0, row = 0; i < heights.count; row += heights[i], ++i)
            for (size_t j = 0, panel = 0; j < widths.count; panel += widths[j], ++j) run_tile(row, heights[i], panel, widths[j]);
    } else {
        for (size_t k = 0; k < widths.count; ++k) {
            const size_t j = ahead.backwards ? widths.count - 1 - k : k, panel = widths.first(j);
            const size_t after = k + 1 == widths.count ? panel : widths.first(ahead.backwards ? j - 1 : j + 1);
            const size_t last = panel_count<Real>(cols) - widths[j], next = after < last ? after : last;
            for (int t = 0; far && t < term_count; ++t) at[t].b_next = terms[t].b.data + next * at[t].b_stride;
            for (size_t i = 0, row = 0; i < heights.count; row += heights[i], ++i) {
                if (far) {
                    ends.fetch_begin = int(i * L / heights.count);
                    ends.fetch_end = int((i + 1) * L / heights.count);
                }
                run_tile(row, heights[i], panel, widths[j]);
            }
        }
    }
}

template <class Real>
void product(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c,
             const Ahead<Real>& ahead) {
    constexpr size_t L = kLanes<Real>;
    if (rows == 0 || cols == 0) return;
    size_t depth = 0;
    for (int t = 0; t < term_count; ++t) depth += terms[t].depth;
    const size_t blocks = (depth + kRowsDepth / 2) / kRowsDepth;
    if (blocks <= 1 || rows <= size_t(kTileRows)) {  // of one height, no tile reads B a second time
        add_by_rows(rows, cols, terms, term_count, start, c, ahead, false);
        return;
    }
    const bool far = rows <= 4 * cols && depth * panel_count<Real>(cols) * kPanelBytes >= kFarBytes;
    size_t index = 0;
    for_each_depth_block(Walk::by_rows, terms, term_count, ((depth + blocks - 1) / blocks + L - 1) / L * L,
                         [&](const Term<Real>* block, int count) {
                             Ahead<Real> some = ahead;  // all at once would keep the tiles waiting for their own loads
                             for (size_t i = 0; i < size_t(Ahead<Real>::kMost); ++i)
                                 if (i % blocks != index % blocks) some.matrix[i] = none<Real>();
                             add_by_rows(rows, cols, block, count, start, c, some, far);
                             start = c;
                             ++index;
                         });
}

/// Likewise, of a depth that stays in the caches; `rows` are at most a lane block.
template <class Real>
void add_by_columns(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c) {
    constexpr size_t L = kLanes<Real>, M = kTileColumns;
    const Groups widths(panel_count<Real>(cols), kColumnTilePanels);
    Operands<Real> at[kMaxTerms];
    for (int t = 0; t < term_count; ++t)
        at[t] = {nullptr, terms[t].a.panel_stride, nullptr, terms[t].b.panel_stride, terms[t].depth, nullptr};
    Ends<Real> ends{start, 0, c, 0, 0, 0, 0};
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
            const size_t left = rows - row - size_t(ends.rows);
            if (left != 0) prefetch(left < M ? left : M, n, Matrix<const Real>(ends.c.rows_from(M)), true);
            kColumnTiles<Real>[n - 1](at, term_count, ends);
        }
    }
}

template <class Real>
void product_transposed(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start,
                        Matrix<Real> c) {
    Term<Real> some[kMaxTerms];
    for (size_t first = 0; first < rows && cols != 0; first += kLaneBlock<Real>) {
        for (int t = 0; t < term_count; ++t) some[t] = {terms[t].a.panels_from(first / kLanes<Real>), terms[t].b, terms[t].depth};
        const size_t left = rows - first, lanes = left < kLaneBlock<Real> ? left : kLaneBlock<Real>;
        const Matrix<Real> to = c.rows_from(first);
        Matrix<const Real> from = start.data != nullptr ? start.rows_from(first) : start;
        bool begun = false;
        for_each_depth_block(Walk::by_columns, some, term_count, kColumnsDepth, [&](const Term<Real>* block, int count) {
            add_by_columns(lanes, cols, block, count, from, to);
            from = to;
            begun = true;
        });
        if (!begun && start.data != c.data) add_by_columns<Real>(lanes, cols, some, 0, from, to);
    }
}

}  // namespace
}  // namespace pybptt
