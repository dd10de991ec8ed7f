#include "runtime/tier.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
#elif defined(__aarch64__)
PYBPTT_DECLARE_TIER(neon)
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

#if defined(__x86_64__)
/// What the processor has and the system keeps of it when threads take turns. Not __builtin_cpu_supports, which knows nothing where
/// the compiler brings a library of its own (zig's).
struct Features {
    bool avx2 = false, avx512 = false;

    Features() {
        unsigned a, b, c, d, kept, high;
        constexpr unsigned kFma = 1u << 12, kXgetbv = 1u << 27, kAvx = 1u << 28, kFirst = kFma | kXgetbv | kAvx;
        if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kFirst) != kFirst || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        asm("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
        constexpr unsigned kAvx2 = 1u << 5, kYmm = 0x6;
        constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, kZmm = 0xe6;  // F, DQ, BW, VL
        avx2 = (b & kAvx2) == kAvx2 && (kept & kYmm) == kYmm;
        avx512 = avx2 && (b & kAvx512) == kAvx512 && (kept & kZmm) == kZmm;
    }
};
#endif

/// Slowest first.
const std::vector<Tier>& tiers() {
#if defined(__x86_64__)
    static const Features has;
    static const std::vector<Tier>& all = *new std::vector<Tier>{
        // never destroyed: a daemon thread may outlive static objects
        {"baseline", true, baseline::kernels_float, baseline::kernels_double},
        {"avx2", has.avx2, avx2::kernels_float, avx2::kernels_double},
        {"avx512", has.avx512, avx512::kernels_float, avx512::kernels_double},
    };
#elif defined(__aarch64__)
    static const std::vector<Tier>& all = *new std::vector<Tier>{{"neon", true, neon::kernels_float, neon::kernels_double}};
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
