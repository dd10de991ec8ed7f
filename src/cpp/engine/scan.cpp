// The linear recurrence: columns are dealt out to threads, in whole cache lines. How time is walked through is the kernel's affair.
#include "pybptt/scan.hpp"

#include <algorithm>
#include <cstdint>

#include "runtime/memory.hpp"
#include "runtime/processors.hpp"
#include "runtime/threads.hpp"
#include "runtime/tier.hpp"

namespace pybptt {
namespace {

/// Results of this size are in no cache when the next call wants them, if it does.
std::size_t past_caches_bytes() { return (caches().l2 + caches().l3) / 2 * 3; }

int threads_wanted(std::size_t row_bytes, std::size_t bytes) {
    constexpr std::size_t kBytesEach = std::size_t{1} << 19;  // some 20 microseconds; waking a thread costs a few
    constexpr std::size_t kRowEach = std::size_t{1} << 12;    // less of a row at a time, and memory is no longer read in order
    const std::size_t most = std::size_t(num_threads());
    return int(std::max<std::size_t>(1, std::min({most, row_bytes / kRowEach, bytes / kBytesEach})));
}

/// run(columns, their a_0, a member's window), for every member's columns.
///   arrays  of (T, N) that are read or written
template <class Real, class Run>
void divide_columns(std::size_t steps, std::size_t cols, std::size_t arrays, const Real* a_0, Run run) {
    Team team(threads_wanted(cols * sizeof(Real), arrays * steps * cols * sizeof(Real)));
    const Buffer<Real> windows(std::size_t(team.size()) * kScanWindow<Real>), zero(a_0 == nullptr ? cols : 0);
    std::fill_n(zero.data(), zero.size(), Real(0));
    run_team(team, [&](const Member& member) {
        const Range mine = member.share(cols, kLanes<Real>);
        if (mine.size() == 0) return;
        run(mine, (a_0 == nullptr ? zero.data() : a_0) + mine.begin,
            windows.data() + std::size_t(member.index) * kScanWindow<Real>);
    });
}

}  // namespace

template <class Real>
void linear_scan(std::size_t steps, std::size_t cols, const Real* b, const Real* c, const Real* a_0, Real* a) {
    if (steps == 0) return;
    const Kernels<Real>& kernel = kernels<Real>();
    const bool past_caches = steps * cols * sizeof(Real) > past_caches_bytes();
    divide_columns(steps, cols, 3, a_0, [&](const Range& mine, const Real* own_a_0, Real* window) {
        const std::size_t first = mine.begin;
        kernel.scan({steps, mine.size(), cols, b + first, c + first, own_a_0, a + first, past_caches, window});
    });
}

template <class Real>
void linear_scan_backward(std::size_t steps, std::size_t cols, const Real* d_a, const Real* c, const Real* a, const Real* a_0,
                          Real* d_b, Real* d_c, Real* d_a_0) {
    if (steps == 0) {
        std::fill_n(d_a_0, cols, Real(0));
        return;
    }
    const Kernels<Real>& kernel = kernels<Real>();
    const auto distance = reinterpret_cast<std::uintptr_t>(d_b) - reinterpret_cast<std::uintptr_t>(d_c);
    const bool past_caches = 2 * steps * cols * sizeof(Real) > past_caches_bytes() && distance % kPanelBytes == 0;
    divide_columns(steps, cols, 5, a_0, [&](const Range& mine, const Real* own_a_0, Real* window) {
        const std::size_t first = mine.begin;
        kernel.scan_backward({steps, mine.size(), cols, d_a + first, c + first, a + first, own_a_0, d_b + first, d_c + first,
                              d_a_0 + first, past_caches, window});
    });
}

#define PYBPTT_INSTANTIATE(Real)                                                                                                   \
    template void linear_scan(std::size_t, std::size_t, const Real*, const Real*, const Real*, Real*);                             \
    template void linear_scan_backward(std::size_t, std::size_t, const Real*, const Real*, const Real*, const Real*, Real*, Real*, \
                                       Real*);
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)
#undef PYBPTT_INSTANTIATE

}  // namespace pybptt
