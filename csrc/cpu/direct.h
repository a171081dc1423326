// Calls on Python's tensors, for plain eager ones: see direct.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace ntensor {

void define_direct_calls(pybind11::module_& m);

}  // namespace ntensor
