// Denormal numbers make arithmetic 10 to 60 times slower and carry no gradient worth having: they are taken as zero
// while the core works, and the caller's floating-point mode comes back afterwards.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pybptt {

class FlushDenormals {
public:
#if defined(__x86_64__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kDenormalsAreZero); }
    ~FlushDenormals() { _mm_setcsr((_mm_getcsr() & ~kBoth) | (saved_ & kBoth)); }

private:
    static constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040, kBoth = kFlushToZero | kDenormalsAreZero;
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(saved_ | (std::uint64_t{1} << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

private:
    std::uint64_t saved_;
#else
    FlushDenormals() {}
#endif
public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

/// A thread's floating-point mode, to go back to for a while: a caller's own code must not find the core's.
class FloatMode {
public:
#if defined(__x86_64__)
    static FloatMode now() { return FloatMode{_mm_getcsr()}; }
    void set() const { _mm_setcsr(bits_); }

private:
    explicit FloatMode(unsigned bits) : bits_(bits) {}
    unsigned bits_;
#elif defined(__aarch64__)
    static FloatMode now() {
        std::uint64_t bits;
        asm volatile("mrs %0, fpcr" : "=r"(bits));
        return FloatMode{bits};
    }
    void set() const { asm volatile("msr fpcr, %0" ::"r"(bits_)); }

private:
    explicit FloatMode(std::uint64_t bits) : bits_(bits) {}
    std::uint64_t bits_;
#else
    static FloatMode now() { return {}; }
    void set() const {}
#endif
};

}  // namespace pybptt
