#include "runtime/platform.hpp"

#if defined(__linux__)
#include <dirent.h>
#include <linux/futex.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#else
#error "runtime/platform.cpp does not know this operating system"
#endif
#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace pybptt {

static_assert(sizeof(std::atomic<unsigned>) == sizeof(unsigned) && std::atomic<unsigned>::is_always_lock_free);

#if !defined(_WIN32)

void sleep_forever() noexcept {
    while (true) pause();
}

void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) { pthread_atfork(before, in_parent, in_child); }
int process_id() { return int(getpid()); }

void* all_libraries() { return RTLD_DEFAULT; }
void* symbol(void* library, const char* name) { return dlsym(library, name); }

#endif

#if defined(__linux__)

void use_huge_pages(void* block, std::size_t bytes) noexcept { madvise(block, bytes, MADV_HUGEPAGE); }

void trim_malloc() noexcept {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void sleep_while(std::atomic<unsigned>& word, unsigned value) noexcept {
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake_all(std::atomic<unsigned>& word) noexcept { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }

/// The kernel wants a mask as large as its own.
std::vector<int> allowed_processors() {
    std::vector<int> allowed;
    for (int most = CPU_SETSIZE; most <= 1 << 17 && allowed.empty(); most *= 2) {
        cpu_set_t* mask = CPU_ALLOC(std::size_t(most));
        const std::size_t bytes = CPU_ALLOC_SIZE(std::size_t(most));
        if (mask != nullptr && sched_getaffinity(0, bytes, mask) == 0)
            for (int processor = 0; processor < most; ++processor)
                if (CPU_ISSET_S(std::size_t(processor), bytes, mask)) allowed.push_back(processor);
        CPU_FREE(mask);
    }
    return allowed;
}

int allowed_cores() { return 0; }

namespace {

double seconds_of(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

}  // namespace

double seconds_of_others() { return seconds_of(CLOCK_PROCESS_CPUTIME_ID) - seconds_of(CLOCK_THREAD_CPUTIME_ID); }

/// The process's clock is behind while they run, by a tick; their own are not.
int others_running() {
    constexpr double kLook = 2e-5;
    constexpr std::size_t kMany = 64;  // to look at more would take longer than it is worth
    const pid_t own = pid_t(syscall(SYS_gettid));
    std::vector<std::pair<clockid_t, double>> clocks;
    if (DIR* const threads = opendir("/proc/self/task")) {
        while (const dirent* const entry = readdir(threads)) {
            const pid_t thread = pid_t(std::atoi(entry->d_name));
            if (thread == 0 || thread == own || clocks.size() > kMany) continue;
            const clockid_t clock = clockid_t(~unsigned(thread) << 3 | 6);  // what pthread_getcpuclockid makes of a thread
            clocks.emplace_back(clock, seconds_of(clock));
        }
        closedir(threads);
    }
    if (clocks.size() > kMany) return 0;
    for (const double start = seconds_of(CLOCK_MONOTONIC); seconds_of(CLOCK_MONOTONIC) < start + kLook;);
    return int(std::count_if(clocks.begin(), clocks.end(),
                             [](const auto& clock) { return seconds_of(clock.first) > clock.second + kLook / 2; }));
}

Caches system_caches() {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const auto ask = [](int name) { return std::size_t(std::max(0L, sysconf(name))); };
    return {ask(_SC_LEVEL1_DCACHE_SIZE), ask(_SC_LEVEL2_CACHE_SIZE), ask(_SC_LEVEL3_CACHE_SIZE)};
#else
    return {0, 0, 0};
#endif
}

bool began_as_child_of_fork() {
    unsigned flags = 0;
    if (std::FILE* const file = std::fopen("/proc/self/stat", "r")) {
        // pid (name) state ppid pgrp session tty_nr tpgid flags; Python's name has no parenthesis
        if (std::fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %u", &flags) != 1) flags = 0;
        std::fclose(file);
    }
    constexpr unsigned kForkNoExec = 0x40;
    return (flags & kForkNoExec) != 0;
}

void* loaded_library(const char* name) { return dlopen(("lib" + std::string(name) + ".so").c_str(), RTLD_LAZY | RTLD_NOLOAD); }

#elif defined(__APPLE__)

// What os_sync_wait_on_address, of macOS 14.4 and later, is made of, and what libc++ has always waited with.
extern "C" int __ulock_wait(std::uint32_t operation, void* address, std::uint64_t value, std::uint32_t microseconds);
extern "C" int __ulock_wake(std::uint32_t operation, void* address, std::uint64_t value);
constexpr std::uint32_t kCompareAndWait = 1, kWakeAll = 0x100;

void use_huge_pages(void*, std::size_t) noexcept {}
void trim_malloc() noexcept {}

void sleep_while(std::atomic<unsigned>& word, unsigned value) noexcept { __ulock_wait(kCompareAndWait, &word, value, 0); }
void wake_all(std::atomic<unsigned>& word) noexcept { __ulock_wake(kCompareAndWait | kWakeAll, &word, 0); }

namespace {

std::size_t ask(const char* name) {
    std::uint64_t value = 0;
    std::size_t bytes = sizeof value;  // of a number of four bytes the rest stays zero
    return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 ? std::size_t(value) : 0;
}

/// Of the fast cores, where there are two kinds: the work is divided evenly.
std::size_t ask(const char* of_fast_cores, const char* of_all) {
    const std::size_t value = ask(of_fast_cores);
    return value != 0 ? value : ask(of_all);
}

}  // namespace

bool began_as_child_of_fork() { return false; }
void* loaded_library(const char* name) { return dlopen(("lib" + std::string(name) + ".dylib").c_str(), RTLD_LAZY | RTLD_NOLOAD); }

double seconds_of_others() { return 0; }
int others_running() { return 0; }

std::vector<int> allowed_processors() { return {}; }
int allowed_cores() { return int(ask("hw.perflevel0.physicalcpu", "hw.physicalcpu")); }

Caches system_caches() {
    const std::size_t sharing = std::max<std::size_t>(1, ask("hw.perflevel0.cpusperl2"));
    return {ask("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"), ask("hw.perflevel0.l2cachesize", "hw.l2cachesize") / sharing,
            ask("hw.l3cachesize")};
}

#else

void use_huge_pages(void*, std::size_t) noexcept {}  // they are a privilege there
void trim_malloc() noexcept {}

void sleep_while(std::atomic<unsigned>& word, unsigned value) noexcept { WaitOnAddress(&word, &value, sizeof value, INFINITE); }
void wake_all(std::atomic<unsigned>& word) noexcept { WakeByAddressAll(&word); }
void sleep_forever() noexcept {
    while (true) Sleep(INFINITE);
}
double seconds_of_others() { return 0; }
int others_running() { return 0; }

void at_fork(void (*)(), void (*)(), void (*)()) {}
bool began_as_child_of_fork() { return false; }
int process_id() { return int(GetCurrentProcessId()); }

void* all_libraries() { return nullptr; }
void* loaded_library(const char* name) { return GetModuleHandleA(name); }
void* symbol(void* library, const char* name) {
    return library == nullptr ? nullptr : reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

namespace {

DWORD_PTR affinity() {
    DWORD_PTR ours = 0, all = 0;
    return GetProcessAffinityMask(GetCurrentProcess(), &ours, &all) ? ours : 0;
}

/// Of the processors of this process's group, 64 at most.
std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> ask() {
    DWORD bytes = 0;
    GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> all(bytes / sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    if (all.empty() || !GetLogicalProcessorInformation(all.data(), &bytes)) all.clear();
    return all;
}

}  // namespace

std::vector<int> allowed_processors() {
    std::vector<int> allowed;
    const DWORD_PTR mask = affinity();
    for (int processor = 0; processor < 64; ++processor)
        if (mask >> processor & 1) allowed.push_back(processor);
    return allowed;
}

int allowed_cores() {
    int cores = 0;
    for (const auto& about : ask()) cores += about.Relationship == RelationProcessorCore && (about.ProcessorMask & affinity()) != 0;
    return cores;
}

Caches system_caches() {
    Caches found{0, 0, 0};
    const auto all = ask();
    for (const auto& cache : all) {
        if (cache.Relationship != RelationCache || cache.Cache.Type == CacheInstruction) continue;
        std::size_t sharing = 0;
        for (const auto& core : all)
            sharing += core.Relationship == RelationProcessorCore && (core.ProcessorMask & cache.ProcessorMask) != 0;
        const std::size_t share = cache.Cache.Size / std::max<std::size_t>(1, sharing);
        if (cache.Cache.Level == 1 && found.l1d == 0) found.l1d = share;
        if (cache.Cache.Level == 2 && found.l2 == 0) found.l2 = share;
        if (cache.Cache.Level == 3 && found.l3 == 0) found.l3 = cache.Cache.Size;
    }
    return found;
}

#endif

}  // namespace pybptt
