// What forward keeps.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "engine/packed.hpp"
#include "engine/schedule.hpp"

namespace pybptt {

/// An input of few distinct rows X. Each is multiplied by W_ih once, and steps select their own:
///
///     x_t = X[s_t]:    z_t = (b + X W_ih^T)[s_t] + ..    dW_ih = S^T X,  S[i] = sum of dz_t over the t with s_t = i
///
/// Rows of token ids are one-hot: nothing is multiplied. Those of a dense input are looked for, by their bits; an embedding of
/// letters, categories and one-hot rows have few.
template <class Real>
struct Selection {
    /// A dense input of fewer rows or columns is multiplied as it is, as is one without as many of each row, on an average.
    /// Without a tape memory does not grow with T, so there it is for fewer rows than some.
    static constexpr std::size_t kLeastRows = 512, kLeastColumns = 32, kRowsEach = 12, kMost = 256, kMostInferred = 1 << 16;

    Buffer<std::int32_t> slot;  // s_t, in the order of the rows of x; 0 past a sequence's end
    std::size_t count = 0;      // rows of X; 0: nothing is selected
    Buffer<std::int64_t> ids;   // of tokens
    PanelBuffer<Real> rows;     // X (count, D), if it is not one-hot
    PanelBuffer<Real> z;        // b + X W_ih^T (count, blocks), likewise

    /// `input` is null above the first layer, where nothing is selected.
    Selection(const RnnInput<Real>* input, const RnnSizes& sizes, const Cut& cut, bool keep);
};

/// The tape of one recurrence.
template <class Real>
struct RecurrenceTape {
    RnnSizes sizes;  // of this recurrence: one layer, one direction
    const Kernels<Real>& k = kernels<Real>();
    const Cell<Real>& cell = find_cell<Real>(sizes.cell);
    Cut cut;
    bool dense;
    bool moves_chunks;                     // from place to place: there is not one for each
    bool fits_cache;                       // what a pass reads and writes: nothing has to be brought ahead
    ChunkBuffer<Real> h, c;                // c if the cell has one
    ChunkBuffer<Real> saved;               // z's blocks, if the cell keeps them
    Selection<Real> selection;             // of the rows of x
    ChunkBuffer<Real> x;                   // if nothing is selected
    Buffer<std::int32_t> token_rows;       // of tokens: for each step the row of shared weights, which have one for every id
    PanelBuffer<Real> states_h, states_c;  // (B, P), (B, H): states between chunks; the last one is carried along
    std::shared_ptr<PackedWeights<Real>> weights;

    /// `input` is null above the first layer. `keep`: for a sweep; otherwise all chunks take the same place.
    /// `packed`: weights to share, or null for its own.
    RecurrenceTape(const RnnSizes& sizes, Cut cut, const RnnInput<Real>* input, bool keep, const MemoryPlan& plan,
                   std::shared_ptr<PackedWeights<Real>> packed);

    bool selects() const { return !dense || selection.count != 0; }
    bool multiplies() const { return dense && (selection.count == 0 || CountMemory::active()); }  // memory is counted for both
    /// Of the rows of x: s_t, and b + W_ih x_t as rows of a table.
    const std::int32_t* slots(const Chunk& chunk) const { return selection.slot.data() + chunk.first_row; }
    const std::int32_t* z_rows(const Chunk& chunk) const {
        return token_rows.size() == 0 ? slots(chunk) : token_rows.data() + chunk.first_row;
    }
    Matrix<const Real> z_table() const { return (dense ? selection.z : weights->token_rows).matrix(); }
    /// Panels of H.
    std::size_t panels() const { return panel_count<Real>(sizes.hidden); }
    bool projects() const { return sizes.projection != 0; }
    /// Blocks that are kept: the cell's, and o_t tanh(c_t) if that is projected.
    int kept_blocks() const { return (cell.keeps_z ? cell.blocks : 0) + (projects() ? 1 : 0); }
    /// o_t tanh(c_t) of a chunk, if it is projected: the last of these blocks.
    Matrix<Real> unprojected(const Chunk& chunk) const { return saved(chunk).panels_from(std::size_t(cell.blocks) * panels()); }
    /// Columns of dz, and the panel where dh_t is: in the place of dz_t's first block, or behind all of them if W_hr is between.
    std::size_t dz_cols() const {
        return (projects() ? block_cols<Real>(1, sizes.projection) : 0) + block_cols<Real>(cell.blocks, sizes.hidden);
    }
    std::size_t dh_panel() const { return projects() ? std::size_t(cell.blocks) * panels() : 0; }
    std::size_t bytes() const {
        std::size_t values = h.size() + c.size() + saved.size() + x.size() + states_h.size() + states_c.size();
        if (multiplies()) return values * sizeof(Real) + weights->bytes();
        values += selection.rows.size() + selection.z.size();
        return values * sizeof(Real) + (selection.slot.size() + token_rows.size()) * sizeof(std::int32_t) +
               selection.ids.size() * sizeof(std::int64_t) + weights->bytes();
    }
    /// Adds the bytes of one place in each of its buffers; its own plan must have one place for chunks and no state.
    void add_needs(MemoryNeeds& needs) const {
        for (const std::size_t values : {h.size(), c.size(), saved.size(), x.size()})
            if (values != 0) needs.chunk.push_back(values * sizeof(Real));
        for (const std::size_t values : {states_h.size(), states_c.size()})
            if (values != 0) needs.states.push_back(values * sizeof(Real));
    }
};

/// One recurrence's sizes: above the first layer the input is the layer below, both directions.
inline RnnSizes recurrence_sizes(const RnnSizes& s, std::size_t recurrence) {
    RnnSizes one = s;
    if (recurrence >= s.directions) one.inputs = s.directions * s.h_width();
    one.layers = one.directions = 1;
    return one;
}

/// Copies of what is needed to run a tape's chunks again beside the packed weights.
template <class Real>
struct TapeSource {
    std::vector<Buffer<Real>> arrays;
    RnnInput<Real> input;  // without tokens and mask: recurrences have the tokens, backward is given the mask
    RnnState<const Real> state;
    bool as_forward_left_it = true;

    TapeSource(const RnnSizes& s, const RnnInput<Real>& x, const RnnState<const Real>& h_0) : input{nullptr, nullptr} {
        input.dense = copy(x.dense, checked_product(s.time_rows(), s.inputs));
        const std::size_t states = checked_product(s.recurrences(), s.batch);
        state = {copy(h_0.h, checked_product(states, s.h_width())), copy(h_0.c, checked_product(states, s.hidden))};
    }
    std::size_t bytes() const {
        std::size_t values = 0;
        for (const Buffer<Real>& array : arrays) values += array.size();
        return values * sizeof(Real);
    }
    /// A thread's turn: it has the tape for itself. std::logic_error if it has it already.
    void lock() {
        if (owner_ == std::this_thread::get_id()) throw std::logic_error("tape: this thread is in a backward pass with it already");
        mutex_.lock();
        owner_ = std::this_thread::get_id();
    }
    void unlock() {
        owner_ = std::thread::id();
        mutex_.unlock();
    }

private:
    std::mutex mutex_;
    std::atomic<std::thread::id> owner_{};

    const Real* copy(const Real* array, std::size_t count) {
        if (array == nullptr) return nullptr;
        arrays.emplace_back(count);
        if (!CountMemory::active()) std::copy_n(array, count, arrays.back().data());
        return arrays.back().data();
    }
};

template <class Real>
struct Tape<Real>::Contents {
    RnnSizes sizes;
    MemoryPlan plan;
    Schedule schedule;  // for every recurrence; if the plan is limited, layers go through it together
    std::vector<std::unique_ptr<RecurrenceTape<Real>>> recurrences;
    std::unique_ptr<TapeSource<Real>> source;  // of a tape that outlives its call, if the plan is limited

    /// `packed` is null if the call packs its own.
    Contents(const RnnSizes& sizes, const RnnInput<Real>& input, bool keep, const MemoryPlan& plan = {},
             const Packed<Real>* packed = nullptr);

    /// How often a call goes through the schedule: layers of one direction do so together.
    std::size_t rounds() const { return sizes.directions == 1 ? 1 : recurrences.size(); }
    std::size_t together() const { return recurrences.size() / rounds(); }
    /// Steps of a call, before the first sweep and from there on.
    std::size_t forward_steps() const { return rounds() * schedule.forward_steps(); }
    std::size_t backward_steps() const { return rounds() * schedule.backward_steps(); }
};

template <class Real>
struct Packed<Real>::Contents {
    std::vector<std::shared_ptr<PackedWeights<Real>>> recurrences;
    std::unique_ptr<PackedOutput<Real>> output;  // of a model
};

}  // namespace pybptt
