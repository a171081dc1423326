// x = core_(1) (z_1 (x) ... (x) z_M), the product never formed for the batch.
//
// With the leading factors hoisted, L their product and P the rest (K = L P), for each sample
//   x[r] = sum_l H[l] * sum_p core[r, l, p] W[p],   x_mean[r] = sum_l H_mean[l] * (the same inner
//   sum)
// H: synthesis of the hoisted factors, H_mean: with z_1 := 1/k_1, W: synthesis of the others. Where
// the outputs lie inside, core[r, l, p] stands at (l k_x + r) P + p.
//
// Samples lie side by side in the lanes of a vector, in slabs of at most 64. A thread keeps a panel
// of W for a slab in its cache, streams rows of the core past it and folds every inner sum into x
// with H. A few samples are taken one by one instead, with the inner indices in the lanes
// (projection_few.h).

#include "projection.h"

#include "parallel.h"
#include "projection_few.h"
#include "projection_slabs.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

// Calls body with a plan and the worker that follows it.
template <class Body>
void with_plan(const Projection& job, const Body& body) {
    const int last = job.factors.count - 1;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        if (job.split.few) {
            const FewPlan<S> plan(job);
            return body.template operator()<FewWorker<S>>(plan);
        }
        if constexpr (in_pairs<S>) {
            if (job.split.hoisted == last &&
                job.factors.items[last].extent >= least_extent_of_pairs) {
                const ProjectionPlan<S, true> plan(job);
                return body.template operator()<SlabWorker<S, true>>(plan);
            }
        }
        const ProjectionPlan<S, false> plan(job);
        body.template operator()<SlabWorker<S, false>>(plan);
    });
}

}  // namespace

int64_t projection_scratch(const Projection& job) {
    int64_t bytes = 0;
    with_plan(job, [&]<class W>(const auto& plan) {
        bytes = job.threads * W(plan, nullptr).scratch_bytes();
    });
    return bytes;
}

void projection(const Projection& job) {
    with_plan(job, [&]<class W>(const auto& plan) {
        const int64_t bytes = W(plan, nullptr).scratch_bytes();
        const auto scratch = [&](int t) { return static_cast<char*>(job.scratch) + t * bytes; };
        parallel_for_threads(job.threads, [&](int t) { W(plan, scratch(t)).run(t); });
        if (plan.l_parts > 1)
            W(plan, scratch(0)).finish([&](int t) { return W(plan, scratch(t)).partial(); });
    });
}

void divide_projection(const Projection& job, PartList& parts) {
    with_plan(job, [&]<class W>(const auto& plan) {
        for (int t = 0; t < job.threads; ++t) {
            plan.for_each_part(
                t, [&](int64_t slab, int64_t first, int64_t last, int64_t l_first, int64_t l_last) {
                    const int64_t s0 = slab * plan.samples_of(0);
                    add_part(parts, {0,
                                     t,
                                     {s0, s0 + plan.samples_of(slab)},
                                     {first, last},
                                     {l_first, l_last},
                                     {0, plan.P}});
                });
        }
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
