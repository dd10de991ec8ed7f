// What forward keeps.
#pragma once

#include <memory>
#include <vector>

#include "engine/cut.hpp"
#include "runtime/memory.hpp"
#include "runtime/tier.hpp"

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
    /// Of a buffer of that shape, in values.
    static std::size_t size_of(std::size_t rows, std::size_t cols, std::size_t copies = 1) {
        return checked_product(checked_product((rows | 1) * kLanes<Real>, panel_count<Real>(cols)), copies);
    }

private:
    std::size_t stride_ = 0, size_ = 0;
    Buffer<Real> values_;
};

/// The distinct tokens of an input, and for each of its steps which of them it is.
struct Tokens {
    Buffer<std::int32_t> slot;      // index into `distinct`, in the order of the rows of x; 0 past a sequence's end
    Buffer<std::int64_t> distinct;  // ids, in the order of first appearance
    std::size_t count = 0;          // of them

    Tokens() = default;
    Tokens(const std::int64_t* ids, const Cut& cut);
};

/// Columns of a matrix with `blocks` blocks of H, each in whole panels.
template <class Real>
std::size_t block_cols(int blocks, std::size_t hidden) {
    return std::size_t(blocks) * panel_count<Real>(hidden) * kLanes<Real>;
}

template <class Real>
const Cell<Real>& find_cell(const CellConfig& config);

/// The tape of one unit.
template <class Real>
struct UnitTape {
    RnnSizes sizes;  // of this unit: one layer, one direction
    const Cell<Real>& cell;
    Cut cut;
    bool dense;
    bool keeps_all;               // or only the chunk at work, when there is no tape to keep
    PanelBuffer<Real> hidden;     // a chunk each: h
    PanelBuffer<Real> cells;      // a chunk each: c, if the cell has one
    PanelBuffer<Real> blocks;     // a chunk each: the cell's blocks, if it has more than h
    PanelBuffer<Real> input;      // a chunk each: x, if dense
    Tokens tokens;                // otherwise
    PanelBuffer<Real> weight_hh;  // (G H, H), for dz_t W_hh
    PanelBuffer<Real> weight_ih;  // (G H, D), for dz_t W_ih; if dense
    Buffer<Real> peephole;        // rows of whole panels

    /// `tokens` is null for dense input.
    UnitTape(const RnnSizes& sizes, Cut cut, const std::int64_t* tokens, bool keep_all);

    std::size_t copy_of(const Chunk& chunk) const { return keeps_all ? chunk.index : 0; }
    Matrix<Real> h(const Chunk& chunk) const { return hidden.matrix(copy_of(chunk)); }
    Matrix<Real> c(const Chunk& chunk) const { return cells.matrix(copy_of(chunk)); }
    Matrix<Real> x(const Chunk& chunk) const { return input.matrix(copy_of(chunk)); }
    Matrix<Real> saved(const Chunk& chunk) const { return blocks.matrix(copy_of(chunk)); }
    bool has_blocks() const { return cell.blocks > 1; }
    bool has_cell_state() const { return sizes.cell.has_cell_state(); }
    const std::int32_t* slots(const Chunk& chunk) const { return tokens.slot.data() + chunk.first_row; }
    /// Panels of H.
    std::size_t panels() const { return panel_count<Real>(sizes.hidden); }
    std::size_t bytes() const;
    static std::size_t bytes(const RnnSizes& sizes, const Cut& cut, bool dense);
};

/// One unit's sizes: above the first layer the input is the layer below, both directions.
inline RnnSizes unit_sizes(const RnnSizes& s, std::size_t unit) {
    RnnSizes one = s;
    if (unit >= s.directions) one.inputs = s.directions * s.hidden;
    one.layers = one.directions = 1;
    return one;
}

template <class Real>
struct Tape<Real>::Contents {
    RnnSizes sizes;
    std::vector<std::unique_ptr<UnitTape<Real>>> units;

    Contents(const RnnSizes& sizes, const RnnInput<Real>& input, bool keep_all);

    UnitTape<Real>& unit(std::size_t layer, std::size_t direction) const { return *units[layer * sizes.directions + direction]; }
};

}  // namespace pybptt
