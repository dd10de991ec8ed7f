#include "bindings/arrays.hpp"

PYBIND11_MODULE(_core, module) {
    module.doc() = "The C++ core of pybptt. The public interface is the package's; this one may change.";
    pybptt::bind_runtime(module);
    pybptt::bind_rnn(module);
    pybptt::bind_model(module);
}
