// The GRU cell in both published forms, gates r z n. Reset AFTER the product (PyTorch, cuDNN, ONNX linear_before_reset = 1):
//
//     r, z = sigma(z_r), sigma(z_z)       m = W_hn h_{t-1} + b_hn         n = tanh(W_in x_t + b_in + r m)
//     h_t = (1 - z) n + z h_{t-1}
//
//     dn = dh_t (1 - z) (1 - n^2)         dm = dn r
//     dz_r = dn m r (1 - r)               dz_z = dh_t (h_{t-1} - n) z (1 - z)
//     carry = dh_t z:   what dh_{t-1} receives beside the products
//
// Reset BEFORE the product (Cho et al. 2014; ONNX linear_before_reset = 0), in two phases, because n's product needs r:
//
//     q = r h_{t-1}                       n = tanh(W_in x_t + b_in + W_hn q + b_hn)
//
//     dn as above, then dq = W_hn^T dn    dz_r = dq h_{t-1} r (1 - r)     carry = dh_t z + dq r
//
// Blocks of z: r z m n (after), r z n q (before). m and q are kept on the tape; in dz, m's block holds dm and q's block dq.
#pragma once

#include "kernels/cells/clip.hpp"
#include "kernels/panels.hpp"

namespace pybptt {
namespace {

/// A block's vector of one step.
template <class Real>
PYBPTT_INLINE Vec<Real> load_from(const Matrix<const Real>& m, size_t panel, size_t at) {
    return load(m.data + panel * m.panel_stride + at);
}

template <class Real, bool clipped>
void gru_after_forward(size_t rows, size_t panels, const CellStep<Real>& a) {
    const size_t block = a.block_stride;
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* blocks = a.z.data + panel * a.z.panel_stride + at;
        const Vec<Real> r = sigmoid<Real>(limit<clipped>(load(blocks), a.clip));
        const Vec<Real> z = sigmoid<Real>(limit<clipped>(load(blocks + block), a.clip));
        const Vec<Real> m = load(blocks + 2 * block);
        const Vec<Real> n = tanh<Real>(limit<clipped>(fma(r, m, load(blocks + 3 * block)), a.clip));
        store(blocks, r);
        store(blocks + block, z);
        store(blocks + 3 * block, n);
        store(a.h.data + panel * a.h.panel_stride + at, fma(z, load_from(a.h_before, panel, at) - n, n));
    });
}

template <class Real, bool clipped>
void gru_after_backward(size_t rows, size_t panels, const CellSweep<Real>& a) {
    const size_t block = a.dz_stride, saved_block = a.saved_stride;
    const Inside<Real, Sigmoid, clipped> sigma(a.clip);
    const Inside<Real, Tanh, clipped> tanh_of(a.clip);
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        const Vec<Real> one = splat(Real(1));
        const Real* saved = a.saved.data + panel * a.saved.panel_stride + at;
        Real* dz = a.dz.data + panel * a.dz.panel_stride + at;
        const Vec<Real> r = load(saved), z = load(saved + saved_block);
        const Vec<Real> m = load(saved + 2 * saved_block), n = load(saved + 3 * saved_block);
        const Vec<Real> dh = load(dz);
        const Vec<Real> dn = tanh_of(n, dh * (one - z) * fma(-n, n, one));
        store(dz, sigma(r, dn * m * fma(-r, r, r)));
        store(dz + block, sigma(z, dh * (load_from(a.h_before, panel, at) - n) * fma(-z, z, z)));
        store(dz + 2 * block, dn * r);
        store(dz + 3 * block, dn);
        store(a.carry.data + panel * a.carry.panel_stride + at, dh * z);
    });
}

/// First phase: r, z and q.
template <class Real, bool clipped>
void gru_before_reset(size_t rows, size_t panels, const CellStep<Real>& a) {
    const size_t block = a.block_stride;
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* blocks = a.z.data + panel * a.z.panel_stride + at;
        const Vec<Real> r = sigmoid<Real>(limit<clipped>(load(blocks), a.clip));
        store(blocks, r);
        store(blocks + block, sigmoid<Real>(limit<clipped>(load(blocks + block), a.clip)));
        store(blocks + 3 * block, r * load_from(a.h_before, panel, at));
    });
}
/// Second phase: n and h_t.
template <class Real, bool clipped>
void gru_before_forward(size_t rows, size_t panels, const CellStep<Real>& a) {
    const size_t block = a.block_stride;
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* blocks = a.z.data + panel * a.z.panel_stride + at;
        const Vec<Real> z = load(blocks + block);
        const Vec<Real> n = tanh<Real>(limit<clipped>(load(blocks + 2 * block), a.clip));
        store(blocks + 2 * block, n);
        store(a.h.data + panel * a.h.panel_stride + at, fma(z, load_from(a.h_before, panel, at) - n, n));
    });
}

/// The second phase's derivatives come first: dz_z and dn, from which the engine makes dq.
template <class Real, bool clipped>
void gru_before_backward(size_t rows, size_t panels, const CellSweep<Real>& a) {
    const size_t block = a.dz_stride, saved_block = a.saved_stride;
    const Inside<Real, Sigmoid, clipped> sigma(a.clip);
    const Inside<Real, Tanh, clipped> tanh_of(a.clip);
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        const Vec<Real> one = splat(Real(1));
        const Real* saved = a.saved.data + panel * a.saved.panel_stride + at;
        Real* dz = a.dz.data + panel * a.dz.panel_stride + at;
        const Vec<Real> z = load(saved + saved_block), n = load(saved + 2 * saved_block), dh = load(dz);
        store(dz + block, sigma(z, dh * (load_from(a.h_before, panel, at) - n) * fma(-z, z, z)));
        store(dz + 2 * block, tanh_of(n, dh * (one - z) * fma(-n, n, one)));
        store(a.carry.data + panel * a.carry.panel_stride + at, dh * z);
    });
}
template <class Real, bool clipped>
void gru_before_reset_backward(size_t rows, size_t panels, const CellSweep<Real>& a) {
    const size_t block = a.dz_stride;
    const Inside<Real, Sigmoid, clipped> sigma(a.clip);
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* dz = a.dz.data + panel * a.dz.panel_stride + at;
        Real* carry = a.carry.data + panel * a.carry.panel_stride + at;
        const Vec<Real> r = load_from(a.saved, panel, at), dq = load(dz + 3 * block);
        store(dz, sigma(r, dq * load_from(a.h_before, panel, at) * fma(-r, r, r)));
        store(carry, fma(dq, r, load(carry)));
    });
}

template <class Real, bool clipped>
constexpr Cell<Real> gru_after() {
    Cell<Real> cell{};
    cell.gates = 3;
    cell.blocks = 4;
    cell.keeps_z = cell.reads_h = true;
    cell.carry = Carry::part_of_d_h;
    cell.group_count = 3;
    cell.groups[0] = {0, 2, 0, 0, -1};   // r, z
    cell.groups[1] = {2, 1, -1, 2, -1};  // m
    cell.groups[2] = {3, 1, 2, -1, -1};  // n
    cell.phases = 1;
    cell.forward[0] = gru_after_forward<Real, clipped>;
    cell.backward[0] = gru_after_backward<Real, clipped>;
    return cell;
}

template <class Real, bool clipped>
constexpr Cell<Real> gru_before() {
    Cell<Real> cell{};
    cell.gates = 3;
    cell.blocks = 4;
    cell.keeps_z = cell.reads_h = true;
    cell.carry = Carry::part_of_d_h;
    cell.group_count = 2;
    cell.groups[0] = {0, 2, 0, 0, -1};  // r, z
    cell.groups[1] = {2, 1, 2, 2, 3};   // n, from q
    cell.phases = 2;
    cell.forward[0] = gru_before_reset<Real, clipped>;
    cell.forward[1] = gru_before_forward<Real, clipped>;
    cell.backward[0] = gru_before_reset_backward<Real, clipped>;
    cell.backward[1] = gru_before_backward<Real, clipped>;
    return cell;
}

template <class Real>
const Cell<Real>& gru_cell(const CellConfig& c) {
    static constexpr Cell<Real> cells[2][2] = {{gru_before<Real, false>(), gru_before<Real, true>()},
                                               {gru_after<Real, false>(), gru_after<Real, true>()}};
    static_assert(sound(cells));
    return cells[c.reset_after][c.clip != 0];
}

}  // namespace
}  // namespace pybptt
