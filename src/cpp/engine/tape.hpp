// What forward keeps, and how time and the batch are cut up.
//
// A CHUNK is a run of steps whose h_t, x_t and dz_t are small enough to stay in a core's cache together: the input is
// projected, the recurrence run, and later dz summed into the weight gradients, chunk by chunk. A SLICE is a run of
// samples whose rows lie together, so that threads which own different slices never write into each other's neighbourhood:
// cores that do slow each other down by a third, because each fetches what the other is about to write.
//
// In a chunk of S steps, the rows of x and dz are ordered by slice, then step, then sample; those of h likewise, with the state
// before the chunk in front of each slice's first step. For sample b of a slice of n samples that begins with sample g:
//
//     row of x_s and dz_s    S g + s n + (b - g)
//     row of h before s      (S + 1) g + s n + (b - g)      = row of dz_s + g;   h after s: n rows further
//
// So within a slice h_{t-1} for all steps of the chunk is the same matrix as h_t, moved by n rows. How both are cut
// depends on the sizes alone, never on the threads, because it sets the order in which weight gradients are summed.
#pragma once

#include <algorithm>

#include "kernels/table.hpp"
#include "pybptt/rnn.hpp"
#include "runtime/memory.hpp"

namespace pybptt {

/// An owned matrix in panels, or several of the same size.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer() = default;
    PanelBuffer(std::size_t rows, std::size_t cols, std::size_t copies = 1)
        : stride_((rows | 1) * kLanes<Real>),  // an odd number of cache lines: panels don't fall into the same cache sets
          size_(checked_product(stride_, panel_count<Real>(cols))),
          values_(checked_product(size_, copies)) {}

    Matrix<Real> matrix(std::size_t copy = 0) const { return in_panels(values_.data() + copy * size_, stride_); }
    std::size_t size() const { return values_.size(); }

private:
    std::size_t stride_ = 0, size_ = 0;
    Buffer<Real> values_;
};

struct Chunk {
    std::size_t index, first_step, steps;
};

/// Samples [begin, begin + size) of the batch.
struct Slice {
    std::size_t begin, size;
};

class Cut {
public:
    static constexpr std::size_t kChunkRows = 256;
    static constexpr std::size_t kMostSlices = 16;

    Cut() = default;
    Cut(const RnnSizes& sizes, std::size_t chunk_steps, std::size_t slices)
        : steps_(sizes.steps), batch_(sizes.batch), chunk_steps_(chunk_steps), slices_(slices) {}
    /// Chunks of about kChunkRows rows and, if asked for, slices.
    static Cut of(const RnnSizes& s, std::size_t value_bytes, bool sliced) {
        const std::size_t longest = std::max<std::size_t>(1, kChunkRows / std::max<std::size_t>(1, s.batch));
        // A slice's step reads all of W_hh: the larger it is, the more samples should share it.
        const std::size_t weight_bytes = s.hidden * s.hidden * value_bytes;
        const std::size_t samples = weight_bytes <= (256 << 10) ? 8 : weight_bytes <= (1 << 20) ? 16 : 32;
        const std::size_t slices = std::min(kMostSlices, std::max<std::size_t>(s.batch >= 8 ? 2 : 1, s.batch / samples));
        return Cut(s, std::min(std::max<std::size_t>(1, s.steps), longest), sliced ? slices : 1);
    }

    std::size_t chunks() const { return (steps_ + chunk_steps_ - 1) / chunk_steps_; }
    std::size_t chunk_steps() const { return chunk_steps_; }
    Chunk chunk(std::size_t index) const {
        const std::size_t first = index * chunk_steps_;
        return {index, first, std::min(chunk_steps_, steps_ - first)};
    }
    std::size_t slices() const { return slices_; }
    Slice slice(std::size_t index) const {
        const std::size_t begin = batch_ * index / slices_;
        return {begin, batch_ * (index + 1) / slices_ - begin};
    }

    /// visit(row, count, step, sample, slice): the rows [first, first + rows) of x or dz, as runs of samples of one step.
    template <class Visit>
    void for_each_run(const Chunk& chunk, std::size_t first, std::size_t rows, Visit visit) const {
        for (std::size_t i = 0; i < slices_; ++i) {
            const Slice part = slice(i);
            const std::size_t begin = chunk.steps * part.begin, end = begin + chunk.steps * part.size;
            for (std::size_t row = std::max(first, begin); row < std::min(first + rows, end);) {
                const std::size_t step = (row - begin) / part.size, sample = (row - begin) % part.size;
                const std::size_t count = std::min(part.size - sample, std::min(first + rows, end) - row);
                visit(row, count, step, part.begin + sample, part);
                row += count;
            }
        }
    }

private:
    std::size_t steps_ = 0, batch_ = 0, chunk_steps_ = 1, slices_ = 1;
};

/// The distinct tokens of an input, and for each of its steps which of them it is.
struct Tokens {
    Buffer<std::int32_t> slot;      // (T, B): index into `distinct`, in the order of the rows of x
    Buffer<std::int64_t> distinct;  // ids, in the order of first appearance
    std::size_t count = 0;          // of them

    Tokens() = default;
    Tokens(const std::int64_t* ids, const Cut& cut, std::size_t batch);
};

template <class Real>
struct Tape<Real>::Contents {
    RnnSizes sizes;
    Cut cut;
    bool dense;
    bool keeps_all;               // or only the chunk at work, when there is no tape to keep
    PanelBuffer<Real> hidden;     // a chunk each: h
    PanelBuffer<Real> input;      // a chunk each: x, if dense
    Tokens tokens;                // otherwise
    PanelBuffer<Real> weight_hh;  // (H, H), for dz_t W_hh
    PanelBuffer<Real> weight_ih;  // (H, D), for dz_t W_ih; if dense

    Contents(const RnnSizes& sizes, const Cut& cut, const RnnInput<Real>& input, bool keep_all);

    Matrix<Real> h(const Chunk& chunk) const { return hidden.matrix(keeps_all ? chunk.index : 0); }
    Matrix<Real> x(const Chunk& chunk) const { return input.matrix(keeps_all ? chunk.index : 0); }
    const std::int32_t* slots(const Chunk& chunk) const { return tokens.slot.data() + chunk.first_step * sizes.batch; }
    std::size_t bytes() const;
};

}  // namespace pybptt
