// The interface between bindings.cpp and the kernels. The jobs are those of the CPU, with addresses
// on the device; their members `threads` and `scratch` have no meaning here.
#pragma once

#include "../cpu/api.h"

namespace ntensor {
namespace cuda {

struct Call {
    int device = 0;
    void* stream = nullptr;
    bool tf32 = false;  // float32 products may be rounded to TF32
    int multiprocessors = 0;
    void* scratch = nullptr;
};

class Session;

// Carries out a job on the call's stream, or rehearses it (platform.cuh).
void run(const Projection& job, Session& session);
void run(const ProjectionFactorGrads& job, Session& session);
void run(const ProjectionCoreGrad& job, Session& session);
void run(const Synthesis& job, Session& session);
void run(const SynthesisGrads& job, Session& session);
void run(const Rotation& job, Session& session);
void run(const RotationMatrixGrad& job, Session& session);
void run(const RotatedSynthesis& job, Session& session);
void run(const RotatedSynthesisGrads& job, Session& session);

}  // namespace cuda
}  // namespace ntensor
