// How far a call has come, told to whoever asked; and the end of the call, if that is the answer.
#pragma once

#include <atomic>

#include "engine/member.hpp"
#include "pybptt/rnn.hpp"

namespace pybptt {

/// What the members of a team share.
class Progress {
public:
    Progress(Report report, std::size_t total) : report_(std::move(report)), total_(total) {}

private:
    friend class Steps;
    const Report report_;
    const std::size_t total_;
    std::atomic<std::size_t> last_{std::size_t(-1)};  // the step after which all members stop
};

/// One member's way through the steps of a call, which are the same for all.
class Steps {
public:
    Steps(Progress& progress, const Member& member) : progress_(progress), member_(member) {}

    /// After each step: whether to go on. Every member gets the same answer: a later one has a later step in it.
    bool next() {
        if (!progress_.report_) return true;
        ++done_;
        if (member_.index == 0 && !progress_.report_(done_, progress_.total_)) progress_.last_.store(done_);
        member_.wait();
        return done_ < progress_.last_.load();
    }

private:
    Progress& progress_;
    const Member& member_;
    std::size_t done_ = 0;
};

}  // namespace pybptt
