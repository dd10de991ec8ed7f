// The linear recurrence and its gradient: every tier's kernels against a loop, on both ways through memory; then the engine.
#include "pybptt/scan.hpp"
#include "runtime/threads.hpp"
#include "support.hpp"

namespace pybptt::test {
namespace {

/// Arrays of T x N values, `stride` apart, of which the kernel gets N columns; behind them nothing may be touched.
template <class Real>
struct Problem {
    std::size_t steps, cols, stride;
    Fenced<Real> b, c, d_a, a_0, a, d_b, d_c, d_a_0, window;

    Problem(std::size_t steps, std::size_t cols, std::size_t spare, Random& random)
        : steps(steps),
          cols(cols),
          stride(cols + spare),
          b(size()),
          c(size()),
          d_a(size()),
          a_0(cols),
          a(size()),
          d_b(size()),
          d_c(size()),
          d_a_0(cols),
          window(kScanWindow<Real>) {
        for (const Fenced<Real>* array : {&b, &c, &d_a, &a_0})
            for (Real& value : *array) value = Real(random.uniform(-1, 1));
    }
    /// The last row ends with the columns.
    std::size_t size() const { return steps == 0 ? 0 : (steps - 1) * stride + cols; }

    bool others_untouched() const {
        for (const Fenced<Real>* array : {&a, &d_b, &d_c})
            for (std::size_t i = 0; i < size(); ++i)
                if (i % stride >= cols && !is_guard((*array)[i])) return false;
        return a.front_holds() && d_b.front_holds() && d_c.front_holds() && d_a_0.front_holds();
    }

    /// "" if all results are those of a loop, in a wider type.
    std::string difference() const {
        using Wide = Wider<Real>;
        const Wide allowed = 8 * Wide(kEpsilon<Real>);
        for (std::size_t j = 0; j < cols; ++j) {
            std::vector<Wide> states = {a_0[j]};
            for (std::size_t t = 0; t < steps; ++t) {
                states.push_back(Wide(b[t * stride + j]) + Wide(c[t * stride + j]) * states.back());
                if (!(std::abs(states.back() - a[t * stride + j]) <= allowed * Wide(t + 1))) return place("a", t, j);
            }
            Wide after = 0;
            for (std::size_t t = steps; t-- > 0;) {
                const Wide d = d_a[t * stride + j] + after;
                const Wide bound = allowed * Wide(steps - t) * Wide(steps + 1);
                if (!(std::abs(d - d_b[t * stride + j]) <= bound)) return place("d_b", t, j);
                if (!(std::abs(d * states[t] - d_c[t * stride + j]) <= bound * 4)) return place("d_c", t, j);
                after = c[t * stride + j] * d;
            }
            if (!(std::abs(after - d_a_0[j]) <= allowed * Wide(steps + 1) * Wide(steps + 1))) return place("d_a_0", 0, j);
        }
        return "";
    }

private:
    static std::string place(const char* name, std::size_t t, std::size_t j) {
        return std::string(name) + "(" + std::to_string(t) + ", " + std::to_string(j) + ")";
    }
};

template <class Real>
std::vector<std::size_t> scan_widths() {
    std::vector<std::size_t> all = interesting_columns<Real>();
    all.insert(all.end(), {2, 3, 4, 5, 7, 131});
    return all;
}

TEST_SUITE_BEGIN("kernels");

TEST_CASE_TEMPLATE("linear recurrence, columns of any number, apart and together", Real, float, double) {
    Random random(41);
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (const std::size_t steps : {1, 2, 3, 9})
            for (const std::size_t cols : scan_widths<Real>())
                for (const std::size_t spare : {0, 5})
                    for (const bool past_caches : {false, true}) {
                        CAPTURE(steps);
                        CAPTURE(cols);
                        CAPTURE(spare);
                        CAPTURE(past_caches);
                        const Problem<Real> p(steps, cols, spare, random);
                        k.scan({steps, cols, p.stride, p.b.data(), p.c.data(), p.a_0.data(), p.a.data(), past_caches,
                                p.window.data()});
                        k.scan_backward({steps, cols, p.stride, p.d_a.data(), p.c.data(), p.a.data(), p.a_0.data(), p.d_b.data(),
                                         p.d_c.data(), p.d_a_0.data(), past_caches, p.window.data()});
                        REQUIRE(p.difference() == "");
                        REQUIRE(p.others_untouched());
                    }
    });
}

TEST_CASE_TEMPLATE("linear recurrence, long time and long rows past the caches", Real, float, double) {
    Random random(42);
    constexpr std::size_t round = 65536 / sizeof(Real), wide = kScanWindow<Real>;  // the kernel's
    const std::pair<std::size_t, std::size_t> sizes[] = {
        {2 * round / 33 + 5, 33}, {4 * round / 64, 64}, {9, round / 4}, {3, round / 4 + 1}, {2, wide}, {3, 2 * wide + 3}};
    for_each_tier<Real>([&](const Kernels<Real>& k) {
        for (const auto& size : sizes) {
            const std::size_t steps = size.first, cols = size.second;
            CAPTURE(steps);
            CAPTURE(cols);
            const Problem<Real> p(steps, cols, 0, random);
            std::vector<std::vector<double>> results;
            for (const bool past_caches : {false, true}) {
                k.scan({steps, cols, cols, p.b.data(), p.c.data(), p.a_0.data(), p.a.data(), past_caches, p.window.data()});
                k.scan_backward({steps, cols, cols, p.d_a.data(), p.c.data(), p.a.data(), p.a_0.data(), p.d_b.data(), p.d_c.data(),
                                 p.d_a_0.data(), past_caches, p.window.data()});
                for (const Fenced<Real>* array : {&p.a, &p.d_b, &p.d_c, &p.d_a_0}) results.push_back(array->values());
            }
            REQUIRE(p.difference() == "");
            for (std::size_t i = 0; i < 4; ++i) REQUIRE(results[i] == results[i + 4]);
            REQUIRE(p.others_untouched());
        }
    });
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("threads");

TEST_CASE_TEMPLATE("linear recurrence: the same bits for any number of threads, with a start and without", Real, float, double) {
    Random random(43);
    const int before = num_threads();
    for (const auto& [steps, cols] : {std::pair<std::size_t, std::size_t>{0, 7}, {5, 0}, {1, 1}, {60, 5021}}) {
        const Problem<Real> p(steps, cols, 0, random);
        for (const bool start : {false, true}) {
            const Real* a_0 = start ? p.a_0.data() : nullptr;
            std::vector<std::vector<double>> results;
            for (const int threads : {1, 3, 2}) {
                set_num_threads(threads);
                linear_scan<Real>(steps, cols, p.b.data(), p.c.data(), a_0, p.a.data());
                linear_scan_backward<Real>(steps, cols, p.d_a.data(), p.c.data(), p.a.data(), a_0, p.d_b.data(), p.d_c.data(),
                                           p.d_a_0.data());
                for (const Fenced<Real>* array : {&p.a, &p.d_b, &p.d_c, &p.d_a_0}) results.push_back(array->values());
            }
            if (start) REQUIRE(p.difference() == "");
            for (std::size_t i = 4; i < results.size(); ++i) REQUIRE(results[i] == results[i % 4]);
        }
    }
    set_num_threads(before);
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
