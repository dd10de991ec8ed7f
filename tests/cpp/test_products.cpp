// The two products against sums written out, in every tier.
#include "support.hpp"

namespace pybptt::test {
namespace {

template <class Real>
Term<Real> term(const TestMatrix<Real>& a, const TestMatrix<Real>& b, std::size_t depth) {
    return {a.view(), b.view(), depth};
}

/// The kernels under test, called as the engine calls them; from either side.
template <class Real>
void product(const Kernels<Real>& k, std::size_t rows, std::size_t cols, const Term<Real>* terms, int count,
             Matrix<const Real> start, const Matrix<Real>& c, bool backwards = false) {
    Ahead<Real> ahead;
    ahead.backwards = backwards;
    k.product(rows, cols, terms, count, start, c, ahead);
}
template <class Real>
void product_transposed(const Kernels<Real>& k, std::size_t rows, std::size_t cols, std::size_t depth, Matrix<const Real> a,
                        Matrix<const Real> b, Matrix<const Real> start, const Matrix<Real>& c) {
    const Term<Real> one{a, b, depth};
    k.product_transposed(rows, cols, &one, 1, start, c);
}

template <class Real>
using Sums = std::vector<Real>;

/// sum over k of a(r, k) b(k, c), at [r * cols + c].
template <class Sum, class Real>
Sums<Sum> naive_product(const TestMatrix<Real>& a, const TestMatrix<Real>& b) {
    Sums<Sum> sums(a.rows() * b.cols());
    for (std::size_t r = 0; r < a.rows(); ++r)
        for (std::size_t k = 0; k < a.cols(); ++k)
            for (std::size_t c = 0; c < b.cols(); ++c) sums[r * b.cols() + c] += Sum(a(r, k)) * Sum(b(k, c));
    return sums;
}
template <class Real>
TestMatrix<Real> transposed(const TestMatrix<Real>& a) {
    TestMatrix<Real> to(a.cols(), a.rows(), Layout::panels);
    for (std::size_t r = 0; r < a.rows(); ++r)
        for (std::size_t c = 0; c < a.cols(); ++c) to(c, r) = a(r, c);
    return to;
}

template <class Real>
TestMatrix<Real> panels(std::size_t rows, std::size_t cols) {
    return TestMatrix<Real>(rows, cols, Layout::panels);
}

/// What a product starts from; `other` is a matrix of its own, in the other layout than the target.
enum class From { zero, target, other, row };

TEST_SUITE_BEGIN("kernels");

TEST_CASE_TEMPLATE("product is exact on small integers, for every tile", Real, float, double) {
    Random random(1);
    const std::size_t depths[] = {0, 1, kLanes<Real> - 1, kLanes<Real>, kLanes<Real> + 1, 50};
    std::size_t turn = 0;
    for (std::size_t rows = 1; rows <= 26; ++rows)
        for (const std::size_t cols : interesting_columns<Real>()) {
            const std::size_t depth_0 = depths[turn % 6], depth_1 = depths[turn / 6 % 6];
            ++turn;
            const auto a_0 = panels<Real>(rows, depth_0), a_1 = panels<Real>(rows, depth_1);
            const auto b_0 = panels<Real>(depth_0, cols), b_1 = panels<Real>(depth_1, cols);
            for (const auto* m : {&a_0, &b_0, &a_1, &b_1}) m->fill(random.integers());
            const Sums<Real> sum_0 = naive_product<Real>(a_0, b_0), sum_1 = naive_product<Real>(a_1, b_1);
            const Fenced<Real> row(panel_count<Real>(cols) * kLanes<Real>);
            std::generate_n(row.begin(), cols, random.integers());
            const Term<Real> terms[2] = {term(a_0, b_0, depth_0), term(a_1, b_1, depth_1)};
            for_each_tier<Real>([&](const Kernels<Real>& k) {
                for (int count = 0; count <= 2; ++count)
                    for (const From from : {From::zero, From::target, From::other, From::row})
                        for (const Layout layout : kLayouts) {
                            const Layout other = layout == Layout::panels ? Layout::row_major : Layout::panels;
                            const TestMatrix<Real> before(rows, cols, from == From::other ? other : layout), c(rows, cols, layout);
                            if (from == From::target || from == From::other) before.fill(random.integers());
                            if (from == From::target) c.copy_of(before);
                            const Matrix<const Real> start = from == From::zero     ? none<Real>()
                                                             : from == From::target ? Matrix<const Real>(c.view())
                                                             : from == From::other  ? Matrix<const Real>(before.view())
                                                                                    : every_row<Real>(row.data());
                            product(k, rows, cols, terms, count, start, c.view(), count == 2);
                            const auto expected = [&](std::size_t r, std::size_t j) {
                                const Real first = from == From::zero ? Real(0) : from == From::row ? row[j] : before(r, j);
                                return first + (count >= 1 ? sum_0[r * cols + j] : Real(0)) +
                                       (count == 2 ? sum_1[r * cols + j] : Real(0));
                            };
                            CAPTURE(rows);
                            CAPTURE(cols);
                            CAPTURE(count);
                            CAPTURE(int(from));
                            REQUIRE(difference(c, expected) == "");
                            REQUIRE(c.guards_hold());
                        }
            });
        }
}

/// Many rows take the depth in blocks, and a B beyond the caches ahead; a single row takes neither.
TEST_CASE_TEMPLATE("product is exact across the depth's blocks, to the bits of single rows", Real, float, double) {
    constexpr std::size_t L = kLanes<Real>;
    struct Sizes {
        std::size_t rows, cols, depth_0, depth_1;
    };
    const Sizes all[] = {{13, L + 3, 28, 360},     {14, 2 * L, 130, 257}, {29, 3 * L + 1, 512, 33},
                         {26, L - 1, 5, 1000},     {37, 4 * L, 1030, 0},  {70, L / 2, 385, L + 1},
                         {14, 83 * L - 5, 3, 610}, {31, 110 * L, 448, 0}, {13, 10 * L, 5000, 3}};
    Random random(8);
    for (const Sizes& size : all) {
        const std::size_t rows = size.rows, cols = size.cols;
        const auto a_0 = panels<Real>(rows, size.depth_0), a_1 = panels<Real>(rows, size.depth_1);
        const auto b_0 = panels<Real>(size.depth_0, cols), b_1 = panels<Real>(size.depth_1, cols);
        const TestMatrix<Real> start(rows, cols, Layout::row_major);
        CAPTURE(rows);
        CAPTURE(cols);
        for (const bool integers : {true, false}) {
            for (const auto* m : {&a_0, &b_0, &a_1, &b_1, &start}) integers ? m->fill(random.integers()) : m->fill(random.reals());
            const Sums<Real> sum_0 = naive_product<Real>(a_0, b_0), sum_1 = naive_product<Real>(a_1, b_1);
            for_each_tier<Real>([&](const Kernels<Real>& k) {
                for (const Layout layout : kLayouts) {
                    const TestMatrix<Real> whole(rows, cols, layout), parts(rows, cols, layout);
                    Ahead<Real> ahead;
                    for (int i = 0; i < 2; ++i) ahead.add(start.view());
                    ahead.backwards = layout == Layout::row_major;
                    const auto block = [&](std::size_t row, std::size_t m, const TestMatrix<Real>& c) {
                        const Term<Real> terms[2] = {{a_0.view().rows_from(row), b_0.view(), size.depth_0},
                                                     {a_1.view().rows_from(row), b_1.view(), size.depth_1}};
                        k.product(m, cols, terms, 2, start.view().rows_from(row), c.view().rows_from(row), ahead);
                        if (row == 0) ahead = {};
                    };
                    block(0, rows, whole);
                    for (std::size_t row = 0; row < rows; ++row) block(row, 1, parts);
                    REQUIRE(same_bits(whole, parts));
                    REQUIRE(whole.guards_hold());
                    if (integers)
                        REQUIRE(difference(whole, [&](std::size_t r, std::size_t c) {
                                    return start(r, c) + sum_0[r * cols + c] + sum_1[r * cols + c];
                                }) == "");
                }
            });
        }
    }
}

TEST_CASE_TEMPLATE("product_transposed is exact on small integers, across the depth's blocks", Real, float, double) {
    Random random(2);
    const std::size_t depths[] = {0, 1, 2, 31, 511, 512, 513, 1024, 1030};
    std::size_t turn = 0;
    for (std::size_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 26, 40, 70})
        for (const std::size_t cols : interesting_columns<Real>()) {
            const std::size_t depth = depths[turn++ % 9];
            const auto a = panels<Real>(depth, rows), b = panels<Real>(depth, cols);
            a.fill(random.integers());
            b.fill(random.integers());
            const Sums<Real> sums = naive_product<Real>(transposed(a), b);
            for_each_tier<Real>([&](const Kernels<Real>& k) {
                for (const From start : {From::zero, From::target})
                    for (const Layout layout : kLayouts) {
                        const TestMatrix<Real> before(rows, cols, layout), c(rows, cols, layout);
                        if (start == From::target) c.copy_of(before.fill(random.integers()));
                        const Matrix<const Real> from = start == From::zero ? none<Real>() : Matrix<const Real>(c.view());
                        // Whole, and as terms of uneven depths.
                        const std::size_t first = depth / 3;
                        const Term<Real> terms[] = {{a.view(), b.view(), first},
                                                    {a.view().rows_from(first), b.view().rows_from(first), depth - first}};
                        if (depth % 2 == 0)
                            product_transposed<Real>(k, rows, cols, depth, a.view(), b.view(), from, c.view());
                        else
                            k.product_transposed(rows, cols, terms, 2, from, c.view());
                        const auto expected = [&](std::size_t r, std::size_t j) {
                            return (start == From::zero ? Real(0) : before(r, j)) + sums[r * cols + j];
                        };
                        CAPTURE(rows);
                        CAPTURE(cols);
                        CAPTURE(depth);
                        REQUIRE(difference(c, expected) == "");
                        REQUIRE(c.guards_hold());
                    }
            });
        }
}

TEST_CASE_TEMPLATE("products of nothing write nothing", Real, float, double) {
    const auto a = panels<Real>(5, 3), b = panels<Real>(3, 5), c = panels<Real>(5, 5);
    const Term<Real> one = term(a, b, 3);
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        product(k, 0, 5, &one, 1, none<Real>(), c.view());
        product(k, 5, 0, &one, 1, none<Real>(), c.view());
        product_transposed<Real>(k, 0, 5, 3, b.view(), b.view(), none<Real>(), c.view());
        product_transposed<Real>(k, 5, 0, 3, b.view(), b.view(), none<Real>(), c.view());
        CHECK(c.untouched());
    });
}

/// The a-priori bound of a sum of `depth` products in any order, n eps sum |a b|.
TEST_CASE_TEMPLATE("products of real numbers are within the rounding bound of the exact sums", Real, float, double) {
    using Exact = Wider<Real>;
    Random random(3);
    for (const std::size_t depth : {3, 100, 700}) {
        const std::size_t rows = 19, cols = 2 * kLanes<Real> + 5;
        const auto a = panels<Real>(rows, depth), b = panels<Real>(depth, cols);
        a.fill(random.reals());
        b.fill(random.reals());
        const auto a_t = transposed(a);
        const Sums<Exact> exact = naive_product<Exact>(a, b);
        Sums<Exact> sizes(rows * cols);
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t k = 0; k < depth; ++k)
                for (std::size_t c = 0; c < cols; ++c) sizes[r * cols + c] += std::abs(Exact(a(r, k)) * Exact(b(k, c)));
        const auto expected = [&](std::size_t r, std::size_t c) { return exact[r * cols + c]; };
        const auto allowed = [&](std::size_t r, std::size_t c) {
            return Exact(kEpsilon<Real> / 2) * Exact(depth + 1) * sizes[r * cols + c];
        };
        const Term<Real> one = term(a, b, depth);
        for_each_tier<Real>([&](const Kernels<Real>& k) {
            const auto c = panels<Real>(rows, cols), d = panels<Real>(rows, cols);
            product(k, rows, cols, &one, 1, none<Real>(), c.view());
            product_transposed<Real>(k, rows, cols, depth, a_t.view(), b.view(), none<Real>(), d.view());
            CHECK(difference(c, expected, allowed) == "");
            CHECK(difference(d, expected, allowed) == "");
        });
    }
}

TEST_CASE_TEMPLATE("the bits of a product do not depend on how its rows and columns are divided", Real, float, double) {
    constexpr std::size_t L = kLanes<Real>;
    Random random(4);
    const std::size_t rows = 29, cols = 9 * L + 3, depth_0 = 70, depth_1 = 21;
    const auto a_0 = panels<Real>(rows, depth_0), a_1 = panels<Real>(rows, depth_1);
    const auto b_0 = panels<Real>(depth_0, cols), b_1 = panels<Real>(depth_1, cols);
    for (const auto* m : {&a_0, &b_0, &a_1, &b_1}) m->fill(random.reals());
    const Fenced<Real> row(panel_count<Real>(cols) * L);
    std::generate_n(row.begin(), cols, random.reals());
    const auto a_0_t = transposed(a_0);
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        bool backwards = false;
        const auto block = [&](std::size_t first_row, std::size_t m, std::size_t first_panel, std::size_t n, const auto& c) {
            const Term<Real> terms[2] = {{a_0.view().rows_from(first_row), b_0.view().panels_from(first_panel), depth_0},
                                         {a_1.view().rows_from(first_row), b_1.view().panels_from(first_panel), depth_1}};
            product(k, m, n, terms, 2, every_row<Real>(row.data() + first_panel * L),
                    c.view().rows_from(first_row).panels_from(first_panel), backwards);
        };
        const auto whole = panels<Real>(rows, cols);
        block(0, rows, 0, cols, whole);
        backwards = true;
        for (std::size_t height = 1; height < rows; ++height)
            for (const Layout layout : kLayouts) {
                const TestMatrix<Real> parts(rows, cols, layout);
                for (std::size_t r = 0; r < rows; r += height) block(r, std::min(height, rows - r), 0, cols, parts);
                CAPTURE(height);
                REQUIRE(same_bits(whole, parts));
            }
        for (std::size_t width = 1; width < panel_count<Real>(cols); ++width) {
            const auto parts = panels<Real>(rows, cols);
            for (std::size_t p = 0; p < panel_count<Real>(cols); p += width)
                block(0, rows, p, std::min(width * L, cols - p * L), parts);
            CAPTURE(width);
            REQUIRE(same_bits(whole, parts));
        }

        const auto transposed_block = [&](std::size_t first_panel, std::size_t m, const auto& c) {
            product_transposed<Real>(k, m, cols, depth_0, a_0_t.view().panels_from(first_panel), b_0.view(), none<Real>(),
                                     c.view().rows_from(first_panel * L));
        };
        const auto whole_t = panels<Real>(rows, cols);
        transposed_block(0, rows, whole_t);
        for (const Layout layout : kLayouts) {
            const TestMatrix<Real> parts(rows, cols, layout);
            for (std::size_t r = 0; r < rows; r += L) transposed_block(r / L, std::min(L, rows - r), parts);
            REQUIRE(same_bits(whole_t, parts));
        }
    });
}

/// The input is projected ahead or with each step, as pays: by what comes of it, nobody can tell.
TEST_CASE_TEMPLATE("the bits of a product do not depend on which of its terms come together", Real, float, double) {
    Random random(5);
    const std::size_t cols = kLanes<Real> + 7, depths[3] = {70, 700, 9};
    for (const std::size_t rows : {std::size_t{3}, std::size_t{29}}) {
        const TestMatrix<Real> a[3] = {panels<Real>(rows, depths[0]), panels<Real>(rows, depths[1]), panels<Real>(rows, depths[2])};
        const TestMatrix<Real> b[3] = {panels<Real>(depths[0], cols), panels<Real>(depths[1], cols), panels<Real>(depths[2], cols)};
        std::vector<Term<Real>> terms;
        for (std::size_t i = 0; i < 3; ++i) {
            a[i].fill(random.reals());
            b[i].fill(random.reals());
            terms.push_back(term(a[i], b[i], depths[i]));
        }
        const auto start = panels<Real>(rows, cols);
        start.fill(random.reals());
        for_each_tier<Real>([&](const Kernels<Real>& k) {
            const auto whole = panels<Real>(rows, cols), parts = panels<Real>(rows, cols);
            product<Real>(k, rows, cols, terms.data(), 3, start.view(), whole.view());
            for (std::size_t i = 0; i < 3; ++i)
                product<Real>(k, rows, cols, terms.data() + i, 1, i == 0 ? start.view() : parts.view(), parts.view());
            CHECK(same_bits(whole, parts));
        });
    }
}

TEST_CASE_TEMPLATE("product_transposed of sixteen terms is their one long sum, exactly on integers", Real, float, double) {
    Random random(7);
    const std::size_t rows = 21, cols = kLanes<Real> + 7;
    // The kernel's blocks of 512 end with the eighth term and within the eleventh.
    const std::size_t depths[16] = {1, 0, 70, 3, 200, 16, 0, 222, 1, 40, 600, 5, 8, 33, 2, 1};
    std::vector<std::size_t> first = {0};
    for (const std::size_t depth : depths) first.push_back(first.back() + depth);
    const auto a = panels<Real>(first.back(), rows), b = panels<Real>(first.back(), cols);
    a.fill(random.integers());
    b.fill(random.integers());
    const TestMatrix<Real> from(rows, cols, Layout::row_major);
    from.fill(random.integers());
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (int count = 0; count <= 16; ++count) {
            CAPTURE(count);
            std::vector<Term<Real>> terms;
            for (std::size_t i = 0; i < std::size_t(count); ++i)
                terms.push_back({a.view().rows_from(first[i]), b.view().rows_from(first[i]), depths[i]});
            const auto whole = panels<Real>(rows, cols), parts = panels<Real>(rows, cols);
            product_transposed<Real>(k, rows, cols, first[std::size_t(count)], a.view(), b.view(), from.view(), whole.view());
            k.product_transposed(rows, cols, terms.data(), count, from.view(), parts.view());
            REQUIRE(same_bits(whole, parts));
            REQUIRE(parts.guards_hold());
        }
    });
}

TEST_CASE_TEMPLATE("infinities and NaN pass through products into their own row and column alone", Real, float, double) {
    constexpr Real kInfinity = std::numeric_limits<Real>::infinity(), kNaN = std::numeric_limits<Real>::quiet_NaN();
    Random random(6);
    const std::size_t rows = 14, cols = 2 * kLanes<Real> + 1, depth = 9;
    const auto a = panels<Real>(rows, depth), b = panels<Real>(depth, cols);
    a.fill([] { return 1; });
    b.fill([] { return 1; });
    a(3, 4) = kNaN;
    a(5, 0) = kInfinity;
    b(2, 6) = -kInfinity;
    const Term<Real> one = term(a, b, depth);
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        const auto c = panels<Real>(rows, cols);
        product(k, rows, cols, &one, 1, none<Real>(), c.view());
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t j = 0; j < cols; ++j) {
                if (r == 3 || (r == 5 && j == 6))
                    CHECK(std::isnan(c(r, j)));
                else
                    CHECK(c(r, j) == (r == 5 ? kInfinity : j == 6 ? -kInfinity : Real(depth)));
            }
    });
}

/// One running sum of so many equal terms would err by hundreds of ulps.
TEST_CASE("products of float are sums of short chains") {
    const std::size_t depth = 30000, rows = 3, cols = 5;
    const auto a = panels<float>(rows, depth), b = panels<float>(depth, cols);
    a.fill([] { return 0.1f; });
    b.fill([] { return 0.7f; });
    const TestMatrix<float> a_t = transposed(a);
    const double exact = double(depth) * double(0.1f) * double(0.7f);
    for_each_tier<float>([&](const Kernels<float>& k) {
        const TestMatrix<float> c(rows, cols, Layout::row_major), d(rows, cols, Layout::row_major);
        const Term<float> one = term(a, b, depth);
        product(k, rows, cols, &one, 1, none<float>(), c.view());
        product_transposed<float>(k, rows, cols, depth, a_t.view(), b.view(), none<float>(), d.view());
        for (const TestMatrix<float>* m : {&c, &d})
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t j = 0; j < cols; ++j) REQUIRE(std::abs(double((*m)(r, j)) - exact) <= 1.5e-5 * exact);
    });
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
