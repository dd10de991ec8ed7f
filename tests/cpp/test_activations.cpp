// The activations: the largest error and special values, in every tier.
#include "accuracy.hpp"

namespace pybptt::test {
namespace {

constexpr std::uint64_t kFloatStride = kQuick ? 4999 : 251, kDoubles = kQuick ? 20'000 : 400'000;

template <class Real>
Accuracy<Real> measure_some();
template <>
Accuracy<float> measure_some<float>() {
    return measure_floats(0, kFloatStride);
}
template <>
Accuracy<double> measure_some<double>() {
    return measure_doubles(1, kDoubles);
}

/// phi(x) of one value.
template <class Real>
Real activated(const Kernels<Real>& k, Nonlinearity nonlinearity, Real x) {
    alignas(kPanelBytes) Real values[kLanes<Real>] = {x};
    k.activate(nonlinearity, 1, values);
    return values[0];
}

TEST_SUITE_BEGIN("activations");

TEST_CASE_TEMPLATE("tanh and sigmoid keep to the documented error", Real, float, double) {
    const Accuracy<Real> accuracy = measure_some<Real>();
    for (std::size_t t = 0; t < tiers_available().size(); ++t)
        for (std::size_t f = 0; f < std::size(kFunctions); ++f) {
            CAPTURE(tiers_available()[t]);
            CAPTURE(kFunctions[f].name);
            CAPTURE(accuracy.worst(t, f).at);
            CHECK(accuracy.worst(t, f).ulp > 0.49);  // it was measured
            CHECK(accuracy.worst(t, f).ulp <= kFunctions[f].bound);
        }
}

TEST_CASE_TEMPLATE("special values, with and without denormals", Real, float, double) {
    using Limits = std::numeric_limits<Real>;
    const Real infinity = Limits::infinity(), smallest = Limits::min(), denormal = Limits::denorm_min(), largest = Limits::max();
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        const auto check = [&] {
            const auto phi = [&](Nonlinearity n, Real x) { return activated(k, n, x); };
            for (const Real sign : {Real(1), Real(-1)}) {
                CHECK(phi(Nonlinearity::tanh, sign * infinity) == sign);
                CHECK(phi(Nonlinearity::tanh, sign * largest) == sign);
                CHECK(phi(Nonlinearity::tanh, sign * Real(0)) == 0);
                CHECK(std::signbit(phi(Nonlinearity::tanh, sign * Real(0))) == (sign < 0));
                CHECK(phi(Nonlinearity::tanh, sign * 4 * smallest) == sign * 4 * smallest);
                CHECK(std::abs(phi(Nonlinearity::tanh, sign * denormal)) <= denormal);
                CHECK(phi(Nonlinearity::sigmoid, sign * Real(0)) == Real(0.5));
                CHECK(phi(Nonlinearity::sigmoid, sign * denormal) == Real(0.5));
            }
            for (const Real x : {infinity, largest, Real(1000)}) {
                CHECK(phi(Nonlinearity::sigmoid, x) == 1);
                CHECK(phi(Nonlinearity::sigmoid, -x) >= 0);
                CHECK(phi(Nonlinearity::sigmoid, -x) <= 2 * smallest);
            }
            for (const Real x : {infinity, largest, Real(1), Real(4) * smallest}) {
                CHECK(phi(Nonlinearity::relu, x) == x);
                CHECK(phi(Nonlinearity::relu, -x) == 0);
                CHECK(phi(Nonlinearity::identity, x) == x);
                CHECK(phi(Nonlinearity::identity, -x) == -x);
            }
            for (const Nonlinearity n : kNonlinearities) CHECK(std::isnan(phi(n, Limits::quiet_NaN())));
        };
        check();
        const FlushDenormals flush;
        check();
    });
}

TEST_CASE_TEMPLATE("tanh is odd, and no result leaves its range", Real, float, double) {
    Random random(31);
    alignas(kPanelBytes) Real x[1024], positive[1024], negative[1024], sigmoid[1024];
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (int round = 0; round < 50; ++round) {
            for (Real& value : x) value = Real(random.uniform(-1, 1) * std::ldexp(1.0, int(random.below(12)) - 4));
            std::copy(std::begin(x), std::end(x), positive);
            std::copy(std::begin(x), std::end(x), sigmoid);
            std::transform(std::begin(x), std::end(x), negative, [](Real value) { return -value; });
            k.activate(Nonlinearity::tanh, 1024, positive);
            k.activate(Nonlinearity::tanh, 1024, negative);
            k.activate(Nonlinearity::sigmoid, 1024, sigmoid);
            for (std::size_t i = 0; i < 1024; ++i) {
                CAPTURE(x[i]);
                REQUIRE(positive[i] == -negative[i]);
                REQUIRE(std::abs(positive[i]) <= 1);
                REQUIRE((sigmoid[i] >= 0 && sigmoid[i] <= 1));
            }
        }
    });
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
