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

/// Infinities included; a NaN equals a NaN.
template <class Real>
bool same_values(const TestMatrix<Real>& a, const TestMatrix<Real>& b) {
    bool same = true;
    for (std::size_t r = 0; r < a.rows(); ++r)
        for (std::size_t c = 0; c < a.cols(); ++c) same = same && (std::isnan(b(r, c)) ? std::isnan(a(r, c)) : a(r, c) == b(r, c));
    return same;
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
            const TestMatrix<Real> from(rows, cols, layout), to(cols, rows, Layout::panels), as_it_is(rows, cols, Layout::panels);
            from.fill(random.integers());
            for (const bool both : {false, true}) {
                k.transpose(rows, cols, from.view(), to.view(), both ? as_it_is.view() : Matrix<Real>{});
                REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return from(c, r); }) == "");
                REQUIRE(to.guards_hold());
                REQUIRE(to.padding_is(0));
            }
            REQUIRE(same_bits(from, as_it_is));
            REQUIRE(as_it_is.guards_hold());
            REQUIRE(as_it_is.padding_is(0));
        }
    });
}

TEST_CASE_TEMPLATE("add and multiply, between all layouts", Real, float, double) {
    Random random(13);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        for (const Layout from_layout : kLayouts)
            for (const Layout to_layout : kLayouts) {
                const TestMatrix<Real> from(rows, cols, from_layout), before(rows, cols, to_layout), to(rows, cols, to_layout);
                from.fill(random.integers());
                to.copy_of(before.fill(random.integers()).fill_padding(0));
                k.add(rows, cols, from.view(), to.view());
                REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return before(r, c) + from(r, c); }) == "");
                REQUIRE(to.guards_hold());
                if (to_layout == Layout::panels) REQUIRE(to.padding_is(0));
                to.copy_of(before);
                k.multiply(rows, cols, from.view(), to.view());
                REQUIRE(difference(to, [&](std::size_t r, std::size_t c) { return before(r, c) * from(r, c); }) == "");
                REQUIRE(to.guards_hold());
                if (to_layout == Layout::panels) REQUIRE(to.padding_is(0));
            }
    });
}

TEST_CASE_TEMPLATE("copy, add and multiply of indexed rows", Real, float, double) {
    Random random(18);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const std::size_t others = rows + 4;
        std::vector<std::size_t> any_order(others);
        for (std::size_t r = 0; r < others; ++r) std::swap(any_order[r] = r, any_order[random.below(r + 1)]);
        const Fenced<std::size_t> index(rows);
        std::copy_n(any_order.begin(), rows, index.begin());
        std::vector<std::size_t> row_at(others, rows);
        for (std::size_t r = 0; r < rows; ++r) row_at[index[r]] = r;
        for (const Layout layout : kLayouts) {
            const TestMatrix<Real> few(rows, cols, layout), all(others, cols, Layout::row_major),
                before(others, cols, Layout::row_major);
            before.fill(random.integers());
            Matrix<Real> view = before.view();
            view.index = index.data();
            k.copy(rows, cols, view, few.view());
            REQUIRE(difference(few, [&](std::size_t r, std::size_t c) { return before(index[r], c); }) == "");
            REQUIRE(few.guards_hold());
            few.fill(random.integers());
            for (const int operation : {0, 1, 2}) {
                view.data = all.copy_of(before).view().data;
                (operation == 0 ? k.copy : operation == 1 ? k.add : k.multiply)(rows, cols, few.view(), view);
                const auto expected = [&](std::size_t r, std::size_t c) {
                    if (row_at[r] == rows) return before(r, c);
                    const Real value = few(row_at[r], c);
                    return operation == 0 ? value : operation == 1 ? before(r, c) + value : before(r, c) * value;
                };
                CAPTURE(operation);
                REQUIRE(difference(all, expected) == "");
                REQUIRE(all.guards_hold());
            }
        }
    });
}

TEST_CASE_TEMPLATE("zero", Real, float, double) {
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> to(rows, cols, Layout::panels);
        k.zero(rows, cols, to.view());
        REQUIRE(difference(to, [&](std::size_t, std::size_t) { return Real(0); }) == "");
        REQUIRE(to.guards_hold());
    });
}

TEST_CASE_TEMPLATE("scale_rows: a factor of 0 leaves nothing of a row, one of 1 all of it", Real, float, double) {
    Random random(19);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> factors(2 * rows, 1, Layout::row_major), before(rows, cols, Layout::panels),
            wanted(rows, cols, Layout::panels), to(rows, cols, Layout::panels);
        const Fenced<std::size_t> index(rows);  // as of a ragged batch
        for (std::size_t r = 0; r < rows; ++r) index[r] = 2 * rows - 1 - r;
        factors.fill([&] { return double(random.below(4)) / 2; });
        before.fill(random.integers());
        for (std::size_t r = 0; r < rows && cols != 0; r += 3) {
            before(r, 0) = std::numeric_limits<Real>::infinity();
            before(r, cols - 1) = std::numeric_limits<Real>::quiet_NaN();
        }
        for (const bool indexed : {false, true}) {
            to.copy_of(before);
            Matrix<const Real> view = factors.view();
            if (indexed) view.index = index.data();
            const auto factor = [&](std::size_t r) { return factors(indexed ? index[r] : r, 0); };
            k.scale_rows(rows, cols, view, to.view());
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t c = 0; c < cols; ++c) wanted(r, c) = factor(r) == 0 ? Real(0) : before(r, c) * factor(r);
            REQUIRE(same_values(to, wanted));
            REQUIRE(to.guards_hold());
        }
    });
}

TEST_CASE_TEMPLATE("clip_values leaves a NaN a NaN", Real, float, double) {
    Random random(20);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        for (const Real limit : {Real(0), Real(2.5), std::numeric_limits<Real>::infinity()}) {
            const TestMatrix<Real> before(rows, cols, Layout::panels), wanted(rows, cols, Layout::panels),
                to(rows, cols, Layout::panels);
            before.fill(random.integers());
            for (std::size_t r = 0; r < rows && cols != 0; ++r)
                before(r, r * 7 % cols) = r % 3 == 0   ? std::numeric_limits<Real>::quiet_NaN()
                                          : r % 3 == 1 ? std::numeric_limits<Real>::infinity()
                                                       : -std::numeric_limits<Real>::infinity();
            to.copy_of(before);
            k.clip_values(rows, cols, limit, to.view());
            const auto expected = [&](std::size_t r, std::size_t c) {
                const Real value = before(r, c);
                return value > limit ? limit : value < -limit ? -limit : value;
            };
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t c = 0; c < cols; ++c) wanted(r, c) = expected(r, c);
            REQUIRE(same_values(to, wanted));
            REQUIRE(to.guards_hold());
        }
    });
}

TEST_CASE_TEMPLATE("norm_factors, of rows whose squares would overflow or vanish too", Real, float, double) {
    using Wide = Wider<Real>;
    Random random(21);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        for (const Real scale : {Real(1), std::numeric_limits<Real>::max() / 4, std::numeric_limits<Real>::min() * 4}) {
            const TestMatrix<Real> from(rows, cols, Layout::panels);  // its padding is NaN
            const Fenced<Real> factors(rows);
            from.fill([&] { return double(scale) * random.uniform(-1, 1); });
            for (std::size_t r = 0; r < rows && cols != 0; ++r) {
                if (r % 5 == 1)
                    for (std::size_t c = 0; c < cols; ++c) from(r, c) = 0;
                if (r % 5 == 2) from(r, cols / 2) = std::numeric_limits<Real>::infinity();
                if (r % 5 == 3) from(r, cols - 1) = std::numeric_limits<Real>::quiet_NaN();
            }
            const Real limit = scale * Real(std::sqrt(double(cols) / 3));  // about the norm: larger here, smaller there
            k.norm_factors(rows, cols, limit, from.view(), factors.data());
            for (std::size_t r = 0; r < rows; ++r) {
                Wide squares = 0;
                for (std::size_t c = 0; c < cols; ++c) squares += Wide(from(r, c) / scale) * Wide(from(r, c) / scale);
                const Wide wanted = Wide(limit / scale) / std::sqrt(squares);
                CAPTURE(r);
                if (!(squares > 0) || !(squares < 1e30) || wanted > 1 + 16 * kEpsilon<Real>)
                    REQUIRE(factors[r] == 1);
                else
                    REQUIRE(std::abs(factors[r] - std::min<Wide>(1, wanted)) <= Wide(4 + cols) * kEpsilon<Real>);
            }
            REQUIRE(factors.front_holds());
        }
    });
}

TEST_CASE_TEMPLATE("sum_rows adds to what is there", Real, float, double) {
    Random random(14);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> from(rows, cols, Layout::panels);
        from.fill(random.integers());
        const Fenced<double> sums(panel_count<Real>(cols) * kLanes<Real>);
        std::fill_n(sums.begin(), cols, 100.0);
        k.sum_rows(rows, cols, from.view(), sums.data());
        for (std::size_t c = 0; c < cols; ++c) {
            double expected = 100;
            for (std::size_t r = 0; r < rows; ++r) expected += from(r, c);
            REQUIRE(sums[c] == expected);
        }
        REQUIRE(sums.front_holds());
    });
}

TEST_CASE_TEMPLATE("sum_products adds to what is there", Real, float, double) {
    Random random(17);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        const TestMatrix<Real> a(rows, cols, Layout::panels), b(rows, cols, Layout::panels);
        a.fill(random.integers());
        b.fill(random.integers());
        const Fenced<double> sums(panel_count<Real>(cols) * kLanes<Real>);
        std::fill_n(sums.begin(), cols, 100.0);
        k.sum_products(rows, cols, a.view(), b.view(), sums.data());
        for (std::size_t c = 0; c < cols; ++c) {
            double expected = 100;
            for (std::size_t r = 0; r < rows; ++r) expected += double(a(r, c)) * double(b(r, c));
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
        const Fenced<double> sums(rows);
        std::fill_n(sums.begin(), rows, 100.0);
        k.sum_columns(rows, cols, from.view(), sums.data());
        for (std::size_t r = 0; r < rows; ++r) {
            double expected = 100;
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

        const std::size_t stride = panel_count<Real>(cols) * kLanes<Real>;
        const Fenced<double> sums(distinct * stride);
        std::fill(sums.begin(), sums.end(), 100.0);
        k.scatter_add_rows(rows, cols, index.data(), to.view(), sums.data(), stride);
        for (std::size_t d = 0; d < distinct; ++d)
            for (std::size_t c = 0; c < cols; ++c) {
                double sum = 100;
                for (std::size_t r = 0; r < rows; ++r) sum += std::size_t(index[r]) == d ? double(to(r, c)) : 0;
                REQUIRE(sums[d * stride + c] == sum);
            }
        REQUIRE(sums.front_holds());
    });
}

TEST_CASE_TEMPLATE("find_rows: the same bits are the same row", Real, float, double) {
    Random random(18);
    for_each_size<Real>([&](const Kernels<Real>& k, std::size_t rows, std::size_t cols) {
        if (cols == 0) return;
        const TestMatrix<Real> from(rows, cols, Layout::row_major);
        std::vector<std::size_t> index(rows), kind(rows);  // rows are taken in another order; which are alike
        for (std::size_t r = 0; r < rows; ++r) {
            index[r] = rows - 1 - r;
            kind[r] = random.below(5);
            for (std::size_t c = 0; c < cols; ++c) from(rows - 1 - r, c) = c + 1 == cols && kind[r] == 4 ? Real(-0.0) : Real(0);
            if (kind[r] < 4) from(rows - 1 - r, kind[r] * (cols - 1) / 3) = Real(kind[r]);
        }
        std::vector<std::size_t> seen;  // in order of first appearance; kinds of few columns may be the same
        const auto alike = [&](std::size_t a, std::size_t b) {
            return std::memcmp(&from(rows - 1 - a, 0), &from(rows - 1 - b, 0), cols * sizeof(Real)) == 0;
        };
        std::vector<std::int32_t> expected;
        for (std::size_t r = 0; r < rows; ++r) {
            const auto at = std::find_if(seen.begin(), seen.end(), [&](std::size_t other) { return alike(r, other); });
            expected.push_back(std::int32_t(at - seen.begin()));
            if (at == seen.end()) seen.push_back(r);
        }
        for (const std::size_t capacity : {8, 64}) {
            const Fenced<const Real*> first(6);
            const Fenced<std::int32_t> table(capacity), slot(rows);
            std::fill(table.begin(), table.end(), -1);
            DistinctRows<Real> found{first.data(), table.data(), capacity, 6, 0};
            Matrix<const Real> view = from.view();
            view.index = index.data();
            const std::size_t some = rows / 3;  // what was seen is kept from call to call
            k.find_rows(some, cols, view, found, slot.data());
            k.find_rows(rows - some, cols, view.rows_from(some), found, slot.data() + some);
            REQUIRE(found.count == seen.size());
            REQUIRE(std::equal(expected.begin(), expected.end(), slot.begin()));
            for (std::size_t i = 0; i < seen.size(); ++i) REQUIRE(first[i] == &from(rows - 1 - seen[i], 0));
        }
        if (seen.size() < 2) return;
        const Fenced<const Real*> first(1);  // there are more than it has room for
        const Fenced<std::int32_t> table(4), slot(rows);
        std::fill(table.begin(), table.end(), -1);
        DistinctRows<Real> found{first.data(), table.data(), 4, 1, 0};
        k.find_rows(rows, cols, from.view(), found, slot.data());
        REQUIRE(found.count == 2);
        k.find_rows(rows, cols, from.view(), found, slot.data());
        REQUIRE(found.count == 2);
        REQUIRE(slot.front_holds());
    });
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
