// Prints the tables of docs/accuracy.md: `accuracy` in a few seconds from a sample, `accuracy all` in minutes from every float.
#include "accuracy.hpp"

#include <cstdio>
#include <thread>

namespace pybptt::test {
namespace {

template <class Real>
void print(const char* type, const Accuracy<Real>& accuracy) {
    for (std::size_t t = 0; t < tiers_available().size(); ++t) {
        std::printf("| %s | %s |", type, tiers_available()[t].c_str());
        for (std::size_t f = 0; f < std::size(kFunctions); ++f) {
            const Worst& worst = accuracy.worst(t, f);
            std::printf(" %.3f | %.9g |", worst.ulp, worst.at);
        }
        std::printf("\n");
    }
}

/// The parts' worst cases together; every part has a thread.
template <class Part>
auto in_parallel(Part part) {
    const unsigned parts = std::max(1u, std::thread::hardware_concurrency());
    std::vector<decltype(part(0u, parts))> results(parts);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < parts; ++i) threads.emplace_back([&, i] { results[i] = part(i, parts); });
    for (std::thread& thread : threads) thread.join();
    for (unsigned i = 1; i < parts; ++i) results[0].take(results[i]);
    return results[0];
}

}  // namespace
}  // namespace pybptt::test

int main(int argc, char** argv) {
    using namespace pybptt::test;
    const bool all = argc == 2 && std::string(argv[1]) == "all";
    if (argc > 2 || (argc == 2 && !all)) {
        std::fprintf(stderr, "usage: accuracy [all]\n");
        return 2;
    }
    const std::uint64_t float_stride = all ? 1 : 251, doubles = all ? 200'000'000 : 1'000'000;
    std::printf("| type | tier | tanh, ULP | at | sigmoid, ULP | at |\n|---|---|---|---|---|---|\n");
    print("float32", in_parallel([&](unsigned i, unsigned n) { return measure_floats(i * float_stride, n * float_stride); }));
    print("float64", in_parallel([&](unsigned i, unsigned n) { return measure_doubles(i + 1, doubles / 4 / n); }));
    return 0;
}
