// What forward keeps, and how time is cut into chunks.
//
// A chunk is a run of steps whose h_t, x_t and dz_t are small enough to stay in a core's cache together: the input is
// projected, the recurrence run, and later dz summed into the weight gradients, chunk by chunk. Its length depends on the
// sizes alone, never on the threads, because it sets the order in which weight gradients are summed.
//
// In a chunk, step s (0 ..) of sample b is row s * B + b of x and dz, and row (s + 1) * B + b of h: rows 0 .. B-1 of h are the
// state before the chunk. So h_{t-1} for all steps of the chunk is the same matrix as h_t, moved by B rows.
#pragma once
#include <cstdlib>

#include <algorithm>
#include <vector>

#include "kernels/table.hpp"
#include "pybptt/rnn.hpp"
#include "runtime/memory.hpp"

namespace pybptt {

/// An owned matrix in panels.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer() = default;
    PanelBuffer(std::size_t rows, std::size_t cols)
        : stride_((rows | 1) * kLanes<Real>),  // an odd number of cache lines: panels don't fall into the same cache sets
          values_(checked_product(stride_, panel_count<Real>(cols))) {}

    Matrix<Real> matrix() const { return in_panels(values_.data(), stride_); }
    std::size_t size() const { return values_.size(); }

private:
    std::size_t stride_ = 0;
    Buffer<Real> values_;
};

struct Chunk {
    std::size_t index, first_step, steps;
};

class Chunks {
public:
    static inline std::size_t kRows = getenv("KR")?atoi(getenv("KR")):512;

    Chunks() = default;
    Chunks(std::size_t steps, std::size_t longest) : steps_(steps), longest_(longest), count_(steps == 0 ? 0 : (steps + longest - 1) / longest) {}
    /// Chunks of about kRows rows.
    static Chunks of(const RnnSizes& sizes) {
        const std::size_t most = std::max<std::size_t>(1, kRows / std::max<std::size_t>(1, sizes.batch));
        return Chunks(sizes.steps, std::min(std::max<std::size_t>(1, sizes.steps), most));
    }

    std::size_t count() const { return count_; }
    std::size_t longest() const { return longest_; }
    Chunk operator[](std::size_t index) const {
        const std::size_t first = index * longest_;
        return {index, first, std::min(longest_, steps_ - first)};
    }

private:
    std::size_t steps_ = 0, longest_ = 1, count_ = 0;
};

/// The distinct tokens of an input, and for each of its steps which of them it is.
struct Tokens {
    Buffer<std::int32_t> slot;      // (T, B): index into `distinct`
    Buffer<std::int64_t> distinct;  // ids, in the order of first appearance
    std::size_t count = 0;          // of them

    Tokens() = default;
    Tokens(const std::int64_t* ids, std::size_t n);
};

template <class Real>
struct Tape<Real>::Contents {
    RnnSizes sizes;
    Chunks chunks;
    bool dense;
    std::vector<PanelBuffer<Real>> hidden;  // a chunk each: h
    std::vector<PanelBuffer<Real>> input;   // a chunk each: x, if dense
    Tokens tokens;                          // otherwise
    PanelBuffer<Real> weight_hh;            // (H, H), for dz_t W_hh
    PanelBuffer<Real> weight_ih;            // (H, D), for dz_t W_ih; if dense

    Contents(const RnnSizes& sizes, Chunks chunks, const RnnInput<Real>& input, bool keep_all);

    // Without a tape to keep, every chunk takes the same place.
    Matrix<Real> h(const Chunk& chunk) const { return hidden[chunk.index % hidden.size()].matrix(); }
    Matrix<Real> x(const Chunk& chunk) const { return input[chunk.index % input.size()].matrix(); }
    const std::int32_t* slots(const Chunk& chunk) const { return tokens.slot.data() + chunk.first_step * sizes.batch; }
    std::size_t bytes() const;
};

}  // namespace pybptt
