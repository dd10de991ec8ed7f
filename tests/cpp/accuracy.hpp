// The largest error of tanh and sigmoid, in units in the last place (ULP) of the exact result, in every tier.
//
// The kernels run as they do in the core, with denormals taken as zero. The exact result is the C library's, in double for float
// and in long double for double: its own error is below 0.002 ULP. Where the exact result is below twice the smallest normal
// number, units mean nothing any more: there the error must be below twice that number, and counts as 0.
#pragma once

#include "runtime/float_mode.hpp"
#include "support.hpp"

namespace pybptt::test {

struct Function {
    Nonlinearity nonlinearity;
    const char* name;
    double bound;  // ULP, for all types and tiers: docs/accuracy.md promises it
};
constexpr Function kFunctions[] = {{Nonlinearity::tanh, "tanh", 3.0}, {Nonlinearity::sigmoid, "sigmoid", 3.0}};

template <class Real>
Wider<Real> exact_value(Nonlinearity nonlinearity, Real x) {
    const Wider<Real> wide = x;
    return nonlinearity == Nonlinearity::tanh ? std::tanh(wide) : 1 / (1 + std::exp(-wide));
}

/// 2^e for a normal number in [2^e, 2^(e+1)).
inline double power_of_two_below(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits &= 0x7FF0000000000000u;
    std::memcpy(&value, &bits, sizeof bits);
    return value;
}

template <class Real>
double error_in_ulp(Real computed, Wider<Real> exact) {
    const Wider<Real> error = std::abs(Wider<Real>(computed) - exact);
    constexpr Wider<Real> kSmall = 2 * Wider<Real>(std::numeric_limits<Real>::min());
    if (std::abs(exact) < kSmall) return error <= kSmall ? 0 : std::numeric_limits<double>::infinity();
    const double ulp = power_of_two_below(double(exact)) * double(kEpsilon<Real>);
    return std::isnan(computed) ? std::numeric_limits<double>::infinity() : double(error / ulp);
}

struct Worst {
    double ulp = 0, at = 0;
    void take(const Worst& other) {
        if (other.ulp > ulp) *this = other;
    }
};

/// The worst cases so far of every tier and function.
template <class Real>
class Accuracy {
public:
    Accuracy() : worst_(tiers_available().size() * std::size(kFunctions)) {}

    /// Measures at finite x[0] .. x[n - 1], n <= kBlock.
    static constexpr std::size_t kBlock = 1024;
    void measure(const Real* x, std::size_t n) {
        for (std::size_t f = 0; f < std::size(kFunctions); ++f) {
            Wider<Real> exact[kBlock];
            for (std::size_t i = 0; i < n; ++i) exact[i] = exact_value(kFunctions[f].nonlinearity, x[i]);
            for (std::size_t t = 0; t < tiers_available().size(); ++t) {
                alignas(kPanelBytes) Real y[kBlock];
                std::copy_n(x, n, y);
                std::fill(y + n, y + kBlock, Real(0));
                {
                    const FlushDenormals flush;
                    kernels_of<Real>(tiers_available()[t]).activate(kFunctions[f].nonlinearity, n, y);
                }
                Worst& worst = worst_[t * std::size(kFunctions) + f];
                for (std::size_t i = 0; i < n; ++i) worst.take({error_in_ulp(y[i], exact[i]), double(x[i])});
            }
        }
    }
    void take(const Accuracy& other) {
        for (std::size_t i = 0; i < worst_.size(); ++i) worst_[i].take(other.worst_[i]);
    }
    const Worst& worst(std::size_t tier, std::size_t function) const { return worst_[tier * std::size(kFunctions) + function]; }

private:
    std::vector<Worst> worst_;
};

/// Gathers values into blocks and measures them.
template <class Real>
class Sampler {
public:
    explicit Sampler(Accuracy<Real>& accuracy) : accuracy_(accuracy) {}
    ~Sampler() { accuracy_.measure(block_, count_); }
    void operator()(Real x) {
        if (!std::isfinite(x)) return;
        block_[count_++] = x;
        if (count_ == Accuracy<Real>::kBlock) accuracy_.measure(block_, std::exchange(count_, 0));
    }

private:
    Accuracy<Real>& accuracy_;
    Real block_[Accuracy<Real>::kBlock];
    std::size_t count_ = 0;
};

/// Every `stride`-th of all floats, from number `first`.
inline Accuracy<float> measure_floats(std::uint64_t first, std::uint64_t stride) {
    Accuracy<float> accuracy;
    Sampler<float> sample(accuracy);
    for (std::uint64_t i = first; i < std::uint64_t{1} << 32; i += stride) {
        const auto bits = std::uint32_t(i);
        float x;
        std::memcpy(&x, &bits, sizeof x);
        sample(x);
    }
    return accuracy;
}

/// 4 x `count` doubles: of every magnitude, all over the range where the functions bend, and around the places where the
/// reduction of the argument changes (multiples of ln(2)/4) and where the functions saturate.
inline Accuracy<double> measure_doubles(std::uint64_t seed, std::uint64_t count) {
    Accuracy<double> accuracy;
    Sampler<double> sample(accuracy);
    Random random(seed);
    const double places[] = {19.0615, 19.07, 36.04, 36.74, 708.0, 708.4, 709.0, 709.8, 745.2};
    for (std::uint64_t i = 0; i < count; ++i) {
        const double sign = random.bits() & 1 ? 1 : -1;
        sample(sign * std::ldexp(random.uniform(1, 2), int(random.below(100)) - 88));
        sample(random.uniform(-20, 20));
        sample(random.uniform(-720, 40));
        const double place = random.bits() & 1 ? double(random.below(120)) * 0.17328679513998633 : places[random.below(9)];
        sample(sign * place * (1 + random.uniform(-1, 1) * std::ldexp(1.0, -int(random.below(53)))));
    }
    return accuracy;
}

}  // namespace pybptt::test
