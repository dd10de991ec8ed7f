// A gradient's sum over the chunks, the last one first. The error of a running sum grows with the number of additions, and one day
// what is added is too small to change it: so a sum begins anew after some chunks, and what it was is added up in double.
#pragma once

#include "engine/cut.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"

namespace pybptt {

/// A member's share of `count` zeros.
template <class Value>
void zero_share(Value* values, std::size_t count, const Member& member) {
    const Range own = member.share(count, kPanelBytes / sizeof(Value));
    std::fill_n(values + own.begin, own.size(), Value(0));
}

template <class Real>
class ChunkSum {
public:
    static constexpr std::size_t kGroup = 16;

    /// `count` values at `sum`, if that is not null.
    ChunkSum(Real* sum, std::size_t count, std::size_t chunks)
        : sum_(sum), count_(count), chunks_(chunks), groups_(sum != nullptr && chunks > kGroup ? count : 0) {}

    /// Adds a chunk's terms to some rows of a sum that has `cols` columns.
    void add(const Kernels<Real>& k, const Chunk& chunk, std::size_t row, std::size_t rows, std::size_t cols,
             const Term<Real>* terms, int count) const {
        const Matrix<Real> part = row_major(sum_ + row * cols, cols);
        k.product_transposed(rows, cols, terms, count, so_far(chunk, part), part);
        end(chunk, row * cols, rows * cols);
    }
    /// What the chunk's terms are added to: what is in `part`, some rows of the sum, unless it begins anew.
    Matrix<const Real> so_far(const Chunk& chunk, Matrix<const Real> part) const {
        return (chunks_ - 1 - chunk.index) % kGroup == 0 ? none<Real>() : part;
    }
    /// To be called before the first chunk, which overwrites the values if there is one.
    void begin(const Member& member) const {
        if (sum_ != nullptr && chunks_ == 0) zero_share(sum_, count_, member);
    }
    /// To be called for all values, some at a time, once the chunk's terms have been added.
    void end(const Chunk& chunk, std::size_t first, std::size_t count) const {
        const std::size_t added = chunks_ - chunk.index;
        const bool last = chunk.index == 0;
        if (groups_.size() == 0 || (added % kGroup != 0 && !last)) return;
        for (std::size_t i = first; i < first + count; ++i) {
            const double sum = added <= kGroup ? double(sum_[i]) : groups_[i] + double(sum_[i]);
            if (last)
                sum_[i] = Real(sum);
            else
                groups_[i] = sum;
        }
    }

private:
    Real* const sum_;
    const std::size_t count_, chunks_;
    Buffer<double> groups_;
};

}  // namespace pybptt
