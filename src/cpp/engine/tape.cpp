#include "engine/tape.hpp"

#include "runtime/processors.hpp"

namespace pybptt {

template <class Real>
Selection<Real>::Selection(const RnnInput<Real>* input, const RnnSizes& s, const Cut& cut, bool keep) {
    const bool dense = input == nullptr || input->tokens == nullptr;
    const std::size_t n = cut.rows(), D = s.inputs, most = dense ? std::min(n / kRowsEach, kMost) : std::min(n, D);
    const bool many = n >= kLeastRows && D >= kLeastColumns && (keep || n <= kMostInferred);
    if (input == nullptr || (dense && !many)) return;
    UserRows<const Real> x{input->dense, D};
    if (!dense) x = {reinterpret_cast<const Real*>(input->tokens), sizeof(std::int64_t) / sizeof(Real)};
    std::size_t capacity = 16;
    while (capacity < 2 * most) capacity *= 2;
    slot = Buffer<std::int32_t>(n);
    const Buffer<std::int32_t> table(capacity);
    const Buffer<const Real*> first(most);
    DistinctRows<Real> seen{first.data(), table.data(), capacity, most, CountMemory::active() ? most : 0};
    if (!CountMemory::active()) {
        std::fill_n(table.data(), capacity, -1);
        if (cut.ragged()) std::fill_n(slot.data(), n, 0);
        for (std::size_t c = 0; c < cut.chunks() && seen.count <= most; ++c) {
            const Chunk& chunk = cut.chunk(c);
            cut.for_each_rows(chunk, 0, chunk.rows, chunk.first_step,
                              [&](std::size_t row, std::size_t some, const Rows& user, Slice) {
                                  kernels<Real>().find_rows(some, x.leading, x.at(user), seen, slot.data() + chunk.first_row + row);
                              });
        }
    }
    if (seen.count <= most) count = seen.count;
    if (count == 0) slot = {};
    if (!dense) ids = Buffer<std::int64_t>(most);
    if (dense && count != 0) {
        rows = PanelBuffer<Real>(count, D);
        z = PanelBuffer<Real>(count, block_cols<Real>(find_cell<Real>(s.cell).blocks, s.hidden));
    }
    for (std::size_t i = 0; i < count && !CountMemory::active(); ++i)
        if (dense)
            kernels<Real>().copy(1, D, row_major(first[i], D), rows.matrix().rows_from(i));
        else
            ids[i] = input->tokens[std::size_t(first[i] - x.data) / x.leading];
}

template <class Real>
RecurrenceTape<Real>::RecurrenceTape(const RnnSizes& s, Cut c, const RnnInput<Real>* input, bool keep, const MemoryPlan& plan,
                                     std::shared_ptr<PackedWeights<Real>> packed)
    : sizes(s), cut(std::move(c)), selection(input, s, cut, keep), weights(std::move(packed)) {
    dense = input == nullptr || input->tokens == nullptr;
    moves_chunks = !keep || plan.limited();
    sizes.lengths = nullptr;  // the caller's: the cut has what is needed of them
    fits_cache = double(cut.rows()) * double(dz_cols() + s.inputs) * sizeof(Real) <= double(caches().l2 / 4);
    const std::size_t places = keep ? plan.places : 1;
    h = ChunkBuffer<Real>(cut, true, s.h_width(), places);
    if (cell.has_c) this->c = ChunkBuffer<Real>(cut, true, s.hidden, places);
    if (kept_blocks() != 0) saved = ChunkBuffer<Real>(cut, false, block_cols<Real>(kept_blocks(), s.hidden), places);
    if (multiplies()) x = ChunkBuffer<Real>(cut, false, s.inputs, places);
    if (cut.chunks() > 1) {
        states_h = PanelBuffer<Real>(s.batch, s.h_width(), plan.states + 1);
        if (cell.has_c) states_c = PanelBuffer<Real>(s.batch, s.hidden, plan.states + 1);
    }
    if (weights == nullptr) {
        weights = std::make_shared<PackedWeights<Real>>(sizes, dense, selection.count, keep);
    } else if (!dense) {
        token_rows = Buffer<std::int32_t>(selection.slot.size());
        for (std::size_t i = 0; i < selection.slot.size(); ++i)
            token_rows[i] = std::int32_t(selection.ids[std::size_t(selection.slot[i])]);
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
            one, Cut::of(one, i % s.directions == 1, find_cell<Real>(s.cell)), first_layer ? &input : nullptr, keep, plan,
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
