// Which tier of kernels runs: the only place that looks at the processor.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace pybptt {

/// Names of the tiers in this build, slowest first, and of those the processor can run.
std::vector<std::string> tiers_built();
std::vector<std::string> tiers_available();

/// The tier in use: the fastest available, or the one that the environment variable PYBPTT_TIER names. Chosen at the first call.
/// Throws std::runtime_error if PYBPTT_TIER names a tier that is not built or not available.
const std::string& active_tier();

/// The active tier's kernels; `kernels_of` is for comparing tiers with one another.
template <class Real>
const Kernels<Real>& kernels();
template <class Real>
const Kernels<Real>& kernels_of(const std::string& tier);

}  // namespace pybptt
