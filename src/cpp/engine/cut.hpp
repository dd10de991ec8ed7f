// How time and the batch are cut up, and where each sample's step lies in the user's arrays.
//
// A CHUNK is a run of steps whose h_t, x_t and dz_t are small enough to stay in a core's cache together: the input is
// projected, the recurrence run, and later dz summed into the weight gradients, chunk by chunk. A SLICE is a run of
// samples whose rows lie together, so that threads which own different slices never write into each other's neighbourhood:
// cores that do slow each other down by a third, because each fetches what the other is about to write.
//
// In a chunk of S steps, the rows of x and dz are ordered by slice, then step, then sample; those of h and c likewise, with the
// state before the chunk in front of each slice's first step. For the j-th of a slice's n samples, after g of the slices before:
//
//     row of x_s and dz_s    S g + s n + j
//     row of h before s      (S + 1) g + s n + j      = row of dz_s + g;   h after s: n rows further
//
// So within a slice h_{t-1} for all steps of the chunk is the same matrix as h_t, moved by n rows. How both are cut
// depends on the sizes alone, never on the threads, because it sets the order in which weight gradients are summed.
//
// RAGGED batches are sorted by length and dealt out to the slices like cards, so that in every slice the longest come first and
// all slices shrink together. A chunk has a row for each sample that is active at its first step; the rows of those that end
// within it are 0 from there on. A chunk ends early when more than a quarter of its samples has ended.
//
// The REVERSE direction reads each sequence from its own end: step s of a sequence of n steps is its time n - 1 - s.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/table.hpp"
#include "pybptt/rnn.hpp"

namespace pybptt {

/// By bisection, the last of [first, end) for which it holds, which it does for `first`.
template <class Holds>
std::size_t last_for_which(std::size_t first, std::size_t end, Holds holds) {
    while (first + 1 < end) {
        const std::size_t middle = first + (end - first) / 2;
        (holds(middle) ? first : end) = middle;
    }
    return first;
}

struct Chunk {
    std::size_t index, first_step, steps;
    std::size_t first_row, rows;  // of x and dz: those of the chunks before, and its own
    std::size_t place;            // where a tape has it: its index, if there is a place for every chunk
    std::size_t run = 0;          // of chunks that are alike
};

/// A chunk's samples of one slice. `first` is the first one's position: samples are numbered by slice, in order of length.
struct Slice {
    std::size_t index, first;
    std::size_t begin, size;  // g and n
};

/// Rows of an array, counted from one of them: consecutive ones, or those of an index.
struct Rows {
    std::size_t first;
    const std::size_t* index = nullptr;

    std::size_t operator[](std::size_t i) const { return first + (index != nullptr ? index[i] : i); }
};

/// An array of rows with `leading` values from one to the next. Null data: there is none.
template <class Real>
struct UserRows {
    Real* data = nullptr;
    std::size_t leading = 0;
    bool of_chunk = false;  ///< of a (T, B, ..) array it has the steps of the chunk at work alone, from row 0 on

    explicit operator bool() const { return data != nullptr; }
    /// The step that a chunk's first step is in this array.
    std::size_t first_step(const Chunk& chunk) const { return of_chunk ? 0 : chunk.first_step; }
    Matrix<Real> at(const Rows& rows) const {
        Matrix<Real> m = row_major(data + rows.first * leading, leading);
        m.index = rows.index;
        return m;
    }
};

class Cut {
public:
    static constexpr std::size_t kChunkRows = 512, kLeastRows = 128;
    static constexpr std::size_t kSliceSamples = 32, kMostSlices = 16;
    static_assert(kMostSlices <= std::size_t{kMaxTerms});  // a weight gradient's product has one each
    static constexpr std::size_t kApart = 32;              // rows between slices in a buffer that is not a chunk's

    Cut() = default;
    /// All of one recurrence: chunks of about `chunk_rows` rows.
    Cut(const RnnSizes& sizes, bool reverse, std::size_t chunk_rows, std::size_t slices);
    /// For speed: chunks of kChunkRows rows, slices of some samples. A short sequence is cut into
    /// ten, so that a chunk's dz takes no more than a tenth of the tape.
    static Cut of(const RnnSizes& sizes, bool reverse, const CellShape& cell);

    std::size_t chunks() const { return chunks_; }
    Chunk chunk(std::size_t index) const { return chunk(index, index); }
    Chunk chunk(std::size_t index, std::size_t place) const {
        const auto after =
            std::upper_bound(runs_.begin(), runs_.end(), index, [](std::size_t i, const Chunk& first) { return i < first.index; });
        Chunk chunk = *(after - 1);
        const std::size_t before = index - chunk.index;
        chunk.index = index;
        chunk.place = place;
        chunk.first_step += before * chunk.steps;
        chunk.first_row += before * chunk.rows;
        return chunk;
    }
    /// The first chunk of each run of chunks that are alike.
    const std::vector<Chunk>& runs() const { return runs_; }
    std::size_t most_rows() const { return most_rows_; }              // of x and dz in any chunk
    std::size_t most_state_rows() const { return most_state_rows_; }  // of h
    std::size_t most_steps() const { return most_steps_; }
    std::size_t rows() const { return rows_; }
    std::size_t slices() const { return slices_; }
    bool ragged() const { return !lengths_.empty(); }

    Slice slice(const Chunk& chunk, std::size_t index) const {
        const std::size_t first = first_position(index);
        if (!ragged()) return {index, first, first, first_position(index + 1) - first};
        const std::size_t* begins = begins_.data() + chunk.run * (slices_ + 1);
        return {index, first, begins[index], begins[index + 1] - begins[index]};
    }
    /// Positions of a slice, whether active or not.
    std::size_t first_position(std::size_t slice) const { return batch_ * slice / slices_; }
    /// Its samples that have a step `step`.
    std::size_t active(std::size_t slice, std::size_t step) const {
        const std::size_t first = first_position(slice), end = first_position(slice + 1);
        if (!ragged()) return step < steps_ ? end - first : 0;
        const auto begin = lengths_.begin();
        const auto last = std::partition_point(begin + std::ptrdiff_t(first), begin + std::ptrdiff_t(end),
                                               [&](std::size_t length) { return length > step; });
        return std::size_t(last - begin) - first;
    }
    std::size_t length(std::size_t position) const { return ragged() ? lengths_[position] : steps_; }
    /// Rows of a (B, ..) array: the samples from a position on.
    Rows samples(std::size_t position) const { return ragged() ? Rows{0, samples_.data() + position} : Rows{position}; }
    std::size_t sample(std::size_t position) const { return samples(position)[0]; }
    /// Of a (T, B, ..) array: a sample's row and, unless samples are read from their own ends, those of the samples behind it.
    Rows user_rows(std::size_t step, std::size_t position) const {
        return rows_at(reverse_ ? length(position) - 1 - step : step, position);
    }

    /// visit(i, count, rows): the rows of a (T, B, ..) array of `count` samples from `position` on, in as few matrices as can be
    /// told.
    template <class Visit>
    void for_each_user_rows(std::size_t step, std::size_t position, std::size_t count, Visit visit) const {
        constexpr std::size_t kMost = 64;
        if (count == 0) return;
        if (!ragged() || !reverse_) return visit(std::size_t{0}, count, user_rows(step, position));
        for (std::size_t i = 0; i < count; i += kMost) {
            const std::size_t n = std::min(kMost, count - i);
            std::size_t index[kMost];
            for (std::size_t k = 0; k < n; ++k) index[k] = user_rows(step, position + i + k)[0];
            visit(i, n, Rows{0, index});
        }
    }
    /// Whether steps follow one another, row by row, in chunks as well as in the user's arrays.
    bool in_one() const { return slices_ == 1 && !reverse_ && !ragged(); }
    /// visit(row, count, rows of a (T, B, ..) array, slice): the active ones of the rows [first, first + rows) of x or dz.
    ///   first_step  which step of the array the chunk's first one is
    template <class Visit>
    void for_each_rows(const Chunk& chunk, std::size_t first, std::size_t rows, std::size_t first_step, Visit visit) const {
        for (std::size_t i = 0; i < slices_; ++i) {
            const Slice part = slice(chunk, i);
            const std::size_t begin = chunk.steps * part.begin, end = begin + chunk.steps * part.size;
            for (std::size_t row = std::max(first, begin); row < std::min(first + rows, end);) {
                const std::size_t s = (row - begin) / part.size, j = (row - begin) % part.size;
                const std::size_t count = std::min(part.size - j, std::min(first + rows, end) - row);
                const std::size_t alive = active(i, chunk.first_step + s);
                for_each_user_rows(first_step + s, part.first + j, alive <= j ? 0 : std::min(count, alive - j),
                                   [&](std::size_t at, std::size_t n, const Rows& user) { visit(row + at, n, user, part); });
                row += count;
            }
        }
    }

    /// 0 to some columns of a (T, B, ..) array's rows past the ends of `count` samples.
    template <class Real>
    void zero_paddings(const UserRows<Real>& array, std::size_t position, std::size_t count, std::size_t first,
                       std::size_t cols) const {
        for (std::size_t end = position + count; position < end; ++position)
            zero_rows(array, position, length(position), first, cols);
    }
    /// 0 to some columns of a sample's rows from step t on.
    template <class Real>
    void zero_rows(const UserRows<Real>& array, std::size_t position, std::size_t t, std::size_t first, std::size_t cols) const {
        const std::size_t end = packed_first_.empty() ? steps_ : length(position);
        for (; array && t < end; ++t) std::fill_n(array.data + rows_at(t, position)[0] * array.leading + first, cols, Real(0));
    }

    /// Rows of a buffer with one row a sample, slices apart.
    std::size_t apart_rows() const { return batch_ + (slices_ - 1) * kApart; }
    std::size_t apart_row(std::size_t slice, std::size_t position) const { return position + slice * kApart; }

private:
    void deal(const std::int64_t* lengths);
    /// At a time of the user's.
    Rows rows_at(std::size_t t, std::size_t position) const {
        Rows rows = samples(position);
        rows.first += packed_first_.empty() ? t * batch_ : packed_first_[t];
        return rows;
    }

    std::size_t steps_ = 0, batch_ = 0, slices_ = 1, chunks_ = 0, rows_ = 0;
    std::size_t most_rows_ = 0, most_state_rows_ = 0, most_steps_ = 0;
    bool reverse_ = false;
    std::vector<Chunk> runs_;
    // Of a ragged batch; empty otherwise.
    std::vector<std::size_t> lengths_, samples_;  // by position
    std::vector<std::size_t> begins_;             // of each slice in each run
    std::vector<std::size_t> packed_first_;       // of a packed one: each step's first row, and the end
};

}  // namespace pybptt
