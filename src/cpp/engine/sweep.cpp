#include "engine/sweep.hpp"

template class pybptt::Sweep<float>;
template class pybptt::Sweep<double>;
