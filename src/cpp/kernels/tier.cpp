// One tier of kernels: this file is compiled once a tier, with that tier's instruction set (see CMakeLists.txt).
// PYBPTT_TIER is the tier's name. Everything but the two tables is in an anonymous namespace.
#include "kernels/cells/elman.hpp"
#include "kernels/cells/gru.hpp"
#include "kernels/cells/lstm.hpp"
#include "kernels/gemm.hpp"
#include "kernels/losses.hpp"
#include "kernels/panels.hpp"
#include "kernels/scan.hpp"

namespace pybptt {
namespace {

template <class Real, template <class> class Phi>
void activate_all(size_t count, Real* values) {
    CellStep<Real> step{};
    step.h = in_panels(values, 0);
    elman_forward<Real, Phi, false>(panel_count<Real>(count), 1, step);
}

template <class Real>
void activate(Nonlinearity nonlinearity, size_t count, Real* values) {
    switch (nonlinearity) {
        case Nonlinearity::tanh: return activate_all<Real, Tanh>(count, values);
        case Nonlinearity::relu: return activate_all<Real, Relu>(count, values);
        case Nonlinearity::sigmoid: return activate_all<Real, Sigmoid>(count, values);
        case Nonlinearity::identity: return;
    }
}

template <class Real, template <class> class Phi>
constexpr void register_elman(Kernels<Real>& k, Nonlinearity phi) {
    k.elman[int(phi)][false] = elman_cell<Real, Phi, false>();
    k.elman[int(phi)][true] = elman_cell<Real, Phi, true>();
}
template <class Real, bool peephole, bool coupled>
constexpr void register_lstm(Kernels<Real>& k) {
    k.lstm[peephole][coupled][false] = lstm_cell<Real, peephole, coupled, false>();
    k.lstm[peephole][coupled][true] = lstm_cell<Real, peephole, coupled, true>();
}

template <class Real>
constexpr Kernels<Real> make_kernels() {
    Kernels<Real> k{};
    k.product = product<Real>;
    k.product_transposed = product_transposed<Real>;
    k.copy = copy<Real>;
    k.transpose = transpose<Real>;
    k.zero = zero<Real>;
    k.add = add<Real>;
    k.multiply = multiply<Real>;
    k.scale_rows = scale_rows<Real>;
    k.clip_values = clip_values<Real>;
    k.norm_factors = norm_factors<Real>;
    k.sum_rows = sum_rows<Real>;
    k.sum_products = sum_products<Real>;
    k.sum_columns = sum_columns<Real>;
    k.gather_rows = gather_rows<Real>;
    k.scatter_add_rows = scatter_add_rows<Real>;
    k.softmax_cross_entropy = softmax_cross_entropy<Real>;
    k.squared_error = squared_error<Real>;
    k.scan = scan<Real>;
    k.scan_backward = scan_backward<Real>;
    register_elman<Real, Tanh>(k, Nonlinearity::tanh);
    register_elman<Real, Relu>(k, Nonlinearity::relu);
    register_elman<Real, Sigmoid>(k, Nonlinearity::sigmoid);
    register_elman<Real, Identity>(k, Nonlinearity::identity);
    register_lstm<Real, false, false>(k);
    register_lstm<Real, false, true>(k);
    register_lstm<Real, true, false>(k);
    register_lstm<Real, true, true>(k);
    k.gru[false][false] = gru_before_cell<Real, false>();
    k.gru[false][true] = gru_before_cell<Real, true>();
    k.gru[true][false] = gru_after_cell<Real, false>();
    k.gru[true][true] = gru_after_cell<Real, true>();
    k.activate = activate<Real>;
    return k;
}

}  // namespace

namespace PYBPTT_TIER {
extern constexpr Kernels<float> kernels_float = make_kernels<float>();
extern constexpr Kernels<double> kernels_double = make_kernels<double>();
}  // namespace PYBPTT_TIER

}  // namespace pybptt
