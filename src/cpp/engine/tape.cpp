#include "engine/tape.hpp"

#include "runtime/processors.hpp"

namespace pybptt {

/// A hash table with open addressing gives each id its slot: O(n) for any vocabulary.
Tokens::Tokens(const std::int64_t* ids, std::size_t vocabulary, const Cut& cut) {
    const std::size_t n = cut.rows(), most = std::min(n, vocabulary);
    slot = Buffer<std::int32_t>(n);
    distinct = Buffer<std::int64_t>(most);
    std::size_t capacity = 16;
    while (capacity < 2 * most) capacity *= 2;
    const Buffer<std::int32_t> table(capacity);
    if (CountMemory::active()) {
        count = most;
        return;
    }
    if (cut.ragged()) std::fill_n(slot.data(), n, 0);
    std::fill_n(table.data(), capacity, -1);
    const auto slot_of = [&](std::int64_t id) {
        std::size_t at = (std::uint64_t(id) * 0x9E3779B97F4A7C15u >> 32) & (capacity - 1);
        while (table[at] >= 0 && distinct[std::size_t(table[at])] != id) at = (at + 1) & (capacity - 1);
        if (table[at] < 0) {
            table[at] = std::int32_t(count);
            distinct[count++] = id;
        }
        return table[at];
    };
    for (std::size_t c = 0; c < cut.chunks(); ++c) {
        const Chunk& chunk = cut.chunk(c);
        cut.for_each_rows(chunk, 0, chunk.rows, chunk.first_step,
                          [&](std::size_t row, std::size_t samples, const Rows& user, Slice) {
                              for (std::size_t i = 0; i < samples; ++i) slot[chunk.first_row + row + i] = slot_of(ids[user[i]]);
                          });
    }
}

template <class Real>
RecurrenceTape<Real>::RecurrenceTape(const RnnSizes& s, Cut c, const std::int64_t* ids, bool keep, const MemoryPlan& plan,
                                     std::shared_ptr<PackedWeights<Real>> packed)
    : sizes(s), cut(std::move(c)), dense(ids == nullptr), moves_chunks(!keep || plan.limited()), weights(std::move(packed)) {
    sizes.lengths = nullptr;  // the caller's: the cut has what is needed of them
    fits_cache = double(cut.rows()) * double(dz_cols() + s.inputs) * sizeof(Real) <= double(caches().l2 / 4);
    const std::size_t places = keep ? plan.places : 1;
    h = ChunkBuffer<Real>(cut, true, s.h_width(), places);
    if (cell.has_c) this->c = ChunkBuffer<Real>(cut, true, s.hidden, places);
    if (kept_blocks() != 0) saved = ChunkBuffer<Real>(cut, false, block_cols<Real>(kept_blocks(), s.hidden), places);
    if (dense)
        x = ChunkBuffer<Real>(cut, false, s.inputs, places);
    else
        tokens = Tokens(ids, s.inputs, cut);
    if (cut.chunks() > 1) {
        states_h = PanelBuffer<Real>(s.batch, s.h_width(), plan.states + 1);
        if (cell.has_c) states_c = PanelBuffer<Real>(s.batch, s.hidden, plan.states + 1);
    }
    if (weights == nullptr) {
        weights = std::make_shared<PackedWeights<Real>>(sizes, dense, tokens.count, keep);
    } else if (!dense) {
        token_rows = Buffer<std::int32_t>(tokens.slot.size());
        for (std::size_t i = 0; i < tokens.slot.size(); ++i)
            token_rows[i] = tokens.count == 0 ? 0 : std::int32_t(tokens.distinct[std::size_t(tokens.slot[i])]);
    }
}

template <class Real>
Tape<Real>::Contents::Contents(const RnnSizes& s, const RnnInput<Real>& input, bool keep, const MemoryPlan& plan,
                               const Packed<Real>* packed)
    : sizes(s), plan(plan) {
    checked_product(checked_product(s.time_rows(), s.directions), std::max(s.h_width(), s.hidden));  // the caller's arrays
    for (std::size_t i = 0; i < s.recurrences(); ++i) {
        const RnnSizes one = recurrence_sizes(s, i);
        const bool first_layer = i < s.directions;
        recurrences.push_back(std::make_unique<RecurrenceTape<Real>>(
            one, Cut::of(one, i % s.directions == 1, find_cell<Real>(s.cell)), first_layer ? input.tokens : nullptr, keep, plan,
            packed == nullptr ? nullptr : packed->contents().recurrences[i]));
    }
    if (!recurrences.empty() && !CountMemory::active()) schedule = Schedule(recurrences.front()->cut.chunks(), keep, plan);
    sizes.lengths = nullptr;
}

template <class Real>
const RnnSizes& Tape<Real>::sizes() const {
    return contents_->sizes;
}
template <class Real>
const MemoryPlan& Tape<Real>::plan() const {
    return contents_->plan;
}
template <class Real>
bool Tape<Real>::has_dense_input() const {
    return contents_->recurrences.front()->dense;
}
template <class Real>
std::size_t Tape<Real>::bytes() const {
    std::size_t sum = 0;
    for (const auto& recurrence : contents_->recurrences) sum += recurrence->bytes();
    return sum + (contents_->source != nullptr ? contents_->source->bytes() : 0);
}

template struct RecurrenceTape<float>;
template struct RecurrenceTape<double>;
template class Tape<float>;
template class Tape<double>;

}  // namespace pybptt
