// Teams on the threads of an OpenMP runtime, as calls from a PyTorch program have them: here the compiler's own.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <ostream>
#include <stdexcept>
#include <thread>
#include <utility>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "large_networks.hpp"
#include "runtime/threads.hpp"

namespace pybptt::test {
namespace {

using Ids = std::vector<std::thread::id>;

#if !defined(__SANITIZE_THREAD__)
/// Of the runtime's threads.
Ids ids_of_region(int threads) {
    Ids ids(static_cast<std::size_t>(threads));
#pragma omp parallel num_threads(threads)
    ids[std::size_t(omp_get_thread_num())] = std::this_thread::get_id();
    return ids;
}
#endif
/// Of a team's, whose members meet.
Ids ids_of(Team& team) {
    Ids ids(std::size_t(team.size()));
    team.run([&](int member) {
        ids[std::size_t(member)] = std::this_thread::get_id();
        team.barrier().wait();  // would hang, were two of them one after the other
    });
    return ids;
}
bool all_differ(Ids ids) {
    std::sort(ids.begin(), ids.end());
    return std::adjacent_find(ids.begin(), ids.end()) == ids.end();
}

TEST_SUITE_BEGIN("openmp");

#if !defined(__SANITIZE_THREAD__)  // which doesn't see what a region of the test's own orders
TEST_CASE("a team is of the runtime's threads, in a scope and nowhere else") {
    const Threads two(2);
    const Ids theirs = ids_of_region(4);
    for (int round = 0; round < 20; ++round)
        for (const int wanted : {4, 1, 3, 2}) {  // fewer than the region's
            const TorchThreads scope(4);
            CHECK(num_threads() == 4);
            Team team(wanted);
            REQUIRE(team.size() == wanted);
            for (int times = 0; times < 3; ++times) CHECK((ids_of(team) == Ids(theirs.begin(), theirs.begin() + wanted)));
        }
    CHECK(num_threads() == 2);
    Team own(2);
    CHECK((ids_of(own)[1] != theirs[1]));
}

TEST_CASE("within a parallel region a team is its caller alone") {
    const int levels = omp_get_max_active_levels();
    omp_set_max_active_levels(3);  // the runtime would give a team
    std::atomic<int> largest{0};
#pragma omp parallel num_threads(3)
    {
        const TorchThreads scope(3);
        Team team(3);
        team.run([&](int) { largest = std::max(largest.load(), team.size()); });
    }
    CHECK(largest == 1);
    const TorchThreads scope(3);
    Team first(3);
    REQUIRE(first.size() == 3);
    CHECK(Team(3).size() == 1);
    omp_set_max_active_levels(levels);
}

TEST_CASE("members compute in the caller's floating-point mode, and the runtime's threads get theirs back") {
    const auto mode = [] {
        const volatile float one = 1, little = 0x1p-30f, denormal = std::numeric_limits<float>::denorm_min();
        return std::pair<bool, bool>(one + little > one, denormal * 0x1p60f == 0);
    };
    const std::vector<std::pair<bool, bool>> as_usual(3, {false, false}), as_called(3, {true, true});
    std::vector<std::pair<bool, bool>> modes(3);
    const TorchThreads scope(3);
    std::fesetround(FE_UPWARD);
    Team(3).run([&](int member) { modes[std::size_t(member)] = mode(); });
    std::fesetround(FE_TONEAREST);
    CHECK((modes == as_called));
#pragma omp parallel num_threads(3)
    modes[std::size_t(omp_get_thread_num())] = mode();
    CHECK((modes == as_usual));
}
#endif

TEST_CASE("scopes are a thread's own, one within another, and of a number in range") {
    const Threads two(2);
    {
        const TorchThreads outer(3);
        {
            const TorchThreads inner(1);
            CHECK(num_threads() == 1);
            CHECK_THROWS_AS(TorchThreads(0), std::invalid_argument);
            CHECK_THROWS_AS(TorchThreads(kMostThreads + 1), std::invalid_argument);
            CHECK(num_threads() == 1);
        }
        CHECK(num_threads() == 3);
        int elsewhere = 0;
        std::thread([&] { elsewhere = num_threads(); }).join();
        CHECK(elsewhere == 2);
    }
    CHECK(num_threads() == 2);
}

TEST_CASE("a team is as large as what the runtime gives") {
    const TorchThreads scope(7);
    const int levels = omp_get_max_active_levels();
    omp_set_max_active_levels(0);
    CHECK(Team(7).size() == 1);
    omp_set_max_active_levels(levels);
    CHECK(Team(7).size() == 7);
    omp_set_dynamic(1);
    for (int round = 0; round < 5; ++round) {
        Team team(7);
        CHECK(team.size() <= 7);
        CHECK(all_differ(ids_of(team)));
    }
    omp_set_dynamic(0);
    CHECK(Team(7).size() == 7);
}

TEST_CASE("what a member throws reaches the caller, and the next team is whole") {
    const TorchThreads scope(4);
    for (int who = 0; who < 4; ++who) {
        Team team(4);
        std::atomic<int> past{0};
        CHECK_THROWS_WITH_AS(team.run([&](int member) {
            team.barrier().wait();
            if (member == who) throw std::out_of_range("no more");
            team.barrier().wait();
            ++past;
        }),
                             "no more", std::out_of_range);
        CHECK(past == 0);
    }
    Team team(4);
    CHECK(all_differ(ids_of(team)));
}

TEST_CASE_TEMPLATE("the same bits for any number of the runtime's threads", Real, float, double) {
    std::vector<Network> networks = large_networks();
    if (kSanitized) networks.resize(3);
    for (const Network& n : networks) {
        CAPTURE(n.describe());
        const Threads one(1);
        const std::vector<Result> expected = all_results<Real>(n);
        for (const int count : {2, 3, kSanitized ? 4 : 7}) {
            CAPTURE(count);
            const TorchThreads scope(count);
            CHECK(difference_of_all<Real>(expected, n) == "");
        }
    }
}

TEST_CASE("several threads call at once, each with a region of its own") {
    const Network n = large_networks()[0];
    const Threads one(1);
    const std::vector<Result> expected = all_results<float>(n);
    std::vector<std::string> differences(3);
    std::vector<int> sizes(3);
    std::vector<std::thread> callers;
    for (std::size_t caller = 0; caller < differences.size(); ++caller)
        callers.emplace_back([&, caller] {
            const TorchThreads scope(2);
            sizes[caller] = Team(2).size();
            for (int i = 0; i < 3; ++i) differences[caller] += difference_of_all<float>(expected, n);
        });
    for (std::thread& caller : callers) caller.join();
    CHECK(differences == std::vector<std::string>(3));
    CHECK(sizes == std::vector<int>(3, 2));
}

#ifndef _WIN32
TEST_CASE("after fork() a team is of the core's own threads, and a team that was cut in two ends with an error") {
    const Threads one(1);
    const Network n = large_networks()[0];
    const std::vector<Result> expected = all_results<float>(n);
    const TorchThreads scope(3);
    const auto code_of = [](pid_t child) {
        int status = 0;
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    };
    core_model<float>(n);
    const pid_t before = fork();
    if (before == 0) {
        alarm(60);
        _exit(Team(3).size() == 3 && difference_of_all<float>(expected, n).empty() ? 5 : 6);
    }
    CHECK(code_of(before) == 5);
    pid_t within = -1;
    try {
        core_model<float>(n, Ask::everything, {}, {}, [&](std::size_t done, std::size_t) {
            if (done == 2 && (within = fork()) == 0) alarm(60);
            return true;
        });
    } catch (const std::runtime_error&) {
        _exit(within == 0 && difference_of_all<float>(expected, n).empty() ? 5 : 6);
    }
    if (within == 0) _exit(7);
    CHECK(code_of(within) == 5);
    CHECK(difference_of_all<float>(expected, n) == "");
}
#endif

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
