// What bounds the derivatives on their way back through the recurrence: factors of the Jacobian of a step, and clipping of dL/dh_t.
#pragma once

#include "engine/division.hpp"
#include "runtime/memory.hpp"
#include "runtime/tier.hpp"

namespace pybptt {

/// xi_t of each sample, or 1. Of one direction alone: sequences are not read from their ends.
template <class Real>
class Factors {
public:
    Factors(const Cut& cut, const Real* xi) : cut_(&cut), xi_{xi, 1} {}

    explicit operator bool() const { return bool(xi_); }
    /// Whether xi of the samples [position, position + count) is `value` at a step.
    bool all(std::size_t step, std::size_t position, std::size_t count, Real value) const {
        if (!xi_) return value == Real(1);
        const Rows rows = cut_->user_rows(step, position);
        std::size_t i = 0;
        while (i < count && xi_.data[rows[i]] == value) ++i;
        return i == count;
    }
    /// to *= xi, a row a sample.
    void scale(const Kernels<Real>& k, std::size_t step, std::size_t position, std::size_t count, std::size_t cols,
               Matrix<Real> to) const {
        if (xi_) k.scale_rows(count, cols, xi_.at(cut_->user_rows(step, position)), to);
    }

private:
    const Cut* cut_;
    UserRows<const Real> xi_;
};

/// Clipping of dL/dh_t, row by row.
template <class Real>
class Clipping {
public:
    /// For up to `rows` rows of each member of a team.
    Clipping(const SweepLimits<Real>& limits, int team, std::size_t rows) : limits_(limits), rows_(rows) {
        if (limits.clip == HiddenClip::norm) factors_ = Buffer<Real>(checked_product(rows, std::size_t(team)));
    }

    /// A member's columns of `rows` rows of dh (rows x width, all of its columns). A norm takes all members' columns.
    void run(const Part<Real>& part, std::size_t rows, std::size_t width, Matrix<Real> dh) {
        if (limits_.clip == HiddenClip::none) return;
        const Matrix<Real> own = part.h.of(dh);
        if (limits_.clip == HiddenClip::value) return k_.clip_values(rows, part.h.count, limits_.clip_limit, own);
        Real* factors = factors_.data() + std::size_t(part.member.index) * rows_;
        part.wait();
        k_.norm_factors(rows, width, limits_.clip_limit, dh, factors);
        part.wait();
        k_.scale_rows(rows, part.h.count, row_major<const Real>(factors, 1), own);
    }

private:
    const Kernels<Real>& k_ = kernels<Real>();
    const SweepLimits<Real> limits_;
    const std::size_t rows_;
    Buffer<Real> factors_;
};

}  // namespace pybptt
