// The rows that an output layer reads: h_t of the last layer as its tape has them, chunk by chunk; or rows of an array, some
// at a time, when they are the outputs of two directions or final states.
#pragma once

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

template <class Real>
class OutputRows {
public:
    /// Of the last layer's only direction.
    explicit OutputRows(const RecurrenceTape<Real>& tape) : tape_(&tape), width_(tape.sizes.h_width()) {}
    /// `rows` of an array whose rows have `width` values.
    OutputRows(const Real* array, std::size_t width, std::vector<std::size_t> rows)
        : array_{array, width}, width_(width), rows_(std::move(rows)) {}

    std::size_t width() const { return width_; }
    bool in_tape() const { return tape_ != nullptr; }
    std::size_t chunks() const { return in_tape() ? tape_->cut.chunks() : (rows_.size() + kChunkRows - 1) / kChunkRows; }
    /// Of a tape, in place 0, whether it is there or not.
    Chunk chunk(std::size_t index) const {
        if (in_tape()) return tape_->cut.chunk(index).in_place(0);
        const std::size_t first = index * kChunkRows;
        return {index, 0, 1, first, std::min(kChunkRows, rows_.size() - first), 0};
    }
    std::size_t most_rows() const { return in_tape() ? tape_->cut.most_rows() : std::min(kChunkRows, rows_.size()); }
    std::size_t total() const { return in_tape() ? tape_->cut.rows() : rows_.size(); }

    /// visit(row, count, h, targets): the rows [first, first + rows) of a chunk that count, and their rows of the caller's arrays.
    template <class Visit>
    void for_each_rows(const Chunk& chunk, std::size_t first, std::size_t rows, Visit visit) const {
        if (in_tape()) {
            const Matrix<const Real> h = tape_->h(chunk);
            tape_->cut.for_each_rows(chunk, first, rows, [&](std::size_t row, std::size_t n, const Rows& targets, Slice slice) {
                visit(row, n, h.rows_from(row + slice.begin + slice.size), targets);
            });
            return;
        }
        const Rows all{0, rows_.data() + chunk.first_row + first};
        if (rows != 0) visit(first, rows, array_.at(all), all);
    }

private:
    static constexpr std::size_t kChunkRows = 1024;  // of an array

    const RecurrenceTape<Real>* tape_ = nullptr;
    UserRows<const Real> array_;
    std::size_t width_;
    std::vector<std::size_t> rows_;
};

}  // namespace pybptt
