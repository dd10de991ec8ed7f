// Threads, memory and instruction sets: what belongs to the process, not to a call.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "pybptt/export.h"

namespace pybptt {

constexpr int kMostThreads = 1024;

/// The most threads one call may use. The default is the environment variable PYBPTT_NUM_THREADS, else OMP_NUM_THREADS, else
/// the cores that this process may use (runtime/processors.hpp). Throws std::invalid_argument for a PYBPTT_NUM_THREADS that is no
/// positive number.
PYBPTT_API int num_threads();
/// 1 to kMostThreads, or std::invalid_argument.
PYBPTT_API void set_num_threads(int threads);

/// Gives the memory that is kept for the next call back to the system, and says how many bytes that was.
PYBPTT_API std::size_t release_cached_memory() noexcept;

/// Names of the tiers in this build, slowest first, and of those the processor can run.
PYBPTT_API std::vector<std::string> tiers_built();
PYBPTT_API std::vector<std::string> tiers_available();

/// The tier in use: the fastest available, or the one that the environment variable PYBPTT_TIER names. Chosen at the first call.
/// Throws std::runtime_error if PYBPTT_TIER names a tier that is not built or not available.
PYBPTT_API const std::string& active_tier();

}  // namespace pybptt
