#include "allocations.hpp"

#include <atomic>

namespace {

std::atomic<int> fill_byte{pybptt::test::kGuardByte};
constexpr int kNoLimit = std::numeric_limits<int>::max();
std::atomic<int> successes_left{kNoLimit};
std::atomic<std::size_t> bytes_so_far{0};
thread_local int in_core = 0;

bool fails() { return in_core != 0 && successes_left != kNoLimit && successes_left-- <= 0; }

}  // namespace

extern "C" {
void* __real_aligned_alloc(std::size_t alignment, std::size_t bytes);
void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes);
void* __real__Znwm(std::size_t bytes);  // operator new
void* __wrap__Znwm(std::size_t bytes);
}

void* __wrap_aligned_alloc(std::size_t alignment, std::size_t bytes) {
    if (fails()) return nullptr;
    void* memory = __real_aligned_alloc(alignment, bytes);
    if (memory != nullptr) std::memset(memory, fill_byte, bytes);
    bytes_so_far += bytes;
    return memory;
}

void* __wrap__Znwm(std::size_t bytes) {
    if (fails()) throw std::bad_alloc();
    return __real__Znwm(bytes);
}

namespace pybptt::test {

void fill_new_memory_with(int byte) { fill_byte = byte; }
InCore::InCore() { ++in_core; }
InCore::~InCore() { --in_core; }
void fail_allocations_after(int successes) { successes_left = successes; }
void allocations_succeed() { successes_left = kNoLimit; }
std::size_t bytes_allocated() { return bytes_so_far; }

}  // namespace pybptt::test
