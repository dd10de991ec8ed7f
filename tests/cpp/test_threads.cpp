// Threads: the parts themselves, the same bits for any number of them, and several callers at once.
#include <atomic>
#include <cfenv>
#include <cmath>
#include <cstdlib>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "engine/division.hpp"
#include "engine/progress.hpp"
#include "large_networks.hpp"
#include "runtime/float_mode.hpp"
#include "runtime/threads.hpp"

namespace pybptt::test {
namespace {

const int kThreadsAtStart = num_threads();

/// What the machine is taken for, which otherwise may be a crowd at any moment.
struct Pretend {
    explicit Pretend(double pause) { Crowd::pretend(pause); }
    ~Pretend() { Crowd::pretend(0); }
};
const Pretend kAlwaysQuiet(0);

/// Whether the thread's arithmetic takes denormals as zero, on the way in and on the way out.
bool flushes_denormals() {
    volatile float smallest = std::numeric_limits<float>::min();
    volatile float half = smallest * 0.5f;
    volatile float denormal = std::numeric_limits<float>::denorm_min();
    volatile float product = denormal * 0x1p60f;
    REQUIRE((half == 0) == (product == 0));
    return half == 0;
}

TEST_SUITE_BEGIN("threads");

TEST_CASE("the environment sets the number of threads") {
    if (const char* wanted = std::getenv("PYBPTT_NUM_THREADS")) CHECK(kThreadsAtStart == std::atoi(wanted));
    CHECK_THROWS_AS(set_num_threads(0), std::invalid_argument);
    CHECK_THROWS_AS(set_num_threads(-3), std::invalid_argument);
    CHECK_THROWS_AS(set_num_threads(100'000), std::invalid_argument);
    const Threads five(5);
    CHECK(num_threads() == 5);
}

TEST_CASE("shares cover everything once, in whole grains") {
    for (const std::size_t count : {0, 1, 15, 16, 17, 100, 1000})
        for (const std::size_t grain : {1, 8, 16})
            for (int parts = 1; parts <= 9; ++parts) {
                std::size_t end = 0;
                for (int part = 0; part < parts; ++part) {
                    const Range range = share(count, grain, part, parts);
                    CHECK(range.begin == end);
                    CHECK((range.begin % grain == 0 || range.begin == count));
                    CHECK(range.size() <= (count / grain / std::size_t(parts) + 1) * grain);
                    end = range.end;
                }
                CHECK(end == count);
            }
}

TEST_CASE("a barrier holds everyone until all have come, and what they wrote is seen") {
    for (int size = 1; size <= 7; ++size) {
        Barrier barrier(size);
        std::vector<int> round_of(std::size_t(size), -1);  // plain ints: the barrier alone orders them
        std::atomic<bool> in_step{true};
        const auto member = [&](int self) {
            for (int round = 0; round < 200; ++round) {
                round_of[std::size_t(self)] = round;
                barrier.wait();
                for (const int other : round_of)
                    if (other != round) in_step = false;
                barrier.wait();
            }
        };
        std::vector<std::thread> threads;
        for (int self = 1; self < size; ++self) threads.emplace_back(member, self);
        member(0);
        for (std::thread& thread : threads) thread.join();
        CHECK(in_step);
    }
}

TEST_CASE("a team runs every member once, on threads of their own, at the same time") {
    for (int round = 0; round < 20; ++round)
        for (const int wanted : {0, 1, 2, 3, 7, 2}) {
            Team team(wanted);
            REQUIRE(team.size() == std::max(1, wanted));
            Barrier barrier(team.size());
            std::vector<int> runs(std::size_t(team.size()));
            std::vector<std::thread::id> ids(runs.size());
            for (int times = 0; times < 3; ++times)
                team.run([&](int member) {
                    ++runs[std::size_t(member)];
                    ids[std::size_t(member)] = std::this_thread::get_id();
                    barrier.wait();  // would hang, were two of them one after the other
                });
            CHECK(std::all_of(runs.begin(), runs.end(), [](int n) { return n == 3; }));
            CHECK(ids[0] == std::this_thread::get_id());
            std::sort(ids.begin(), ids.end());
            CHECK(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
        }
}

TEST_CASE("a second team, nested or another thread's, has one member until the first has gone") {
    {
        Team first(3);
        REQUIRE(first.size() == 3);
        int nested_size = 0, other_size = 0;
        first.run([&](int member) {
            if (member == 1) {
                Team nested(3);
                nested.run([&](int) { nested_size = nested.size(); });
            }
        });
        std::thread([&] { other_size = Team(3).size(); }).join();
        CHECK(nested_size == 1);
        CHECK(other_size == 1);
    }
    CHECK(Team(3).size() == 3);
}

TEST_CASE("denormals are flushed in a team, and the caller's mode comes back") {
    REQUIRE_FALSE(flushes_denormals());
    for (const int size : {1, 4}) {
        Team team(size);
        std::vector<char> flushed(std::size_t(team.size()), 0);
        team.run([&](int member) { flushed[std::size_t(member)] = flushes_denormals(); });
        CHECK(std::all_of(flushed.begin(), flushed.end(), [](char yes) { return yes; }));
        CHECK_FALSE(flushes_denormals());
    }
    {
        const FlushDenormals outer;
        Team(2).run([](int) {});
        CHECK(flushes_denormals());
    }
    CHECK_FALSE(flushes_denormals());
}

TEST_CASE("what a member throws ends the others at the barrier and reaches the caller") {
    for (const int size : {1, 2, 5})
        for (int who = 0; who < size; ++who) {
            Team team(size);
            REQUIRE(team.size() == size);
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
    Team(5).run([](int) {});
}

TEST_CASE("things that are claimed are done once each, turn after turn") {
    for (const int size : {1, 2, 5})
        for (const std::size_t count : {0, 1, 4, 5000}) {  // many, to meet at one
            Team team(size);
            REQUIRE(team.size() == size);
            const Claims claims(size);
            std::vector<std::vector<std::atomic<int>>> done(4);
            for (auto& turn : done) turn = std::vector<std::atomic<int>>(count);
            run_team(team, [&](const Member& member) {
                for (std::uint32_t turn = 1; turn <= 4; ++turn) {
                    claims.visit_each(turn, count, member, [&](std::size_t i) { ++done[turn - 1][i]; });
                    member.wait();
                }
            });
            for (const auto& turn : done) CHECK(std::all_of(turn.begin(), turn.end(), [](int n) { return n == 1; }));
        }
}

TEST_CASE("while a member is away, another does its own things first, then the other's, and those who are out do none") {
    Team team(3);
    REQUIRE(team.size() == 3);
    const Claims claims(3);
    std::vector<std::size_t> order[3];
    std::atomic<bool> begun{false}, rest_done{false};
    run_team(team, [&](Member member) {
        member.team = 2;
        const double end = now() + 30;
        while (member.index != 1 && !begun && now() < end) std::this_thread::yield();
        claims.visit_each(1, 10, member, [&](std::size_t i) {
            order[member.index].push_back(i);
            begun = begun || member.index == 1;
            while (member.index == 1 && !rest_done && now() < end) std::this_thread::yield();
        });
        if (member.index == 0) rest_done = true;
    });
    CHECK(order[0] == std::vector<std::size_t>{0, 1, 2, 3, 4, 6, 7, 8, 9});
    CHECK(order[1] == std::vector<std::size_t>{5});
    CHECK(order[2].empty());
}

TEST_CASE("who has ended takes over from who is late, and ends with who throws") {
    Team team(2);
    REQUIRE(team.size() == 2);
    for (const bool throws : {false, true}) {
        Relay relays[2];
        constexpr std::size_t kStages = 30000;  // of a millisecond: half a minute for who is late
        std::vector<int> done[2];
        for (auto& stages : done) stages.assign(kStages, 0);
        std::size_t taken_over = kStages;
        const auto work = [&] {
            run_team(team, [&](const Member& member) {
                const int own = member.index, other = 1 - own;
                if (own == 1 && throws) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the other waits for its first stage
                    throw std::out_of_range("no more");
                }
                for (std::size_t stage = 0; stage < kStages && !relays[own].hand_over(stage, false, member); ++stage) {
                    ++done[own][stage];
                    if (own == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                }
                relays[own].hand_over(kStages, true, member);
                const std::size_t from = relays[other].take_over(kStages, member);
                if (own == 0) taken_over = from;
                for (std::size_t stage = from; stage < kStages; ++stage) ++done[other][stage];
            });
        };
        if (throws) {
            CHECK_THROWS_WITH_AS(work(), "no more", std::out_of_range);
        } else {
            work();
            CHECK(taken_over < kStages);
            for (const auto& stages : done) CHECK(std::all_of(stages.begin(), stages.end(), [](int n) { return n == 1; }));
        }
    }
}

TEST_CASE("a team leaves a core to a neighbour, if that leaves it half of what it wanted") {
    CHECK(Neighbours::team_beside(0, 8, 2) == 8);
    CHECK(Neighbours::team_beside(1, 2, 2) == 1);
    CHECK(Neighbours::team_beside(1, 4, 4) == 3);
    CHECK(Neighbours::team_beside(3, 4, 4) == 4);
    CHECK(Neighbours::team_beside(1, 2, 4) == 2);
#ifdef __linux__
    std::atomic<bool> stop{false};
    std::thread neighbour([&] { while (!stop); });
    const double end = now() + 30;
    while (Neighbours::running() == 0 && now() < end);
    CHECK(now() < end);
    stop = true;
    neighbour.join();
    while (Neighbours::running() != 0 && now() < end);
    CHECK(now() < end);
#endif
}

TEST_CASE("the same bits in the caller's rounding mode, which comes back") {
    const Network n = large_networks()[0];
    Result results[2], nearest = core_layer<float>(n);
    for (const int count : {1, 3}) {
        const Threads threads(count);
        std::fesetround(FE_UPWARD);
        results[count == 3] = core_layer<float>(n);
        CHECK(std::fegetround() == FE_UPWARD);
        std::fesetround(FE_TONEAREST);
    }
    CHECK(difference(results[0], results[1], 0) == "");
    CHECK(difference(nearest, results[0], 0) != "");
    const Threads three(3);
    CHECK(difference(nearest, core_layer<float>(n), 0) == "");
}

TEST_CASE_TEMPLATE("the same bits for any number of threads", Real, float, double) {
    for (const Network& n : large_networks()) {
        CAPTURE(n.describe());
        const Threads one(1);
        const std::vector<Result> expected = all_results<Real>(n);
        for (const int count : {2, 3, kSanitized ? 4 : 7}) {  // sanitizers make spinning dear
            CAPTURE(count);
            set_num_threads(count);
            CHECK(difference_of_all<Real>(expected, n) == "");
        }
    }
}

TEST_CASE_TEMPLATE("the same bits while members come and go", Real, float, double) {
    std::vector<Network> networks = large_networks();
    if (kSanitized) networks = {networks[1], networks[5]};
    for (const Network& n : networks) {
        CAPTURE(n.describe());
        const Threads one(1);
        const std::vector<Result> expected = all_results<Real>(n);
        const MemoryPlan plan = core_plan<Real>(n, true, n.sizes.directions == 1 ? 0 : std::size_t(-1) / 2);
        for (const double pause : {1e-9, 1e-4, 1e3}) {  // away for one chunk, for some, for the rest
            const Pretend lost(pause);
            for (const int count : {2, 4}) {
                if (kSanitized && (count != 2 || pause == 1e3)) continue;
                CAPTURE(count);
                set_num_threads(count);
                CHECK(difference_of_all<Real>(expected, n) == "");
                CHECK(difference(expected[2], core_model<Real>(n, Ask::everything, {}, plan), 0) == "");
                std::size_t total = 0;
                const Report ask = [&](std::size_t, std::size_t of) { return total = of, true; };
                core_model<Real>(n, Ask::everything, {}, {}, ask);
                for (std::size_t last = 1; last < total; last += 1 + total / 5)  // stopped while they are away
                    try {
                        core_model<Real>(n, Ask::everything, {}, {}, [&](std::size_t done, std::size_t) { return done < last; });
                    } catch (const std::logic_error&) {  // results are missing
                    }
            }
        }
    }
}

TEST_CASE("a team that sleeps at its steps is in a crowd for ten times as long") {
    const Pretend nothing(-1);
    CHECK(Crowd::pause(1, 0.2) == 0);         // less than a quarter
    CHECK(Crowd::pause(0.001, 0.0009) == 0);  // less than a millisecond
    CHECK(!Crowd::here());
    CHECK(Crowd::pause(0.004, 0.003) == doctest::Approx(0.03));
    CHECK(Crowd::here());
    std::this_thread::sleep_for(std::chrono::milliseconds(31));
    CHECK(!Crowd::here());
    Barrier barrier(2);
    std::thread other([&] { barrier.wait(0); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    barrier.wait(0);
    other.join();
    CHECK(barrier.asleep() > 0.01);
    CHECK(barrier.asleep() < 10);
}

TEST_CASE("members who were away stay when they have come back") {
    const Pretend nothing(-1);
    Team team(2);
    REQUIRE(team.size() == 2);
    bool away = false;
    int together = 0;  // steps in a row, since then
    const double start = now();
    Progress progress([&](std::size_t, std::size_t) { return together < 3 && now() < start + 30; }, 0, true);
    run_team(team, [&](Member& member) {
        Steps steps(progress, member);
        if (member.index == 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        for (member.meet(member.team);; steps.next()) {
            if (member.index != 0) continue;
            away = away || member.team == 1;
            together = away && member.team == 2 ? together + 1 : 0;
            for (const double end = now() + 2e-6; now() < end;);
        }
    });
    CHECK(away);
    CHECK(together == 3);
}

TEST_CASE_TEMPLATE("truncated sweeps: the same bits for any number of threads", Real, float, double) {
    CellConfig lstm, gru;
    lstm.kind = CellKind::lstm;
    gru.kind = CellKind::gru;
    gru.reset_after = false;
    const auto check = [](RnnSizes sizes, std::size_t variant, std::size_t k1, std::size_t k2, HiddenClip clip, double limit) {
        Network n;
        n.sizes = sizes;
        n.ragged = (variant & 1) != 0;
        n.masked = sizes.layers > 1;
        n.fill(variant);
        Limits limits = windows(k1, k2);
        limits.clip = clip;
        limits.clip_limit = limit;
        Random random(variant);
        for (std::size_t i = 0; k2 == 0 && i < n.rows(); ++i) limits.factors.push_back(double(random.below(4)) / 2);
        for (std::size_t i = 0; i < n.target_rows(); ++i) limits.counted.push_back(random.below(3) != 0);
        CAPTURE(n.describe());
        CAPTURE(limits.describe());
        const Threads one(1);
        const Result layer = core_layer<Real>(n, Ask::everything, limits), model = core_model<Real>(n, Ask::everything, limits);
        for (const int count : {2, 3, 4, 5}) {
            if (kSanitized && count != 3) continue;
            CAPTURE(count);
            set_num_threads(count);
            CHECK(difference(layer, core_layer<Real>(n, Ask::everything, limits), 0) == "");
            CHECK(difference(model, core_model<Real>(n, Ask::everything, limits), 0) == "");
        }
    };
    // By samples.
    check({30, 33, 20, 50}, 0, 0, 0, HiddenClip::norm, 3);
    check({12, 33, 9, 35, gru, 2}, 1, 0, 0, HiddenClip::value, 0.5);
    check({30, 33, 3, 40}, 1, 1, 25, HiddenClip::none, 0);
    check({14, 35, 3, 20, lstm, 2}, 0, 1, 12, HiddenClip::norm, 2);
    check({20, 3, 9, 65}, 0, 1, 15, HiddenClip::none, 0);
    check({24, 130, 5, 400}, 0, 6, 8, HiddenClip::none, 0);  // few threads take one copy at a time
    // By columns of h.
    check({10, 2, 9, 300}, 0, 0, 0, HiddenClip::norm, 7);
    check({7, 2, 9, 110, lstm, 2}, 1, 0, 0, HiddenClip::norm, 3);
    check({9, 2, 9, 200}, 1, 2, 5, HiddenClip::norm, 7);
    check({7, 3, 9, 90, gru, 2}, 0, 2, 3, HiddenClip::value, 0.3);
    // By columns because there are so many copies.
    check({70, 1, 5, 250}, 0, 1, 68, HiddenClip::norm, 7);
    if (!kSanitized) check({55, 1, 5, 145, gru, 2}, 1, 1, 55, HiddenClip::none, 0);
}

/// As many units as make W_hh `times` as large as the L2 cache, whatever machine this is.
std::size_t units_beyond_cache(const CellConfig& cell, double times) {
    return std::size_t(std::sqrt(times * double(caches().l2) / sizeof(float) / cell.gates()));
}

TEST_CASE_TEMPLATE("groups of members with samples and columns of their own: the same bits as one thread", Real, float, double) {
    CellConfig lstm, gru;
    lstm.kind = CellKind::lstm;
    lstm.peephole = true;
    gru.kind = CellKind::gru;
    gru.reset_after = false;
    const auto check = [](RnnSizes sizes, int threads, int group, const Limits& limits, std::size_t projection = 0) {
        Network n;
        n.sizes = sizes;
        n.ragged = sizes.layers > 1;
        n.masked = sizes.layers > 1;
        n.fill(1);
        if (projection != 0) n = projected(n, projection);
        CAPTURE(n.describe());
        CAPTURE(threads);
        REQUIRE(Division(n.sizes, threads).group == group);
        const Threads one(1);
        const Result layer = core_layer<Real>(n, Ask::everything, limits), model = core_model<Real>(n, Ask::everything, limits);
        set_num_threads(threads);
        CHECK(difference(layer, core_layer<Real>(n, Ask::everything, limits), 0) == "");
        CHECK(difference(model, core_model<Real>(n, Ask::everything, limits), 0) == "");
    };
    Limits clipped;
    clipped.clip = HiddenClip::norm;
    clipped.clip_limit = 0.5;
    check({5, 12, 9, units_beyond_cache(lstm, 1.5), lstm}, 4, 2, clipped);
    if (kSanitized) return;
    check({5, 12, 9, units_beyond_cache(gru, 1.5), gru, 2}, 6, 2, {});
    check({9, 16, 9, units_beyond_cache({}, 3)}, 8, 4, windows(2, 4));
    const std::size_t wide = units_beyond_cache(lstm, 2.5);
    check({4, 16, 9, wide, lstm}, 8, 2, {}, wide / 2);
}

TEST_CASE("several threads call at once") {
    const std::vector<Network> all = large_networks();
    const std::vector<Network> networks = {all[0], all[1], all[2], all[4]};
    std::vector<std::vector<Result>> expected;
    for (const Network& n : networks) expected.push_back(all_results<float>(n));
    const Threads three(3);
    std::vector<std::string> differences(4);
    std::vector<std::thread> callers;
    for (std::size_t caller = 0; caller < differences.size(); ++caller)
        callers.emplace_back([&, caller] {
            for (std::size_t i = 0; i < networks.size(); ++i) {
                const std::size_t which = (caller + i) % networks.size();
                differences[caller] += difference_of_all<float>(expected[which], networks[which]);
            }
        });
    for (std::thread& caller : callers) caller.join();
    for (const std::string& difference : differences) CHECK(difference == "");
}

TEST_CASE_TEMPLATE("several threads sweep one tape at once", Real, float, double) {
    const Threads three(3);
    for (const Network& n : large_networks()) {
        CAPTURE(n.describe());
        Result expected;
        const Tape<Real> tape = core_forward<Real>(n, expected);
        core_backward(tape, n, expected);
        std::vector<Result> results(3);
        std::vector<std::thread> callers;
        for (Result& result : results) callers.emplace_back([&] { core_backward(tape, n, result); });
        for (std::thread& caller : callers) caller.join();
        for (const Result& result : results) CHECK(difference(expected, result, 0) == "");
    }
}

TEST_CASE("a report that throws ends the call, whatever the team is doing") {
    for (const Network& n : large_networks()) {
        CAPTURE(n.describe());
        const Result expected = core_model<float>(n);
        for (const int count : {1, 3}) {
            const Threads threads(count);
            std::size_t total = 0;
            core_model<float>(n, Ask::everything, {}, {}, [&](std::size_t, std::size_t of) { return total = of, true; });
            for (const std::size_t last : {std::size_t{1}, total / 2, total}) {
                const Report report = [&](std::size_t done, std::size_t) -> bool {
                    if (done == last) throw std::out_of_range("enough");
                    return true;
                };
                CHECK_THROWS_WITH_AS(core_model<float>(n, Ask::everything, {}, {}, report), "enough", std::out_of_range);
            }
            CHECK(difference(expected, core_model<float>(n), 0) == "");
        }
    }
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
