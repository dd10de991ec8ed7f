#include "runtime/openmp.hpp"

#include <algorithm>

#include "runtime/float_mode.hpp"
#include "runtime/platform.hpp"
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

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
        for (void* where : {all_libraries(), loaded_library("torch_cpu")}) {
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
        function = reinterpret_cast<Function*>(symbol(where, name));
        return function != nullptr;
    }
};

namespace {

// A region begins after what came before it, and ends before what comes after. ThreadSanitizer must be told: it doesn't see into a
// runtime.
void leave_to_others([[maybe_unused]] void* region) {
#ifdef __SANITIZE_THREAD__
    __tsan_release(region);
#endif
}
void take_from_others([[maybe_unused]] void* region) {
#ifdef __SANITIZE_THREAD__
    __tsan_acquire(region);
#endif
}

const int program = began_as_child_of_fork() ? 0 : process_id();  // that loaded the core

}  // namespace

OpenMPRegion* OpenMPRegion::begin(int wanted, int threads) {
    static const OpenMP runtime = OpenMP::find();
    if (runtime.begin == nullptr || process_id() != program) return nullptr;
    return new OpenMPRegion(runtime, wanted, threads);
}

OpenMPRegion::OpenMPRegion(const OpenMP& runtime, int wanted, int threads) : runtime_(runtime), wanted_(wanted) {
    if (runtime.in_parallel() != 0) return;
    workers_.resize(std::size_t(wanted));
    leave_to_others(this);
    runtime.begin(work, this, unsigned(threads));
    begun_ = true;
    given_ = std::min(wanted, runtime.num_threads() - 1);
}

void OpenMPRegion::release() {
    for (int i = 0; i < given_; ++i) workers_[std::size_t(i)].dismiss();
    if (begun_ && process_id() == program) runtime_.end();
    take_from_others(this);
    delete this;
}

void OpenMPRegion::work(void* given) {
    take_from_others(given);
    auto& region = *static_cast<OpenMPRegion*>(given);
    const int member = region.runtime_.thread_num();
    if (member <= region.wanted_) {
        const FloatMode theirs = FloatMode::now();
        region.workers_[std::size_t(member - 1)].loop(member, region.done_);
        theirs.set();
    }
    leave_to_others(given);
}

}  // namespace pybptt
