#include "engine/tape.hpp"

namespace pybptt {

/// A hash table with open addressing gives each id its slot: O(n) for any vocabulary.
Tokens::Tokens(const std::int64_t* ids, const Cut& cut) {
    const std::size_t n = cut.rows();
    slot = Buffer<std::int32_t>(n);
    distinct = Buffer<std::int64_t>(n);
    if (cut.ragged()) std::fill_n(slot.data(), n, 0);
    std::size_t capacity = 16;
    while (capacity < 2 * n) capacity *= 2;
    const Buffer<std::int32_t> table(capacity);
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
        cut.for_each_run(chunk, 0, chunk.rows, [&](std::size_t row, std::size_t samples, const Rows& user, Slice) {
            for (std::size_t i = 0; i < samples; ++i) slot[chunk.first_row + row + i] = slot_of(ids[user[i]]);
        });
    }
}

template <class Real>
const Cell<Real>& find_cell(const CellConfig& c) {
    const Kernels<Real>& k = kernels<Real>();
    const bool clipped = c.clip != 0;
    switch (c.kind) {
        case CellKind::lstm: return k.lstm[c.peephole][c.coupled][clipped];
        case CellKind::gru: return k.gru[c.reset_after][clipped];
        case CellKind::elman: break;
    }
    return k.elman[int(c.nonlinearity)][clipped];
}

template <class Real>
UnitTape<Real>::UnitTape(const RnnSizes& s, Cut c, const std::int64_t* ids, bool keep_all)
    : sizes(s), cell(find_cell<Real>(s.cell)), cut(std::move(c)), dense(ids == nullptr), keeps_all(keep_all) {
    sizes.lengths = nullptr;  // the caller's: the cut has what is needed of them
    const std::size_t weights = checked_product(std::size_t(s.cell.gates()), s.hidden);
    hidden = ChunkBuffer<Real>(cut, true, s.hidden, keep_all);
    if (has_cell_state()) cells = ChunkBuffer<Real>(cut, true, s.hidden, keep_all);
    if (has_blocks()) blocks = ChunkBuffer<Real>(cut, false, block_cols<Real>(cell.blocks, s.hidden), keep_all);
    if (dense)
        input = ChunkBuffer<Real>(cut, false, s.inputs, keep_all);
    else
        tokens = Tokens(ids, cut);
    if (keep_all) {
        weight_hh = PanelBuffer<Real>(weights, s.hidden);
        if (dense) weight_ih = PanelBuffer<Real>(weights, s.inputs);
    }
    peephole = Buffer<Real>(block_cols<Real>(s.cell.peepholes(), s.hidden));
}

template <class Real>
std::size_t UnitTape<Real>::bytes() const {
    const std::size_t values =
        hidden.size() + cells.size() + blocks.size() + input.size() + weight_hh.size() + weight_ih.size() + peephole.size();
    return values * sizeof(Real) + tokens.slot.size() * sizeof(std::int32_t) + tokens.distinct.size() * sizeof(std::int64_t);
}

template <class Real>
std::size_t UnitTape<Real>::bytes(const RnnSizes& s, const Cut& cut, bool dense) {
    const int blocks = find_cell<Real>(s.cell).blocks;
    const std::size_t weights = checked_product(std::size_t(s.cell.gates()), s.hidden);
    const auto kept = [&](bool of_state, std::size_t cols) { return ChunkBuffer<Real>::total(cut, of_state, cols, true); };
    std::size_t values = kept(true, s.hidden) * (s.cell.has_cell_state() ? 2 : 1) + PanelBuffer<Real>::size_of(weights, s.hidden) +
                         block_cols<Real>(s.cell.peepholes(), s.hidden);
    if (blocks > 1) values += kept(false, block_cols<Real>(blocks, s.hidden));
    if (dense) values += kept(false, s.inputs) + PanelBuffer<Real>::size_of(weights, s.inputs);
    return values * sizeof(Real) + (dense ? 0 : cut.rows() * (sizeof(std::int32_t) + sizeof(std::int64_t)));
}

template <class Real>
Tape<Real>::Contents::Contents(const RnnSizes& s, const RnnInput<Real>& input, bool keep_all) : sizes(s) {
    for (std::size_t i = 0; i < s.units(); ++i) {
        const RnnSizes one = unit_sizes(s, i);
        const bool first_layer = i < s.directions;
        units.push_back(std::make_unique<UnitTape<Real>>(one, Cut::of(one, i % s.directions == 1, find_cell<Real>(s.cell).blocks),
                                                         first_layer ? input.tokens : nullptr, keep_all));
    }
    sizes.lengths = nullptr;
}

template <class Real>
std::size_t tape_bytes(const RnnSizes& s, bool tokens) {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < s.units(); ++i) {
        const RnnSizes one = unit_sizes(s, i);
        sum += UnitTape<Real>::bytes(one, Cut::of(one, false, find_cell<Real>(s.cell).blocks), !tokens || i >= s.directions);
    }
    return sum;
}

template <class Real>
Tape<Real>::Tape(std::unique_ptr<Contents> contents) : contents_(std::move(contents)) {}
template <class Real>
Tape<Real>::Tape(Tape&&) noexcept = default;
template <class Real>
Tape<Real>& Tape<Real>::operator=(Tape&&) noexcept = default;
template <class Real>
Tape<Real>::~Tape() = default;
template <class Real>
const RnnSizes& Tape<Real>::sizes() const {
    return contents_->sizes;
}
template <class Real>
bool Tape<Real>::has_dense_input() const {
    return contents_->units.front()->dense;
}
template <class Real>
std::size_t Tape<Real>::bytes() const {
    std::size_t sum = 0;
    for (const auto& unit : contents_->units) sum += unit->bytes();
    return sum;
}

#define PYBPTT_INSTANTIATE(Real)                                  \
    template const Cell<Real>& find_cell(const CellConfig&);      \
    template std::size_t tape_bytes<Real>(const RnnSizes&, bool); \
    template struct UnitTape<Real>;                               \
    template class Tape<Real>;
PYBPTT_INSTANTIATE(float)
PYBPTT_INSTANTIATE(double)

}  // namespace pybptt
