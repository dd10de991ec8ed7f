// What the tests share: arrays with fences, matrices in both layouts, random values, and the tiers to test.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/table.hpp"
#include "runtime/tier.hpp"

namespace pybptt::test {

/// Bytes of 0xFF: NaN as a float or a double, so that a result that depends on one shows it.
constexpr int kGuardByte = 0xFF;

template <class Value>
bool is_guard(const Value& value) {
    unsigned char bytes[sizeof(Value)];
    std::memcpy(bytes, &value, sizeof value);
    return std::all_of(std::begin(bytes), std::end(bytes), [](unsigned char byte) { return byte == kGuardByte; });
}

#if defined(PYBPTT_QUICK)
constexpr bool kQuick = true;  // instrumented and emulated code is slow: fewer cases of a kind
#else
constexpr bool kQuick = false;
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// Pages (bytes is a multiple of theirs), and one behind them that nobody may touch (pages.cpp).
std::size_t page_bytes();
void* map_fenced(std::size_t bytes);
void unmap_fenced(void* memory, std::size_t bytes);

/// An array of guard values that ends where an unmapped page begins: to read or write one value too many is a crash.
/// Being pushed against that end, the array has no more alignment than its size gives it, as a user's.
template <class Value>
class Fenced {
public:
    explicit Fenced(std::size_t count) : count_(count) {
        const std::size_t bytes = count * sizeof(Value), page = page_bytes();
        mapped_ = (bytes + kFront + page - 1) / page * page;
        base_ = static_cast<char*>(map_fenced(mapped_));
        data_ = reinterpret_cast<Value*>(base_ + mapped_ - bytes);
        std::memset(reinterpret_cast<char*>(data_) - kFront, kGuardByte, bytes + kFront);
    }
    explicit Fenced(const std::vector<double>& values) : Fenced(values.size()) {
        std::transform(values.begin(), values.end(), begin(), [](double value) { return Value(value); });
    }
    Fenced(Fenced&& other) noexcept
        : base_(std::exchange(other.base_, nullptr)), data_(other.data_), mapped_(other.mapped_), count_(other.count_) {}
    Fenced& operator=(Fenced&& other) noexcept {
        std::swap(base_, other.base_);
        std::swap(data_, other.data_);
        std::swap(mapped_, other.mapped_);
        std::swap(count_, other.count_);
        return *this;
    }
    ~Fenced() {
        if (base_ != nullptr) unmap_fenced(base_, mapped_);
    }

    Value* data() const { return data_; }
    std::size_t size() const { return count_; }
    Value* begin() const { return data_; }
    Value* end() const { return data_ + count_; }
    Value& operator[](std::size_t i) const { return data_[i]; }

    /// Nothing was written in front of the array.
    bool front_holds() const {
        const char* front = reinterpret_cast<const char*>(data_) - kFront;
        return std::all_of(front, front + kFront, [](char byte) { return byte == char(kGuardByte); });
    }
    bool untouched() const { return std::all_of(begin(), end(), is_guard<Value>); }
    std::vector<double> values() const { return std::vector<double>(begin(), end()); }

private:
    static constexpr std::size_t kFront = 256;
    char* base_;
    Value* data_;
    std::size_t mapped_, count_;
};

constexpr Nonlinearity kNonlinearities[] = {Nonlinearity::tanh, Nonlinearity::relu, Nonlinearity::sigmoid, Nonlinearity::identity};

enum class Layout { panels, row_major };
constexpr Layout kLayouts[] = {Layout::panels, Layout::row_major};

/// rows x cols in either layout, with places between its rows or panels that belong to nobody. All places hold guards at first.
template <class Real>
class TestMatrix {
public:
    static constexpr std::size_t L = kLanes<Real>;

    TestMatrix(std::size_t rows, std::size_t cols, Layout layout)
        : rows_(rows),
          cols_(cols),
          layout_(layout),
          stride_(layout == Layout::panels ? (rows + kSpare) * L : cols + kSpare),
          storage_(rows == 0 || cols == 0     ? 0
                   : layout == Layout::panels ? (panel_count<Real>(cols) - 1) * stride_ + rows * L
                                              : (rows - 1) * stride_ + cols) {}

    std::size_t rows() const { return rows_; }
    std::size_t cols() const { return cols_; }
    Real& operator()(std::size_t r, std::size_t c) const {
        return storage_[layout_ == Layout::panels ? c / L * stride_ + r * L + c % L : r * stride_ + c];
    }
    Matrix<Real> view() const {
        return layout_ == Layout::panels ? in_panels(storage_.data(), stride_) : row_major(storage_.data(), stride_);
    }

    template <class Values>
    const TestMatrix& fill(Values values) const {
        for (std::size_t r = 0; r < rows_; ++r)
            for (std::size_t c = 0; c < cols_; ++c) (*this)(r, c) = Real(values());
        return *this;
    }
    /// The lanes past the last column; only in panels.
    template <class Visit>
    void for_each_padding(Visit visit) const {
        if (layout_ == Layout::row_major) return;
        for (std::size_t r = 0; r < rows_; ++r)
            for (std::size_t c = cols_; c < panel_count<Real>(cols_) * L; ++c) visit((*this)(r, c));
    }
    const TestMatrix& fill_padding(Real value) const {
        for_each_padding([&](Real& lane) { lane = value; });
        return *this;
    }
    bool padding_is(Real value) const {
        bool all = true;
        for_each_padding([&](Real& lane) { all = all && lane == value; });
        return all;
    }
    const TestMatrix& copy_of(const TestMatrix& other) const {
        std::copy(other.storage_.begin(), other.storage_.end(), storage_.begin());
        return *this;
    }

    /// The places that are no elements (nor, in panels, lanes of its rows) are what they were.
    bool guards_hold() const {
        for (std::size_t i = 0; i < storage_.size(); ++i) {
            const bool inside = layout_ == Layout::panels ? i % stride_ / L < rows_ : i % stride_ < cols_;
            if (!inside && !is_guard(storage_[i])) return false;
        }
        return storage_.front_holds();
    }
    bool untouched() const { return storage_.untouched() && storage_.front_holds(); }

private:
    static constexpr std::size_t kSpare = 3;
    std::size_t rows_, cols_;
    Layout layout_;
    std::size_t stride_;
    Fenced<Real> storage_;
};

/// "" if expected(r, c) is m(r, c) everywhere, to within allowed(r, c), else the first place where it is not. A NaN equals a NaN.
template <class Real, class Expected, class Allowed>
std::string difference(const TestMatrix<Real>& m, Expected expected, Allowed allowed) {
    for (std::size_t r = 0; r < m.rows(); ++r)
        for (std::size_t c = 0; c < m.cols(); ++c) {
            const auto wanted = expected(r, c);
            const Real got = m(r, c);
            if (std::isnan(wanted) ? std::isnan(got) : std::abs(decltype(wanted)(got) - wanted) <= allowed(r, c)) continue;
            return "(" + std::to_string(r) + ", " + std::to_string(c) + "): expected " + std::to_string(wanted) + ", got " +
                   std::to_string(got);
        }
    return "";
}
template <class Real, class Expected>
std::string difference(const TestMatrix<Real>& m, Expected expected) {
    return difference(m, expected, [](std::size_t, std::size_t) { return Real(0); });
}

/// The same bits in all elements.
template <class Real>
bool same_bits(const TestMatrix<Real>& a, const TestMatrix<Real>& b) {
    for (std::size_t r = 0; r < a.rows(); ++r)
        for (std::size_t c = 0; c < a.cols(); ++c)
            if (std::memcmp(&a(r, c), &b(r, c), sizeof(Real)) != 0) return false;
    return true;
}

class Random {
public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}
    std::uint64_t bits() { return engine_(); }
    std::size_t below(std::size_t limit) { return std::size_t(engine_() % limit); }
    double uniform(double low, double high) { return low + (high - low) * (double(engine_() >> 11) * 0x1p-53); }
    /// Small integers: sums of thousands of their products are exact, even in float.
    auto integers() {
        return [this] { return double(below(9)) - 4.0; };
    }
    /// Values that float holds, so that both types compute from the same ones.
    auto reals(double size = 1) {
        return [this, size] { return double(float(uniform(-size, size))); };
    }

private:
    std::mt19937_64 engine_;
};

/// long double where double is tested.
template <class Real>
struct WiderThan {
    using type = double;
};
template <>
struct WiderThan<double> {
    using type = long double;
};
template <class Real>
using Wider = typename WiderThan<Real>::type;

template <class Real>
constexpr Real kEpsilon = std::numeric_limits<Real>::epsilon();

/// test(kernels) for every tier that this processor has, named in the message if a check fails.
template <class Real, class Test>
void for_each_tier(Test test) {
    for (const std::string& tier : tiers_available()) {
        CAPTURE(tier);
        test(kernels_of<Real>(tier));
    }
}

/// Numbers of columns: one, whole panels, one more and one less, from one panel to more than the widest tile.
template <class Real>
std::vector<std::size_t> interesting_columns() {
    constexpr std::size_t L = kLanes<Real>;
    return {1, L - 1, L, L + 1, 2 * L - 1, 2 * L + 3, 3 * L, 5 * L + 2, 8 * L, 9 * L - 1, 10 * L + 5};
}

}  // namespace pybptt::test
