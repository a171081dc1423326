// What the three primitives of the projection share.
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Samples are taken in slabs of at most most_slab, padded to slab_unit, a multiple of every
// vector's lanes.
constexpr int64_t most_slab = 64;
constexpr int64_t slab_unit = 16;

int64_t projection_scratch(const Projection& job);
void projection(const Projection& job);
void divide_projection(const Projection& job, PartList& parts);
int64_t projection_factor_grads_scratch(const ProjectionFactorGrads& job);
void projection_factor_grads(const ProjectionFactorGrads& job);
void divide_factor_grads(const ProjectionFactorGrads& job, PartList& parts);
int64_t projection_core_grad_scratch(const ProjectionCoreGrad& job);
void projection_core_grad(const ProjectionCoreGrad& job);
void divide_core_grad(const ProjectionCoreGrad& job, PartList& parts);
int64_t projection_core_step_scratch(const ProjectionCoreStep& job);
void projection_core_step(const ProjectionCoreStep& job);
void divide_core_step(const ProjectionCoreStep& job, PartList& parts);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
