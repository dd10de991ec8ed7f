// The test program of the C++ core.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "runtime/tier.hpp"

int main(int argc, char** argv) {
    constexpr int kSkipped = 77;
    const auto has = [](const std::vector<std::string>& names, const std::string& name) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    const char* tier = std::getenv("PYBPTT_TIER");
    if (tier != nullptr && has(pybptt::tiers_built(), tier) && !has(pybptt::tiers_available(), tier)) {
        std::printf("skipped: this processor cannot run the tier %s\n", tier);
        return kSkipped;
    }
    return doctest::Context(argc, argv).run();
}
