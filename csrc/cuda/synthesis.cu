#include "synthesis.cuh"

namespace ntensor {
namespace cuda {

void run(const Synthesis& job, Session& session) {
    with_storage(job.factors.dtype, [&]<class S>() {
        int64_t K = 1;
        for (int m = 0; m < job.factors.count; ++m) K *= job.factors.items[m].extent;
        write_product<S>(session, job.factors, 0, job.factors.count, static_cast<S*>(job.y), K);
    });
}

void run(const SynthesisGrads& job, Session& session) {
    with_storage(job.factors.dtype, [&]<class S>() {
        write_factor_grads<S>(session, job.factors, 0, job.factors.count,
                              Given<S>{Operand<S>(job.grad)});
    });
}

}  // namespace cuda
}  // namespace ntensor
