#include "allocations.hpp"

#include <atomic>

namespace {

std::atomic<int> fill_byte{pybptt::test::kGuardByte};
constexpr int kNoLimit = std::numeric_limits<int>::max();
std::atomic<int> successes_left{kNoLimit};
std::atomic<std::size_t> bytes_so_far{0};
thread_local int in_core = 0;
constexpr std::size_t kMostBytes = std::size_t{1} << 33;  // wine promises any amount

bool fails() { return in_core != 0 && successes_left != kNoLimit && successes_left-- <= 0; }

}  // namespace

// The program's own operator new, which is the core's as well.

void* operator new(std::size_t bytes) {
    void* memory = fails() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return fails() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

void* operator new(std::size_t bytes, std::align_val_t alignment) {
    if (bytes > kMostBytes) throw std::bad_alloc();
#ifdef _WIN32
    void* memory = fails() ? nullptr : _aligned_malloc(bytes, std::size_t(alignment));
#else
    void* memory = fails() ? nullptr : std::aligned_alloc(std::size_t(alignment), bytes);
#endif
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, fill_byte, bytes);
    bytes_so_far += bytes;
    return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept {
#ifdef _WIN32
    _aligned_free(memory);
#else
    std::free(memory);
#endif
}

namespace pybptt::test {

void fill_new_memory_with(int byte) { fill_byte = byte; }
InCore::InCore() { ++in_core; }
InCore::~InCore() { --in_core; }
void fail_allocations_after(int successes) { successes_left = successes; }
void allocations_succeed() { successes_left = kNoLimit; }
std::size_t bytes_allocated() { return bytes_so_far; }

}  // namespace pybptt::test
