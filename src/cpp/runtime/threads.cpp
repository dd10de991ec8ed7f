#include "runtime/threads.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "runtime/float_mode.hpp"
#include "runtime/openmp.hpp"
#include "runtime/platform.hpp"
#include "runtime/pool.hpp"
#include "runtime/processors.hpp"

namespace pybptt {
namespace {

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

void check_threads(const char* name, int threads) {
    if (threads < 1 || threads > kMostThreads)
        throw std::invalid_argument(std::string(name) + ": expected a number of threads from 1 to " + std::to_string(kMostThreads) +
                                    ", got " + std::to_string(threads));
}

thread_local int torch_threads = 0;     // 0: this thread's calls are not from PyTorch
thread_local double others_before = 0;  // what other threads had run for when this one's last team ended
std::atomic<unsigned> forks_so_far{0};
std::atomic<double> crowded_until{0}, pretended_pause{-1};

}  // namespace

int num_threads() { return torch_threads != 0 ? torch_threads : thread_limit().load(); }

void set_num_threads(int threads) {
    check_threads("n", threads);
    thread_limit().store(threads);
}

TorchThreads::TorchThreads(int most) : before_(torch_threads) {
    check_threads("threads", most);
    torch_threads = most;
}

TorchThreads::~TorchThreads() { torch_threads = before_; }

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

unsigned Bell::forks() { return forks_so_far.load(std::memory_order_relaxed); }

void Bell::expect_company() const {
    if (forks_ != forks())
        throw std::runtime_error("a child of fork() can't end a call of its parent's: it has none of the threads at work on it");
}

void Bell::sleep(unsigned rings) { sleep_while(rings_, rings); }

void Bell::wake() {
    rings_.fetch_add(1);
    wake_all(rings_);
}

void Barrier::wait_for(int size, int spins, bool counted) {
    if (size == 1) return;
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
        arrived_.store(0, std::memory_order_relaxed);
        round_.exchange(round + 1);
        return bell_.ring();
    }
    const double asleep = bell_.wait([&] { return round_.load() != round || broken_.load(); }, spins);
    if (counted && asleep != 0) asleep_.fetch_add(std::int64_t(1e9 * asleep));
    if (broken_.load()) throw Broken{};
}

void Barrier::break_up() {
    broken_.exchange(true);
    bell_.ring();
}

bool Crowd::here() { return pretended_pause.load() < 0 && now() < crowded_until.load(std::memory_order_relaxed); }

double Crowd::pause(double seconds, double lost) {
    if (const double pretended = pretended_pause.load(); pretended >= 0) return pretended;
    constexpr double kLeast = 1e-3;  // less than the time for which a core is given away
    if (lost < std::max(kLeast, seconds / 4)) return 0;
    const double pause = std::min(10 * lost, 0.5);  // looking again costs a tenth of the time
    crowded_until.store(now() + pause, std::memory_order_relaxed);
    return pause;
}

void Crowd::pretend(double pause) { pretended_pause.store(pause); }

void Neighbours::left_alone(int workers) {
    constexpr double kSpin = 3e-4;  // a worker runs on for that long
    others_before = seconds_of_others() + workers * kSpin;
}

int Neighbours::running() { return torch_threads != 0 || seconds_of_others() < others_before ? 0 : others_running(); }

int Neighbours::team_beside(int running, int wanted, int cores) {
    const int free = cores - running;
    return running == 0 || 2 * free < wanted ? wanted : std::min(wanted, free);
}

namespace {

/// A thread of the core's own.
class Thread {
public:
    Thread(Worker& worker, int member, Bell& done)
        : worker_(worker), thread_([&worker, member, &done] { worker.loop(member, done); }) {}
    ~Thread() {
        worker_.dismiss();
        thread_.join();
    }

private:
    Worker& worker_;
    std::thread thread_;
};

/// All of them, for one caller at a time.
class OwnPool final : public Pool {
public:
    /// Whether the caller now has it for itself.
    bool try_claim() { return !claimed_.exchange(true, std::memory_order_acquire); }
    /// The workers that the caller now has for itself, at most `wanted`; 0 if another caller has them.
    int claim(int wanted) {
        if (!try_claim()) return 0;
        try {
            while (int(threads_.size()) < wanted) {
                if (workers_.size() == threads_.size()) workers_.emplace_back();
                threads_.emplace_back(workers_.back(), int(workers_.size()), done_);
            }
        } catch (const std::system_error&) {  // no more threads to be had: do with those there are
        } catch (const std::bad_alloc&) {
        }
        const int workers = std::min(wanted, int(threads_.size()));
        if (workers == 0) release();
        return workers;
    }
    void release() override { claimed_.store(false, std::memory_order_release); }

private:
    std::atomic<bool> claimed_{false};
    std::deque<Thread> threads_;
};

std::mutex pool_mutex;
OwnPool* the_pool = nullptr;  // deleted at exit; a child of fork() drops it, because the workers stayed with the parent

}  // namespace

/// Of the core's own: a pool is claimed under the lock under which it is deleted.
Team::Claim Team::claim(int workers) {
    if (workers <= 0) return {nullptr, 0};
    static const bool registered = [] {
        at_fork([] { pool_mutex.lock(); }, [] { pool_mutex.unlock(); },
                [] {
                    forks_so_far.fetch_add(1);
                    the_pool = nullptr;
                    pool_mutex.unlock();
                });
        return true;
    }();
    (void)registered;
    if (torch_threads != 0)
        if (OpenMPRegion* const region = OpenMPRegion::begin(workers, torch_threads)) {
            if (region->workers() != 0) return {region, region->workers()};
            region->release();
            return {nullptr, 0};
        }
    const std::lock_guard<std::mutex> lock(pool_mutex);
    if (the_pool == nullptr) the_pool = new OwnPool;
    return {the_pool, the_pool->claim(workers)};
}

namespace {

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

Team::~Team() {
    if (size() == 1) return;
    pool_.owner->release();
    Neighbours::left_alone(size() - 1);
}

double Team::asleep() const {
    double sum = barrier_.asleep();
    for (int group = 0; group < most_groups(); ++group) sum += groups_[std::size_t(group)].asleep();
    return sum;
}

void Team::run(const std::function<void(int)>& work) {
    const FlushDenormals flush;
    const FloatMode mode = FloatMode::now();
    std::atomic<bool> failed{false};
    std::exception_ptr thrown;
    const auto guarded = [&](int member) {
        mode.set();
        try {
            return work(member);
        } catch (const Barrier::Broken&) {
        } catch (...) {
            if (!failed.exchange(true)) thrown = std::current_exception();
        }
        barrier_.break_up();
        for (int group = 0; group < most_groups(); ++group) groups_[std::size_t(group)].break_up();
    };
    if (size() == 1)
        guarded(0);
    else
        pool_.owner->run(size() - 1, guarded);
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace pybptt
