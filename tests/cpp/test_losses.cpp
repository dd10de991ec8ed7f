// The losses of the output layer against their definitions, in every tier. A column is one step of one sequence.
#include <initializer_list>

#include "support.hpp"

namespace pybptt::test {
namespace {

constexpr std::size_t kClasses[] = {1, 2, 3, 17, 100};
constexpr std::size_t kColumns[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 40};

template <class Real>
Fenced<Real> random_row(std::size_t count, Random& random) {
    Fenced<Real> row(count);
    std::generate(row.begin(), row.end(), random.reals());
    return row;
}
Fenced<std::int32_t> random_classes(std::size_t count, std::size_t classes, Random& random) {
    Fenced<std::int32_t> row(count);
    for (std::int32_t& target : row) target = std::int32_t(random.below(classes));
    return row;
}

/// Some columns become ones that do not count; what they hold is no number.
template <class Real>
void leave_out_some(const Fenced<std::int32_t>& target, Random& random, std::initializer_list<const TestMatrix<Real>*> matrices) {
    for (std::size_t c = 0; c < target.size(); ++c) {
        if (random.below(3) != 0) continue;
        target[c] = -1;
        for (const TestMatrix<Real>* m : matrices)
            for (std::size_t q = 0; q < m->rows(); ++q) (*m)(q, c) = std::numeric_limits<Real>::quiet_NaN();
    }
}

/// Rounding of a sum of n numbers, and of a few more operations.
template <class Real>
Wider<Real> rounding(std::size_t n) {
    return Wider<Real>(kEpsilon<Real>) * Wider<Real>(n + 8);
}

/// Softmax cross-entropy of column c of o + bias, the addition rounded as the kernel's is.
template <class Real>
struct CrossEntropy {
    using Exact = Wider<Real>;
    std::vector<Exact> probability;
    Exact loss;

    CrossEntropy(const TestMatrix<Real>& o, const Fenced<Real>& bias, std::size_t c, std::size_t target) : probability(o.rows()) {
        const auto logit = [&](std::size_t q) { return Exact(Real(o(q, c) + bias[q])); };
        Exact largest = -std::numeric_limits<Exact>::infinity(), sum = 0;
        for (std::size_t q = 0; q < o.rows(); ++q) largest = std::max(largest, logit(q));
        for (std::size_t q = 0; q < o.rows(); ++q) sum += probability[q] = std::exp(logit(q) - largest);
        for (Exact& p : probability) p /= sum;
        loss = std::log(sum) + (largest - logit(target));
    }
};

TEST_SUITE_BEGIN("kernels");

TEST_CASE_TEMPLATE("softmax cross-entropy", Real, float, double) {
    using Exact = Wider<Real>;
    Random random(21);
    const Real scale = Real(0.25);
    for (const std::size_t classes : kClasses)
        for (const std::size_t cols : kColumns)
            for (const double size : {1.0, 50.0, 1e4}) {
                const TestMatrix<Real> o(classes, cols, Layout::panels);
                o.fill(random.reals(size)).fill_padding(Real(1));
                const Fenced<Real> bias = random_row<Real>(classes, random);
                const Fenced<std::int32_t> target = random_classes(cols, classes, random);
                if (size != 50) leave_out_some<Real>(target, random, {&o});
                for_each_tier<Real>([&](const Kernels<Real>& k) {
                    CAPTURE(classes);
                    CAPTURE(cols);
                    CAPTURE(size);
                    const TestMatrix<Real> d_o(classes, cols, Layout::panels);
                    const Fenced<double> losses(cols);
                    k.softmax_cross_entropy(classes, cols, bias.data(), target.data(), scale, d_o.copy_of(o).view(), losses.data());
                    for (std::size_t c = 0; c < cols; ++c) {
                        if (target[c] < 0) {
                            REQUIRE(losses[c] == 0);
                            for (std::size_t q = 0; q < classes; ++q) REQUIRE(d_o(q, c) == 0);
                            continue;
                        }
                        const std::size_t y = std::size_t(target[c]);
                        const CrossEntropy<Real> expected(o, bias, c, y);
                        REQUIRE(std::abs(losses[c] - expected.loss) <= rounding<Real>(classes) * (1 + expected.loss));
                        for (std::size_t q = 0; q < classes; ++q) {
                            const Exact wanted = Exact(scale) * (expected.probability[q] - Exact(q == y));
                            REQUIRE(std::abs(d_o(q, c) - wanted) <= Exact(scale) * rounding<Real>(classes));
                        }
                    }
                    REQUIRE(d_o.padding_is(0));
                    REQUIRE(d_o.guards_hold());
                    REQUIRE(losses.front_holds());
                });
            }
}

TEST_CASE_TEMPLATE("softmax cross-entropy does not overflow, and NaN stays in its column", Real, float, double) {
    const std::size_t classes = 5, cols = 9;
    const Real large = std::numeric_limits<Real>::max() / 4;
    const TestMatrix<Real> o(classes, cols, Layout::panels);
    for (std::size_t c = 0; c < cols; ++c)
        for (std::size_t q = 0; q < classes; ++q) o(q, c) = q == 0 ? large : q == 1 ? -large : Real(0);
    o(3, 4) = std::numeric_limits<Real>::quiet_NaN();
    const Fenced<Real> bias(classes);
    const Fenced<std::int32_t> target(cols);
    std::fill(bias.begin(), bias.end(), Real(0));
    std::fill(target.begin(), target.end(), 0);
    target[1] = 1;
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        const TestMatrix<Real> d_o(classes, cols, Layout::panels);
        const Fenced<double> losses(cols);
        k.softmax_cross_entropy(classes, cols, bias.data(), target.data(), Real(1), d_o.copy_of(o).fill_padding(0).view(),
                                losses.data());
        for (std::size_t c = 0; c < cols; ++c) {
            CAPTURE(c);
            CHECK(std::isnan(losses[c]) == (c == 4));
            if (c != 1 && c != 4) CHECK(losses[c] <= 4 * double(kEpsilon<Real>));
            for (std::size_t q = 0; q < classes; ++q) CHECK(std::isnan(d_o(q, c)) == (c == 4));
        }
        CHECK(losses[1] == doctest::Approx(2 * double(large)));
        CHECK(d_o(0, 1) == 1);
        CHECK(d_o(1, 1) == -1);
    });
}

TEST_CASE_TEMPLATE("squared error", Real, float, double) {
    using Exact = Wider<Real>;
    Random random(22);
    const Real scale = Real(0.25);
    std::size_t turn = 0;
    for (const std::size_t outputs : kClasses)
        for (const std::size_t cols : kColumns) {
            const TestMatrix<Real> o(outputs, cols, Layout::panels), y(outputs, cols, Layout::panels);
            o.fill(random.reals()).fill_padding(Real(1));
            y.fill(random.reals()).fill_padding(0);
            const Fenced<Real> bias = random_row<Real>(outputs, random);
            const Fenced<std::int32_t> counted(cols);
            std::fill(counted.begin(), counted.end(), 0);
            if (turn++ % 3 != 0) leave_out_some<Real>(counted, random, {&o, &y});
            for_each_tier<Real>([&](const Kernels<Real>& k) {
                CAPTURE(outputs);
                CAPTURE(cols);
                const TestMatrix<Real> d_o(outputs, cols, Layout::panels);
                const Fenced<double> losses(cols);
                k.squared_error(outputs, cols, bias.data(), y.view(), counted.data(), scale, d_o.copy_of(o).view(), losses.data());
                for (std::size_t c = 0; c < cols; ++c) {
                    if (counted[c] < 0) {
                        REQUIRE(losses[c] == 0);
                        for (std::size_t q = 0; q < outputs; ++q) REQUIRE(d_o(q, c) == 0);
                        continue;
                    }
                    Exact loss = 0;
                    for (std::size_t q = 0; q < outputs; ++q) {
                        const Exact error = Exact(o(q, c)) + Exact(bias[q]) - Exact(y(q, c));
                        loss += error * error;
                        REQUIRE(std::abs(d_o(q, c) - 2 * Exact(scale) * error) <= 8 * Exact(kEpsilon<Real>));
                    }
                    REQUIRE(std::abs(losses[c] - loss) <= rounding<Real>(outputs) * (1 + loss));
                }
                REQUIRE(d_o.padding_is(0));
                REQUIRE(d_o.guards_hold());
                REQUIRE(losses.front_holds());
            });
        }
}

TEST_CASE_TEMPLATE("the losses of a column do not depend on the other columns", Real, float, double) {
    Random random(23);
    const std::size_t classes = 12, cols = 3 * kLanes<Real> + 4, L = kLanes<Real>;
    const TestMatrix<Real> o(classes, cols, Layout::panels), y(classes, cols, Layout::panels);
    o.fill(random.reals(5)).fill_padding(0);
    y.fill(random.reals()).fill_padding(0);
    const Fenced<Real> bias = random_row<Real>(classes, random);
    const Fenced<std::int32_t> target = random_classes(cols, classes, random);
    leave_out_some<Real>(target, random, {&o, &y});
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (const bool squared : {false, true}) {
            const auto run = [&](std::size_t first, std::size_t count, const TestMatrix<Real>& d_o, const Fenced<double>& losses) {
                const Matrix<Real> part = d_o.view().panels_from(first / L);
                if (squared)
                    k.squared_error(classes, count, bias.data(), y.view().panels_from(first / L), target.data() + first, Real(1),
                                    part, losses.data() + first);
                else
                    k.softmax_cross_entropy(classes, count, bias.data(), target.data() + first, Real(1), part,
                                            losses.data() + first);
            };
            const TestMatrix<Real> whole(classes, cols, Layout::panels), parts(classes, cols, Layout::panels);
            const Fenced<double> whole_losses(cols), part_losses(cols);
            run(0, cols, whole.copy_of(o), whole_losses);
            parts.copy_of(o);
            for (std::size_t first = 0; first < cols; first += L) run(first, std::min(L, cols - first), parts, part_losses);
            CHECK(same_bits(whole, parts));
            CHECK(whole_losses.values() == part_losses.values());
        }
    });
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
