// What the machine has for this process: processors, control groups' share of their time, caches. Read once, from /proc and
// /sys where there are such files, else asked of the system (platform.hpp).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace pybptt {

struct Processors {
    int allowed;  ///< in the affinity mask
    int cores;    ///< that these are in: hardware threads of one core share its multipliers, so they count once
    int quota;    ///< processors' worth of time that the control groups (v1, v2) allow, rounded up; 0 if they don't limit it

    /// How many threads are worth having.
    int usable() const;
};

/// Bytes; 0 where there is none or nothing is known.
struct Caches {
    std::size_t l1d, l2;  ///< one core's
    std::size_t l3;       ///< one, shared by several cores
};

const Processors& processors();
/// Of the machine; where nothing is known of it, an L2 cache of 1 MB.
const Caches& caches();

/// As above, of the file system below `root` and of the processors with these numbers, in ascending order.
Processors read_processors(const std::string& root, const std::vector<int>& allowed);
Caches read_caches(const std::string& root, const std::vector<int>& allowed);

}  // namespace pybptt
