// Where the threads of a team come from: the core's own (threads.cpp), or an OpenMP runtime's (openmp.hpp).
#pragma once

#include <atomic>
#include <deque>

#include "runtime/threads.hpp"

namespace pybptt {

using Work = std::function<void(int member)>;

/// What one thread is given to do; nothing is a null pointer.
class Worker {
public:
    void give(const Work* work) {
        work_.exchange(work);
        bell_.ring();
    }
    /// Ends its loop.
    void dismiss() { give(&kNoMore); }
    bool done() const { return work_.load() == nullptr; }
    /// On its thread: does what it is given.
    void loop(int member, Bell& done) {
        while (true) {
            const Work* work = nullptr;
            bell_.wait([&] { return (work = work_.load()) != nullptr; });
            if (work == &kNoMore) return;
            (*work)(member);
            work_.exchange(nullptr);
            done.ring();
        }
    }

private:
    inline static const Work kNoMore;

    std::atomic<const Work*> work_{nullptr};
    Bell bell_;
};

/// Workers, of whom a team has some for itself until it releases them.
class Pool {
public:
    Pool() = default;
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    virtual ~Pool() = default;

    virtual void release() = 0;
    /// work(0), .., work(workers) at the same time; it must not throw.
    void run(int workers, const Work& work) {
        for (int i = 0; i < workers; ++i) workers_[std::size_t(i)].give(&work);
        work(0);
        for (int i = 0; i < workers; ++i) done_.wait([&] { return workers_[std::size_t(i)].done(); });
    }

protected:
    Bell done_;
    std::deque<Worker> workers_;  // member i + 1 of the team
};

}  // namespace pybptt
