// A small pool of threads: started on first use, asleep between calls, not inherited across fork().
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "pybptt/machine.hpp"

namespace pybptt {

/// While it lives, calls of this thread are a PyTorch program's: they may use `most` threads (torch.get_num_threads()), whatever
/// num_threads() was, and these are PyTorch's own where they can be (runtime/openmp.hpp). std::invalid_argument as above.
class TorchThreads {
public:
    explicit TorchThreads(int most);
    ~TorchThreads();
    TorchThreads(const TorchThreads&) = delete;
    TorchThreads& operator=(const TorchThreads&) = delete;

private:
    const int before_;
};

/// Seconds since some moment.
double now();

/// What threads wait at for one another: they spin for a while, because a step of a small network takes a few microseconds, then
/// sleep, because whoever they wait for may have lost its core to another process, or may want theirs.
class Bell {
public:
    // Some 40 microseconds: what it may cost to sleep and be woken. Who spins for longer has used up its time when the one that it
    // waits for comes back; but where not much is to be waited for, nothing is lost by it.
    static constexpr int kSpins = 800, kManySpins = 4000;

    Bell() : forks_(forks()) {}
    /// Until `ready`, which takes sequentially consistent loads; the seconds that it slept. Throws std::runtime_error in a child of
    /// fork(), where nobody comes.
    template <class Ready>
    double wait(Ready ready, int most = kManySpins) {
        for (int spins = 0; spins < most; ++spins) {
            if (ready()) return 0;
            pause();
        }
        expect_company();
        const double start = now();
        sleepers_.fetch_add(1);
        for (unsigned rings = rings_.load(); !ready(); rings = rings_.load()) sleep(rings);
        sleepers_.fetch_sub(1);
        return now() - start;
    }
    /// After an exchange that made something ready: either this sees the sleeper, or the sleeper what was changed. An exchange,
    /// because a store may be seen after the load that follows it under emulation (qemu's of aarch64), whatever its order.
    void ring() {
        if (sleepers_.load() != 0) wake();
    }

private:
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

    static unsigned forks();  // that led to this process

    const unsigned forks_;
    std::atomic<int> sleepers_{0};
    std::atomic<unsigned> rings_{0};
};

/// Holds the members of a team until all have come.
class Barrier {
public:
    explicit Barrier(int size = 0) : size_(size) {}
    /// Throws Broken if a member will not come any more. Whoever throws it ends the team's work.
    ///   counted  whether sleep here is a loss
    void wait(int spins = Bell::kManySpins, bool counted = true) { wait_for(size_, spins, counted); }
    /// For so many, who are the same until all members of the team have met elsewhere.
    void wait_for(int size, int spins, bool counted = true);
    void break_up();
    /// Until `ready` (a Bell's), for which is rung here; throws Broken as above.
    template <class Ready>
    void wait_until(Ready ready) {
        bell_.wait([&] { return ready() || broken_.load(); });
        if (broken_.load()) throw Broken{};
    }
    void ring() { bell_.ring(); }
    /// Of all members so far, in seconds, where it counts.
    double asleep() const { return 1e-9 * double(asleep_.load()); }

    struct Broken {};

private:
    const int size_;
    std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> round_{0};
    std::atomic<bool> broken_{false};
    std::atomic<std::int64_t> asleep_{0};
    Bell bell_;
};

/// Members that meet at every step all wait for one that has lost its core to another process: then one of them alone is faster.
/// This is what teams know of each other's losses.
class Crowd {
public:
    /// Whether short work should not be divided into parts that meet at every step.
    static bool here();
    /// After `seconds` of such work, of which a member was asleep for `lost`: for how long it should not be divided. 0 if
    /// all is well.
    static double pause(double seconds, double lost);
    /// For tests: what `pause` says, whatever was lost; there is no crowd here. Below 0: as it finds.
    static void pretend(double pause);
};

/// Threads of this process, beside the caller and its team, that are running: what a library (OpenBLAS) leaves spinning for some
/// milliseconds after a product takes a core as any work does.
class Neighbours {
public:
    /// How many there are; 0 in a scope of TorchThreads, where they are the team. Looks only if any have run since this thread's
    /// last team ended.
    static int running();
    /// Of `wanted` threads, those that find a core of their own, if that leaves half of them: fewer are slower than sharing is.
    static int team_beside(int running, int wanted, int cores);

private:
    friend class Team;
    static void left_alone(int workers);  // from here on others than these run
};

/// Threads for one call. A team may come out smaller than wished: of size 1 when the pool is already at work for another
/// caller, or for this one (nested). All members run at the same time, so they may use the barrier.
class Team {
public:
    explicit Team(int wanted)
        : groups_(wanted < 4 ? nullptr : new Barrier[std::size_t(wanted) / 2]), pool_(claim(wanted - 1)), barrier_(size()) {}
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return 1 + pool_.workers; }
    Barrier& barrier() { return barrier_; }
    /// Of one of the groups of two or more that a team of four or more may be divided into (engine/division.hpp).
    Barrier& barrier_of(int group) { return groups_[std::size_t(group)]; }
    /// Of all members at all barriers.
    double asleep() const;
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

    int most_groups() const { return groups_ == nullptr ? 0 : size() / 2; }

    const std::unique_ptr<Barrier[]> groups_;
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

/// One of the threads that work on a call together.
struct Member {
    int index, team;  // which one, of how many that are at work; the others have nothing to do for a while (progress.hpp)
    Team& all;

    void wait() const {
        if (team > 1) all.barrier().wait();
    }
    /// After a step, with those of its group: so many members in a row.
    void meet(int group) const {
        if (group > 1) (group == team ? all.barrier() : all.barrier_of(index / group)).wait_for(group, Bell::kSpins);
    }
    /// Its share of `count` things, in whole grains.
    Range share(std::size_t count, std::size_t grain) const { return pybptt::share(count, grain, index, team); }
};

/// Things that each one member does, whoever is free: first those of its share, so that what they lie in stays in its cache, then
/// what is left of the others'.
class Claims {
public:
    explicit Claims(int team) : shares_(team > 1 ? new Share[std::size_t(team)] : nullptr) {}

    /// visit(i) for `count` things in all, called by every member. Between two turns, whose numbers rise from 1, all members meet.
    template <class Visit>
    void visit_each(std::uint32_t turn, std::size_t count, const Member& member, Visit visit) const {
        for (std::size_t i = 0; shares_ == nullptr && i < count; ++i) visit(i);
        for (int k = 0; shares_ != nullptr && member.index < member.team && k < member.team; ++k) {
            const int whose = (member.index + k) % member.team;
            const Range range = share(count, 1, whose, member.team);
            for (std::size_t i; (i = shares_[std::size_t(whose)].take(turn)) < range.size();) visit(range.begin + i);
        }
    }

private:
    struct alignas(64) Share {
        std::atomic<std::uint64_t> taken{0};  // turn, and how many in it

        std::size_t take(std::uint32_t turn) {
            std::uint64_t now = taken.load(std::memory_order_relaxed), first = std::uint64_t{turn} << 32, next;
            do next = std::max(now, first);
            while (!taken.compare_exchange_weak(now, next + 1, std::memory_order_relaxed));
            return std::size_t(next - first);
        }
    };

    const std::unique_ptr<Share[]> shares_;
};

/// A member's way through work of many stages, which it hands over, between two of them, to one that has ended its own.
class Relay {
public:
    /// Before each stage, and after the last: whether this stage and all that follow are somebody else's.
    bool hand_over(std::size_t stage, bool end, const Member& owner) {
        if (given_.load(std::memory_order_relaxed) != kNotYet) return true;
        if (!end && !wanted_.load(std::memory_order_relaxed)) return false;
        given_.exchange(stage);
        owner.all.barrier().ring();
        return true;
    }
    /// The first stage that is now the caller's; `end` if there is none.
    std::size_t take_over(std::size_t end, const Member& member) {
        if (wanted_.exchange(true)) return end;
        member.all.barrier().wait_until([&] { return given_.load() != kNotYet; });
        return given_.load();
    }

private:
    static constexpr std::size_t kNotYet = std::size_t(-1);

    alignas(64) std::atomic<bool> wanted_{false};
    std::atomic<std::size_t> given_{kNotYet};
};

/// work(member) on every thread of a team.
template <class Work>
void run_team(Team& team, Work work) {
    team.run([&](int index) {
        Member member{index, team.size(), team};
        work(member);
    });
}

}  // namespace pybptt
