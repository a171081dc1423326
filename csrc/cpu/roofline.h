#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

double roof(Roof kind, void* destination, const void* source, int64_t bytes, int threads);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
