#include "engine/packed.hpp"

#include <algorithm>

namespace pybptt {

int CellConfig::gates() const { return find_cell<float>(*this).gates; }
int CellConfig::vectors() const { return find_cell<float>(*this).vector_count; }
bool CellConfig::has_cell_state() const { return find_cell<float>(*this).has_c; }
bool CellConfig::projectable() const { return !find_cell<float>(*this).reads_h; }

template <class Real>
PackedWeights<Real>::PackedWeights(const RnnSizes& s, bool dense, std::size_t tokens, bool for_sweep)
    : cell_(find_cell<Real>(s.cell)), sizes_(s), dense_(dense), tokens_(tokens) {
    const std::size_t rows = checked_product(std::size_t(cell_.gates), s.hidden), cols = block_cols<Real>(cell_.gates, s.hidden);
    w_hh_t = PanelBuffer<Real>(s.h_width(), cols);
    if (s.projection != 0) w_hr_t = PanelBuffer<Real>(s.hidden, s.h_width());
    bias = Buffer<Real>(block_cols<Real>(cell_.blocks, s.hidden));
    vectors = Buffer<Real>(block_cols<Real>(cell_.vector_count, s.hidden));
    if (dense)
        w_ih_t = PanelBuffer<Real>(s.inputs, cols);
    else
        token_rows = PanelBuffer<Real>(tokens, bias.size());
    if (!for_sweep) return;
    w_hh = PanelBuffer<Real>(rows, s.h_width());
    if (s.projection != 0) w_hr = PanelBuffer<Real>(s.h_width(), s.hidden);
    if (dense) w_ih = PanelBuffer<Real>(rows, s.inputs);
}

/// Each member packs some columns of every block.
template <class Real>
void PackedWeights<Real>::pack(const RnnParameters<Real>& p, const std::int64_t* tokens, const Member& member) {
    constexpr std::size_t L = kLanes<Real>;
    const Kernels<Real>& k = kernels<Real>();
    const std::size_t H = sizes_.hidden, P = sizes_.h_width(), D = sizes_.inputs, panels = panel_count<Real>(H);
    /// Rows of a row-major W, for products by W^T and by W: from `panel` of the former on.
    const auto bring = [&](const Real* w, std::size_t row, std::size_t rows, std::size_t cols, std::size_t panel,
                           const PanelBuffer<Real>& transposed, const PanelBuffer<Real>& copy) {
        k.transpose(rows, cols, row_major(w + row * cols, cols), transposed.matrix().panels_from(panel),
                    copy.size() != 0 ? copy.matrix().rows_from(row) : Matrix<Real>{});
    };
    if (w_hr_t.size() != 0) {
        const Range rows = member.share(P, L);
        bring(p.weight_hr, rows.begin, rows.size(), H, rows.begin / L, w_hr_t, w_hr);
    }
    const Range own = member.share(H, L);
    if (own.size() == 0) return;
    const std::size_t panel = own.begin / L, padded_end = panel_count<Real>(own.end) * L;
    for (std::size_t g = 0; g < std::size_t(cell_.gates); ++g) {
        bring(p.weight_hh, g * H + own.begin, own.size(), P, g * panels + panel, w_hh_t, w_hh);
        if (dense_) bring(p.weight_ih, g * H + own.begin, own.size(), D, g * panels + panel, w_ih_t, w_ih);
    }
    for (std::size_t v = 0; v < std::size_t(cell_.vector_count); ++v)
        for (std::size_t u = own.begin; u < padded_end; ++u) vectors[v * panels * L + u] = u < H ? p.vectors[v * H + u] : Real(0);
    for (std::size_t b = 0; b < std::size_t(cell_.blocks); ++b)
        std::fill_n(bias.data() + b * panels * L + own.begin, padded_end - own.begin, Real(0));
    for (int g = 0; g < cell_.group_count; ++g) {
        const BlockGroup& group = cell_.groups[g];
        for (int i = 0; i < group.count; ++i) {
            Real* to = bias.data() + std::size_t(group.block + i) * panels * L;
            const auto add = [&](const Real* from, int gate) {
                if (from == nullptr || gate < 0) return;
                for (std::size_t u = own.begin; u < own.end; ++u) to[u] += from[std::size_t(gate + i) * H + u];
            };
            add(p.bias_ih, group.input_gate);
            add(p.bias_hh, group.hidden_gate);
            if (dense_ || group.input_gate < 0) continue;
            const Matrix<Real> rows = token_rows.matrix();
            for (std::size_t u = own.begin; u < padded_end; ++u) {
                Real* value = rows.data + (std::size_t(group.block + i) * panels + u / L) * rows.panel_stride + u % L;
                const Real* w = u < H ? p.weight_ih + (std::size_t(group.input_gate + i) * H + u) * D : nullptr;
                for (std::size_t t = 0; t < tokens_; ++t)
                    value[t * L] = w != nullptr ? to[u] + w[tokens == nullptr ? t : std::size_t(tokens[t])] : to[u];
            }
        }
    }
}

template <class Real>
void PackedWeights<Real>::keep_for_sweep() {
    for (PanelBuffer<Real>* const buffer : {&w_hh_t, &w_ih_t, &token_rows, &w_hr_t}) *buffer = {};
    bias = {};
}

template <class Real>
std::size_t PackedWeights<Real>::bytes() const {
    std::size_t values = bias.size() + vectors.size();
    for (const PanelBuffer<Real>* const buffer : {&w_hh_t, &w_ih_t, &token_rows, &w_hr_t, &w_hh, &w_ih, &w_hr})
        values += buffer->size();
    return values * sizeof(Real);
}

template <class Real>
void PackedOutput<Real>::pack(const OutputLayer<Real>& layer, std::size_t width, const Member& member) {
    constexpr std::size_t L = kLanes<Real>;
    const Range own = member.share(layer.outputs, L);
    kernels<Real>().transpose(own.size(), width, row_major(layer.weight + own.begin * width, width),
                              weight_t.matrix().panels_from(own.begin / L), {});
    for (std::size_t q = own.begin; q < panel_count<Real>(own.end) * L; ++q)
        bias[q] = q < own.end && layer.bias != nullptr ? layer.bias[q] : Real(0);
}

template struct PackedOutput<float>;
template struct PackedOutput<double>;
template struct PackedWeights<float>;
template struct PackedWeights<double>;

}  // namespace pybptt
