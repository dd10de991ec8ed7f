// The products. One micro-kernel: a tile of M rows x N panels of C stays in registers while the depth streams by; at
// each depth, N cache lines of B and M broadcast values of A.
//
//     product              C = start + sum over terms of A . B      A: rows x depth,   B: depth x cols
//     product_transposed   C = start + A^T . B                      A: depth x rows,   B: depth x cols
//
// The two differ only in where A's element (i, k) lies, see `Walk`. The error of a sum grows with the length of its chains of
// additions, so a chain of fused multiply-adds has at most kChain terms and begins at 0; chains are added up beside C, and what
// came of a piece of the depth (of each term's, `product_transposed`: of all terms') is added to C once. Where chains and pieces
// begin depends on the depths alone, so a result does not depend on how rows and columns were divided: any number of threads
// gives the same bits.
#pragma once

#include "kernels/panels.hpp"

namespace pybptt {
namespace {

/// How a tile finds A's element (i, k). by_rows: in panel k / lanes, row i, lane k % lanes. by_columns (A^T): i is a
/// lane of one panel, k a row.
enum class Walk { by_rows, by_columns };

/// Accumulators, one line of B and one broadcast value must fit the registers. A single row needs no line there: half of the
/// registers are enough for its sums not to wait for one another, and narrow tiles leave more to `Ahead::backwards`.
constexpr bool tile_fits(int m, int n) {
    return m == 1 ? n * kPanelVecs <= kRegisters / 2 : (m * n + n) * kPanelVecs + 1 <= kRegisters;
}
constexpr int kMaxPanels = 8;
constexpr int tile_panels(int m) {
    int n = 1;
    while (n < kMaxPanels && tile_fits(m, n + 1)) ++n;
    return n;
}
/// Rows of the tallest tile: enough for the loads of B to be hidden, on 32 wide registers beside two panels.
constexpr int kTileRows = kRegisters / kPanelVecs >= 32 ? 12 : tile_fits(6, 1) ? 6 : 2;
/// For A^T a tile's rows are lanes of one panel, which are shared out among as few tiles of nearly one height as will do.
constexpr int kTileColumns = kRegisters / kPanelVecs >= 32 ? 8 : kTileRows;
/// The longest chain of additions in registers, a number of whole panels.
constexpr size_t kChain = 128;
/// A . B takes the depth of a term in pieces of about this: a tile's panels of B stay in the L1 cache for all rows of A.
constexpr size_t kRowsDepth = 256, kMostRowsDepth = kRowsDepth * 3 / 2;
/// A^T . B takes the depth in pieces that stay in the L2 cache while all of C is updated.
constexpr size_t kColumnsDepth = 512;
/// Lanes of A that take part in one pass over B: with a tile's panels of B, a chain of them stays in the L1 cache.
template <class Real>
constexpr size_t kLaneBlock = 2 * kLanes<Real>;

/// A term as a tile sees it: where its own rows of A and panels of B begin.
template <class Real>
struct Operands {
    const Real* a;
    size_t a_stride;
    const Real* b;
    size_t b_stride;
    size_t depth;
    const Real* b_next;  ///< the panels of B that come next
};

/// What a tile starts from and where it goes, whole rows and vectors. Of each panel's depth of what comes next, it fetches the
/// lines [fetch_begin, fetch_end) of every kLanes, if it is tall.
template <class Real>
struct Ends {
    Matrix<const Real> start;
    Matrix<Real> c;
    Real* chains;          ///< the sum of the chains so far, a vector an accumulator
    bool begun = false;    ///< chains came before this call
    bool complete = true;  ///< none come after it
    int fetch_begin = 0, fetch_end = 0;
};

template <class Real>
using TileFunction = void (*)(const Operands<Real>*, int term_count, const Ends<Real>&);

/// Vector j of row i of a tile.
template <class Real>
PYBPTT_INLINE Real* vector_at(const Matrix<Real>& m, int i, int j) {
    return m.data + size_t(i) * m.row_stride + size_t(j / kPanelVecs) * m.panel_stride + j % kPanelVecs * kVecLanes<Real>;
}

/// M rows x N panels of C = start + the sum of the terms.
template <class Real, int M, int N, Walk walk>
void tile(const Operands<Real>* terms, int term_count, const Ends<Real>& ends) {
    constexpr int L = int(kLanes<Real>), VL = kVecLanes<Real>, NV = N * kPanelVecs;
    const Real* before = ends.begun ? ends.chains : nullptr;
    Matrix<const Real> start = ends.start;
    for (int term = 0; term < term_count; ++term) {
        const Real* a = terms[term].a;
        const Real* b = terms[term].b;
        const Real* next = terms[term].b_next;
        const size_t a_stride = terms[term].a_stride, b_stride = terms[term].b_stride;
        for (size_t left = terms[term].depth; left != 0;) {
            Vec<Real> acc[M][NV];
#pragma GCC unroll 16
            for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
                for (int j = 0; j < NV; ++j) acc[i][j] = Vec<Real>{};
            const auto step = [&](const Real* a_k) __attribute__((always_inline)) {  // a_k: A's element (0, k)
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
            size_t depth = left < kChain ? left : kChain;
            left -= depth;
            if (walk == Walk::by_columns) {
                for (; depth != 0; --depth, a += L) step(a);
            } else {
                for (; depth >= size_t(L); depth -= size_t(L), a += a_stride) {
                    if constexpr (2 * M >= kTileRows) {
                        for (int k = ends.fetch_begin; k < ends.fetch_end; ++k)
                            for (int n = 0; n < N; ++n) __builtin_prefetch(next + size_t(n) * b_stride + k * L, 0, 2);
                        next += L * L;
                    }
                    for (int k = 0; k < L; ++k) step(a + k);
                }
                for (size_t k = 0; k < depth; ++k) step(a + k);
            }
            const auto each = [&](auto visit) __attribute__((always_inline)) {
#pragma GCC unroll 16
                for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
                    for (int j = 0; j < NV; ++j) visit(acc[i][j], i, j);
            };
            Real* const sum = ends.chains;
            if (before != nullptr)
                each([&](Vec<Real>& v, int i, int j) __attribute__((always_inline)) { v += load(before + (i * NV + j) * VL); });
            if (left != 0 || !ends.complete) {
                each([&](Vec<Real>& v, int i, int j) __attribute__((always_inline)) { store(sum + (i * NV + j) * VL, v); });
                before = sum;
                continue;
            }
            const Matrix<Real> c = ends.c;  // each term by itself: then it does not matter which terms came together
            if (start.data != nullptr)
                each([&](Vec<Real>& v, int i, int j) __attribute__((always_inline)) { v += load_any(vector_at(start, i, j)); });
            each([&](Vec<Real>& v, int i, int j) __attribute__((always_inline)) { store_any(vector_at(c, i, j), v); });
            start = c;
            before = nullptr;
        }
    }
}

/// Tiles of M rows, by panels - 1, for as many as fit.
template <class Real>
struct TilesOfHeight {
    TileFunction<Real> of_panels[kMaxPanels];
};
template <class Real, int M, int N>
constexpr TileFunction<Real> tile_if_it_fits() {
    if constexpr (N <= tile_panels(M))
        return tile<Real, M, N, Walk::by_rows>;
    else
        return nullptr;
}
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

/// `count` things in as few groups of at most `most` as will do, all of nearly the same size.
struct Groups {
    size_t count, size, larger;
    constexpr Groups(size_t things, size_t most) : count(1), size(things), larger(0) {
        if (things <= most) return;  // a division takes as long as a short tile
        count = (things + most - 1) / most;
        size = things / count;
        larger = things % count;
    }
    constexpr size_t operator[](size_t group) const { return size + (group < larger); }
    /// Where a group begins.
    constexpr size_t first(size_t group) const { return group * size + (group < larger ? group : larger); }
};

/// The heights of the tiles that share a panel's lanes of A^T, and these tiles, by height (Groups' size, one more) and panels - 1.
template <class Real>
constexpr Groups kColumnHeights(kLanes<Real>, kTileColumns);
constexpr int kColumnTilePanels = tile_panels(kTileColumns) < 3 ? tile_panels(kTileColumns) : 3;
template <class Real, bool larger, int N>
constexpr TileFunction<Real> column_tile() {
    if constexpr (N <= kColumnTilePanels && (!larger || kColumnHeights<Real>.larger != 0))
        return tile<Real, int(kColumnHeights<Real>.size) + larger, N, Walk::by_columns>;
    else
        return nullptr;
}
template <class Real>
constexpr TileFunction<Real> kColumnTiles[2][3] = {
    {column_tile<Real, false, 1>(), column_tile<Real, false, 2>(), column_tile<Real, false, 3>()},
    {column_tile<Real, true, 1>(), column_tile<Real, true, 2>(), column_tile<Real, true, 3>()}};

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

/// Whether the panels that end with panel `end` are not whole, and may not be written or read as if they were.
template <class Real>
bool ends_within(const Matrix<Real>& m, size_t cols, size_t end) {
    return m.data != nullptr && !m.padded && end * kLanes<Real> > cols;
}

/// A tile of which only rows x cols exist: on copies.
template <class Real>
void run_at_edge(TileFunction<Real> run, const Operands<Real>* terms, int term_count, Ends<Real> ends, size_t rows, size_t cols) {
    constexpr size_t kStride = size_t(kTileRows) * kLanes<Real>;
    alignas(kPanelBytes) Real start[kMaxPanels * kStride], c[kMaxPanels * kStride];
    if (ends.start.data != nullptr) {
        copy<Real>(rows, cols, ends.start, in_panels(start, kStride));
        ends.start = in_panels<const Real>(start, kStride);
    }
    const Matrix<Real> to = ends.c;
    ends.c = in_panels(c, kStride);
    run(terms, term_count, ends);
    // `copy` would find out for each row which lanes there are, and an edge has few columns.
    for (size_t panel = 0; panel * kLanes<Real> < cols; ++panel)
        for (int v = 0; v < kPanelVecs; ++v) {
            const int lanes = lanes_left<Real>(columns_of<Real>(cols, panel), v), width = to.padded ? kVecLanes<Real> : lanes;
            const size_t at = size_t(v) * size_t(kVecLanes<Real>);
            for (size_t row = 0; row < rows && width != 0; ++row)
                store_first(to.data + panel * to.panel_stride + row * to.row_stride + at,
                            load_first(c + panel * kStride + row * kLanes<Real> + at, lanes), width);
        }
}

/// c = start, where there is nothing to add.
template <class Real>
void begin(size_t rows, size_t cols, Matrix<const Real> start, Matrix<Real> c) {
    alignas(kPanelBytes) static constexpr Real nothing[kLanes<Real>] = {};
    if (start.data != c.data) copy<Real>(rows, cols, start.data != nullptr ? start : Matrix<const Real>(nothing, 0, 0, true), c);
}

/// Cuts the depth of each term into pieces that depend on it alone, and calls add(pieces, their count) for as many at a time as
/// have at most the depth `most` together.
template <class Real, class Add>
void for_each_pass(const Term<Real>* terms, int term_count, size_t most, Add add) {
    constexpr size_t L = kLanes<Real>;
    Term<Real> pieces[kMaxTerms];
    int count = 0;
    size_t depth = 0;
    const auto flush = [&] {
        if (count != 0) add(pieces, count);
        count = 0;
        depth = 0;
    };
    for (int t = 0; t < term_count; ++t) {
        const size_t all = terms[t].depth, wanted = (all + kRowsDepth / 2) / kRowsDepth;
        const size_t piece = wanted <= 1 ? all : ((all + wanted - 1) / wanted + L - 1) / L * L;
        for (size_t k = 0; k < all; k += piece) {
            const size_t some = all - k < piece ? all - k : piece;
            if (count == kMaxTerms || depth + some > most) flush();
            pieces[count++] = {terms[t].a.panels_from(k / L), terms[t].b.rows_from(k), some};
            depth += some;
        }
    }
    flush();
}

/// One pass over C adds the pieces.
template <class Real>
void add_by_rows(size_t rows, size_t cols, const Term<Real>* terms, int term_count, const Matrix<const Real>& start,
                 const Matrix<Real>& c, const Ahead<Real>& ahead, bool far) {
    constexpr size_t L = kLanes<Real>;
    const Groups heights(rows, kTileRows);
    const Groups widths(panel_count<Real>(cols), size_t(tile_panels(int(heights[0]))));
    Operands<Real> at[kMaxTerms];
    for (int t = 0; t < term_count; ++t)
        at[t] = {nullptr, terms[t].a.panel_stride, nullptr, terms[t].b.panel_stride, terms[t].depth, terms[t].b.data};
    alignas(kPanelBytes) Real chains[kRegisters * kVecLanes<Real>];
    Ends<Real> ends{start, c, chains};
    const auto run = [&](size_t row, size_t m, size_t panel, size_t n) __attribute__((always_inline)) {
        for (int i = 0; i < ahead.count; ++i) prefetch(m, n, ahead.matrix[i].rows_from(row).panels_from(panel), ahead.to_write);
        for (int t = 0; t < term_count; ++t) {
            at[t].a = terms[t].a.data + row * L;
            at[t].b = terms[t].b.data + panel * at[t].b_stride;
        }
        if (start.data != nullptr) ends.start.data = start.data + row * start.row_stride + panel * start.panel_stride;
        ends.c.data = c.data + row * c.row_stride + panel * c.panel_stride;
        const TileFunction<Real> tile = kTiles<Real>[m - 1].of_panels[n - 1];
        if (ends_within(start, cols, panel + n) || ends_within(c, cols, panel + n))
            run_at_edge(tile, at, term_count, ends, m, cols - panel * L);
        else
            tile(at, term_count, ends);
    };
    // The larger operand passes once; what the inner loop needs of the other stays in the cache.
    if (rows > 4 * cols) {
        for (size_t i = 0, row = 0; i < heights.count; row += heights[i], ++i)
            for (size_t j = 0, panel = 0; j < widths.count; panel += widths[j], ++j) run(row, heights[i], panel, widths[j]);
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
                run(row, heights[i], panel, widths[j]);
            }
        }
    }
}

template <class Real>
void product(size_t rows, size_t cols, const Term<Real>* terms, int term_count, const Matrix<const Real>& start,
             const Matrix<Real>& c, const Ahead<Real>& ahead) {
    if (rows == 0 || cols == 0) return;
    size_t depth = 0;
    bool in_one = true;  // piece each
    for (int t = 0; t < term_count; ++t) {
        depth += terms[t].depth;
        in_one = in_one && terms[t].depth != 0 && terms[t].depth < kMostRowsDepth;
    }
    // Of one height, no tile reads B a second time.
    const size_t most = rows <= size_t(kTileRows) ? SIZE_MAX : kMostRowsDepth;
    if (in_one && depth != 0 && depth <= most) return add_by_rows(rows, cols, terms, term_count, start, c, ahead, false);
    size_t passes = 0, index = 0;
    for_each_pass(terms, term_count, most, [&](const Term<Real>*, int) { ++passes; });
    const bool far =
        passes > 1 && rows > size_t(kTileRows) && rows <= 4 * cols && depth * panel_count<Real>(cols) * kPanelBytes >= far_bytes;
    for_each_pass(terms, term_count, most, [&](const Term<Real>* pieces, int count) {
        Ahead<Real> some;  // all at once would keep the tiles waiting for their own loads
        some.to_write = ahead.to_write;
        some.backwards = ahead.backwards;
        for (size_t i = index; i < size_t(ahead.count); i += passes) some.add(ahead.matrix[i]);
        add_by_rows<Real>(rows, cols, pieces, count, index == 0 ? start : Matrix<const Real>(c), c, some, far);
        ++index;
    });
    if (passes == 0) begin<Real>(rows, cols, start, c);
}

/// Likewise, of a depth that stays in the caches; `rows` are at most a lane block. Chain by chain, all the block's tiles.
template <class Real>
void add_by_columns(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start, Matrix<Real> c) {
    constexpr size_t L = kLanes<Real>;
    constexpr Groups heights = kColumnHeights<Real>;
    const Groups widths(panel_count<Real>(cols), kColumnTilePanels);
    alignas(kPanelBytes) Real chains[kLaneBlock<Real> * kColumnTilePanels * L];
    Ends<Real> ends{start, c, chains};
    const auto run = [&](const Operands<Real>& chain, size_t panel, size_t n) __attribute__((always_inline)) {
        const bool partial = ends_within(start, cols, panel + n) || ends_within(c, cols, panel + n);
        for (size_t row = 0, i = 0; row < rows; row += heights[i], i = (i + 1) % heights.count) {
            const size_t height = heights[i], m = rows - row < height ? rows - row : height;
            const TileFunction<Real> tile = kColumnTiles<Real>[height != heights.size][n - 1];
            Operands<Real> at = chain;
            at.a += row / L * at.a_stride + row % L;
            if (start.data != nullptr) ends.start.data = start.data + row * start.row_stride + panel * start.panel_stride;
            ends.c.data = c.data + row * c.row_stride + panel * c.panel_stride;
            ends.chains = chains + row * n * L;
            if (!ends.complete) {
                tile(&at, 1, ends);
                continue;
            }
            const size_t left = rows - row - m;
            if (left != 0) prefetch(left < height ? left : height, n, Matrix<const Real>(ends.c.rows_from(height)), true);
            if (partial || m < height)
                run_at_edge(tile, &at, 1, ends, m, (panel + n) * L < cols ? n * L : cols - panel * L);
            else
                tile(&at, 1, ends);
        }
    };
    for (size_t j = 0, panel = 0; j < widths.count; panel += widths[j], ++j) {
        ends.begun = false;
        for (int t = 0; t < term_count; ++t) {
            const Matrix<const Real>&a = terms[t].a, &b = terms[t].b;
            for (size_t k = 0; k < terms[t].depth; k += kChain) {
                const size_t left = terms[t].depth - k;
                ends.complete = t + 1 == term_count && left <= kChain;
                run({a.data + k * L, a.panel_stride, b.data + panel * b.panel_stride + k * L, b.panel_stride,
                     left < kChain ? left : kChain, nullptr},
                    panel, widths[j]);
                ends.begun = true;
            }
        }
    }
}

template <class Real>
void product_transposed(size_t rows, size_t cols, const Term<Real>* terms, int term_count, Matrix<const Real> start,
                        Matrix<Real> c) {
    Term<Real> some[kMaxTerms], pieces[kMaxTerms];
    for (size_t first = 0; first < rows && cols != 0; first += kLaneBlock<Real>) {
        for (int t = 0; t < term_count; ++t) some[t] = {terms[t].a.panels_from(first / kLanes<Real>), terms[t].b, terms[t].depth};
        const size_t left = rows - first, lanes = left < kLaneBlock<Real> ? left : kLaneBlock<Real>;
        const Matrix<Real> to = c.rows_from(first);
        Matrix<const Real> from = start.data != nullptr ? start.rows_from(first) : start;
        int count = 0;
        size_t depth = 0;
        bool begun = false;
        const auto flush = [&] {
            if (count != 0) add_by_columns(lanes, cols, pieces, count, from, to), from = to, begun = true;
            count = 0;
            depth = 0;
        };
        for (int t = 0; t < term_count; ++t)
            for (size_t k = 0; k < some[t].depth;) {
                const size_t room = kColumnsDepth - depth, rest = some[t].depth - k, piece = rest < room ? rest : room;
                pieces[count++] = {some[t].a.rows_from(k), some[t].b.rows_from(k), piece};
                k += piece;
                depth += piece;
                if (depth == kColumnsDepth || count == kMaxTerms) flush();
            }
        flush();
        if (!begun) begin<Real>(lanes, cols, from, to);
    }
}

}  // namespace
}  // namespace pybptt
