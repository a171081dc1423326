// The table of kernels of one SIMD level.

#include "contraction.h"
#include "projection.h"
#include "roofline.h"
#include "rotation.h"
#include "synthesis.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

extern const Kernels kernels;
const Kernels kernels = {
    .entries = {{projection_scratch, projection, divide_projection},
                {projection_factor_grads_scratch, projection_factor_grads, divide_factor_grads},
                {projection_core_grad_scratch, projection_core_grad, divide_core_grad},
                {projection_core_step_scratch, projection_core_step, divide_core_step},
                {synthesis_scratch, synthesis, divide_synthesis},
                {synthesis_grads_scratch, synthesis_grads, divide_synthesis_grads},
                {rotation_scratch, rotation, divide_rotation},
                {rotation_matrix_grad_scratch, rotation_matrix_grad, divide_rotation_matrix_grad},
                {rotation_grads_scratch, rotation_grads, divide_rotation_grads},
                {rotated_synthesis_scratch, rotated_synthesis},
                {rotated_synthesis_grads_scratch, rotated_synthesis_grads},
                {contraction_scratch, contraction, divide_contraction}},
    .roof = roof,
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
