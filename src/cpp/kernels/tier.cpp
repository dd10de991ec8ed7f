// One tier of kernels: this file is compiled once a tier, with that tier's instruction set (see CMakeLists.txt).
// PYBPTT_TIER is the tier's name. Everything but the two tables is in an anonymous namespace.
#include "kernels/cells/elman.hpp"
#include "kernels/cells/gru.hpp"
#include "kernels/cells/lstm.hpp"
#include "kernels/gemm.hpp"
#include "kernels/losses.hpp"
#include "kernels/panels.hpp"
#include "kernels/scan.hpp"
#include "kernels/selection.hpp"

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

/// Every cell's file, registered.
template <class Real>
const Cell<Real>& find_cell(const CellConfig& config) {
    switch (config.kind) {
        case CellKind::elman: break;
        case CellKind::lstm: return lstm_cell<Real>(config);
        case CellKind::gru: return gru_cell<Real>(config);
    }
    return elman_cell<Real>(config);
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
    k.find_rows = find_rows<Real>;
    k.gather_rows = gather_rows<Real>;
    k.scatter_add_rows = scatter_add_rows<Real>;
    k.round_rows = round_rows<Real>;
    k.softmax_cross_entropy = softmax_cross_entropy<Real>;
    k.squared_error = squared_error<Real>;
    k.scan = scan<Real>;
    k.scan_backward = scan_backward<Real>;
    k.cell = find_cell<Real>;
    k.activate = activate<Real>;
    return k;
}

}  // namespace

namespace PYBPTT_TIER {
extern constexpr Kernels<float> kernels_float = make_kernels<float>();
extern constexpr Kernels<double> kernels_double = make_kernels<double>();
}  // namespace PYBPTT_TIER

}  // namespace pybptt
