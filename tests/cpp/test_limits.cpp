// Limits on memory: the schedule against the dynamic program, what a call takes, the same bits, and calls that are stopped.
#include <thread>

#include "allocations.hpp"
#include "engine/schedule.hpp"
#include "engine/tape.hpp"
#include "network.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"

namespace pybptt::test {
namespace {

MemoryPlan plan_of(std::size_t places, std::size_t states) {
    MemoryPlan plan;
    plan.places = places;
    plan.states = states;
    return plan;
}

/// R_s(n) for all n up to the last and s up to `states`, by the recurrence of schedule.hpp.
std::vector<std::vector<std::size_t>> table(std::size_t last, std::size_t K, std::size_t states) {
    std::vector<std::vector<std::size_t>> R(states + 1, std::vector<std::size_t>(last + 1));
    for (std::size_t s = 0; s <= states; ++s)
        for (std::size_t n = 0; n <= last; ++n) {
            R[s][n] = n <= K ? n : n + R[0][n - K];
            for (std::size_t y = 1; s > 0 && n > K && y < n; ++y) R[s][n] = std::min(R[s][n], y + R[s - 1][n - y] + R[s][y]);
        }
    return R;
}

/// What a schedule does, done with numbers: places hold a chunk's index, or that of the chunk which a state comes before.
/// "" if each chunk is swept once, from the last to the first, from what is there.
std::string fault(std::size_t chunks, std::size_t K, std::size_t S, std::size_t& runs) {
    const Schedule schedule(chunks, true, plan_of(K, S));
    constexpr std::size_t kNothing = std::size_t(-9);
    std::vector<std::size_t> place(K, kNothing), state(S + 1, kNothing);
    std::size_t next = chunks, forward = 0, backward = 0;
    bool turned = false;
    runs = 0;
    if (schedule.carry() != S) return "the carry is not the last state";
    for (std::size_t i = 0; i < schedule.stretches().size(); ++i) {
        const Stretch& stretch = schedule.stretches()[i];
        for (std::size_t c = 0; c < stretch.count; ++c, ++runs) {
            const std::size_t from = c == 0 ? stretch.from : S, to = c + 1 == stretch.count ? stretch.to : S;
            if ((from == kInitialState ? 0 : state.at(from)) != stretch.first + c) return "not the state before the chunk";
            place.at(stretch.place(c)) = stretch.first + c;
            if (to != kNoState) state.at(to) = stretch.first + c + 1;
            ++(turned ? backward : forward);
        }
        if (stretch.kept == 0) continue;
        if (!turned && i != schedule.turn()) return "not the first sweep";
        turned = true;
        for (std::size_t c = stretch.count; c-- > stretch.count - stretch.kept; ++backward)
            if (--next != stretch.first + c || place.at(stretch.place(c)) != next) return "not the chunk to be swept";
    }
    if (schedule.forward_steps() != forward || schedule.backward_steps() != backward) return "steps miscounted";
    return next == 0 ? "" : "not all are swept";
}

constexpr std::size_t kMuch = std::size_t(1) << 60;

/// Layers of one direction whose tapes have several chunks; variants of input, target, lengths, mask.
std::vector<Network> networks() {
    std::vector<Network> all;
    CellConfig elman, lstm, gru;
    lstm.kind = gru.kind = CellKind::lstm;
    lstm.peephole = true;
    gru.kind = CellKind::gru;
    gru.reset_after = false;
    const auto add = [&](std::size_t T, std::size_t B, std::size_t H, const CellConfig& cell, std::size_t layers, bool tokens,
                         bool ragged, bool last_only, Loss loss) {
        Network n;
        n.sizes = {T, B, 3, H, cell, layers, 1};
        n.outputs = 3;
        n.tokens = tokens;
        n.ragged = ragged;
        n.masked = layers > 1 && !tokens;
        n.last_only = last_only;
        n.loss = loss;
        all.push_back(n.fill(all.size() + 1));
    };
    add(700, 2, 5, elman, 1, true, false, false, Loss::cross_entropy);
    add(170, 9, 7, lstm, 2, false, false, false, Loss::squared_error);
    add(150, 11, 5, gru, 2, true, true, true, Loss::cross_entropy);
    add(90, 13, 17, lstm, 1, false, true, false, Loss::cross_entropy);
    add(130, 9, 5, elman, 3, false, true, false, Loss::squared_error);
    add(1500, 1, 9, gru, 1, false, false, true, Loss::squared_error);
    add(90, 13, 17, lstm, 2, false, true, false, Loss::cross_entropy);
    all.back() = projected(all.back(), 5);
    return all;
}

std::size_t chunks_of(const Network& n) { return core_plan<float>(n, false, kMuch).chunks; }

TEST_SUITE_BEGIN("limits");

TEST_CASE("the schedule takes as few runs as the dynamic program, and each chunk is there when it is swept") {
    for (std::size_t K = 1; K <= 6; ++K) {
        constexpr std::size_t kChunks = 45, kStates = 7;
        const auto R = table(kChunks, K, kStates);
        for (std::size_t S = 0; S <= kStates; ++S)
            for (std::size_t n = 0; n <= kChunks; ++n) {
                std::size_t runs = 0;
                CAPTURE(K);
                CAPTURE(S);
                CAPTURE(n);
                REQUIRE(Schedule::runs(n, K, S) == R[S][n]);
                REQUIRE(fault(n, K, S, runs) == "");
                REQUIRE(runs == R[S][n]);
            }
    }
    for (const auto& [n, K, S] : {std::array<std::size_t, 3>{2000, 3, 9}, {2000, 7, 1993}, {1999, 1, 60}, {3000, 1, 0}}) {
        std::size_t runs = 0;
        REQUIRE(fault(n, K, S, runs) == "");
        REQUIRE(runs == Schedule::runs(n, K, S));
    }
    CHECK(Schedule::runs(2000, 50, 1950) == 2 * 2000 - 50);  // states for all: each is run at most twice
}

TEST_CASE("states to spare: chunks are run again one by one") {
    const Schedule schedule(10, true, plan_of(3, 7));
    for (const Stretch& stretch : schedule.stretches()) CHECK(stretch.kept <= (stretch.first == 7 ? 3u : 1u));
}

TEST_CASE("a plan has the fewest runs within the limit") {
    MemoryNeeds needs{30, 100'000'000, 10'000, {300'000, 70'000}, {3'000, 3'000}};
    needs.all = needs.bytes(30, 0) - 1;
    const std::size_t smallest = needs.bytes(1, 0);
    for (std::size_t limit : {smallest, smallest + 5'000, smallest + 400'000, smallest + 2'000'000, needs.all - 1, needs.all}) {
        std::size_t fewest = kMuch;
        for (std::size_t K = 1; K <= 30; ++K)
            for (std::size_t S = 0; S <= 30; ++S)
                if (needs.bytes(K, S) <= limit) fewest = std::min(fewest, Schedule::runs(30, K, S));
        const MemoryPlan plan = needs.plan(limit);
        CAPTURE(limit);
        CHECK(plan.bytes <= limit);
        CHECK(plan.runs == (limit == needs.all ? 30 : fewest));
        CHECK(plan.limited() == (limit < needs.all));
        if (plan.limited()) CHECK(plan.bytes == needs.bytes(plan.places, plan.states));
    }
    CHECK(needs.plan(0).bytes == smallest);
    CHECK(needs.plan(smallest - 1).bytes == smallest);
}

TEST_CASE("the plan is that of the search through all places and states") {
    Random random(1);
    std::size_t limited = 0;
    for (int i = 0; i < 3000; ++i) {
        const auto sizes =
            [&](std::size_t most) {  // of up to three buffers: from a few bytes on, so that many places take one block
                std::vector<std::size_t> bytes(1 + random.below(3));
                for (std::size_t& size : bytes) size = 1 + random.below(std::size_t(1) << random.below(most));
                return bytes;
            };
        MemoryNeeds needs{2 + random.below(40), 0, random.below(1 << 20), sizes(21), sizes(19)};
        needs.all = needs.bytes(needs.chunks, 0);
        const std::size_t least = needs.bytes(1, 0);
        const std::size_t limit = least + std::size_t(double(needs.all - least) * random.uniform(0, 1));
        const std::size_t N = needs.chunks;
        if (needs.all <= limit) continue;
        ++limited;
        std::array<std::size_t, 3> best{kMuch, 0, 0};  // fewest runs, then most states, then fewest places
        for (std::size_t K = 1; K < N; ++K)
            for (std::size_t S = 0; S <= N - K; ++S)
                if (needs.bytes(K, S) <= limit) best = std::min(best, {Schedule::runs(N, K, S), N - S, K});
        const MemoryPlan plan = needs.plan(limit);
        CAPTURE(i);
        REQUIRE(std::array{plan.runs, N - plan.states, plan.places} == best);
    }
    CHECK(limited > 2500);
}

TEST_CASE("plans for more chunks than could be run") {
    constexpr std::size_t kMany = std::size_t(1) << 21;
    CHECK(Schedule::runs(kMany, 1, 0) == kMany * (kMany + 1) / 2);
    CHECK(Schedule::runs(kMany, 10, 0) == std::size_t(209716) * (209715 * 5 + 2));
    CHECK(Schedule::runs(kMany, 1, kMany - 1) == 2 * kMany - 1);
    CHECK(Schedule::runs(std::size_t(1) << 50, 1, 0) == std::numeric_limits<std::size_t>::max());
    const RnnSizes sizes{std::size_t(1) << 40, 1, 3, 4};
    const MemoryPlan all = plan_memory<float>(sizes, false, false, kMuch),
                     half = plan_memory<float>(sizes, false, false, all.bytes / 2);
    CHECK(half.runs < 2 * half.chunks);
    CHECK(half.bytes <= all.bytes / 2);
}

TEST_CASE_TEMPLATE("with any places the bits are those without a limit", Real, float, double) {
    for (const Network& n : networks()) {
        CAPTURE(n.describe());
        const std::size_t N = chunks_of(n);
        REQUIRE(N >= 4);
        const Result layer = core_layer<Real>(n), model = core_model<Real>(n);
        for (const auto& kept : {std::pair<std::size_t, std::size_t>{1, 0}, {1, 2}, {2, 0}, {2, 1}, {N - 1, 1}, {2, N}, {N, 0}}) {
            const std::size_t K = kept.first, S = kept.second;
            const MemoryPlan plan = plan_of(K, S);
            CAPTURE(K);
            CAPTURE(S);
            Result got, again;
            const Tape<Real> tape = core_forward<Real>(n, got, Ask::everything, plan);
            core_backward(tape, n, got);
            CHECK(difference(layer, got, 0) == "");
            core_backward(tape, n, again);
            CHECK(difference(layer, again, 0) == "");
            CHECK(difference(model, core_model<Real>(n, Ask::everything, {}, plan), 0) == "");
        }
        const Result truncated = core_model<Real>(n, Ask::gradients, windows(1, 6));
        CHECK(difference(truncated, core_model<Real>(n, Ask::gradients, windows(1, 6), plan_of(2, 1)), 0) == "");
    }
}

TEST_CASE("a limit changes no bits for any number of threads, by samples or by columns") {
    const int before = num_threads();
    CellConfig lstm;
    lstm.kind = CellKind::lstm;
    for (const std::size_t B : {2, 20}) {
        Network n;
        n.sizes = {2600 / B, B, 4, 100, lstm, 2, 1};
        n.outputs = 5;
        n.ragged = B == 20;
        n.fill(B);
        set_num_threads(1);
        const Result layer = core_layer<float>(n), model = core_model<float>(n);
        for (const int threads : {1, 2, 3}) {
            set_num_threads(threads);
            CAPTURE(threads);
            Result got;
            const Tape<float> tape = core_forward<float>(n, got, Ask::everything, plan_of(2, 1));
            set_num_threads(4 - threads);  // a tape may be swept by others than made it
            core_backward(tape, n, got);
            CHECK(difference(layer, got, 0) == "");
            CHECK(difference(model, core_model<float>(n, Ask::everything, {}, plan_of(1, 2)), 0) == "");
        }
    }
    set_num_threads(before);
}

TEST_CASE("threads take turns with a tape") {
    const Network n = networks()[3];
    const Result expected = core_layer<float>(n);
    Result first, results[3];
    const Tape<float> tape = core_forward<float>(n, first, Ask::everything, plan_of(2, 1));
    std::vector<std::thread> threads;
    for (Result& result : results) threads.emplace_back([&] { core_backward(tape, n, result); });
    for (std::thread& thread : threads) thread.join();
    for (const Result& result : results) CHECK(difference(expected, result, 0) == "");
}

TEST_CASE_TEMPLATE("a call takes no more than its plan says", Real, float, double) {
    for (const Network& n : networks()) {
        CAPTURE(n.describe());
        const std::size_t all = core_plan<Real>(n, false, kMuch).bytes, least = core_plan<Real>(n, false, 0).bytes;
        REQUIRE(least < all);
        for (const std::size_t limit : {least, least + (all - least) / 3, all - 1, all}) {
            const MemoryPlan plan = core_plan<Real>(n, false, limit);
            CAPTURE(limit);
            REQUIRE(plan.bytes <= limit);
            CHECK(plan.limited() == (limit < all));
            Result result;
            std::size_t before = bytes_allocated();
            const Tape<Real> tape = core_forward<Real>(n, result, Ask::everything, plan);
            std::size_t taken = bytes_allocated() - before;
            CHECK(tape.bytes() < plan.bytes);
            if (plan.limited()) CHECK(taken < plan.bytes);
            before = bytes_allocated();
            core_backward(tape, n, result);
            taken = bytes_allocated() - before + tape.bytes();
            CHECK(taken <= plan.bytes);
        }
        const MemoryPlan model = core_plan<Real>(n, true, core_plan<Real>(n, true, kMuch).bytes / 2);
        for (const MemoryPlan& plan : {core_plan<Real>(n, true, kMuch), model, core_plan<Real>(n, true, 0)}) {
            const std::size_t before = bytes_allocated();
            core_model<Real>(n, Ask::everything, {}, plan);
            const std::size_t taken = bytes_allocated() - before;
            // Beside its arrays, a cache line or two for each thread and recurrence, by which threads agree who does what.
            CHECK(taken <= plan.bytes + 128 * std::size_t(num_threads()) * n.sizes.recurrences());
            CHECK(double(taken) > 0.9 * double(plan.bytes));  // and not much less
        }
    }
}

TEST_CASE("a call can be stopped after every step") {
    for (const bool limited : {false, true}) {
        Network n = networks()[1];
        if (!limited) n.sizes.directions = 2;
        n.fill(7);
        const MemoryPlan plan = limited ? plan_of(2, 1) : MemoryPlan{};
        const Result expected = core_layer<float>(n);
        std::size_t asked = 0, total = 0;
        const Report count = [&](std::size_t done, std::size_t of) {
            CHECK(done == ++asked);
            total = of;
            return true;
        };
        Result got;
        CHECK(difference(core_model<float>(n), core_model<float>(n, Ask::everything, {}, plan, count), 0) == "");
        CHECK(asked == total);
        for (std::size_t last = 1; last < total; last += kQuick ? 5 : 1) {
            asked = 0;
            const Report stop = [&](std::size_t done, std::size_t) { return ++asked, done < last; };
            const std::size_t before = asked;
            try {
                core_model<float>(n, Ask::everything, {}, plan, stop);
            } catch (const std::logic_error&) {  // results are missing
            }
            CHECK(asked == before + last);
        }
        // A tape whose sweep was stopped is still a tape.
        const Tape<float> tape = core_forward<float>(n, got, Ask::everything, plan);
        for (const std::size_t last : {1, 3, 5}) {
            Result stopped;
            core_backward(tape, n, stopped, Ask::everything, {}, [&](std::size_t done, std::size_t) { return done < last; });
        }
        core_backward(tape, n, got);
        CHECK(difference(expected, got, 0) == "");
    }
}

TEST_CASE("what is counted is what is taken") {
    for (const std::size_t bytes : {0, 1, 64, 65, 5000, 100'000, 4'000'000, 5'000'001, 40'000'000}) {
        release_cached_memory();
        const std::size_t before = bytes_allocated();
        release_memory(acquire_memory(bytes));
        CHECK(bytes_allocated() - before == block_bytes(bytes));
        const CountMemory count;
        CHECK(CountMemory::active());
        const Buffer<char> buffer(bytes);
        CHECK(buffer.data() != nullptr);
        CHECK(count.bytes() == block_bytes(bytes));
    }
    CHECK(!CountMemory::active());
    CHECK_THROWS_AS(block_bytes(std::numeric_limits<std::size_t>::max()), std::bad_alloc);
    RnnSizes large{std::size_t(1) << 50, std::size_t(1) << 20, 1, 1};
    CHECK_THROWS_AS(plan_memory<float>(large, false, true, 0), std::bad_alloc);
}

TEST_SUITE_END();

}  // namespace
}  // namespace pybptt::test
