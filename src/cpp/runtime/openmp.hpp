// Teams for calls from a PyTorch program, on the threads that PyTorch has.
//
// PyTorch's idle threads spin for a while after each of its operators, on the cores that ours would run on, and ours on theirs. So
// such a call's team is a parallel region of the OpenMP runtime that PyTorch is linked to: libgomp, libomp or libiomp5, which all
// have libgomp's entry points. Only calls that ask for it have such a team (TorchThreads): what else the process does with OpenMP
// is none of our business.
#pragma once

#include "runtime/pool.hpp"

namespace pybptt {

struct OpenMP;

/// A team that is a parallel region from its claim to its release.
///
/// The region has as many threads as the runtime gives, at most those asked for (fewer with OMP_THREAD_LIMIT, OMP_DYNAMIC), and the
/// call is divided among these. Within a parallel region, whoever's, there are none but the caller's. Callers at the same time each
/// have their own, as PyTorch's operators do.
class OpenMPRegion final : public Pool {
public:
    /// Null if a team of the core's own is to be used: without a runtime, and in a child of fork(), where the runtime waits for
    /// threads that stayed with the parent.
    ///   wanted   workers besides the caller
    ///   threads  of the region. PyTorch's own number, because libgomp ends threads that a region does not want, and makes
    ///            new ones for the next
    static OpenMPRegion* begin(int wanted, int threads);

    int workers() const { return given_; }
    void release() override;

private:
    OpenMPRegion(const OpenMP& runtime, int wanted, int threads);
    static void work(void* region);

    const OpenMP& runtime_;
    const int wanted_;
    int given_ = 0;
    bool begun_ = false;
};

}  // namespace pybptt
