// dz_m for every factor in one pass over the core, core_(1)^T G never formed for the batch.
//
// For each sample s and column p of the core, D[s, p] = sum_r G[s, r] core[r, p] = dL/dy[s, p], and
// the gradients follow from D segment by segment (math/synthesis.h). G_mean gives a second row of D
// for the sample, folded with z_1 := 1/k_1 and without a gradient for z_1.
//
// Hoisted factors join the gradient: the core is then a matrix of k_x L rows of P elements, and the
// rows of G and G_mean together those of A = H G + H_mean G_mean.
//
// A thread holds D for one slab of samples and one panel of columns in its cache, streams the
// core's rows past it, folds the finished panel into its own sums, and the threads' sums are added
// in their order, those of different samples at the same time.

#include "factor_projections.h"
#include "parallel.h"
#include "projection_factor_grads_worker.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

template <class S>
void run(const FactorGradsPlan<S>& plan, char* scratch) {
    const int threads = plan.job.threads;
    const int64_t bytes = FactorGradsWorker<S>(plan, nullptr).scratch_bytes();
    auto* const shared = reinterpret_cast<Accumulator<S>*>(scratch + threads * bytes);
    if (plan.shares_tiles) {
        const int64_t tiles = plan.tiles * ceil_div(plan.rows, plan.depth);
        parallel_for_threads(threads, [&](int t) {
            FactorGradsWorker<S>(plan, nullptr, shared)
                .pack_tiles(first_of(tiles, t, threads), first_of(tiles, t + 1, threads));
        });
    }
    const auto worker_of = [&](int t, int64_t slab) {
        FactorGradsWorker<S> worker(plan, scratch + t * bytes, shared);
        worker.select(slab);
        return worker;
    };
    if (plan.slabs_apart) {
        parallel_for_threads(threads, [&](int t) {
            plan.for_each_slab(t, [&](int64_t slab) {
                FactorGradsWorker<S> worker = worker_of(t, slab);
                worker.start();
                for (int64_t panel = 0; panel < plan.panels; ++panel)
                    worker.add_panel(panel, 0, plan.rows);
                worker.finish();
                worker.write(0, plan.samples_of(slab));
            });
        });
        return;
    }
    for (int64_t slab = 0; slab < plan.slabs; ++slab) {
        parallel_for_threads(threads, [&](int t) {
            FactorGradsWorker<S> worker = worker_of(t, slab);
            worker.start();
            plan.for_each_part(t, [&](int64_t panel, int64_t first, int64_t last) {
                worker.add_panel(panel, first, last);
            });
            worker.finish();
        });
        const int64_t samples = plan.samples_of(slab);
        const int adders = plan.adders(samples);
        parallel_for_threads(adders, [&](int adder) {
            const int64_t first = first_of(samples, adder, adders);
            const int64_t last = first_of(samples, adder + 1, adders);
            FactorGradsWorker<S> sums = worker_of(0, slab);
            for (int t = 1; t < threads; ++t) sums.add_sums_of(worker_of(t, slab), first, last);
            sums.write(first, last);
        });
    }
}

}  // namespace

int64_t projection_factor_grads_scratch(const ProjectionFactorGrads& job) {
    if (job.split.transposed) return factor_projections_scratch(job);
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        const FactorGradsPlan<S> plan(job);
        bytes =
            job.threads * FactorGradsWorker<S>(plan, nullptr).scratch_bytes() + plan.shared_bytes();
    });
    return bytes;
}

void projection_factor_grads(const ProjectionFactorGrads& job) {
    if (job.split.transposed) return factor_projections(job);
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        run(FactorGradsPlan<S>(job), static_cast<char*>(job.scratch));
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
