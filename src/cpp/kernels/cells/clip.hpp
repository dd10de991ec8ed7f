// Clipping of what an activation receives, as ONNX defines `clip`: a = phi(z'), z' = max(-clip, min(clip, z)), dz'/dz = 1 where
// |z| < clip and 0 elsewhere. Free when it is not used.
#pragma once

#include "kernels/activations.hpp"

namespace pybptt {
namespace {

template <bool clipped, class V, class Real>
PYBPTT_INLINE V limit(V z, Real clip) {
    if constexpr (clipped) return clamp<Real>(z, -clip, clip);
    return z;
}

/// The derivative through phi and the clipping, from that through phi alone and the activation a = phi(z'): phi is monotonic, so a
/// tells whether z was outside. Where phi is so flat that a z just inside rounds to phi(clip), it counts as outside.
template <class Real, template <class> class Phi, bool clipped>
struct Inside {
    Vec<Real> low, high;
    explicit Inside(Real clip) {
        if constexpr (clipped) {
            low = Phi<Real>::value(splat(-clip));
            high = Phi<Real>::value(splat(clip));
        }
    }
    PYBPTT_INLINE Vec<Real> operator()(Vec<Real> a, Vec<Real> dz) const {
        if constexpr (clipped) {
            dz = a <= low ? Vec<Real>{} : dz;
            dz = a >= high ? Vec<Real>{} : dz;
        }
        return dz;
    }
};

}  // namespace
}  // namespace pybptt
