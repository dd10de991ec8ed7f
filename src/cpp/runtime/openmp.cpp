#include "runtime/openmp.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "runtime/float_mode.hpp"

namespace pybptt {

/// The entry points of a runtime. Of GOMP_parallel only its two halves allow what must be possible between them: to know the number
/// of threads before work is divided, and not to end a region in a child of fork() that has none of its threads.
struct OpenMP {
    void (*begin)(void (*work)(void*), void* data, unsigned threads) = nullptr;
    void (*end)() = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    int (*in_parallel)() = nullptr;

    /// The one that PyTorch's library calls, whatever its name: what is global in the process (LD_PRELOAD), else what the library
    /// is linked to. Nothing is loaded for it.
    static OpenMP find() {
        for (void* where : {RTLD_DEFAULT, dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD)}) {
            OpenMP found;
            if (read(where, "GOMP_parallel_start", found.begin) && read(where, "GOMP_parallel_end", found.end) &&
                read(where, "omp_get_thread_num", found.thread_num) && read(where, "omp_get_num_threads", found.num_threads) &&
                read(where, "omp_in_parallel", found.in_parallel))
                return found;
        }
        return {};
    }

private:
    template <class Function>
    static bool read(void* where, const char* name, Function*& function) {
        function = reinterpret_cast<Function*>(dlsym(where, name));
        return function != nullptr;
    }
};

namespace {

/// Whether this process began as a child of fork() and not with a program of its own: PF_FORKNOEXEC among its flags.
bool began_as_child() {
    unsigned flags = 0;
    if (std::FILE* const file = std::fopen("/proc/self/stat", "r")) {
        // pid (name) state ppid pgrp session tty_nr tpgid flags; Python's name has no parenthesis
        if (std::fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %u", &flags) != 1) flags = 0;
        std::fclose(file);
    }
    constexpr unsigned kForkNoExec = 0x40;
    return (flags & kForkNoExec) != 0;
}

const pid_t program = began_as_child() ? 0 : getpid();  // that loaded the core

}  // namespace

OpenMPRegion* OpenMPRegion::begin(int wanted, int threads) {
    static const OpenMP runtime = OpenMP::find();
    if (runtime.begin == nullptr || getpid() != program) return nullptr;
    return new OpenMPRegion(runtime, wanted, threads);
}

OpenMPRegion::OpenMPRegion(const OpenMP& runtime, int wanted, int threads) : runtime_(runtime), wanted_(wanted) {
    if (runtime.in_parallel() != 0) return;
    workers_.resize(std::size_t(wanted));
    runtime.begin(work, this, unsigned(threads));
    begun_ = true;
    given_ = std::min(wanted, runtime.num_threads() - 1);
}

void OpenMPRegion::release() {
    for (int i = 0; i < given_; ++i) workers_[std::size_t(i)].dismiss();
    if (begun_ && getpid() == program) runtime_.end();
    delete this;
}

void OpenMPRegion::work(void* given) {
    auto& region = *static_cast<OpenMPRegion*>(given);
    const int member = region.runtime_.thread_num();
    if (member > region.wanted_) return;
    const FloatMode theirs = FloatMode::now();
    region.workers_[std::size_t(member - 1)].loop(member, region.done_);
    theirs.set();
}

}  // namespace pybptt
