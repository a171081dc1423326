#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

int64_t contraction_scratch(const Contraction& job);
void contraction(const Contraction& job);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
