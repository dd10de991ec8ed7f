// NumPy arrays as the core's pointers, and the arrays of its results. Python has checked dtypes and shapes (src/pybptt); what is
// here only keeps a mistake there from becoming a wild pointer.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "runtime/memory.hpp"

namespace pybptt {

namespace py = pybind11;

inline const py::detail::PyArray_Proxy* fields_of(py::handle array) { return py::detail::array_proxy(array.ptr()); }

/// Whether `value` is an array, and not of a subclass.
inline bool is_own(py::handle value) { return Py_TYPE(value.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

/// Whether the core reads `value` as it is: an array of this dtype, C-contiguous and aligned.
template <class Value>
bool is_plain(py::handle value) {
    using Numpy = py::detail::npy_api;
    const Numpy& numpy = Numpy::get();
    if (!numpy.PyArray_Check_(value.ptr())) return false;
    constexpr int kPlain = Numpy::NPY_ARRAY_C_CONTIGUOUS_ | Numpy::NPY_ARRAY_ALIGNED_;
    static PyObject* const wanted = py::dtype::of<Value>().release().ptr();
    PyObject* const found = fields_of(value)->descr;
    return (fields_of(value)->flags & kPlain) == kPlain && (found == wanted || numpy.PyArray_EquivTypes_(found, wanted));
}

inline std::size_t axes_of(py::handle array) { return std::size_t(fields_of(array)->nd); }
inline std::size_t length_of(py::handle array, std::size_t axis) { return std::size_t(fields_of(array)->dimensions[axis]); }

/// Whether it is one, and of this shape.
template <class Value>
bool is_plain(py::handle value, std::initializer_list<std::size_t> shape) {
    if (!is_plain<Value>(value) || axes_of(value) != shape.size()) return false;
    std::size_t axis = 0;
    for (const std::size_t length : shape)
        if (length_of(value, axis++) != length) return false;
    return true;
}

/// The values of an array, `size` of them; null for None.
template <class Value>
Value* values_of(const char* name, py::handle array, std::size_t size) {
    if (array.is_none()) return nullptr;
    std::size_t found = 1;
    const bool plain = is_plain<Value>(array);
    for (std::size_t axis = 0; plain && axis < axes_of(array); ++axis) found *= length_of(array, axis);
    if (!plain || found != size)
        throw py::value_error(std::string(name) + ": expected a plain array of " + std::to_string(size) + " values");
    return reinterpret_cast<Value*>(fields_of(array)->data);
}
template <class Value>
const Value* read(const char* name, py::handle array, std::size_t size) {
    return values_of<Value>(name, array, size);
}
template <class Value>
Value* write(const char* name, py::handle array, std::size_t size) {
    if (!array.is_none() && !py::detail::check_flags(array.ptr(), py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
        throw py::value_error(std::string(name) + ": expected an array that can be written");
    return values_of<Value>(name, array, size);
}

/// An array of no particular values. Large ones lie in the core's memory, which keeps pages for the next call: fresh ones cost more
/// than the arithmetic.
template <class Real, class Shape = std::initializer_list<std::size_t>>
py::array new_array(const Shape& shape) {
    constexpr std::size_t kLarge = 1 << 16;  // bytes
    constexpr std::size_t kMostAxes = 64;    // NumPy's
    Py_intptr_t lengths[kMostAxes];
    std::size_t axes = 0, bytes = sizeof(Real);
    bool empty = false;
    for (const std::size_t length : shape) {
        bytes = checked_product(bytes, std::max<std::size_t>(1, length));  // empty axes left out, as NumPy does
        empty = empty || length == 0;
        lengths[axes++] = Py_intptr_t(length);
    }
    const bool large = bytes >= kLarge && !empty;
    void* const values = large ? acquire_memory(bytes) : nullptr;
    const py::capsule owner = large ? py::capsule(values, release_memory) : py::capsule();
    constexpr int kWriteable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    using Numpy = py::detail::npy_api;
    const Numpy& numpy = Numpy::get();
    PyObject* const array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, py::dtype::of<Real>().release().ptr(), int(axes),
                                                        lengths, nullptr, values, large ? kWriteable : 0, nullptr);
    if (array == nullptr) throw py::error_already_set();
    if (large) numpy.PyArray_SetBaseObject_(array, owner.inc_ref().ptr());
    return py::reinterpret_steal<py::array>(array);
}

}  // namespace pybptt
