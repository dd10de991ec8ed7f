// Choosing the tier.
#include <cstdlib>
#include <stdexcept>

#include "support.hpp"

namespace pybptt::test {
namespace {

TEST_SUITE_BEGIN("kernels");

TEST_CASE("tiers: those available are built, the fastest or the one asked for is in use, and others are refused") {
    const std::vector<std::string> built = tiers_built(), available = tiers_available();
    REQUIRE_FALSE(available.empty());
    CHECK(available.front() == built.front());
    for (const std::string& tier : available) CHECK(std::find(built.begin(), built.end(), tier) != built.end());
    const char* forced = std::getenv("PYBPTT_TIER");
    CHECK(active_tier() == (forced != nullptr ? forced : available.back()));
    CHECK(&kernels<float>() == &kernels_of<float>(active_tier()));
    CHECK(&kernels<double>() == &kernels_of<double>(active_tier()));
    CHECK_THROWS_AS(kernels_of<float>("sse9"), std::runtime_error);
    for (const std::string& tier : built)
        if (std::find(available.begin(), available.end(), tier) == available.end())
            CHECK_THROWS_AS(kernels_of<double>(tier), std::runtime_error);
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
