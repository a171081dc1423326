#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

int64_t rotation_scratch(const Rotation& job);
void rotation(const Rotation& job);
void divide_rotation(const Rotation& job, PartList& parts);
int64_t rotation_matrix_grad_scratch(const RotationMatrixGrad& job);
void rotation_matrix_grad(const RotationMatrixGrad& job);
void divide_rotation_matrix_grad(const RotationMatrixGrad& job, PartList& parts);
int64_t rotation_grads_scratch(const RotationGrads& job);
void rotation_grads(const RotationGrads& job);
void divide_rotation_grads(const RotationGrads& job, PartList& parts);
int64_t rotated_synthesis_scratch(const RotatedSynthesis& job);
void rotated_synthesis(const RotatedSynthesis& job);
int64_t rotated_synthesis_grads_scratch(const RotatedSynthesisGrads& job);
void rotated_synthesis_grads(const RotatedSynthesisGrads& job);

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
