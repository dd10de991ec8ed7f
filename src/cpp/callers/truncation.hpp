// TBPTT(k1, k2) as the engine runs it fastest; in Python, limits_of of pybptt/truncation.py.
#pragma once

#include <algorithm>

#include "pybptt/model.hpp"
#include "runtime/memory.hpp"

namespace pybptt {

template <class Real>
struct Truncation {
    SweepLimits<Real> limits{};
    Buffer<Real> factors;  // (T, B): xi_t in `limits`, if they were made here
    Buffer<bool> counted;  // (T, B): the losses that some window reaches; empty for all

    std::size_t bytes() const { return factors.size() * sizeof(Real) + counted.size(); }
    const bool* counted_or_all() const { return counted.size() == 0 ? nullptr : counted.data(); }

    /// To `limits`, which have nothing but clipping. k1, k2 are at least 1, lengths (B,) or null.
    void add_windows(std::size_t k1, std::size_t k2, std::size_t steps, std::size_t batch, const std::int64_t* lengths) {
        k1 = std::min(k1, std::max(std::size_t{1}, steps));
        k2 = std::min(k2, steps);
        // All windows get to step 1, and none is clipped alone.
        if (k2 >= steps && (k1 >= steps || limits.clip == HiddenClip::none)) return;
        const auto length = [&](std::size_t b) { return lengths == nullptr ? steps : std::size_t(lengths[b]); };
        bool overlap = k1 < k2;
        for (std::size_t b = 0; b < batch; ++b) {  // does the last window reach into the one before?
            const std::size_t rest = length(b) % k1;
            overlap = overlap || (rest > 0 && rest < k2 && rest < length(b));
        }
        // t (from 1) less the last step that the window of loss t does not get to
        const auto past = [&](std::size_t t, std::size_t b) {
            const std::size_t boundary = std::min((t + k1 - 1) / k1 * k1, length(b));
            return std::ptrdiff_t(t + k2) - std::ptrdiff_t(boundary);
        };
        const std::size_t size = checked_product(steps, batch);
        if (k2 < k1) counted = Buffer<bool>(size);
        if (!overlap) factors = Buffer<Real>(size);
        for (std::size_t i = 0; i < size; ++i) {
            const std::size_t t = i / batch + 1, b = i % batch;
            if (k2 < k1) counted[i] = past(t, b) > 0;
            // Nothing passes into a window's first step or between windows, but h_0 to the first one.
            if (!overlap) factors[i] = t == 1 ? past(t, b) >= 1 : past(t, b) > 1;
        }
        if (overlap) {
            limits.k1 = k1;
            limits.k2 = k2;
        } else {
            limits.factors = factors.data();
        }
    }
};

}  // namespace pybptt
