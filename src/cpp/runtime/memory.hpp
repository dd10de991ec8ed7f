// Aligned memory for tapes and workspaces. Freed blocks are kept for the next call (up to kCachedBytes in all): fresh pages
// cost more than the arithmetic of a small network.
#pragma once

#include <cstddef>
#include <limits>
#include <new>
#include <utility>

#include "pybptt/machine.hpp"

namespace pybptt {

constexpr std::size_t kCachedBytes = std::size_t{256} << 20;

/// At least `bytes` bytes at a 64-byte boundary, of no particular content. Throws std::bad_alloc.
void* acquire_memory(std::size_t bytes);
void release_memory(void* block) noexcept;

/// What acquire_memory takes from the system for that many bytes.
std::size_t block_bytes(std::size_t bytes);

/// While one of these lives on a thread, what that thread acquires is counted and not allocated: the same constructors that
/// allocate a call's memory tell what it takes. Nothing may be read from there or written to.
class CountMemory {
public:
    CountMemory();
    ~CountMemory();
    CountMemory(const CountMemory&) = delete;
    CountMemory& operator=(const CountMemory&) = delete;

    /// block_bytes of all that was acquired, given back or not: freed blocks are kept.
    std::size_t bytes() const { return bytes_; }
    /// Whether this thread's memory is counted.
    static bool active();

private:
    friend void* acquire_memory(std::size_t);
    std::size_t bytes_ = 0;
};

/// a * b, or std::bad_alloc if that is no size.
inline std::size_t checked_product(std::size_t a, std::size_t b) {
    std::size_t product;
    if (__builtin_mul_overflow(a, b, &product) || product > std::numeric_limits<std::size_t>::max() / 64) throw std::bad_alloc();
    return product;
}

/// An owned array of trivial values; not initialised.
template <class Value>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::size_t count)
        : data_(static_cast<Value*>(acquire_memory(checked_product(count, sizeof(Value))))), count_(count) {}
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
        return *this;
    }
    ~Buffer() {
        if (data_ != nullptr) release_memory(data_);
    }

    Value* data() const { return data_; }
    std::size_t size() const { return count_; }
    Value& operator[](std::size_t i) const { return data_[i]; }

private:
    Value* data_ = nullptr;
    std::size_t count_ = 0;
};

}  // namespace pybptt
