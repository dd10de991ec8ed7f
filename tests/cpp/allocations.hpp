// The core's memory under the tests' control. The linker sends its calls of aligned_alloc here (--wrap in CMakeLists.txt).
#pragma once

#include "support.hpp"

namespace pybptt::test {

/// Every byte of a new block becomes this (kGuardByte at the start): no result may depend on it.
void fill_new_memory_with(int byte);

/// The allocation after `successes` more ones fails, and all later ones, until `allocations_succeed`.
void fail_allocations_after(int successes);
void allocations_succeed();

}  // namespace pybptt::test
