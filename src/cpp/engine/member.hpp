// One of the threads that work on a call together.
#pragma once

#include "runtime/threads.hpp"

namespace pybptt {

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

/// work(member) on every thread of a team.
template <class Work>
void run_team(Team& team, Work work) {
    team.run([&](int index) {
        Member member{index, team.size(), team};
        work(member);
    });
}

}  // namespace pybptt
