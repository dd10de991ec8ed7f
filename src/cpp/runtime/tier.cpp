#include "runtime/tier.hpp"

#include <cstdlib>
#include <stdexcept>

#include "runtime/processors.hpp"

namespace pybptt {

std::size_t far_bytes = std::size_t{3} << 20;

#define PYBPTT_DECLARE_TIER(name)                \
    namespace name {                             \
    extern const Kernels<float> kernels_float;   \
    extern const Kernels<double> kernels_double; \
    }
#if defined(__x86_64__)
PYBPTT_DECLARE_TIER(baseline)
PYBPTT_DECLARE_TIER(avx2)
PYBPTT_DECLARE_TIER(avx512)
#else
PYBPTT_DECLARE_TIER(generic)
#endif

namespace {

struct Tier {
    const char* name;
    bool available;
    const Kernels<float>& kernels_float;
    const Kernels<double>& kernels_double;
};

/// Slowest first.
const std::vector<Tier>& tiers() {
#if defined(__x86_64__)
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    static const std::vector<Tier>& all = *new std::vector<Tier>{
        // never destroyed: a daemon thread may outlive static objects
        {"baseline", true, baseline::kernels_float, baseline::kernels_double},
        {"avx2", has_avx2, avx2::kernels_float, avx2::kernels_double},
        {"avx512", has_avx512, avx512::kernels_float, avx512::kernels_double},
    };
#else
    static const std::vector<Tier>& all =
        *new std::vector<Tier>{{"generic", true, generic::kernels_float, generic::kernels_double}};
#endif
    return all;
}

std::string join(const std::vector<std::string>& names) {
    std::string joined;
    for (const std::string& name : names) joined += (joined.empty() ? "" : ", ") + name;
    return joined;
}

const Tier& find(const std::string& name, const std::string& who) {
    for (const Tier& tier : tiers())
        if (name == tier.name) {
            if (tier.available) return tier;
            throw std::runtime_error(who + ": expected a tier that this processor can run (" + join(tiers_available()) +
                                     "), got '" + name + "', which it cannot");
        }
    throw std::runtime_error(who + ": expected one of the tiers in this build (" + join(tiers_built()) + "), got '" + name + "'");
}

const Tier& active() {
    // If this throws, the next call tries again: the message comes back rather than an undefined state.
    static const Tier& chosen = []() -> const Tier& {
        far_bytes = caches().l2 / 2 * 3;
        const char* forced = std::getenv("PYBPTT_TIER");
        if (forced != nullptr && *forced != '\0') return find(forced, "PYBPTT_TIER");
        return find(tiers_available().back(), "tier");
    }();
    return chosen;
}

}  // namespace

std::vector<std::string> tiers_built() {
    std::vector<std::string> names;
    for (const Tier& tier : tiers()) names.emplace_back(tier.name);
    return names;
}

std::vector<std::string> tiers_available() {
    std::vector<std::string> names;
    for (const Tier& tier : tiers())
        if (tier.available) names.emplace_back(tier.name);
    return names;
}

const std::string& active_tier() {
    static const std::string& name = *new std::string(active().name);
    return name;
}

template <>
const Kernels<float>& kernels<float>() {
    return active().kernels_float;
}
template <>
const Kernels<double>& kernels<double>() {
    return active().kernels_double;
}
template <>
const Kernels<float>& kernels_of<float>(const std::string& tier) {
    return find(tier, "tier").kernels_float;
}
template <>
const Kernels<double>& kernels_of<double>(const std::string& tier) {
    return find(tier, "tier").kernels_double;
}

}  // namespace pybptt
