// The core's memory under the tests' control: operator new is this program's own.
#pragma once

#include "support.hpp"

namespace pybptt::test {

/// Every byte of a new block becomes this (kGuardByte at the start): no result may depend on it.
void fill_new_memory_with(int byte);

/// While one of these lives on a thread, that thread's allocations may fail and are counted.
class InCore {
public:
    InCore();
    ~InCore();
    InCore(const InCore&) = delete;
    InCore& operator=(const InCore&) = delete;
};

/// The allocation after `successes` more ones fails, and all later ones, until `allocations_succeed`.
void fail_allocations_after(int successes);
void allocations_succeed();

/// Bytes that the core had from the aligned operator new so far. What it gives back it keeps (runtime/memory.hpp), so that a call
/// which begins without kept blocks adds its peak.
std::size_t bytes_allocated();

}  // namespace pybptt::test
