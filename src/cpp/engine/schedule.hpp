// Which chunks are run and swept when, if the tape has places for some of them alone.
//
// With places for K chunks, and for S states between chunks beside the one that is carried along, sweeping n chunks in a row
// whose first state is at hand takes R_S(n) runs of a chunk:
//
//     R_s(n) = n                                                n <= K: all stay in their places until they are swept
//     R_s(n) = min over y of  y + R_{s-1}(n - y) + R_s(y)       keep the state after y chunks; sweep what follows, then these
//     R_0(n) = n + R_0(n - K)                                   run them all, the last K stay
//
// (Griewank and Walther 2000; Chen et al. 2016; Gruslys et al. 2016: hidden states are small, internal ones large.) The table of
// that dynamic program is not needed: R_s is convex, and K C(r - 1 + s, s) of the chunks are run r times. So K C(r + s, s + 1)
// chunks take at most r runs each; with t the least such r for n chunks, every y is best that leaves y chunks with at most t - 1
// runs more and n - y with at most t, and no fewer than these must have. The least such y is taken: while there are states to
// spare, chunks are then run again one by one, and swept from the cache.
#pragma once

#include <cstddef>
#include <vector>

#include "pybptt/rnn.hpp"

namespace pybptt {

/// The state that a run of chunks begins with or leaves: the index of a place, or one of these.
constexpr std::size_t kInitialState = std::size_t(-1), kNoState = std::size_t(-2);

/// `count` chunks from `first` on are run. The last `kept` of them stay in the places 0, 1, .. and are then swept, the last one
/// first; if none are, the state after them is kept in `to`. The others take place 0.
struct Stretch {
    std::size_t first, count, kept, from, to;

    std::size_t place(std::size_t i) const { return i < count - kept ? 0 : i - (count - kept); }
};

class Schedule {
public:
    Schedule() = default;
    /// `chunks` chunks are run; swept later if they are to be kept, with the places of the plan.
    Schedule(std::size_t chunks, bool keep, const MemoryPlan& plan);

    const std::vector<Stretch>& stretches() const { return stretches_; }
    /// The first one whose chunks are swept: what comes before, and its own runs, are the forward pass.
    std::size_t turn() const { return turn_; }
    /// Where the state is that a stretch carries along.
    std::size_t carry() const { return carry_; }
    /// Runs and sweeps of a chunk, before the first sweep and from there on.
    std::size_t forward_steps() const { return forward_steps_; }
    std::size_t backward_steps() const { return backward_steps_; }

    /// R_S(n)
    static std::size_t runs(std::size_t chunks, std::size_t places, std::size_t states);

private:
    void add(const Stretch& stretch);
    void divide(std::size_t chunks, std::size_t places, std::size_t states);

    std::vector<Stretch> stretches_;
    std::size_t turn_ = 0, carry_ = 0, forward_steps_ = 0, backward_steps_ = 0;
};

/// What memory a call takes, by the places that it has.
struct MemoryNeeds {
    std::size_t chunks;                      // N
    std::size_t all;                         // with a place for every chunk
    std::size_t beside;                      // without any places
    std::vector<std::size_t> chunk, states;  // bytes a place takes in each buffer of chunks, and of states

    std::size_t bytes(std::size_t places, std::size_t states) const;
    /// The plan with the fewest runs within the limit; if there is none, the one that takes least.
    MemoryPlan plan(std::size_t limit) const;
};

}  // namespace pybptt
