#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

int64_t contraction_scratch(const Contraction& job);
void contraction(const Contraction& job);
void divide_contraction(const Contraction& job, PartList& parts);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
