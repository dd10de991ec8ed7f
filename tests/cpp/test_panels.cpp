// Moving matrices in and out of panels, and sums over them, in every tier. All values are small integers: results are exact.
#include "support.hpp"

namespace pybptt::test {
namespace {

template <class Real>
std::vector<std::size_t> widths() {
    std::vector<std::size_t> all = interesting_columns<Real>();
    all.insert(all.end(), {0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14});
    return all;
}
constexpr std::size_t kHeights[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33};

/// test(kernels, rows, cols) for every tier and many sizes.
template <class Real, class Test>
void for_each_size(Test test) {
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (const std::size_t rows : kHeights)
            for (const std::size_t cols : widths<Real>()) {
                CAPTURE(rows);
                CAPTURE(cols);
                test(k, rows, cols);
            }
    });
}

TEST_SUITE_BEGIN("kernels");

TEST_CASE_TEMPLATE("copy, between all layouts", Real, float, double) {
    Random random(11);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        for (const Layout from_layout : kLayouts)
            for (const Layout to_layout : kLayouts) {
                const TestMatrix<Real> from(rows, cols, from_layout), to(rows, cols, to_layout);
                from.fill(random.integers());
                k.copy(rows, cols, from.view(), to.view());
                REQUIRE(same_bits(from, to));
                REQUIRE(to.guards_hold());
                if (to_layout == Layout::panels) REQUIRE(to.padding_is(0));
            }
    });
}

TEST_CASE_TEMPLATE("transpose, from both layouts", Real, float, double) {
    Random random(12);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        for (const Layout layout : kLayouts) {
            const TestMatrix<Real> from(rows, cols, layout), to(cols, rows, Layout::panels);
            from.fill(random.integers());
            k.transpose(rows, cols, from.view(), to.view());
            REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return from(c, r); }) == "");
            REQUIRE(to.guards_hold());
            REQUIRE(to.padding_is(0));
        }
    });
}

TEST_CASE_TEMPLATE("zero and add", Real, float, double) {
    Random random(13);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> from(rows, cols, Layout::panels), before(rows, cols, Layout::panels), to(rows, cols, Layout::panels);
        from.fill(random.integers());
        to.copy_of(before.fill(random.integers()));
        k.add(rows, cols, from.view(), to.view());
        REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return before(r, c) + from(r, c); }) == "");
        REQUIRE(to.guards_hold());
        k.zero(rows, cols, to.view());
        REQUIRE(difference(to, [&](std::size_t, std::size_t) { return Real(0); }) == "");
        REQUIRE(to.guards_hold());
    });
}

TEST_CASE_TEMPLATE("sum_rows adds to what is there", Real, float, double) {
    Random random(14);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> from(rows, cols, Layout::panels);
        from.fill(random.integers());
        const Fenced<Real> sums(panel_count<Real>(cols) * kLanes<Real>);
        std::fill_n(sums.begin(), cols, Real(100));
        k.sum_rows(rows, cols, from.view(), sums.data());
        for (std::size_t c = 0; c < cols; ++c) {
            Real expected = 100;
            for (std::size_t r = 0; r < rows; ++r) expected += from(r, c);
            REQUIRE(sums[c] == expected);
        }
        REQUIRE(sums.front_holds());
    });
}

TEST_CASE_TEMPLATE("sum_columns adds to what is there", Real, float, double) {
    Random random(15);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> from(rows, cols, Layout::panels);
        from.fill(random.integers()).fill_padding(0);
        const Fenced<Real> sums(rows);
        std::fill_n(sums.begin(), rows, Real(100));
        k.sum_columns(rows, cols, from.view(), sums.data());
        for (std::size_t r = 0; r < rows; ++r) {
            Real expected = 100;
            for (std::size_t c = 0; c < cols; ++c) expected += from(r, c);
            REQUIRE(sums[r] == expected);
        }
        REQUIRE(sums.front_holds());
    });
}

TEST_CASE_TEMPLATE("gather_rows and scatter_add_rows, with rows that come more than once", Real, float, double) {
    Random random(16);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const std::size_t distinct = 6;
        const Fenced<std::int32_t> index(rows);
        for (std::int32_t& i : index) i = std::int32_t(random.below(distinct));
        const TestMatrix<Real> table(distinct, cols, Layout::panels), to(rows, cols, Layout::panels);
        table.fill(random.integers());
        k.gather_rows(rows, cols, index.data(), table.view(), to.view());
        REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return table(std::size_t(index[r]), c); }) == "");
        REQUIRE(to.guards_hold());

        const TestMatrix<Real> sums(distinct, cols, Layout::panels);
        sums.fill([] { return 100; });
        k.scatter_add_rows(rows, cols, index.data(), to.view(), sums.view());
        const auto expected = [&](std::size_t d, std::size_t c) {
            Real sum = 100;
            for (std::size_t r = 0; r < rows; ++r) sum += std::size_t(index[r]) == d ? to(r, c) : Real(0);
            return sum;
        };
        REQUIRE(difference(sums, expected) == "");
        REQUIRE(sums.guards_hold());
    });
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
