#include "engine/windows.hpp"

namespace pybptt {
namespace {

/// Copies whose rows of dz stay in the cache together with the weights, shared out evenly.
template <class Real>
std::size_t copies_at_a_time(const UnitTape<Real>& tape, std::size_t batch, std::size_t copies, int threads) {
    constexpr std::size_t kBytes = std::size_t{384} << 10;
    const std::size_t row = block_cols<Real>(tape.cell.blocks, tape.sizes.hidden) * sizeof(Real);
    const std::size_t fitting = std::max<std::size_t>(1, kBytes * std::size_t(threads) / std::max<std::size_t>(1, batch * row));
    const std::size_t rounds = (copies + fitting - 1) / fitting;
    return (copies + rounds - 1) / std::max<std::size_t>(1, rounds);
}

/// Rows of a buffer for `some` copies, slices apart.
std::size_t some_rows(const Cut& cut, std::size_t batch, std::size_t some) {
    return checked_product(some, batch) + cut.slices() * Cut::kApart;
}

Division division_of(RnnSizes s, std::size_t copies, int threads) {
    Division division(s, threads);
    s.batch = checked_product(s.batch, copies);
    constexpr double kWorth = 1 << 22;  // a step's dz passes from one core's cache to the other's
    const double work = double(s.cell.gates()) * double(s.batch) * double(s.hidden) * double(s.hidden);
    division.by_columns = division.by_columns || (threads > 1 && division.few_samples && work >= kWorth);
    return division;
}

}  // namespace

Windows::Windows(const Cut& cut, std::size_t batch, std::size_t k1, std::size_t k2) : k1(k1), k2(k2) {
    std::size_t longest = 0;
    bool uneven = false;  // a last window whose boundary is between two multiples of k1 may overlap one more
    for (std::size_t position = 0; position < batch; ++position) {
        longest = std::max(longest, cut.length(position));
        uneven = uneven || cut.length(position) % k1 != 0;
    }
    copies = std::max<std::size_t>(1, std::min((k2 + k1 - 1) / k1 + (uneven ? 1 : 0), (longest + k1 - 1) / k1));
}

template <class Real>
WindowStack<Real>::Layer::Layer(const UnitTape<Real>& tape, const Division& division, const UnitGradients<Real>& gradients,
                                const SweepSpace<Real>& space, const SweepLimits<Real>& limits, std::size_t copies,
                                std::size_t some)
    : tape(tape),
      g(gradients),
      weights(tape, division.threads, gradients.parameters, gradients.input, space.dx),
      dz_sum(tape.cut.most_rows(), block_cols<Real>(tape.cell.blocks, tape.sizes.hidden)),
      carry_h(checked_product(copies, tape.cut.apart_rows()), tape.sizes.hidden),
      clipping(limits, division, checked_product(some, tape.sizes.batch)) {
    const std::size_t rows = some_rows(tape.cut, tape.sizes.batch, some);
    for (PanelBuffer<Real>& step : dz) step = PanelBuffer<Real>(rows, block_cols<Real>(tape.cell.blocks, tape.sizes.hidden));
    if (tape.has_blocks()) carry = PanelBuffer<Real>(checked_product(copies, tape.cut.apart_rows()), tape.sizes.hidden);
}

template <class Real>
WindowStack<Real>::WindowStack(const typename Tape<Real>::Contents& tape, int threads, const RnnUpstream<Real>& upstream,
                               const Real* mask, const RnnGradients<Real>& gradients, const SweepLimits<Real>& limits,
                               const Real* d_last)
    : k_(kernels<Real>()),
      tape_(tape),
      cut_(tape.units.front()->cut),
      windows_(cut_, tape.sizes.batch, limits.k1, limits.k2),
      some_(copies_at_a_time(*tape.units.front(), tape.sizes.batch, windows_.copies, threads)),
      division_(division_of(tape.units.front()->sizes, windows_.copies, threads)),
      mask_{mask, tape.sizes.hidden} {
    const RnnSizes& s = tape.sizes;
    if (some_ < windows_.copies) space_.dz = PanelBuffer<Real>(cut_.most_rows(), s.hidden);
    if (gradients.input != nullptr) space_.dx = PanelBuffer<Real>(cut_.most_rows(), s.inputs);
    if (s.layers > 1) between_ = PanelBuffer<Real>(checked_product(cut_.most_steps(), some_rows(cut_, s.batch, some_)), s.hidden);
    for (std::size_t i = 0; i < s.layers; ++i) {
        const UnitGradients<Real> g = unit_gradients(tape, i, upstream, gradients, d_last);
        layers_.push_back(std::make_unique<Layer>(*tape.units[i], division_, g, space_, limits, windows_.copies, some_));
    }
    given_ = std::make_unique<GivenUpstream<Real>>(*tape.units.back(), division_, UserRows<const Real>{upstream.output, s.hidden});
}

template <class Real>
template <class Visit>
void WindowStack<Real>::for_each_range(const Part<Real>& part, Visit visit) const {
    for (std::size_t i = 0; i < cut_.slices(); ++i) {
        const std::size_t begin = std::max(part.samples.begin, cut_.first_position(i));
        const std::size_t end = std::min(part.samples.end, cut_.first_position(i + 1));
        if (begin < end) visit(begin, end - begin, cut_.apart_row(i, begin));
    }
}

template <class Real>
bool WindowStack<Real>::run(Upstream<Real>* top, ForwardStack<Real>* again, Steps& steps, int member, Barrier& barrier) {
    const Part<Real> part(tape_.units.front()->sizes, division_, member);
    for (const auto& layer : layers_) start(*layer, part, member);
    barrier.wait();
    Upstream<Real>& upstream = top != nullptr ? *top : *given_;
    const bool complete = sweep_chunks<Real>(tape_, again, steps, member, barrier, [&](const Chunk& chunk) {
        upstream.prepare_chunk(chunk, member, barrier, upstream_space());
        for (std::size_t first = 0; first < windows_.copies; first += some_)
            part.for_each_piece(cut_, chunk, [&](const Piece& piece) {
                const Copies copies{first, std::min(first + some_, windows_.copies), piece,
                                    some_ * piece.positions.begin + piece.slice.index * Cut::kApart};
                for (std::size_t i = layers_.size(); i-- > 0;) sweep(i, chunk, upstream, part, copies, member, barrier);
            });
        barrier.wait();
        for (const auto& layer : layers_) layer->weights.add(chunk, layer->dz_sum.matrix(), member);
        barrier.wait();
    });
    if (!complete) return false;
    for (const auto& layer : layers_) finish(*layer, part, member);
    return true;
}

/// Nothing comes from behind the end. A sequence without steps has its initial state for its final one.
template <class Real>
void WindowStack<Real>::start(Layer& layer, const Part<Real>& part, int member) {
    layer.weights.prepare(member);
    for_each_range(part, [&](std::size_t position, std::size_t count, std::size_t row) {
        for (std::size_t copy = 0; copy < windows_.copies; ++copy) {
            k_.zero(count, part.cols, part.of(layer.carry_h.matrix(), copy * cut_.apart_rows() + row));
            if (layer.tape.has_blocks()) k_.zero(count, part.cols, part.of(layer.carry.matrix(), copy * cut_.apart_rows() + row));
        }
        for (std::size_t i = 0; i < count; ++i) {
            const UserRows<Real>& hidden = layer.g.hidden;  // a sum
            for (std::size_t t = 0; hidden && t < layer.tape.sizes.steps; ++t)
                std::fill_n(
                    hidden.data + (t * layer.tape.sizes.batch + cut_.sample(position + i)) * hidden.leading + part.first_col,
                    part.cols, Real(0));
            if (cut_.length(position + i) != 0) continue;
            const Rows sample{cut_.sample(position + i)};
            if (layer.g.d_h) k_.copy(1, part.cols, part.of(layer.g.d_h, sample), part.of(layer.carry_h.matrix(), row + i));
            if (layer.g.d_c) k_.copy(1, part.cols, part.of(layer.g.d_c, sample), part.of(layer.carry.matrix(), row + i));
        }
    });
}

/// The state's gradients are the sums over the windows that get there.
template <class Real>
void WindowStack<Real>::finish(Layer& layer, const Part<Real>& part, int member) {
    const RnnSizes& s = layer.tape.sizes;
    layer.weights.finish(member);
    for_each_range(part, [&](std::size_t position, std::size_t count, std::size_t row) {
        const auto all = [&](const PanelBuffer<Real>& buffer) {
            const Matrix<Real> sum = part.of(buffer.matrix(), row);
            for (std::size_t copy = 1; copy < windows_.copies; ++copy)
                k_.add(count, part.cols, sum.rows_from(copy * cut_.apart_rows()), sum);
            return sum;
        };
        const auto give = [&](Matrix<Real> from, Real* to) {
            if (to == nullptr) return;
            const UserRows<Real> rows{to, s.hidden};
            cut_.for_each_sample_run(position, count, [&](std::size_t i, std::size_t n, std::size_t sample) {
                k_.copy(n, part.cols, from.rows_from(i), part.of(rows, Rows{sample}));
            });
        };
        const Matrix<Real> d_h = all(layer.carry_h);
        if (layer.tape.has_blocks()) {
            const Matrix<Real> carried = all(layer.carry);
            if (layer.tape.cell.carries_hidden) k_.add(count, part.cols, carried, d_h);
            if (layer.tape.has_cell_state()) give(carried, layer.g.state.c);
        }
        give(d_h, layer.g.state.h);
    });
}

template <class Real>
Range WindowStack<Real>::alive(const Copies& copies, std::size_t t, std::size_t n) const {
    Range range{copies.end, copies.first};
    for (std::size_t copy = copies.first; copy < copies.end; ++copy) {
        const std::size_t w = windows_.window_of(copy, t), first = copies.piece.positions.begin;
        bool any = false;
        for (std::size_t j = 0; !any && j < (cut_.ragged() ? n : std::min<std::size_t>(n, 1)); ++j)
            any = windows_.at(w, t, cut_.length(first + j)) != Windows::At::outside;
        if (any) range = {std::min(range.begin, copy), copy + 1};
    }
    return range.begin < range.end ? range : Range{copies.first, copies.first};
}

/// dh_t of all the copies in block 0 of dz, where dz_{t+1} W_hh is already, and what the cells carry.
template <class Real>
void WindowStack<Real>::add_upstream(Layer& layer, bool is_top, const Chunk& chunk, std::size_t s, std::size_t n,
                                     Matrix<const Real> upstream_t, const Part<Real>& part, const Copies& copies, Matrix<Real> dh) {
    const std::size_t t = chunk.first_step + s + 1, first = copies.piece.positions.begin, size = copies.piece.size;
    const bool blocks = layer.tape.has_blocks();
    for (std::size_t copy = copies.first; copy < copies.end; ++copy) {
        const Matrix<Real> dh_w = dh.rows_from((copy - copies.first) * size);
        const Matrix<Real> carry = blocks ? part.of(layer.carry.matrix(), carry_row(copy, copies.piece)) : Matrix<Real>{};
        const std::size_t w = windows_.window_of(copy, t);
        for (std::size_t j = 0, end; j < n; j = end) {
            const Windows::At at = windows_.at(w, t, cut_.length(first + j));
            for (end = cut_.ragged() ? j + 1 : n; end < n && windows_.at(w, t, cut_.length(first + end)) == at;) ++end;
            if (at == Windows::At::inside) continue;
            k_.zero(end - j, part.cols, dh_w.rows_from(j));
            if (blocks) k_.zero(end - j, part.cols, carry.rows_from(j));
            for (std::size_t i = j; at == Windows::At::boundary && i < end; ++i) {
                if (cut_.length(first + i) != t) continue;  // the final state is this sequence's last step's
                const Rows sample{cut_.sample(first + i)};
                if (layer.g.d_h) k_.add(1, part.cols, part.of(layer.g.d_h, sample), dh_w.rows_from(i));
                if (layer.g.d_c) k_.add(1, part.cols, part.of(layer.g.d_c, sample), carry.rows_from(i));
            }
        }
        if (w == windows_.window_of(t)) {
            if (upstream_t.data != nullptr) k_.add(n, part.cols, upstream_t, dh_w);
            if (layer.g.d_cells)
                cut_.for_each_user_run(t - 1, first, n, [&](std::size_t i, std::size_t count, const Rows& user) {
                    k_.add(count, part.cols, part.of(layer.g.d_cells, user), carry.rows_from(i));
                });
        }
        if (layer.tape.cell.carries_hidden) k_.add(n, part.cols, carry, dh_w);
    }
    if (!is_top) k_.add(copies.rows(), part.cols, part.of(between_.matrix(), between_row(s, copies)), dh);
}

template <class Real>
void WindowStack<Real>::sweep(std::size_t index, const Chunk& chunk, const Upstream<Real>& upstream, const Part<Real>& part,
                              const Copies& all, int member, Barrier& barrier) {
    Layer& layer = *layers_[index];
    const UnitTape<Real>& tape = layer.tape;
    const Cell<Real>& cell = tape.cell;
    const Piece& piece = all.piece;
    const std::size_t S = chunk.steps, panels = tape.panels(), size = piece.size, first_panel = part.panels.begin;
    const auto carry = [&](const PanelBuffer<Real>& buffer, std::size_t copy) {
        return part.of(buffer.matrix(), carry_row(copy, piece));
    };
    Term<Real> terms[kMostTerms];
    Copies copies = all, later = all;  // those alive at step s and at the one after
    Matrix<Real> dz{}, dz_later{};
    for (std::size_t s = S; s-- > 0; later = copies, dz_later = dz) {
        const std::size_t t = chunk.first_step + s, n = piece.active(cut_, t);
        copies = all.of(alive(all, t + 1, n));
        const bool is_top = index + 1 == layers_.size();
        // Those that come from the step after, and whether it is one alone that goes on: then its dh begins with the upstream, and
        // its dz is the sum.
        const Range both = s + 1 == S ? Range{} : Range{std::max(copies.first, later.first), std::min(copies.end, later.end)};
        const std::size_t w = windows_.window_of(t + 1);
        const bool alone = both.begin < both.end && copies.rows() == size && windows_.copies == all.end - all.first &&
                           !cut_.ragged() && windows_.window_of(both.begin, t + 1) == w &&
                           windows_.at(w, t + 1, cut_.length(0)) == Windows::At::inside;
        dz = alone ? layer.dz_sum.matrix().rows_from(piece.row(S, s)) : layer.dz[s % 2].matrix().rows_from(copies.first_row);
        const Matrix<Real> own = dz.panels_from(first_panel);
        const auto for_each_copy = [&](auto visit) {
            for (std::size_t copy = copies.first; copy < copies.end; ++copy)
                visit(copy, own.rows_from((copy - copies.first) * size));
        };
        CellSweep<Real> step = cell_sweep(tape, chunk, part, piece, s);
        step.dz_stride = panels * dz.panel_stride;
        // dh_t^w = upstream_t + dz_{t+1}^w W_hh
        const auto upstream_at = [&](std::size_t step_of_chunk) {
            return is_top ? upstream.at(chunk, step_of_chunk, part, piece, upstream_space()) : none<Real>();
        };
        const Matrix<const Real> upstream_t = upstream_at(s);
        if (s + 1 == S)
            for_each_copy([&](std::size_t copy, Matrix<Real> dh) { k_.copy(size, part.cols, carry(layer.carry_h, copy), dh); });
        if (both.begin < both.end) {
            const int count = recurrent_terms(tape, dz_later.rows_from((both.begin - later.first) * size), part, -1, terms);
            k_.product(both.size() * size, part.cols, terms, count, alone ? upstream_t : none<Real>(),
                       own.rows_from((both.begin - copies.first) * size),
                       alone ? ahead_of_sweep(tape, step, s != 0 ? upstream_at(s - 1) : none<Real>()) : Ahead<Real>{});
        }
        add_upstream(layer, is_top, chunk, s, n, alone ? none<Real>() : upstream_t, part, copies, own);
        layer.clipping.run(copies.rows(), tape.sizes.hidden, part, dz, member, barrier);
        // dz_t^w
        if (layer.g.hidden) add_hidden(layer, t, n, part, copies, own);
        for (int phase = cell.phases; phase-- > 0;) {
            for_each_copy([&](std::size_t copy, Matrix<Real> dz_w) {
                step.dz = dz_w;
                if (tape.has_blocks()) step.carry = carry(layer.carry, copy);
                cell.backward[phase](n, part.panels.size(), step);
            });
            if (phase == 0) break;
            if (division_.by_columns) barrier.wait();
            for (int r = 0; r < cell.run_count; ++r) {
                const int source = cell.runs[r].source;
                if (source < 0) continue;
                const int count = recurrent_terms(tape, dz, part, source, terms);
                k_.product(copies.rows(), part.cols, terms, count, none<Real>(), own.panels_from(std::size_t(source) * panels), {});
            }
            if (division_.by_columns) barrier.wait();  // others have read the rows that are made 0 below
        }
        // dz_t = sum_w dz_t^w
        const Matrix<Real> sum = part.of(layer.dz_sum.matrix(), piece.row(S, s));
        part.for_each_gate_run(cell.blocks, panels, [&](int block, std::size_t cols) {
            const std::size_t panel = std::size_t(block) * panels;
            bool first = all.first == 0;
            if (alone && n != size) k_.zero(size - n, cols, own.panels_from(panel).rows_from(n));
            if (alone) return;
            if (first && copies.rows() == 0) k_.zero(size, cols, sum.panels_from(panel));
            for_each_copy([&](std::size_t, Matrix<Real> dz_w) {
                dz_w = dz_w.panels_from(panel);
                if (n != size) k_.zero(size - n, cols, dz_w.rows_from(n));
                (first ? k_.copy : k_.add)(size, cols, dz_w, sum.panels_from(panel));
                first = false;
            });
        });
        if (division_.by_columns) barrier.wait();
        if (index == 0) continue;
        // The layer below: dz_t^w W_ih
        const Matrix<Real> below = part.of(between_.matrix(), between_row(s, copies));
        const int count = input_terms(tape, dz, first_panel, terms);
        k_.product(copies.rows(), part.cols, terms, count, none<Real>(), below, {});
        if (!mask_) continue;
        const std::size_t of_layer = (index - 1) * tape.sizes.steps * tape.sizes.batch;
        for (std::size_t copy = copies.first; copy < copies.end; ++copy)
            cut_.for_each_user_run(t, piece.positions.begin, n, [&](std::size_t i, std::size_t count, const Rows& user) {
                k_.multiply(count, part.cols,
                            part.of(UserRows<const Real>{mask_.data + of_layer * mask_.leading, mask_.leading}, user),
                            below.rows_from((copy - copies.first) * size + i));
            });
    }
    // What the chunk before receives
    const Matrix<Real> before = layer.dz[1].matrix().rows_from(copies.first_row).panels_from(first_panel);
    const int count = recurrent_terms(tape, dz_later, part, -1, terms);
    k_.product(copies.rows(), part.cols, terms, count, none<Real>(), before, {});
    for (std::size_t copy = all.first; copy < all.end; ++copy) {
        if (copies.first <= copy && copy < copies.end) {
            k_.copy(size, part.cols, before.rows_from((copy - copies.first) * size), carry(layer.carry_h, copy));
        } else {
            k_.zero(size, part.cols, carry(layer.carry_h, copy));
            if (tape.has_blocks()) k_.zero(size, part.cols, carry(layer.carry, copy));
        }
    }
    if (division_.by_columns) barrier.wait();
}

/// dL/dh_t, the sum over the windows.
template <class Real>
void WindowStack<Real>::add_hidden(Layer& layer, std::size_t step, std::size_t n, const Part<Real>& part, const Copies& copies,
                                   Matrix<Real> dh) {
    cut_.for_each_user_run(step, copies.piece.positions.begin, n, [&](std::size_t i, std::size_t count, const Rows& user) {
        const Matrix<Real> sum = part.of(layer.g.hidden, user);
        for (std::size_t copy = copies.first; copy < copies.end; ++copy)
            k_.add(count, part.cols, dh.rows_from((copy - copies.first) * copies.piece.size + i), sum);
    });
}

template class WindowStack<float>;
template class WindowStack<double>;

}  // namespace pybptt
