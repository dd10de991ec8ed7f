// One of the threads that work on a call together.
#pragma once

#include "runtime/threads.hpp"

namespace pybptt {

struct Member {
    int index, team;  // which one, of how many
    Barrier& barrier;

    void wait() const { barrier.wait(); }
    /// Its share of `count` things, in whole grains.
    Range share(std::size_t count, std::size_t grain) const { return pybptt::share(count, grain, index, team); }
};

/// work(member) on every thread of a team.
template <class Work>
void run_team(Team& team, Work work) {
    team.run([&](int index) { work(Member{index, team.size(), team.barrier()}); });
}

}  // namespace pybptt
