// The Elman cell (Elman 1990). The products make z_t; what is left is elementwise:
//
//     z_t  = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
//     h_t  = phi(z_t)
//
//     dz_t = phi'(z_t) * dh_t,        phi'(z_t) as a function of h_t
#pragma once

#include "kernels/activations.hpp"
#include "kernels/panels.hpp"

namespace pybptt {
namespace {

template <class Real, template <class> class Phi>
void elman_forward(size_t rows, size_t panels, Matrix<Real> h) {
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* z = h.data + panel * h.panel_stride + at;
        store(z, Phi<Real>::value(load(z)));  // h_t = phi(z_t)
    });
}

template <class Real, template <class> class Phi>
void elman_backward(size_t rows, size_t panels, Matrix<const Real> h, Matrix<Real> dz) {
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* dh = dz.data + panel * dz.panel_stride + at;
        store(dh, Phi<Real>::slope(load(h.data + panel * h.panel_stride + at)) * load(dh));  // dz_t = phi'(z_t) * dh_t
    });
}

template <class Real, template <class> class Phi>
constexpr Cell<Real> elman_cell() {
    return {elman_forward<Real, Phi>, elman_backward<Real, Phi>};
}

}  // namespace
}  // namespace pybptt
