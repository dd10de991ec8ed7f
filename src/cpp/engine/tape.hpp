// What forward keeps.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/cut.hpp"
#include "engine/schedule.hpp"
#include "runtime/memory.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

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

/// A matrix of a unit's tape, chunk by chunk: of the rows of x and dz, or of those of h and c. There is a place for every chunk, or
/// there are some that any chunk fits.
template <class Real>
class ChunkBuffer {
public:
    ChunkBuffer() = default;
    ///   places  of the latter kind, or MemoryPlan::kEveryChunk
    ChunkBuffer(const Cut& cut, bool of_state, std::size_t cols, std::size_t places)
        : rows_(of_state ? cut.most_state_rows() : cut.most_rows()),
          size_(PanelBuffer<Real>::size_of(rows_, cols)),
          values_(total(cut, of_state, cols, places)) {
        if (places != MemoryPlan::kEveryChunk || !cut.ragged()) return;
        for (std::size_t i = 0, at = 0; i < cut.chunks(); ++i) {
            const std::size_t rows = chunk_rows(cut, of_state, i);
            places_.push_back({at, PanelBuffer<Real>::stride(rows)});
            at += PanelBuffer<Real>::size_of(rows, cols);
        }
    }

    Matrix<Real> matrix(const Chunk& chunk) const {
        if (!places_.empty()) return in_panels(values_.data() + places_[chunk.place].begin, places_[chunk.place].stride);
        return in_panels(values_.data() + chunk.place * size_, PanelBuffer<Real>::stride(rows_));
    }
    std::size_t size() const { return values_.size(); }

private:
    static std::size_t total(const Cut& cut, bool of_state, std::size_t cols, std::size_t places) {
        const std::size_t most = of_state ? cut.most_state_rows() : cut.most_rows();
        if (places != MemoryPlan::kEveryChunk || !cut.ragged())
            return checked_product(PanelBuffer<Real>::size_of(most, cols), std::min(places, cut.chunks()));
        std::size_t sum = 0;
        for (std::size_t i = 0; i < cut.chunks(); ++i) sum += PanelBuffer<Real>::size_of(chunk_rows(cut, of_state, i), cols);
        return sum;
    }
    static std::size_t chunk_rows(const Cut& cut, bool of_state, std::size_t index) {
        const Chunk chunk = cut.chunk(index);
        return chunk.rows + (of_state ? chunk.rows / chunk.steps : 0);
    }

    struct Place {
        std::size_t begin, stride;
    };
    std::size_t rows_ = 0, size_ = 0;
    Buffer<Real> values_;
    std::vector<Place> places_;  // of a ragged batch, whose chunks differ
};

/// The distinct tokens of an input, and for each of its steps which of them it is.
struct Tokens {
    Buffer<std::int32_t> slot;      // index into `distinct`, in the order of the rows of x; 0 past a sequence's end
    Buffer<std::int64_t> distinct;  // ids, in the order of first appearance
    std::size_t count = 0;          // of them

    Tokens() = default;
    /// `ids` are in [0, vocabulary).
    Tokens(const std::int64_t* ids, std::size_t vocabulary, const Cut& cut);
};

/// Columns of a matrix with `blocks` blocks of H, each in whole panels.
template <class Real>
std::size_t block_cols(int blocks, std::size_t hidden) {
    return std::size_t(blocks) * panel_count<Real>(hidden) * kLanes<Real>;
}

template <class Real>
const Cell<Real>& find_cell(const CellConfig& config);

/// Input that nobody reads, where memory is counted alone.
template <class Real>
RnnInput<Real> some_input(bool tokens) {
    static constexpr std::int64_t nothing = 0;
    return {tokens ? nullptr : reinterpret_cast<const Real*>(&nothing), tokens ? &nothing : nullptr};
}

/// The tape of one unit.
template <class Real>
struct UnitTape {
    RnnSizes sizes;  // of this unit: one layer, one direction
    const Cell<Real>& cell;
    Cut cut;
    bool dense;
    bool moves_chunks;            // from place to place: there is not one for each
    ChunkBuffer<Real> hidden;     // h
    ChunkBuffer<Real> cells;      // c, if the cell has one
    ChunkBuffer<Real> blocks;     // the cell's blocks, if it has more than h
    ChunkBuffer<Real> input;      // x, if dense
    Tokens tokens;                // otherwise
    PanelBuffer<Real> weight_hh;  // (G H, H), for dz_t W_hh
    PanelBuffer<Real> weight_ih;  // (G H, D), for dz_t W_ih; if dense
    Buffer<Real> peephole;        // rows of whole panels
    PanelBuffer<Real> states_h;   // (B, H): states between chunks; the last one is carried along
    PanelBuffer<Real> states_c;

    /// `tokens` is null for dense input. `keep`: for a sweep; otherwise all chunks take the same place.
    UnitTape(const RnnSizes& sizes, Cut cut, const std::int64_t* tokens, bool keep, const MemoryPlan& plan = {});

    Matrix<Real> h(const Chunk& chunk) const { return hidden.matrix(chunk); }
    Matrix<Real> c(const Chunk& chunk) const { return cells.matrix(chunk); }
    Matrix<Real> x(const Chunk& chunk) const { return input.matrix(chunk); }
    Matrix<Real> saved(const Chunk& chunk) const { return blocks.matrix(chunk); }
    bool has_blocks() const { return cell.blocks > 1; }
    bool has_cell_state() const { return sizes.cell.has_cell_state(); }
    const std::int32_t* slots(const Chunk& chunk) const { return tokens.slot.data() + chunk.first_row; }
    /// Panels of H.
    std::size_t panels() const { return panel_count<Real>(sizes.hidden); }
    std::size_t bytes() const;
    /// Adds the bytes of one place in each of its buffers; its own plan must have one place for chunks and no state.
    void add_needs(MemoryNeeds& needs) const;
};

/// One unit's sizes: above the first layer the input is the layer below, both directions.
inline RnnSizes unit_sizes(const RnnSizes& s, std::size_t unit) {
    RnnSizes one = s;
    if (unit >= s.directions) one.inputs = s.directions * s.hidden;
    one.layers = one.directions = 1;
    return one;
}

/// Copies of what is needed to run a tape's chunks again.
template <class Real>
struct TapeSource {
    std::vector<Buffer<Real>> arrays;
    std::vector<RnnParameters<Real>> parameters;  // of each unit
    RnnInput<Real> input;                         // without tokens and mask: units have the tokens, backward is given the mask
    RnnState<const Real> state;
    std::mutex mutex;  // whoever has it has the tape for himself
    std::atomic<std::thread::id> owner{};
    bool as_forward_left_it = true;

    TapeSource(const RnnSizes& sizes, const RnnParameters<Real>* parameters, const RnnInput<Real>& input,
               const RnnState<const Real>& state);
    std::size_t bytes() const;

private:
    const Real* copy(const Real* array, std::size_t count);
};

template <class Real>
struct Tape<Real>::Contents {
    RnnSizes sizes;
    MemoryPlan plan;
    Schedule schedule;  // for every unit; if the plan is limited, layers go through it together
    std::vector<std::unique_ptr<UnitTape<Real>>> units;
    std::unique_ptr<TapeSource<Real>> source;  // of a tape that outlives its call, if the plan is limited

    Contents(const RnnSizes& sizes, const RnnInput<Real>& input, bool keep, const MemoryPlan& plan = {});

    UnitTape<Real>& unit(std::size_t layer, std::size_t direction) const { return *units[layer * sizes.directions + direction]; }
};

}  // namespace pybptt
