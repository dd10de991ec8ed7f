// What a child of fork() can do, and what its parent still can.
#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "large_networks.hpp"
#include "runtime/threads.hpp"

namespace pybptt::test {
namespace {

/// Runs `work` in a child of fork(); its exit code, or -1 if it died or hung.
template <class Work>
int in_child(Work work) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        int code = 99;
        try {
            code = work();
        } catch (...) {
        }
        _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

[[maybe_unused]] int threads_of_this_process() {
    int count = 0;
    DIR* tasks = opendir("/proc/self/task");
    while (const dirent* entry = readdir(tasks)) count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

TEST_SUITE_BEGIN("threads");

TEST_CASE("a child of fork has threads of its own, and the parent keeps its own") {
    const Threads some(kSanitized ? 4 : 7);
    std::vector<Network> networks = large_networks();
    if (kSanitized) networks.resize(3);
    for (const Network& n : networks) {
        CAPTURE(n.describe());
        const std::vector<Result> expected = all_results<float>(n);
        CHECK(in_child([&] { return difference_of_all<float>(expected, n).empty() ? 0 : 1; }) == 0);
        CHECK(difference_of_all<float>(expected, n) == "");
#if !defined(__SANITIZE_THREAD__)  // which has a thread of its own
        // The networks are as large as they were meant to be: their calls do take several threads, which start on first use.
        CHECK(in_child([&] { return core_layer<float>(n), threads_of_this_process(); }) >= 4);
        CHECK(in_child([&] { return core_model<float>(n), threads_of_this_process(); }) >= 4);
#endif
    }
}

#if !defined(__SANITIZE_ADDRESS__)  // whose allocator, before GCC 14, has locks that a fork() leaves held in the child
TEST_CASE("fork while another thread's team is at work") {
    const Network n = large_networks()[0];
    const Threads two(2);
    const std::vector<Result> expected = all_results<float>(n);
    std::atomic<bool> stop{false};
    std::string difference;
    std::thread busy([&] {
        while (!stop) difference += difference_of_all<float>(expected, n);
    });
    for (int i = 0; i < 10; ++i) CHECK(in_child([&] { return difference_of_all<float>(expected, n).empty() ? 0 : 1; }) == 0);
    stop = true;
    busy.join();
    CHECK(difference == "");
}
#endif

TEST_CASE("a child that a report forks gets an error, and its parent a result") {
    const Network n = large_networks()[0];
    const Result expected = core_model<float>(n);
    for (const int count : {1, 3}) {
        const Threads threads(count);
        pid_t child = -1;
        const auto call = [&] {
            child = -1;
            return core_model<float>(n, Ask::everything, {}, {}, [&](std::size_t done, std::size_t) {
                if (done == 2 && (child = fork()) == 0) alarm(60);
                return true;
            });
        };
        int status = 0;
        try {
            const Result got = call();
            if (child == 0) _exit(count == 1 && difference(expected, got, 0) == "" ? 0 : 1);
            CHECK(difference(expected, got, 0) == "");
        } catch (const std::runtime_error& error) {
            if (child != 0) throw;
            const bool clear = std::string(error.what()).find("fork()") != std::string::npos;
            _exit(clear && count == 3 && difference(expected, core_model<float>(n), 0) == "" ? 0 : 2);
        }
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 0);
    }
}

#if !defined(__SANITIZE_THREAD__)  // which takes no thread that a child of fork() starts
TEST_CASE("exit while teams come and go, in a child of fork()") {
    for (int i = 0; i < (kSanitized ? 5 : 40); ++i)
        CHECK(in_child([] {
                  for (int caller = 0; caller < 3; ++caller)
                      std::thread([] {
                          while (true) Team(3).run([](int) {});
                      }).detach();
                  std::this_thread::sleep_for(std::chrono::milliseconds(1));
                  std::exit(7);
                  return 1;
              }) == 7);
}
#endif

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
