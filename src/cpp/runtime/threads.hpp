// A small pool of threads: started on first use, asleep between calls, not inherited across fork().
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

namespace pybptt {

constexpr int kMostThreads = 1024;

/// The most threads one call may use. The default is the environment variable PYBPTT_NUM_THREADS, else OMP_NUM_THREADS, else
/// the cores that this process may use (runtime/processors.hpp). Throws std::invalid_argument for a PYBPTT_NUM_THREADS that is no
/// positive number.
int num_threads();
/// 1 to kMostThreads, or std::invalid_argument.
void set_num_threads(int threads);

/// Waits until all `size` members of a team have come. Spins: a step of a small network takes a few microseconds.
class Barrier {
public:
    explicit Barrier(int size) : size_(size) {}
    void wait();

private:
    const int size_;
    std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> round_{0};
};

/// Threads for one call. A team may come out smaller than wished: of size 1 when the pool is already at work for another
/// caller, or for this one (nested). All members run at the same time, so they may use barriers.
class Team {
public:
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }
    /// work(0) .. work(size - 1), each on a thread of its own (0 on the caller's), denormals flushed; returns when all have ended.
    /// `work` must not throw.
    void run(const std::function<void(int member)>& work);

private:
    class Pool* pool_ = nullptr;
    int size_ = 1;
};

/// [begin, end) of `count` things, cut into `parts` runs of whole `grain`s: the share of one of them.
struct Range {
    std::size_t begin, end;
    std::size_t size() const { return end - begin; }
};
inline Range share(std::size_t count, std::size_t grain, int part, int parts) {
    const std::size_t grains = (count + grain - 1) / grain;
    const std::size_t begin = grains * std::size_t(part) / std::size_t(parts) * grain;
    const std::size_t end = grains * std::size_t(part + 1) / std::size_t(parts) * grain;
    return {begin < count ? begin : count, end < count ? end : count};
}

}  // namespace pybptt
