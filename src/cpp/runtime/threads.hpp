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

/// What threads wait at for one another: they spin, because a step of a small network takes a few microseconds, then sleep, because
/// whoever they wait for may have lost its core to another process, or may want theirs.
class Bell {
public:
    Bell();
    /// Until `ready`, which takes sequentially consistent loads. Throws std::runtime_error in a child of fork(), where nobody
    /// comes.
    template <class Ready>
    void wait(Ready ready) {
        for (int spins = 0; spins < kSpins; ++spins) {
            if (ready()) return;
            pause();
        }
        expect_company();
        sleepers_.fetch_add(1);
        for (unsigned rings = rings_.load(); !ready(); rings = rings_.load()) sleep(rings);
        sleepers_.fetch_sub(1);
    }
    /// After an exchange that made something ready: either this sees the sleeper, or the sleeper what was changed. An exchange,
    /// because a store may be seen after the load that follows it under emulation (qemu's of aarch64), whatever its order.
    void ring() {
        if (sleepers_.load() != 0) wake();
    }

private:
    static constexpr int kSpins = 4000;

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
    void expect_company() const;
    void sleep(unsigned rings);  // while there have been so many
    void wake();

    const unsigned forks_;  // when it was made
    std::atomic<int> sleepers_{0};
    std::atomic<unsigned> rings_{0};
};

/// Holds the members of a team until all have come.
class Barrier {
public:
    explicit Barrier(int size) : size_(size) {}
    /// Throws Broken if a member will not come any more.
    void wait();
    void break_up();

    struct Broken {};

private:
    const int size_;
    std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> round_{0};
    std::atomic<bool> broken_{false};
    Bell bell_;
};

/// Threads for one call. A team may come out smaller than wished: of size 1 when the pool is already at work for another
/// caller, or for this one (nested). All members run at the same time, so they may use the barrier.
class Team {
public:
    explicit Team(int wanted) : pool_(claim(wanted - 1)), barrier_(size()) {}
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return 1 + pool_.workers; }
    Barrier& barrier() { return barrier_; }
    /// work(0) .. work(size - 1), each on a thread of its own (0 on the caller's), in the caller's floating-point mode but with
    /// denormals flushed; returns when all have ended. What one of them throws ends the others at their next barrier, and the
    /// team, and is thrown here.
    void run(const std::function<void(int member)>& work);

private:
    struct Claim {
        class Pool* owner;
        int workers;
    };
    static Claim claim(int workers);

    const Claim pool_;
    Barrier barrier_;
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
