// Owned matrices in panels.
#pragma once

#include "engine/cut.hpp"
#include "runtime/memory.hpp"

namespace pybptt {

/// Columns of a matrix with `blocks` blocks of H, each in whole panels.
template <class Real>
std::size_t block_cols(int blocks, std::size_t hidden) {
    return std::size_t(blocks) * panel_count<Real>(hidden) * kLanes<Real>;
}

/// An owned matrix in panels, or several of the same size.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer() = default;
    PanelBuffer(std::size_t rows, std::size_t cols, std::size_t copies = 1)
        : stride_(stride(rows)), size_(size_of(rows, cols)), values_(checked_product(size_, copies)) {}

    Matrix<Real> matrix(std::size_t copy = 0) const { return in_panels(values_.data() + copy * size_, stride_); }
    std::size_t size() const { return values_.size(); }
    /// From one panel to the next; an odd number of cache lines: panels don't fall into the same cache sets.
    static std::size_t stride(std::size_t rows) { return (rows | 1) * kLanes<Real>; }
    /// Values in a buffer of that shape.
    static std::size_t size_of(std::size_t rows, std::size_t cols) {
        return checked_product(stride(rows), panel_count<Real>(cols));
    }

private:
    std::size_t stride_ = 0, size_ = 0;
    Buffer<Real> values_;
};

/// A matrix of a tape, chunk by chunk: of the rows of x and dz, or of those of h and c. There is a place for every chunk, or
/// there are some that any chunk fits.
template <class Real>
class ChunkBuffer {
public:
    ChunkBuffer() = default;
    ///   places  of the latter kind, or MemoryPlan::kEveryChunk
    ChunkBuffer(const Cut& cut, bool of_state, std::size_t cols, std::size_t places) {
        const std::size_t most = of_state ? cut.most_state_rows() : cut.most_rows();
        stride_ = PanelBuffer<Real>::stride(most);
        size_ = PanelBuffer<Real>::size_of(most, cols);
        if (places != MemoryPlan::kEveryChunk || !cut.ragged()) {
            values_ = Buffer<Real>(checked_product(size_, std::min(places, cut.chunks())));
            return;
        }
        std::size_t end = 0;
        for (std::size_t i = 0; i < cut.runs().size(); ++i) {
            const Chunk& first = cut.runs()[i];
            const std::size_t rows = first.rows + (of_state ? first.rows / first.steps : 0);
            const std::size_t size = PanelBuffer<Real>::size_of(rows, cols);
            places_.push_back({end, PanelBuffer<Real>::stride(rows), size, first.index});
            const std::size_t next = i + 1 < cut.runs().size() ? cut.runs()[i + 1].index : cut.chunks();
            end = checked_product(1, end + checked_product(next - first.index, size));
        }
        values_ = Buffer<Real>(end);
    }

    Matrix<Real> operator()(const Chunk& chunk) const {
        if (places_.empty()) return in_panels(values_.data() + chunk.place * size_, stride_);
        const Places& run = places_[chunk.run];
        return in_panels(values_.data() + run.begin + (chunk.index - run.first) * run.size, run.stride);
    }
    std::size_t size() const { return values_.size(); }

private:
    /// Of a run of chunks that are alike.
    struct Places {
        std::size_t begin, stride, size;  // of the first one's
        std::size_t first;                // its index
    };
    std::size_t stride_ = 0, size_ = 0;
    Buffer<Real> values_;
    std::vector<Places> places_;  // of a ragged batch, whose chunks differ
};

}  // namespace pybptt
