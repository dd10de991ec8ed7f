#include "bindings/layer.hpp"

// Of free-threaded Python: what calls share (the pool of threads, kept memory, settings) is guarded in runtime/, not by the GIL.
PYBIND11_MODULE(_core, module, pybptt::py::mod_gil_not_used()) {
    module.doc() = "The C++ core of pybptt. The public interface is the package's; this one may change.";
    // pybind11 looks NumPy's functions up at first use, without the GIL for a moment: here, rather than in some thread's first
    // call.
    (void)pybptt::py::dtype::of<float>();
    pybptt::py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const std::bad_alloc&) {
            PyErr_SetString(PyExc_MemoryError, "the memory that this call needs cannot be allocated");
        }
    });
    pybptt::bind_runtime(module);
    pybptt::bind_rnn(module);
    pybptt::bind_model(module);
    pybptt::bind_scan(module);
    pybptt::bind_tensors(module);
}
