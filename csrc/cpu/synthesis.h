#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

int64_t synthesis_scratch(const Synthesis& job);
void synthesis(const Synthesis& job);
int64_t synthesis_grads_scratch(const SynthesisGrads& job);
void synthesis_grads(const SynthesisGrads& job);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
