// The parts of the factors' gradients, as projection_factor_grads.cpp gives them to its threads.

#include "factor_projections.h"
#include "projection_factor_grads_plan.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

void divide_factor_grads(const ProjectionFactorGrads& job, PartList& parts) {
    if (job.split.transposed) return divide_factor_projections(job, parts);
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        const FactorGradsPlan<S> plan(job);
        const auto add = [&](int64_t phase, int t, int64_t slab, int64_t first, int64_t last,
                             int64_t c0, int64_t c1) {
            const int64_t s0 = slab * plan.slab;
            add_part(parts, {phase,
                             t,
                             {s0, s0 + plan.samples_of(slab)},
                             {first, last},
                             {0, 1},
                             {c0, min64(c1, plan.K)}});
        };
        for (int t = 0; t < job.threads; ++t) {
            if (plan.slabs_apart) {
                plan.for_each_slab(t,
                                   [&](int64_t slab) { add(0, t, slab, 0, plan.rows, 0, plan.K); });
                continue;
            }
            for (int64_t slab = 0; slab < plan.slabs; ++slab) {
                plan.for_each_part(t, [&](int64_t panel, int64_t first, int64_t last) {
                    add(slab, t, slab, first, last, panel * plan.panel, (panel + 1) * plan.panel);
                });
            }
        }
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
