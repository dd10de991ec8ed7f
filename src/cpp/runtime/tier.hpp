// Which tier of kernels runs: the only place that looks at the processor.
#pragma once

#include "kernels/table.hpp"
#include "pybptt/machine.hpp"

namespace pybptt {

/// The active tier's kernels; `kernels_of` is for comparing tiers with one another.
template <class Real>
const Kernels<Real>& kernels();
template <class Real>
const Kernels<Real>& kernels_of(const std::string& tier);
template <>
const Kernels<float>& kernels<float>();
template <>
const Kernels<double>& kernels<double>();
template <>
const Kernels<float>& kernels_of<float>(const std::string& tier);
template <>
const Kernels<double>& kernels_of<double>(const std::string& tier);

}  // namespace pybptt
