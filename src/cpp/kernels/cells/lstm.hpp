// The LSTM cell (Hochreiter and Schmidhuber 1997; the forget gate of Gers et al. 2000), with peephole connections (Gers,
// Schraudolph and Schmidhuber 2002) and coupled gates (CIFG in Greff et al. 2017) where asked for. The products make z_t, blocks
// i f g o (coupled: i g o); sigma and tanh then act elementwise:
//
//     i = sigma(z_i + p_i c_{t-1})        f = sigma(z_f + p_f c_{t-1}), coupled: 1 - i        g = tanh(z_g)
//     c_t = f c_{t-1} + i g               o = sigma(z_o + p_o c_t)                            h_t = o tanh(c_t)
//
//     do = dh_t tanh(c_t)                 dz_o = do o (1 - o)
//     dc_t = carry + dh_t o (1 - tanh(c_t)^2) + p_o dz_o
//     dz_i = dc_t g i (1 - i)             dz_f = dc_t c_{t-1} f (1 - f)                       dz_g = dc_t i (1 - g^2)
//     coupled: dz_i = dc_t (g - c_{t-1}) i (1 - i)
//     carry = dc_t f + p_i dz_i + p_f dz_f:   what dc_{t-1} receives from step t
//
// z becomes the activations i f g o, which the tape keeps; tanh(c_t) is computed again on the way back: it costs less than to
// store.
#pragma once

#include "kernels/cells/clip.hpp"
#include "kernels/panels.hpp"

namespace pybptt {
namespace {

/// Where each gate's block lies; without coupling f is a block of its own.
template <bool coupled>
struct LstmGates {
    static constexpr int i = 0, f = coupled ? 0 : 1, g = coupled ? 1 : 2, o = coupled ? 2 : 3;
    static constexpr int p_i = 0, p_f = 1, p_o = coupled ? 1 : 2;
};

template <class Real, bool peephole, bool coupled, bool clipped>
void lstm_forward(size_t rows, size_t panels, const CellStep<Real>& a) {
    using At = LstmGates<coupled>;
    const size_t block = a.block_stride;
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        Real* z = a.z.data + panel * a.z.panel_stride + at;
        const Vec<Real> c_before = load(a.c_before.data + panel * a.c_before.panel_stride + at);
        Vec<Real> z_i = load(z + At::i * block), z_o = load(z + At::o * block);
        [[maybe_unused]] const Real* p = a.vectors + panel * kLanes<Real> + at % kLanes<Real>;
        if constexpr (peephole) z_i = fma(load(p + At::p_i * a.vector_stride), c_before, z_i);
        const Vec<Real> i = sigmoid<Real>(limit<clipped>(z_i, a.clip));
        Vec<Real> f;
        if constexpr (coupled) {
            f = splat(Real(1)) - i;
        } else {
            Vec<Real> z_f = load(z + At::f * block);
            if constexpr (peephole) z_f = fma(load(p + At::p_f * a.vector_stride), c_before, z_f);
            f = sigmoid<Real>(limit<clipped>(z_f, a.clip));
            store(z + At::f * block, f);
        }
        const Vec<Real> g = tanh<Real>(limit<clipped>(load(z + At::g * block), a.clip));
        const Vec<Real> c = fma(f, c_before, i * g);
        if constexpr (peephole) z_o = fma(load(p + At::p_o * a.vector_stride), c, z_o);
        const Vec<Real> o = sigmoid<Real>(limit<clipped>(z_o, a.clip));
        store(z + At::i * block, i);
        store(z + At::g * block, g);
        store(z + At::o * block, o);
        store(a.c.data + panel * a.c.panel_stride + at, c);
        store(a.h.data + panel * a.h.panel_stride + at, o * tanh<Real>(limit<clipped>(c, a.clip)));
    });
}

template <class Real, bool peephole, bool coupled, bool clipped>
void lstm_backward(size_t rows, size_t panels, const CellSweep<Real>& a) {
    using At = LstmGates<coupled>;
    const size_t block = a.dz_stride, saved_block = a.saved_stride;
    const Inside<Real, Sigmoid, clipped> sigma(a.clip);
    const Inside<Real, Tanh, clipped> tanh_of(a.clip);
    for_each_vector<Real>(rows, panels, [&](size_t panel, size_t at) __attribute__((always_inline)) {
        const Vec<Real> one = splat(Real(1));
        const Real* saved = a.saved.data + panel * a.saved.panel_stride + at;
        Real* dz = a.dz.data + panel * a.dz.panel_stride + at;
        Real* carry = a.carry.data + panel * a.carry.panel_stride + at;
        const Vec<Real> dh = load(dz);
        const Vec<Real> i = load(saved + At::i * saved_block), g = load(saved + At::g * saved_block);
        const Vec<Real> o = load(saved + At::o * saved_block);
        const Vec<Real> f = coupled ? one - i : load(saved + At::f * saved_block);
        const Vec<Real> c_before = load(a.c_before.data + panel * a.c_before.panel_stride + at);
        const Vec<Real> c = load(a.c.data + panel * a.c.panel_stride + at);
        const Vec<Real> tanh_c = tanh<Real>(limit<clipped>(c, a.clip));
        const Vec<Real> dz_o = sigma(o, dh * tanh_c * fma(-o, o, o));
        Vec<Real> dc = load(carry) + tanh_of(tanh_c, dh * o * fma(-tanh_c, tanh_c, one));
        [[maybe_unused]] const Real* p = a.vectors + panel * kLanes<Real> + at % kLanes<Real>;
        if constexpr (peephole) dc = fma(load(p + At::p_o * a.vector_stride), dz_o, dc);
        const Vec<Real> dz_i = sigma(i, dc * (coupled ? g - c_before : g) * fma(-i, i, i));
        const Vec<Real> dz_g = tanh_of(g, dc * i * fma(-g, g, one));
        Vec<Real> before = dc * f;
        if constexpr (peephole) before = fma(load(p + At::p_i * a.vector_stride), dz_i, before);
        if constexpr (!coupled) {
            const Vec<Real> dz_f = sigma(f, dc * c_before * fma(-f, f, f));
            if constexpr (peephole) before = fma(load(p + At::p_f * a.vector_stride), dz_f, before);
            store(dz + At::f * block, dz_f);
        }
        store(dz + At::i * block, dz_i);
        store(dz + At::g * block, dz_g);
        store(dz + At::o * block, dz_o);
        store(carry, before);
    });
}

template <class Real, bool peephole, bool coupled, bool clipped>
constexpr Cell<Real> lstm() {
    using At = LstmGates<coupled>;
    Cell<Real> cell{};
    cell.gates = cell.blocks = coupled ? 3 : 4;
    cell.keeps_z = cell.has_c = true;
    cell.carry = Carry::d_c;
    cell.group_count = 1;
    cell.groups[0] = {0, cell.blocks, 0, 0, -1};
    if (peephole) {  // dp_i = sum_t dz_i c_{t-1},  dp_f = sum_t dz_f c_{t-1},  dp_o = sum_t dz_o c_t
        cell.vector_count = coupled ? 2 : 3;
        cell.vectors[At::p_i] = {At::i, CellVector::c_before};
        if (!coupled) cell.vectors[At::p_f] = {At::f, CellVector::c_before};
        cell.vectors[At::p_o] = {At::o, CellVector::c};
    }
    cell.phases = 1;
    cell.forward[0] = lstm_forward<Real, peephole, coupled, clipped>;
    cell.backward[0] = lstm_backward<Real, peephole, coupled, clipped>;
    return cell;
}

template <class Real>
const Cell<Real>& lstm_cell(const CellConfig& c) {
    static constexpr Cell<Real> cells[2][2][2] = {{{lstm<Real, false, false, false>(), lstm<Real, false, false, true>()},
                                                   {lstm<Real, false, true, false>(), lstm<Real, false, true, true>()}},
                                                  {{lstm<Real, true, false, false>(), lstm<Real, true, false, true>()},
                                                   {lstm<Real, true, true, false>(), lstm<Real, true, true, true>()}}};
    static_assert(sound(cells));
    return cells[c.peephole][c.coupled][c.clip != 0];
}

}  // namespace
}  // namespace pybptt
