// The rows that an output layer reads: h_t of the last layer as its tape has them, chunk by chunk; or rows of an array, some
// at a time, when they are the outputs of two directions or final states.
#pragma once

#include <numeric>

#include "engine/division.hpp"
#include "engine/tape.hpp"

namespace pybptt {

template <class Real>
class OutputRows {
public:
    ///   wanted     where the caller wants the final states
    ///   gradients  whether the array is to have derivatives beside it
    OutputRows(const typename Tape<Real>::Contents& tape, bool last_only, const RnnState<Real>& wanted, bool gradients)
        : tape_(*tape.recurrences.back()), sizes_(tape.sizes), last_only_(last_only), final_state_(wanted) {
        if (in_tape_) return;
        const std::size_t rows = last_only ? sizes_.batch : checked_product(sizes_.steps, sizes_.batch);
        if (last_only && wanted.h == nullptr) {
            final_h_ = Buffer<Real>(checked_product(sizes_.recurrences() * sizes_.batch, sizes_.h_width()));
            final_state_.h = final_h_.data();
        }
        array_ = Buffer<Real>(checked_product(rows, width_));
        if (gradients) d_array_ = Buffer<Real>(array_.size());
        std::vector<std::size_t> ends(sizes_.batch, 1);  // of each sample, the step where its rows end
        for (std::size_t position = 0; !last_only && position < sizes_.batch; ++position)
            ends[tape_.cut.sample(position)] = tape_.cut.length(position);
        rows_ = Buffer<std::size_t>(std::accumulate(ends.begin(), ends.end(), std::size_t{0}));
        if (CountMemory::active()) return;
        for (std::size_t t = 0, i = 0; i < rows_.size(); ++t)
            for (std::size_t b = 0; b < sizes_.batch; ++b)
                if (t < ends[b]) rows_[i++] = t * sizes_.batch + b;
    }

    std::size_t width() const { return width_; }
    bool in_tape() const { return in_tape_; }
    /// Whether a chunk has rows that do not count.
    bool ragged() const { return in_tape_ && tape_.cut.ragged(); }
    /// (rows, K P): derivatives by the array, if it has them.
    Real* d_array() const { return d_array_.data(); }
    /// What the forward pass is to write.
    RnnOutput<Real> output() const { return {last_only_ || in_tape_ ? nullptr : array_.data(), final_state_}; }
    /// After the forward pass: the final states of the last layer's directions, side by side.
    void bring(const Member& member) const {
        if (!last_only_) return;
        const std::size_t P = sizes_.h_width(), K = sizes_.directions, B = sizes_.batch;
        const Range own = member.share(B, 1);
        for (std::size_t b = own.begin; b < own.end; ++b)
            for (std::size_t k = 0; k < K; ++k)
                std::copy_n(final_state_.h + ((sizes_.recurrences() - K + k) * B + b) * P, P, array_.data() + b * width_ + k * P);
        member.wait();
    }

    std::size_t chunks() const { return in_tape_ ? tape_.cut.chunks() : (rows_.size() + kChunkRows - 1) / kChunkRows; }
    /// Of a tape, in place 0, whether it is there or not.
    Chunk chunk(std::size_t index) const {
        if (in_tape_) return tape_.cut.chunk(index, 0);
        const std::size_t first = index * kChunkRows;
        return {index, 0, 1, first, std::min(kChunkRows, rows_.size() - first), 0};
    }
    std::size_t most_rows() const { return in_tape_ ? tape_.cut.most_rows() : std::min(kChunkRows, rows_.size()); }
    std::size_t total() const { return in_tape_ ? tape_.cut.rows() : rows_.size(); }

    /// visit(row, count, h, targets): the rows [first, first + rows) of a chunk that count, and their rows of the caller's arrays.
    template <class Visit>
    void for_each_rows(const Chunk& chunk, std::size_t first, std::size_t rows, Visit visit) const {
        if (in_tape_) {
            const Matrix<const Real> h = tape_.h(chunk);
            tape_.cut.for_each_rows(chunk, first, rows, chunk.first_step,
                                    [&](std::size_t row, std::size_t n, const Rows& targets, Slice slice) {
                                        visit(row, n, h.rows_from(row + slice.begin + slice.size), targets);
                                    });
            return;
        }
        const Rows all{0, rows_.data() + chunk.first_row + first};
        if (rows != 0) visit(first, rows, UserRows<const Real>{array_.data(), width_}.at(all), all);
    }

private:
    static constexpr std::size_t kChunkRows = 1024;  // of an array

    const RecurrenceTape<Real>& tape_;
    const RnnSizes& sizes_;
    const bool last_only_, in_tape_ = !last_only_ && sizes_.directions == 1;
    const std::size_t width_ = sizes_.directions * sizes_.h_width();  // K P
    RnnState<Real> final_state_;
    Buffer<Real> final_h_;          // (L K, B, P), if they are read and the caller does not want them
    Buffer<Real> array_, d_array_;  // (T B or B, K P)
    Buffer<std::size_t> rows_;      // of the array: those that are read
};

}  // namespace pybptt
