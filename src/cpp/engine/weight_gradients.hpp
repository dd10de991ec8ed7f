// The sums over time: once dz_t is known for a chunk of steps, each weight gradient is one product over all its rows.
//
//     dW_hh = sum_t dz_t^T h_{t-1},    dW_ih = sum_t dz_t^T x_t,    db = sum_t dz_t,    dx_t = dz_t W_ih
//     with projection    dW_hr = sum_t dh_t^T (o_t tanh(c_t))
//
// for each gate: dz_t is the block that the gate's product is in, and h_{t-1} what that product read.
#pragma once

#include "engine/chunk_sum.hpp"
#include "engine/sweep_step.hpp"

namespace pybptt {

/// Where dL/dx_t goes: added to what is there or in its place.
template <class Real>
struct InputGradient {
    UserRows<Real> rows;        // (T, B, D); may be null
    UserRows<const Real> mask;  // that x was multiplied by; may be null
    bool add = false;
};

/// Members take blocks of the weight gradients' rows (columns of dz), whoever is free: there is no reduction across threads.
template <class Real>
class WeightGradients {
public:
    ///   dx  (chunk rows, D), to work in; needed if there are rows for dL/dx_t
    WeightGradients(const RecurrenceTape<Real>& tape, int team, const RnnParameterGradients<Real>& gradients,
                    const InputGradient<Real>& input, const PanelBuffer<Real>& dx)
        : tape_(tape), g_(gradients), input_(input), dx_(dx), claims_(team) {}

    /// Complete after a barrier.
    void prepare(const Member& member) {
        for (const ChunkSum<Real>* const sum : {&weight_ih_, &weight_hh_, &weight_hr_}) sum->begin(member);
        for (const Buffer<double>* const sum : {&bias_, &vectors_, &selected_}) zero_share(sum->data(), sum->size(), member);
        if (g_.weight_ih != nullptr && !tape_.dense) zero_share(g_.weight_ih, rows_ * s_.inputs, member);
        if (!tape_.dense || !input_.rows || input_.rows.of_chunk || input_.add || !tape_.cut.ragged()) return;
        const Range samples = member.share(s_.batch, 1);
        tape_.cut.zero_paddings(input_.rows, samples.begin, samples.size(), 0, s_.inputs);
    }
    /// Adds one chunk, the last one first; every member's dz must be complete. Complete after a barrier.
    void add(const Chunk& chunk, Matrix<const Real> dz, const Member& member) {
        const std::size_t parts = std::size_t(member.team), blocks = std::size_t(cell_.blocks);
        const std::size_t vectors = g_.vectors != nullptr ? std::size_t(cell_.vector_count) : 0;
        const bool with_projection = g_.weight_hr != nullptr, with_input = input_.rows && tape_.dense;
        const std::size_t things = blocks + vectors + with_projection + with_input;
        claims_.visit_each(std::uint32_t(tape_.cut.chunks() - chunk.index), things * parts, member, [&](std::size_t claimed) {
            const int part = int(claimed / things);
            const std::size_t thing = claimed % things;
            const Range own = pybptt::share(s_.hidden, kLanes<Real>, part, member.team);
            if (thing < blocks + vectors && own.size() == 0) return;
            if (thing < blocks) return add_block(chunk, dz, int(thing), own);
            if (thing < blocks + vectors) return add_vector(chunk, dz, int(thing - blocks), own);
            if (with_input && thing + 1 == things) return add_input(chunk, dz, pybptt::share(chunk.rows, 1, part, member.team));
            add_projection(chunk, dz, pybptt::share(s_.projection, kLanes<Real>, part, member.team));
        });
    }
    void finish(const Member& member) {
        const std::size_t H = s_.hidden;
        const Range own = member.share(H, kLanes<Real>);
        const auto round_to = [&](Real* to, int row, const Buffer<double>& sums, int block) {
            const double* from = sums.data() + std::size_t(block) * block_cols<Real>(1, H);
            for (std::size_t u = own.begin; to != nullptr && u < own.end; ++u) to[std::size_t(row) * H + u] = Real(from[u]);
        };
        for (int v = 0; v < cell_.vector_count; ++v) round_to(g_.vectors, v, vectors_, v);
        for (int g = 0; g < cell_.group_count; ++g) {
            const BlockGroup& group = cell_.groups[g];
            for (int i = 0; i < group.count; ++i) {
                if (group.input_gate >= 0) round_to(g_.bias_ih, group.input_gate + i, bias_, group.block + i);
                if (group.hidden_gate >= 0) round_to(g_.bias_hh, group.hidden_gate + i, bias_, group.block + i);
            }
        }
        for (std::size_t g = 0; count_ != 0 && own.size() != 0 && g < std::size_t(cell_.gates); ++g)
            tape_.dense ? multiply_selected(g, own) : write_selected(g, own);
    }

private:
    /// Of S, the i-th distinct row of x and gate g.
    double* selected_row(std::size_t i, std::size_t g) const {
        return selected_.data() + i * stride_ + g * block_cols<Real>(1, s_.hidden);
    }
    /// dW_ih = S^T X of one gate, where X is one-hot.
    void write_selected(std::size_t g, const Range& own) {
        for (std::size_t u = own.begin; u < own.end; ++u)
            for (std::size_t i = 0; i < count_; ++i)
                g_.weight_ih[(g * s_.hidden + u) * s_.inputs + std::size_t(tape_.selection.ids[i])] = Real(selected_row(i, g)[u]);
    }
    /// The same for any X, in terms so short that their rounding errors are no larger than those of sums over time.
    void multiply_selected(std::size_t g, const Range& own) {
        constexpr std::size_t kRows = 16;
        static_assert(Selection<Real>::kMost <= kRows * kMaxTerms);
        const Matrix<Real> x = tape_.selection.rows.matrix(), s = rounded_.matrix().panels_from(own.begin / kLanes<Real>);
        k_.round_rows(count_, own.size(), selected_row(0, g) + own.begin, stride_, s);
        Term<Real> terms[kMaxTerms];
        int count = 0;
        for (std::size_t i = 0; i < count_; i += kRows)
            terms[count++] = {s.rows_from(i), x.rows_from(i), std::min(kRows, count_ - i)};
        const Matrix<Real> dw_ih = row_major(g_.weight_ih + (g * s_.hidden + own.begin) * s_.inputs, s_.inputs);
        k_.product_transposed(own.size(), s_.inputs, terms, count, none<Real>(), dw_ih);
    }
    void add_block(const Chunk& chunk, Matrix<const Real> dz, int b, const Range& own) {
        const BlockGroup* const found = cell_.group_of(b);
        if (found == nullptr) return;
        const BlockGroup& group = *found;
        const int i = b - group.block;
        const std::size_t H = s_.hidden, P = s_.h_width(), D = s_.inputs, S = chunk.steps, panels = tape_.panels();
        const std::size_t panel = std::size_t(b) * panels + own.begin / kLanes<Real>;
        const Matrix<const Real> own_dz = dz.panels_from(panel);
        if (g_.weight_hh != nullptr && group.hidden_gate >= 0) {
            // dW_hh += dz^T h_{t-1}, a term a slice; or of the block that the product read
            Term<Real> terms[Cut::kMostSlices];
            int count = 0;
            if (group.source < 0)
                for (std::size_t k = 0; k < tape_.cut.slices(); ++k) {
                    const Slice slice = tape_.cut.slice(chunk, k);
                    terms[count++] = {own_dz.rows_from(S * slice.begin), tape_.h(chunk).rows_from((S + 1) * slice.begin),
                                      S * slice.size};
                }
            else
                terms[count++] = {own_dz, tape_.saved(chunk).panels_from(std::size_t(group.source) * panels), chunk.rows};
            weight_hh_.add(k_, chunk, std::size_t(group.hidden_gate + i) * H + own.begin, own.size(), P, terms, count);
        }
        if (g_.weight_ih != nullptr && group.input_gate >= 0) {
            // dW_ih += dz^T x; a token's x is one-hot
            if (!tape_.selects()) {
                const Term<Real> term{own_dz, tape_.x(chunk), chunk.rows};
                weight_ih_.add(k_, chunk, std::size_t(group.input_gate + i) * H + own.begin, own.size(), D, &term, 1);
            } else {  // S[s_t] += dz_t
                k_.scatter_add_rows(chunk.rows, own.size(), tape_.slots(chunk), own_dz,
                                    selected_row(0, std::size_t(group.input_gate + i)) + own.begin, stride_);
            }
        }
        // db += sum dz
        if (g_.bias_ih != nullptr || g_.bias_hh != nullptr)
            k_.sum_rows(chunk.rows, own.size(), own_dz, bias_.data() + panel * kLanes<Real>);
    }
    /// dp += sum_t dz c_{t-1}, or dz c_t, of the block that the cell declares
    void add_vector(const Chunk& chunk, Matrix<const Real> dz, int v, const Range& own) {
        const CellVector& vector = cell_.vectors[v];
        const std::size_t S = chunk.steps, panel = own.begin / kLanes<Real>, panels = tape_.panels();
        for (std::size_t k = 0; k < tape_.cut.slices(); ++k) {
            const Slice slice = tape_.cut.slice(chunk, k);
            const std::size_t state_row = (S + 1) * slice.begin + (vector.factor == CellVector::c ? slice.size : 0);
            k_.sum_products(S * slice.size, own.size(),
                            dz.rows_from(S * slice.begin).panels_from(std::size_t(vector.block) * panels + panel),
                            tape_.c(chunk).rows_from(state_row).panels_from(panel),
                            vectors_.data() + (std::size_t(v) * panels + panel) * kLanes<Real>);
        }
    }
    /// dW_hr += dh^T (o tanh(c))
    void add_projection(const Chunk& chunk, Matrix<const Real> dz, const Range& own) {
        const Term<Real> term{dz.panels_from(tape_.dh_panel() + own.begin / kLanes<Real>), tape_.unprojected(chunk), chunk.rows};
        weight_hr_.add(k_, chunk, own.begin, own.size(), s_.hidden, &term, 1);
    }
    /// dx = dz W_ih
    void add_input(const Chunk& chunk, Matrix<const Real> dz, const Range& own_rows) {
        const std::size_t D = s_.inputs;
        multiply_w_ih(tape_, own_rows.size(), dz.rows_from(own_rows.begin), Columns<Real>(D, {0, panel_count<Real>(D)}),
                      dx_.matrix().rows_from(own_rows.begin));
        if (input_.mask)
            tape_.cut.for_each_rows(chunk, own_rows.begin, own_rows.size(), chunk.first_step,
                                    [&](std::size_t row, std::size_t n, const Rows& user, Slice) {
                                        k_.multiply(n, D, input_.mask.at(user), dx_.matrix().rows_from(row));
                                    });
        tape_.cut.for_each_rows(chunk, own_rows.begin, own_rows.size(), input_.rows.first_step(chunk),
                                [&](std::size_t row, std::size_t n, const Rows& user, Slice) {
                                    (input_.add ? k_.add : k_.copy)(n, D, dx_.matrix().rows_from(row), input_.rows.at(user));
                                });
    }

    const RecurrenceTape<Real>& tape_;
    const Kernels<Real>& k_ = tape_.k;
    const RnnSizes& s_ = tape_.sizes;
    const Cell<Real>& cell_ = tape_.cell;
    const RnnParameterGradients<Real> g_;
    const InputGradient<Real> input_;
    const std::size_t rows_ = std::size_t(cell_.gates) * s_.hidden;  // of W_ih and W_hh
    ChunkSum<Real> weight_ih_{tape_.multiplies() ? g_.weight_ih : nullptr, rows_ * s_.inputs, tape_.cut.chunks()};
    ChunkSum<Real> weight_hh_{g_.weight_hh, rows_ * s_.h_width(), tape_.cut.chunks()};
    ChunkSum<Real> weight_hr_{g_.weight_hr, s_.projection * s_.hidden, tape_.cut.chunks()};
    Buffer<double> bias_{block_cols<Real>(cell_.blocks, s_.hidden)};                     // db of each block, in whole panels
    Buffer<double> vectors_{g_.vectors == nullptr ? 0 : tape_.weights->vectors.size()};  // dp of each vector, likewise
    const PanelBuffer<Real>& dx_;
    const Claims claims_;
    // S, a row for each distinct row of x (count, blocks of G), and what one gate's is rounded to, if it is multiplied. Rows are an
    // odd number of cache lines apart: with a power of two all would fall into the same sets of the cache.
    const std::size_t count_ = g_.weight_ih != nullptr ? tape_.selection.count : 0;
    const std::size_t stride_ = block_cols<Real>(cell_.gates, s_.hidden) + kPanelBytes / sizeof(double);
    Buffer<double> selected_{checked_product(count_, stride_)};
    PanelBuffer<Real> rounded_ = tape_.dense && count_ != 0 ? PanelBuffer<Real>(count_, s_.hidden) : PanelBuffer<Real>();
};

}  // namespace pybptt
