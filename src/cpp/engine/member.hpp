// One of the threads that work on a call together.
#pragma once

#include "runtime/threads.hpp"

namespace pybptt {

struct Member {
    int index, team;  // which one, of how many that are at work; the others have nothing to do for a while (progress.hpp)
    Barrier& barrier;

    void wait() const {
        if (team > 1) barrier.wait();
    }
    /// After a step.
    void meet() const {
        if (team > 1) barrier.wait(Bell::kSpins);
    }
    /// Its share of `count` things, in whole grains.
    Range share(std::size_t count, std::size_t grain) const { return pybptt::share(count, grain, index, team); }
};

/// work(member) on every thread of a team.
template <class Work>
void run_team(Team& team, Work work) {
    team.run([&](int index) {
        Member member{index, team.size(), team.barrier()};
        work(member);
    });
}

}  // namespace pybptt
