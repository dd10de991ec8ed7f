// What belongs to the process, and the linear recurrence.
#include <cstdio>

#include "c/given.hpp"
#include "c/network.hpp"
#include "pybptt/machine.hpp"
#include "pybptt/scan.hpp"

using namespace pybptt;
using namespace pybptt::c;

namespace {

thread_local char last_error[1024] = "";

}  // namespace

void pybptt::c::remember(const char* message) noexcept { std::snprintf(last_error, sizeof last_error, "%s", message); }

const char* pybptt_last_error(void) { return last_error; }
const char* pybptt_version(void) { return PYBPTT_VERSION; }

int pybptt_get_num_threads(void) {
    int threads = 0;
    guarded([&] { threads = num_threads(); });
    return threads;
}
pybptt_status pybptt_set_num_threads(int threads) {
    return guarded([&] { set_num_threads(threads); });
}
const char* pybptt_tier(void) {
    const char* name = nullptr;
    guarded([&] { name = active_tier().c_str(); });
    return name;
}
size_t pybptt_release_memory(void) { return release_cached_memory(); }

namespace {

/// call(zero of the type, arrays, T N)
template <class Call>
pybptt_status scanned(int32_t dtype, size_t steps, size_t columns, Call call) {
    return guarded([&] {
        const bool float64 = read_choice("dtype", dtype, 2) == PYBPTT_FLOAT64;
        const std::size_t size = checked_product(steps, columns);
        with_real(float64, [&](auto zero) {
            Arrays arrays;
            call(zero, arrays, size);
        });
    });
}

}  // namespace

pybptt_status pybptt_linear_scan(int32_t dtype, size_t steps, size_t columns, const void* b, const void* c, const void* a_0,
                                 void* a) {
    return scanned(dtype, steps, columns, [&](auto zero, Arrays& arrays, std::size_t size) {
        using Real = decltype(zero);
        const Real* const b_values = arrays.read<Real>("b", b, size, Presence::required);
        const Real* const c_values = arrays.read<Real>("c", c, size, Presence::required);
        const Real* const start = arrays.read<Real>("a_0", a_0, columns, Presence::optional);
        Real* const to = arrays.write<Real>("a", a, size, Presence::required);
        arrays.expect_apart();
        linear_scan<Real>(steps, columns, b_values, c_values, start, to);
    });
}

pybptt_status pybptt_linear_scan_backward(int32_t dtype, size_t steps, size_t columns, const void* d_a, const void* c,
                                          const void* a, const void* a_0, void* d_b, void* d_c, void* d_a_0) {
    return scanned(dtype, steps, columns, [&](auto zero, Arrays& arrays, std::size_t size) {
        using Real = decltype(zero);
        const Real* const upstream = arrays.read<Real>("d_a", d_a, size, Presence::required);
        const Real* const c_values = arrays.read<Real>("c", c, size, Presence::required);
        const Real* const a_values = arrays.read<Real>("a", a, size, Presence::required);
        const Real* const start = arrays.read<Real>("a_0", a_0, columns, Presence::optional);
        Real* const to_b = arrays.write<Real>("d_b", d_b, size, Presence::required);
        Real* const to_c = arrays.write<Real>("d_c", d_c, size, Presence::required);
        Real* const to_start = arrays.write<Real>("d_a_0", d_a_0, columns, Presence::required);
        arrays.expect_apart();
        linear_scan_backward<Real>(steps, columns, upstream, c_values, a_values, start, to_b, to_c, to_start);
    });
}
