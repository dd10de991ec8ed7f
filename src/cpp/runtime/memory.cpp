#include "runtime/memory.hpp"

#include <mutex>

#include "runtime/platform.hpp"

namespace pybptt {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// In front of every block, one cache line.
struct alignas(kAlignment) Header {
    std::size_t bytes;  // usable bytes behind the header
};

/// Freed blocks, the most recent last. Never destroyed: a tape may outlive every static object at exit.
struct Cache {
    static constexpr int kMostBlocks = 64;
    std::mutex mutex;
    Header* blocks[kMostBlocks];
    int count = 0;
    std::size_t bytes = 0;

    Header* take(int index) {
        Header* block = blocks[index];
        for (int i = index + 1; i < count; ++i) blocks[i - 1] = blocks[i];
        --count;
        bytes -= block->bytes;
        return block;
    }
};

Cache& cache() {
    static Cache* const instance = [] {
        // A child of fork() must not find the mutex held by a thread that it does not have.
        at_fork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); }, [] { cache().mutex.unlock(); });
        return new Cache;
    }();
    return *instance;
}

/// Sizes are rounded up, by an eighth at most, so that nearly equal requests share a block.
std::size_t rounded(std::size_t bytes) {
    const std::size_t sixteenth = (bytes + 15) / 16;
    const std::size_t step = sixteenth <= kAlignment ? kAlignment : std::size_t(1) << (64 - __builtin_clzll(sixteenth - 1));
    return (bytes + step - 1) / step * step;
}

std::size_t alignment_of(std::size_t total) { return total < 2 * kHugePage ? kAlignment : kHugePage; }

void free_block(Header* block) noexcept { ::operator delete(block, std::align_val_t(alignment_of(block->bytes + sizeof(Header)))); }

/// The sum, or std::bad_alloc if that is no size.
std::size_t checked_sum(std::size_t a, std::size_t b) {
    if (a > std::numeric_limits<std::size_t>::max() / 4 - b) throw std::bad_alloc();
    return a + b;
}

thread_local CountMemory* counting = nullptr;
alignas(kAlignment) char nowhere[kAlignment];  // what counted memory points to, and none

}  // namespace

CountMemory::CountMemory() { counting = this; }
CountMemory::~CountMemory() { counting = nullptr; }
bool CountMemory::active() { return counting != nullptr; }

std::size_t block_bytes(std::size_t bytes) {
    if (bytes > std::numeric_limits<std::size_t>::max() / 8) throw std::bad_alloc();
    if (bytes == 0) return 0;
    const std::size_t total = rounded(bytes) + sizeof(Header), alignment = alignment_of(total);
    return (total + alignment - 1) / alignment * alignment;
}

void* acquire_memory(std::size_t bytes) {
    if (bytes > std::numeric_limits<std::size_t>::max() / 8) throw std::bad_alloc();
    if (counting != nullptr) counting->bytes_ = checked_sum(counting->bytes_, block_bytes(bytes));
    if (counting != nullptr || bytes == 0) return nowhere;
    bytes = rounded(bytes);
    Cache& kept = cache();
    {
        const std::lock_guard<std::mutex> lock(kept.mutex);
        for (int i = kept.count; i-- > 0;)
            if (kept.blocks[i]->bytes == bytes) return kept.take(i) + 1;
    }
    const std::size_t aligned = block_bytes(bytes), alignment = alignment_of(bytes + sizeof(Header));
    void* memory = ::operator new(aligned, std::align_val_t(alignment));
    if (alignment == kHugePage) use_huge_pages(memory, aligned);  // fewer page faults
    auto* block = static_cast<Header*>(memory);
    block->bytes = bytes;
    return block + 1;
}

void release_memory(void* memory) noexcept {
    if (memory == nowhere) return;
    Header* block = static_cast<Header*>(memory) - 1;
    if (block->bytes > kCachedBytes) return free_block(block);
    Cache& kept = cache();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    while (kept.count == Cache::kMostBlocks || kept.bytes + block->bytes > kCachedBytes) free_block(kept.take(0));
    kept.blocks[kept.count++] = block;
    kept.bytes += block->bytes;
}

std::size_t release_cached_memory() noexcept {
    Cache& kept = cache();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    const std::size_t bytes = kept.bytes;
    while (kept.count > 0) free_block(kept.take(kept.count - 1));
    return bytes;
}

}  // namespace pybptt
