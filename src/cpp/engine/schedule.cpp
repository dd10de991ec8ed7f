#include "engine/schedule.hpp"

#include <algorithm>
#include <limits>

#include "engine/cut.hpp"
#include "runtime/memory.hpp"

namespace pybptt {
namespace {

__extension__ typedef unsigned __int128 Wide;

/// a * b / c, or the largest number there is.
std::size_t scaled(std::size_t a, Wide b, std::size_t c) {
    return std::size_t(std::min<Wide>(a * b / c, std::numeric_limits<std::size_t>::max()));
}

/// How many chunks are to be run before a state is kept: the least best y, of n > K chunks and s >= 1 states.
std::size_t chunks_before_a_state(std::size_t n, std::size_t K, std::size_t s) {
    // most(r) = C(r + s, s + 1) places' worth of chunks take at most r runs each; with one state less, most(r) - most(r - 1).
    const std::size_t wanted = (n + K - 1) / K;
    std::size_t t = 1, most = 1, before = 0, before_that = 0;
    while (most < wanted) {
        ++t;
        before_that = before;
        before = most;
        most = scaled(before, t + s, t - 1);  // exact
    }
    const std::size_t rest = std::min(most - before, wanted) * K;  // the most for n - y chunks
    return std::max({std::size_t{1}, before_that * K, n > rest ? n - rest : 0});
}

}  // namespace

std::size_t Schedule::runs(std::size_t n, std::size_t K, std::size_t s) {
    if (s == 0) {  // n + (n - K) + (n - 2 K) + ..: as many terms as the last chunk's runs
        const std::size_t t = (n + K - 1) / K;
        return scaled(t, 2 * Wide(n) - Wide(t - (t != 0)) * K, 2);
    }
    std::size_t sum = 0, times = 1;  // C(r - 1 + s, s)
    for (std::size_t r = 1; n != 0; ++r) {
        const std::size_t some = times < (n + K - 1) / K ? times * K : n;
        sum += r * some;
        n -= some;
        times = scaled(times, r + s, r);
    }
    return sum;
}

void Schedule::add(const Stretch& stretch) {
    const bool before_turn = backward_steps_ == 0;
    (before_turn ? forward_steps_ : backward_steps_) += stretch.count;
    if (before_turn) turn_ = stretches_.size();
    backward_steps_ += stretch.kept;
    stretches_.push_back(stretch);
}

void Schedule::divide(std::size_t chunks, std::size_t K, std::size_t states) {
    struct Segment {
        std::size_t first, count, from, states;
    };
    std::vector<Segment> later = {{0, chunks, kInitialState, states}};
    while (!later.empty()) {
        Segment now = later.back();
        later.pop_back();
        while (now.count > K && now.states != 0) {
            const std::size_t y = chunks_before_a_state(now.count, K, now.states), to = now.states - 1;
            add({now.first, y, 0, now.from, to});
            later.push_back({now.first, y, now.from, now.states});
            now = {now.first + y, now.count - y, to, to};
        }
        for (; now.count != 0; now.count -= std::min(now.count, K))
            add({now.first, now.count, std::min(now.count, K), now.from, kNoState});
    }
}

Schedule::Schedule(std::size_t chunks, bool keep, const MemoryPlan& plan) {
    if (keep && plan.limited()) {
        carry_ = plan.states;
        divide(chunks, plan.places, plan.states);
    } else if (chunks != 0) {
        add({0, chunks, keep ? chunks : 0, kInitialState, kNoState});
    }
}

std::size_t MemoryNeeds::bytes(std::size_t places, std::size_t states_kept) const {
    std::size_t sum = beside;
    for (const std::size_t one : chunk) sum += block_bytes(checked_product(one, places));
    for (const std::size_t one : states) sum += block_bytes(checked_product(one, states_kept + 1));
    return sum;
}

MemoryPlan MemoryNeeds::plan(std::size_t limit) const {
    if (all <= limit || chunk.empty()) return {MemoryPlan::kEveryChunk, 0, chunks, chunks, all};
    const auto make = [&](std::size_t K, std::size_t S) {
        return MemoryPlan{K, S, chunks, Schedule::runs(chunks, K, S), bytes(K, S)};
    };
    MemoryPlan best = make(1, 0);
    if (best.bytes > limit) return best.bytes < all ? best : MemoryPlan{MemoryPlan::kEveryChunk, 0, chunks, chunks, all};
    for (std::size_t K = 0; K + 1 < chunks && bytes(K + 1, 0) <= limit;) {
        // Blocks come in few sizes. As many places as the same blocks hold are best: with as many states R_S(n) falls with K, and
        // with the chunks - K states that are all that can be used it is 2 n - K.
        const std::size_t same = bytes(K + 1, 0);
        K = last_for_which(K + 1, chunks, [&](std::size_t places) { return bytes(places, 0) == same; });
        const std::size_t S = last_for_which(0, chunks - K + 1, [&](std::size_t states) { return bytes(K, states) <= limit; });
        const MemoryPlan next = make(K, S);
        if (next.runs < best.runs || (next.runs == best.runs && next.states > best.states)) best = next;
    }
    return best;
}

}  // namespace pybptt
