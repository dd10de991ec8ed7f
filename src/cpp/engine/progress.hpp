// How far a call has come: told to whoever asked, who may end it; and whether all of its team should go on.
//
// Where members meet at every step of the recurrence and one of them loses its core, the others wait for it at every step. Then the
// first member goes on alone for some chunks, which changes no bits, and the others go through the motions: their shares of
// everything are empty.
#pragma once

#include <atomic>
#include <cmath>
#include <utility>

#include "pybptt/rnn.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// What the members of a team share.
class Progress {
public:
    ///   meets  whether members meet at every step of the recurrence
    Progress(Report report, std::size_t total, bool meets) : report_(std::move(report)), total_(total), meets_(meets) {}

private:
    friend class Steps;
    struct Plan {
        int team;
        std::size_t until;  // the step after which all come together
    };

    const Report report_;
    const std::size_t total_;
    const bool meets_;
    Plan plans_[2] = {};  // in turns: a member may read the last one while the first makes the next
    double since_ = meets_ ? now() : 0, asleep_ = 0;
};

/// One member's way through the steps of a call, which are the same for all.
class Steps {
public:
    Steps(Progress& progress, Member& member) : progress_(progress), member_(member), size_(member.team) {}

    /// Whether somebody is told by this member how far the call is: by its own steps.
    bool reports() const { return member_.index == 0 && progress_.report_; }
    /// After each step.
    void next() {
        ++done_;
        if (reports() && !progress_.report_(done_, progress_.total_)) throw Barrier::Broken{};
        if (!progress_.meets_ || done_ < plan_.until) return;
        Progress::Plan& plan = progress_.plans_[meetings_++ % 2];
        if (member_.index == 0) plan = next_plan();
        member_.all.barrier().wait(Bell::kManySpins, member_.team > 1);  // those who were away may sleep until then
        plan_ = plan;
        member_.team = plan.team;
    }

private:
    Progress::Plan next_plan() {
        const double before = std::exchange(progress_.since_, now()), seconds = progress_.since_ - before;
        const double asleep = member_.all.asleep();
        const double lost = (asleep - std::exchange(progress_.asleep_, asleep)) / (size_ - 1);
        const double pause = member_.team > 1 ? Crowd::pause(seconds, lost) : 0;
        if (pause == 0) return {size_, done_ + 1};
        const double alone = std::max(1e-5, (seconds - lost) * size_);  // what a step may take
        return {1, done_ + 1 + std::size_t(std::ceil(pause / alone))};
    }

    Progress& progress_;
    Member& member_;
    const int size_;
    std::size_t done_ = 0, meetings_ = 0;
    Progress::Plan plan_{};
};

}  // namespace pybptt
