#include "engine/tape.hpp"

namespace pybptt {

/// A hash table with open addressing gives each id its slot: O(n) for any vocabulary.
Tokens::Tokens(const std::int64_t* ids, const Cut& cut, std::size_t batch) {
    std::size_t n = 0;
    for (std::size_t c = 0; c < cut.chunks(); ++c) n += cut.chunk(c).steps * batch;
    slot = Buffer<std::int32_t>(n);
    distinct = Buffer<std::int64_t>(n);
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
        const Chunk chunk = cut.chunk(c);
        cut.for_each_run(
            chunk, 0, chunk.steps * batch, [&](std::size_t row, std::size_t samples, std::size_t step, std::size_t sample, Slice) {
                for (std::size_t i = 0; i < samples; ++i)
                    slot[chunk.first_step * batch + row + i] = slot_of(ids[(chunk.first_step + step) * batch + sample + i]);
            });
    }
}

template <class Real>
Tape<Real>::Contents::Contents(const RnnSizes& s, const Cut& c, const RnnInput<Real>& x, bool keep_all)
    : sizes(s), cut(c), dense(x.tokens == nullptr), keeps_all(keep_all) {
    const std::size_t kept = keep_all ? cut.chunks() : std::min<std::size_t>(1, cut.chunks());
    const std::size_t rows = checked_product(cut.chunk_steps(), s.batch);
    hidden = PanelBuffer<Real>(rows + s.batch, s.hidden, kept);
    if (dense)
        input = PanelBuffer<Real>(rows, s.inputs, kept);
    else
        tokens = Tokens(x.tokens, cut, s.batch);
    if (keep_all) {
        weight_hh = PanelBuffer<Real>(s.hidden, s.hidden);
        if (dense) weight_ih = PanelBuffer<Real>(s.hidden, s.inputs);
    }
}

template <class Real>
std::size_t Tape<Real>::Contents::bytes() const {
    const std::size_t values = hidden.size() + input.size() + weight_hh.size() + weight_ih.size();
    return values * sizeof(Real) + tokens.slot.size() * sizeof(std::int32_t) + tokens.distinct.size() * sizeof(std::int64_t);
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
    return contents_->dense;
}
template <class Real>
std::size_t Tape<Real>::bytes() const {
    return contents_->bytes();
}

template class Tape<float>;
template class Tape<double>;

}  // namespace pybptt
