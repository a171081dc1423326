#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

int64_t synthesis_scratch(const Synthesis& job);
void synthesis(const Synthesis& job);
void divide_synthesis(const Synthesis& job, PartList& parts);
int64_t synthesis_grads_scratch(const SynthesisGrads& job);
void synthesis_grads(const SynthesisGrads& job);
void divide_synthesis_grads(const SynthesisGrads& job, PartList& parts);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
