// phi in h_t = phi(z_t).
#pragma once

namespace pybptt {

enum class Nonlinearity { tanh, relu, sigmoid, identity };
constexpr int kNonlinearities = 4;

}  // namespace pybptt
