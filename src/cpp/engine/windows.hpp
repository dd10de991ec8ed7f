// Truncated backpropagation through time at fixed parameters, TBPTT(k1, k2), where windows overlap: several derivatives go back
// through the same step, each with an end of its own.
//
// Window w of a sequence of T_b steps ends at the boundary e_w = min(w k1, T_b). The derivatives by the outputs of the steps
// (e_{w-1}, e_w] enter it, and it goes back through the uses e_w, e_w - 1, .., e_w - k2 + 1 of the parameters:
//
//     dh_t^w = upstream_t [e_{w-1} < t <= e_w] + dz_{t+1}^w W_hh,      dz_t^w from dh_t^w,       e_w - k2 < t <= e_w
//     dz_t   = sum_w dz_t^w:   every weight gradient is linear in it (weight_gradients.hpp), so that is all they need
//
// All windows over a step go back as one batch: window w has COPY w mod m of the samples' rows, where m is the number of windows
// that may overlap. The tape is read once for all of them, and a step's product has m times the rows. Copies are taken some at
// a time, a chunk of steps after the other, so that their rows stay in the cache.
//
// A layer's dz_t^w goes down as dz_t^w W_ih to the same copies of the layer below, so all layers of a stack go back together.
#pragma once

#include "engine/sweep.hpp"

namespace pybptt {

/// Which window has a copy at a step. Steps are counted from 1.
struct Windows {
    std::size_t k1 = 0, k2 = 0, copies = 0;

    Windows(const Cut& cut, std::size_t batch, std::size_t k1, std::size_t k2) : k1(k1), k2(k2) {
        std::size_t longest = 0;
        bool uneven = false;  // a last window whose boundary is between two multiples of k1 may overlap one more
        for (std::size_t position = 0; position < batch; ++position) {
            longest = std::max(longest, cut.length(position));
            uneven = uneven || cut.length(position) % k1 != 0;
        }
        copies = std::max<std::size_t>(1, std::min((k2 + k1 - 1) / k1 + (uneven ? 1 : 0), (longest + k1 - 1) / k1));
    }

    /// The window that the derivative by the output of step t enters.
    std::size_t window_of(std::size_t t) const { return (t + k1 - 1) / k1; }
    /// The only window that may have a copy at step t.
    std::size_t window_of(std::size_t copy, std::size_t t) const {
        const std::size_t first = window_of(t);
        return first + (copy + copies - first % copies) % copies;
    }

    enum class At { outside, boundary, inside };
    /// Where step t of a sequence of `length` steps is in window w, which is not over by then.
    At at(std::size_t w, std::size_t t, std::size_t length) const {
        if ((w - 1) * k1 >= length) return At::outside;
        const std::size_t end = std::min(w * k1, length);
        return t == end ? At::boundary : t + k2 > end ? At::inside : At::outside;
    }
};

/// For layers of one direction.
template <class Real>
class WindowStack final : public BackwardStack<Real> {
    using BackwardStack<Real>::tape_;

public:
    WindowStack(const typename Tape<Real>::Contents& tape, int team, const BackwardArrays<Real>& arrays)
        : BackwardStack<Real>(tape),
          windows_(cut_, tape.sizes.batch, arrays.limits.k1, arrays.limits.k2),
          some_(copies_at_a_time(*tape.recurrences.front(), tape.sizes.batch, windows_.copies, team)),
          given_(cut_, {arrays.upstream.output, tape.sizes.h_width()}) {
        const RnnSizes& s = tape.sizes;
        if (some_ < windows_.copies) upstream_ = PanelBuffer<Real>(cut_.most_rows(), s.h_width());
        if (arrays.gradients.input != nullptr) dx_ = PanelBuffer<Real>(cut_.most_rows(), s.inputs);
        if (s.layers > 1)
            between_ = PanelBuffer<Real>(checked_product(cut_.most_steps(), some_rows(cut_, s.batch, some_)), s.h_width());
        for (std::size_t i = 0; i < s.layers; ++i) {
            const RecurrenceGradients<Real> g(s, i, arrays);
            layers_.push_back(std::make_unique<Layer>(*tape.recurrences[i], team, g, dx_, arrays.limits, windows_.copies, some_));
        }
    }

    void run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, const Member& member) override {
        for (const auto& layer : layers_) start(*layer, part(member));
        member.wait();
        Upstream<Real>& upstream = top != nullptr ? *top : given_;
        this->sweep_chunks(again, steps, member, [&](const Chunk& chunk) {
            const Part<Real> part = this->part(member);
            upstream.prepare_chunk(chunk, part, upstream_space());
            for (std::size_t first = 0; first < windows_.copies; first += some_)
                part.for_each_piece(cut_, chunk, [&](const Piece<Real>& piece) {
                    const Copies copies{first, std::min(first + some_, windows_.copies),
                                        some_ * piece.positions.begin + piece.slice.index * Cut::kApart, piece.size};
                    for (std::size_t i = layers_.size(); i-- > 0;) sweep(i, piece, upstream, copies);
                });
            member.wait();
            for (const auto& layer : layers_) layer->weights.add(chunk, layer->dz_sum.matrix(), member);
            member.wait();
        });
        for (const auto& layer : layers_) {
            layer->weights.finish(member);
            layer->carries.give(part(member), layer->g.state);
        }
    }

private:
    /// One layer.
    struct Layer {
        const RecurrenceTape<Real>& tape;
        RecurrenceGradients<Real> g;
        WeightGradients<Real> weights;
        PanelBuffer<Real> dz_sum{tape.cut.most_rows(), tape.dz_cols()};  // of a chunk: sum_w dz_t^w
        PanelBuffer<Real> dz;                                            // dz_t^w and dz_{t+1}^w, each of some copies
        Carries<Real> carries;                                           // of all copies, at the end of a chunk
        Clipping<Real> clipping;

        Layer(const RecurrenceTape<Real>& tape, int team, const RecurrenceGradients<Real>& gradients, const PanelBuffer<Real>& dx,
              const SweepLimits<Real>& limits, std::size_t copies, std::size_t some)
            : tape(tape),
              g(gradients),
              weights(tape, team, gradients.parameters, gradients.input, dx),
              dz(some_rows(tape.cut, tape.sizes.batch, some), tape.dz_cols(), 2),
              carries(tape, copies),
              clipping(limits, team, checked_product(some, tape.sizes.batch)) {}
    };
    /// Copies [first, end) of a piece's samples: row j of copy c is row first_row + (c - first) size + j of a buffer for some
    /// copies.
    struct Copies {
        std::size_t first, end, first_row;
        std::size_t size;  // of the piece

        std::size_t rows() const { return (end - first) * size; }
        std::size_t row(std::size_t copy) const { return (copy - first) * size; }
        /// Some of them.
        Copies of(const Range& some) const { return {some.begin, some.end, first_row + row(some.begin), size}; }
    };

    /// Copies whose rows of dz stay in the cache together with the weights, shared out evenly.
    static std::size_t copies_at_a_time(const RecurrenceTape<Real>& tape, std::size_t batch, std::size_t copies, int threads) {
        constexpr std::size_t kBytes = std::size_t{384} << 10;
        const std::size_t row = tape.dz_cols() * sizeof(Real);
        const std::size_t fitting = std::max<std::size_t>(1, kBytes * std::size_t(threads) / std::max<std::size_t>(1, batch * row));
        const std::size_t rounds = (copies + fitting - 1) / fitting;
        return (copies + rounds - 1) / std::max<std::size_t>(1, rounds);
    }
    /// Rows of a buffer for `some` copies, slices apart.
    static std::size_t some_rows(const Cut& cut, std::size_t batch, std::size_t some) {
        return checked_product(some, batch) + cut.slices() * Cut::kApart;
    }
    Part<Real> part(const Member& member) const {
        const RnnSizes& s = tape_.recurrences.front()->sizes;
        return {s, Division(s, member.team, windows_.copies), member};
    }
    /// Nothing comes from behind the end. A sequence without steps has its initial state for its final one.
    void start(Layer& layer, const Part<Real>& part) {
        layer.weights.prepare(part.member);
        part.for_each_range(cut_, [&](std::size_t position, std::size_t count, std::size_t slice) {
            for (std::size_t copy = 0; copy < windows_.copies; ++copy) layer.carries.set(part, slice, position, count, copy);
            for (std::size_t at = position; at < position + count; ++at) {
                cut_.zero_rows(layer.g.hidden, at, 0, part.h.first, part.h.count);  // a sum
                if (cut_.length(at) == 0) layer.carries.set(part, slice, at, 1, 0, layer.g.d_h, layer.g.d_c);
            }
        });
    }
    void sweep(std::size_t index, const Piece<Real>& piece, const Upstream<Real>& upstream, const Copies& all) {
        Layer& layer = *layers_[index];
        const RecurrenceTape<Real>& tape = layer.tape;
        const std::size_t S = piece.chunk.steps, panels = tape.panels(), size = piece.size;
        const std::size_t slice = piece.slice.index, position = piece.positions.begin;
        Copies copies = all, later = all;  // those alive at step s and at the one after
        Matrix<Real> dz{}, dz_later{};
        TapeSteps<Real> tape_steps(tape, piece);
        for (std::size_t s = S; s-- > 0; later = copies, dz_later = dz) {
            const std::size_t t = piece.chunk.first_step + s, n = piece.active(s);
            copies = all.of(alive(piece, all, t + 1, n));
            const bool is_top = index + 1 == layers_.size();
            // Those that come from the step after, and whether it is one alone of all there are that goes on: then its dh begins
            // with the upstream, and its dz is the sum.
            const Range both = s + 1 == S ? Range{} : Range{std::max(copies.first, later.first), std::min(copies.end, later.end)};
            const std::size_t w = windows_.window_of(t + 1);
            const bool alone =
                both.begin < both.end && !cut_.ragged() && alive(piece, {0, windows_.copies, 0, size}, t + 1, n).size() == 1 &&
                windows_.window_of(both.begin, t + 1) == w && windows_.at(w, t + 1, cut_.length(0)) == Windows::At::inside;
            const bool is_sum = alone && windows_.copies == all.end - all.first;  // other rounds add to it
            dz = is_sum ? layer.dz_sum.matrix().rows_from(piece.row(s)) : layer.dz.matrix(s % 2).rows_from(copies.first_row);
            const Matrix<Real> all_dh = dz.panels_from(tape.dh_panel()), dh = piece.h.of(all_dh);
            CellSweep<Real>& step = tape_steps.at(s);
            // dh_t^w = upstream_t + dz_{t+1}^w W_hh
            const auto upstream_at = [&](std::size_t k) { return is_top ? upstream.at(piece, k, upstream_space()) : none<Real>(); };
            const Matrix<const Real> upstream_t = upstream_at(s);
            for (std::size_t copy = copies.first; s + 1 == S && copy < copies.end; ++copy)
                k_.copy(size, piece.h.count, layer.carries.h(piece, slice, position, copy), dh.rows_from(copies.row(copy)));
            if (both.begin < both.end)
                multiply_w_hh<Real>(tape, piece, both.size() * size, dz_later.rows_from(later.row(both.begin)), -1,
                                    alone ? upstream_t : none<Real>(), dh.rows_from(copies.row(both.begin)),
                                    alone ? ahead_of_sweep(tape, step, s != 0 ? upstream_at(s - 1) : none<Real>()) : Ahead<Real>{});
            add_upstream(layer, is_top, piece, s, n, alone ? none<Real>() : upstream_t, copies, dh);
            layer.clipping.run(piece, copies.rows(), tape.sizes.h_width(), all_dh);
            piece.for_each_row(layer.g.hidden, s, n, [&](std::size_t i, std::size_t count, Matrix<Real> sum) {  // over the windows
                for (std::size_t copy = copies.first; copy < copies.end; ++copy)
                    k_.add(count, piece.h.count, dh.rows_from(copies.row(copy) + i), piece.h.of(sum));
            });
            // dz_t^w
            const Matrix<Real> own = piece.z.of(dz);
            sweep_cell(tape, piece, step, copies.rows(), dz, [&](auto visit) {
                for (std::size_t copy = copies.first; copy < copies.end; ++copy)
                    visit(n, own.rows_from(copies.row(copy)), layer.carries.cell(piece, slice, position, copy));
            });
            if (tape.cell.phases > 1 || tape.projects()) piece.wait();  // others have read the rows that are made 0 below
            // dz_t = sum_w dz_t^w, and for dW_hr dh_t likewise
            const auto sum_up = [&](const Columns<Real>& columns, std::size_t panel, std::size_t cols) {
                const Matrix<Real> each = columns.of(dz.panels_from(panel));
                const Matrix<Real> sum = columns.of(layer.dz_sum.matrix().rows_from(piece.row(s)).panels_from(panel));
                bool first = all.first == 0;
                if (first && copies.rows() == 0) k_.zero(size, cols, sum);
                for (std::size_t copy = copies.first; copy < copies.end; ++copy) {
                    const Matrix<Real> dz_w = each.rows_from(copies.row(copy));
                    if (n != size) k_.zero(size - n, cols, dz_w.rows_from(n));
                    (first ? k_.copy : k_.add)(size, cols, dz_w, sum);
                    first = false;
                }
            };
            if (!is_sum)
                piece.for_each_block(tape.cell.blocks, panels,
                                     [&](int block, std::size_t cols) { sum_up(piece.z, std::size_t(block) * panels, cols); });
            if (!is_sum && tape.projects()) sum_up(piece.h, tape.dh_panel(), piece.h.count);
            piece.wait();
            if (index == 0) continue;
            // The layer below: dz_t^w W_ih
            const Columns<Real>& below = piece.h;  // its outputs are as wide
            const Matrix<Real> dx = below.of(between_.matrix().rows_from(between_row(s, copies)));
            multiply_w_ih<Real>(tape, copies.rows(), dz, below, dx);
            for (std::size_t copy = copies.first; copy < copies.end; ++copy)
                piece.for_each_row(layer.g.input.mask, s, n, [&](std::size_t i, std::size_t count, Matrix<const Real> from) {
                    k_.multiply(count, below.count, below.of(from), dx.rows_from(copies.row(copy) + i));
                });
        }
        // What the chunk before receives
        const Matrix<Real> before = piece.h.of(layer.dz.matrix(1).rows_from(copies.first_row).panels_from(tape.dh_panel()));
        multiply_w_hh<Real>(tape, piece, copies.rows(), dz_later, -1, none<Real>(), before);
        for (std::size_t copy = all.first; copy < all.end; ++copy)
            if (copies.first <= copy && copy < copies.end)
                k_.copy(size, piece.h.count, before.rows_from(copies.row(copy)), layer.carries.h(piece, slice, position, copy));
            else
                layer.carries.set(piece, slice, position, size, copy);
        piece.wait();
    }
    /// A range of the copies that has all whose windows are over step t.
    Range alive(const Piece<Real>& piece, const Copies& copies, std::size_t t, std::size_t n) const {
        Range range{copies.end, copies.first};
        for (std::size_t copy = copies.first; copy < copies.end; ++copy) {
            const std::size_t w = windows_.window_of(copy, t), first = piece.positions.begin;
            bool any = false;
            for (std::size_t j = 0; !any && j < (cut_.ragged() ? n : std::min<std::size_t>(n, 1)); ++j)
                any = windows_.at(w, t, cut_.length(first + j)) != Windows::At::outside;
            if (any) range = {std::min(range.begin, copy), copy + 1};
        }
        return range.begin < range.end ? range : Range{copies.first, copies.first};
    }
    /// dh_t of all the copies in the place of dz_t, where dz_{t+1} W_hh is already, and what the cells carry.
    void add_upstream(Layer& layer, bool is_top, const Piece<Real>& piece, std::size_t s, std::size_t n,
                      Matrix<const Real> upstream_t, const Copies& copies, Matrix<Real> dh) {
        const std::size_t t = piece.chunk.first_step + s + 1, first = piece.positions.begin;
        const Columns<Real>&h = piece.h, &z = piece.z;
        for (std::size_t copy = copies.first; copy < copies.end; ++copy) {
            const Matrix<Real> dh_w = dh.rows_from(copies.row(copy));
            const Matrix<Real> carry = layer.carries.cell(piece, piece.slice.index, first, copy);
            const std::size_t w = windows_.window_of(copy, t);
            for (std::size_t j = 0, end; j < n; j = end) {
                const Windows::At at = windows_.at(w, t, cut_.length(first + j));
                for (end = cut_.ragged() ? j + 1 : n; end < n && windows_.at(w, t, cut_.length(first + end)) == at;) ++end;
                if (at == Windows::At::inside) continue;
                k_.zero(end - j, h.count, dh_w.rows_from(j));
                if (carry.data != nullptr) k_.zero(end - j, z.count, carry.rows_from(j));
                for (std::size_t i = j; at == Windows::At::boundary && i < end; ++i) {
                    if (cut_.length(first + i) != t) continue;  // the final state is this sequence's last step's
                    const Rows sample{cut_.sample(first + i)};
                    if (layer.g.d_h) k_.add(1, h.count, h.of(layer.g.d_h.at(sample)), dh_w.rows_from(i));
                    if (layer.g.d_c) k_.add(1, z.count, z.of(layer.g.d_c.at(sample)), carry.rows_from(i));
                }
            }
            if (w == windows_.window_of(t)) {
                if (upstream_t.data != nullptr) k_.add(n, h.count, upstream_t, dh_w);
                piece.for_each_row(layer.g.d_cells, s, n, [&](std::size_t i, std::size_t count, Matrix<const Real> from) {
                    k_.add(count, z.count, z.of(from), carry.rows_from(i));
                });
            }
            if (layer.tape.cell.carry == Carry::part_of_d_h) k_.add(n, h.count, carry, dh_w);
        }
        if (!is_top) k_.add(copies.rows(), h.count, h.of(between_.matrix().rows_from(between_row(s, copies))), dh);
    }
    /// Where a chunk's upstream may lie: if all copies go at once, a step's sum takes its place when it has been used.
    Matrix<Real> upstream_space() const {
        return some_ < windows_.copies ? upstream_.matrix()
                                       : layers_.back()->dz_sum.matrix().panels_from(layers_.back()->tape.dh_panel());
    }
    std::size_t between_row(std::size_t s, const Copies& copies) const {
        return s * some_rows(cut_, tape_.sizes.batch, some_) + copies.first_row;
    }

    const Kernels<Real>& k_ = kernels<Real>();
    const Cut& cut_ = tape_.recurrences.front()->cut;  // the same for all layers
    const Windows windows_;
    const std::size_t some_;      // copies taken at a time
    PanelBuffer<Real> dx_;        // (chunk rows, D), if it is wanted
    PanelBuffer<Real> upstream_;  // of a chunk, unless a sum has room for it
    PanelBuffer<Real> between_;   // (steps of a chunk, rows of some copies, P): dz_t^w W_ih of the layer above
    std::vector<std::unique_ptr<Layer>> layers_;
    GivenUpstream<Real> given_;
};

}  // namespace pybptt
