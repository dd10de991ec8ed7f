// The Elman cell (Elman 1990). The products make z_t, in the place of h_t; what is left is elementwise:
//
//     z_t  = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
//     h_t  = phi(z_t)
//
//     dz_t = phi'(z_t) * dh_t,        phi'(z_t) as a function of h_t
#pragma once

#include "kernels/cells/clip.hpp"
#include "kernels/panels.hpp"

namespace pybptt {
namespace {

template <class Real, template <class> class Phi, bool clipped>
void elman_forward(size_t rows, size_t panels, const CellStep<Real>& a) {
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* z = a.h.data + panel * a.h.panel_stride + at;
        store(z, Phi<Real>::value(limit<clipped>(load(z), a.clip)));  // h_t = phi(z_t)
    });
}

template <class Real, template <class> class Phi, bool clipped>
void elman_backward(size_t rows, size_t panels, const CellSweep<Real>& a) {
    const Inside<Real, Phi, clipped> inside(a.clip);
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* dh = a.dz.data + panel * a.dz.panel_stride + at;
        const Vec<Real> h = load(a.h.data + panel * a.h.panel_stride + at);
        store(dh, inside(h, Phi<Real>::slope(h) * load(dh)));  // dz_t = phi'(z_t) * dh_t
    });
}

template <class Real, template <class> class Phi, bool clipped>
constexpr Cell<Real> elman() {
    Cell<Real> cell{};
    cell.gates = cell.blocks = 1;
    cell.reads_h = true;
    cell.group_count = 1;
    cell.groups[0] = {0, 1, 0, 0, -1};
    cell.phases = 1;
    cell.forward[0] = elman_forward<Real, Phi, clipped>;
    cell.backward[0] = elman_backward<Real, Phi, clipped>;
    return cell;
}

template <class Real>
const Cell<Real>& elman_cell(const CellConfig& c) {
    static constexpr Cell<Real> cells[kNonlinearities][2] = {
        {elman<Real, Tanh, false>(), elman<Real, Tanh, true>()},
        {elman<Real, Relu, false>(), elman<Real, Relu, true>()},
        {elman<Real, Sigmoid, false>(), elman<Real, Sigmoid, true>()},
        {elman<Real, Identity, false>(), elman<Real, Identity, true>()},
    };
    static_assert(sound(cells));
    return cells[int(c.nonlinearity)][c.clip != 0];
}

}  // namespace
}  // namespace pybptt
