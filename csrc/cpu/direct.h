// Calls on Python's tensors, for plain eager ones: see direct.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace ntensor {

void define_direct_calls(pybind11::module_& m);
void define_direct_modes(pybind11::module_& m);  // a part of them: direct_modes.cpp

}  // namespace ntensor
