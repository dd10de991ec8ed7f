#include "runtime/threads.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/float_mode.hpp"
#include "runtime/processors.hpp"

namespace pybptt {
namespace {

// A waiting thread spins this long, then gives its core away at every look (a barrier) or sleeps (an idle worker).
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// The number that `text` is, up to `end`; 0 if it is none from 1 to kMostThreads.
int positive_number(const char* text, char end) {
    char* stopped = nullptr;
    const long value = std::strtol(text, &stopped, 10);
    return stopped != text && (*stopped == '\0' || *stopped == end) && value >= 1 && value <= kMostThreads ? int(value) : 0;
}

int default_threads() {
    if (const char* own = std::getenv("PYBPTT_NUM_THREADS"); own != nullptr && *own != '\0') {
        if (const int threads = positive_number(own, '\0')) return threads;
        throw std::invalid_argument("PYBPTT_NUM_THREADS: expected a number from 1 to " + std::to_string(kMostThreads) + ", got '" +
                                    own + "'");
    }
    if (const char* openmp = std::getenv("OMP_NUM_THREADS"); openmp != nullptr)
        if (const int threads = positive_number(openmp, ',')) return threads;
    return std::min(kMostThreads, processors().usable());
}

std::atomic<int>& thread_limit() {
    static std::atomic<int> limit{default_threads()};
    return limit;
}

}  // namespace

int num_threads() { return thread_limit().load(); }

void set_num_threads(int threads) {
    if (threads < 1 || threads > kMostThreads)
        throw std::invalid_argument("n: expected a number of threads from 1 to " + std::to_string(kMostThreads) + ", got " +
                                    std::to_string(threads));
    thread_limit().store(threads);
}

void Barrier::wait() {
    if (size_ == 1) return;
    const unsigned round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
        if (spins < kSpins)
            pause();
        else
            sched_yield();
    }
}

/// One thread and the work it was given; none is a null pointer.
class Worker {
public:
    explicit Worker(int member) : thread_([this, member] { loop(member); }) {}
    ~Worker() {
        give(&kQuit);
        thread_.join();
    }

    /// Either this sees the worker asleep, or the worker sees the work. Exchanges, because a store may be seen after the load that
    /// follows it under emulation (qemu's of aarch64), whatever its order; on x86 they are the same instructions.
    void give(const std::function<void(int)>* work) {
        work_.exchange(work);
        if (!asleep_.load()) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_one();
    }
    bool done() const { return work_.load(std::memory_order_acquire) == nullptr; }

private:
    void loop(int member) {
        const FlushDenormals flush;
        while (true) {
            const std::function<void(int)>* work = nullptr;
            for (int spins = 0; spins < kSpins && (work = work_.load(std::memory_order_acquire)) == nullptr; ++spins) pause();
            if (work == nullptr) {
                std::unique_lock<std::mutex> lock(mutex_);
                asleep_.exchange(true);
                wake_.wait(lock, [&] { return (work = work_.load()) != nullptr; });
                asleep_.store(false);
            }
            if (work == &kQuit) return;
            (*work)(member);
            work_.store(nullptr, std::memory_order_release);
        }
    }

    static const std::function<void(int)> kQuit;

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<bool> asleep_{false};
    std::atomic<const std::function<void(int)>*> work_{nullptr};
    std::thread thread_;  // last: it starts when all the rest is there
};
const std::function<void(int)> Worker::kQuit = [](int) {};

class Pool {
public:
    /// True if the caller now has the pool for itself.
    bool try_claim() { return !claimed_.exchange(true, std::memory_order_acquire); }
    void unclaim() { claimed_.store(false, std::memory_order_release); }

    /// Workers that can be had, at most `wanted`.
    int grow(int wanted) {
        try {
            while (int(workers_.size()) < wanted) workers_.push_back(std::make_unique<Worker>(int(workers_.size()) + 1));
        } catch (const std::system_error&) {  // no more threads to be had: do with those there are
        } catch (const std::bad_alloc&) {
        }
        return std::min(wanted, int(workers_.size()));
    }

    void run(int size, const std::function<void(int)>& work) {
        for (int i = 0; i + 1 < size; ++i) workers_[std::size_t(i)]->give(&work);
        work(0);
        for (int i = 0; i + 1 < size; ++i)
            for (int spins = 0; !workers_[std::size_t(i)]->done(); ++spins) {
                if (spins < kSpins)
                    pause();
                else
                    sched_yield();
            }
    }

private:
    std::atomic<bool> claimed_{false};
    std::vector<std::unique_ptr<Worker>> workers_;
};

namespace {

std::mutex pool_mutex;
Pool* the_pool = nullptr;  // deleted at exit; a child of fork() drops it, because the workers stayed with the parent

Pool& pool() {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    static const bool registered = [] {
        pthread_atfork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); },
                       [] {
                           the_pool = nullptr;
                           pool_mutex.unlock();
                       });
        return true;
    }();
    (void)registered;
    if (the_pool == nullptr) the_pool = new Pool;
    return *the_pool;
}

struct StopAtExit {
    ~StopAtExit() {
        const std::lock_guard<std::mutex> lock(pool_mutex);
        // A daemon thread of the caller's may still be at work: its pool is left alone.
        if (the_pool == nullptr || !the_pool->try_claim()) return;
        delete the_pool;
        the_pool = nullptr;
    }
} stop_at_exit;

}  // namespace

Team::Team(int wanted) {
    if (wanted <= 1) return;
    Pool& shared = pool();
    if (!shared.try_claim()) return;
    pool_ = &shared;
    size_ = 1 + shared.grow(wanted - 1);
}

Team::~Team() {
    if (pool_ != nullptr) pool_->unclaim();
}

void Team::run(const std::function<void(int)>& work) {
    const FlushDenormals flush;
    if (size_ == 1)
        work(0);
    else
        pool_->run(size_, work);
}

}  // namespace pybptt
