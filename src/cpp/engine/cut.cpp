#include "engine/cut.hpp"

#include <numeric>

#include "runtime/memory.hpp"

namespace pybptt {

Cut::Cut(const RnnSizes& s, bool reverse, std::size_t chunk_rows, std::size_t slices)
    : steps_(s.steps), batch_(s.batch), slices_(slices), reverse_(reverse) {
    checked_product(batch_, 4 * kMostSlices);  // what follows computes with it
    const auto shorter = [&](std::int64_t n) { return std::size_t(n) != steps_; };
    if (s.lengths != nullptr && std::any_of(s.lengths, s.lengths + batch_, shorter)) deal(s.lengths);
    const auto active_at = [&](std::size_t step) {
        std::size_t sum = 0;
        for (std::size_t i = 0; i < slices_; ++i) sum += active(i, step);
        return sum;
    };
    for (std::size_t t = 0, row = 0; ragged() && s.packed_rows != 0 && t <= steps_; row += active_at(t++))
        packed_first_.push_back(row);
    const std::size_t longest = batch_ == 0 ? 0 : length(0);
    for (std::size_t first = 0; first < longest;) {
        const std::size_t n = active_at(first), most = std::min(std::max<std::size_t>(1, chunk_rows / n), longest - first);
        const auto enough = [&](std::size_t step) { return 4 * active_at(first + step) >= 3 * n; };
        const std::size_t steps = last_for_which(0, most, enough) + 1;
        // Until a sample ends, all chunks are alike.
        const auto all = [&](std::size_t step) { return active_at(first + step) == n; };
        const std::size_t alike = std::max<std::size_t>(1, (last_for_which(0, longest - first, all) + 1) / steps);
        runs_.push_back({chunks_, first, steps, rows_, steps * n, chunks_, runs_.size()});
        if (ragged()) begins_.push_back(0);
        for (std::size_t i = 0; ragged() && i < slices_; ++i) begins_.push_back(begins_.back() + active(i, first));
        most_rows_ = std::max(most_rows_, steps * n);
        most_state_rows_ = std::max(most_state_rows_, (steps + 1) * n);
        most_steps_ = std::max(most_steps_, steps);
        chunks_ += alike;
        rows_ += alike * steps * n;
        first += alike * steps;
    }
}

void Cut::deal(const std::int64_t* lengths) {
    std::vector<std::size_t> sorted(batch_);
    std::iota(sorted.begin(), sorted.end(), std::size_t{0});
    std::stable_sort(sorted.begin(), sorted.end(), [&](std::size_t a, std::size_t b) { return lengths[a] > lengths[b]; });
    samples_.resize(batch_);
    lengths_.resize(batch_);
    for (std::size_t round = 0, dealt = 0; dealt < batch_; ++round)
        for (std::size_t k = 0; k < slices_; ++k) {
            const std::size_t i = round % 2 == 0 ? k : slices_ - 1 - k;  // there and back: each has long ones and short ones
            const std::size_t position = first_position(i) + round;
            if (position >= first_position(i + 1)) continue;
            samples_[position] = sorted[dealt++];
            lengths_[position] = std::size_t(lengths[samples_[position]]);
        }
}

Cut Cut::of(const RnnSizes& s, bool reverse, const CellShape& cell) {
    const int kept = (cell.keeps_z ? cell.blocks : 0) + (cell.has_c ? 2 : 1);  // blocks a step
    double rows = double(s.steps) * double(s.batch);
    if (s.lengths != nullptr) rows = std::accumulate(s.lengths, s.lengths + s.batch, 0.0);
    const double tenth = rows * kept / (10.0 * cell.blocks);
    const std::size_t chunk_rows = std::size_t(std::clamp(tenth, double(kLeastRows), double(kChunkRows)));
    // A slice's step reads all of W_hh, so samples share it; but some members of a team should have slices of their own.
    const std::size_t least = s.batch >= 8 ? 2 : 1;
    return Cut(s, reverse, chunk_rows, std::clamp(s.batch / kSliceSamples, least, kMostSlices));
}

}  // namespace pybptt
