#include "allocations.hpp"

#include <atomic>

namespace {

std::atomic<int> fill_byte{pybptt::test::kGuardByte};
constexpr int kNoLimit = std::numeric_limits<int>::max();
std::atomic<int> successes_left{kNoLimit};

}  // namespace

extern "C" void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);
extern "C" void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes);

void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
    if (successes_left != kNoLimit && successes_left-- <= 0) return nullptr;
    void* memory = __real_aligned_alloc(alignment, bytes);
    if (memory != nullptr) std::memset(memory, fill_byte, bytes);
    return memory;
}

namespace pybptt::test {

void fill_new_memory_with(int byte) { fill_byte = byte; }
void fail_allocations_after(int successes) { successes_left = successes; }
void allocations_succeed() { successes_left = kNoLimit; }

}  // namespace pybptt::test
