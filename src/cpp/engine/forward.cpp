// The loop over time has a file of its own: among other code, compilers inline less of it.
#include "engine/forward.hpp"

template class pybptt::ForwardPass<float>;
template class pybptt::ForwardPass<double>;
