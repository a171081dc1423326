// The gradients of the factors as projections: with the core's outputs and mode m in each other's
// place,
//   dz_m[s, i] = sum over r and all i_l with l != m of core[r, ..., i, ...] G[s, r] prod_l z_l[s,
//   i_l]
//
// For many samples beside a small core, of which a copy is made with mode m in front: samples then
// lie side by side, and none of them is folded by itself.
#pragma once

#include <algorithm>

#include "projection.h"
#include "simd.h"
#include "transpose.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// The projection that is factor m's gradient, of a core that lies at `core`; its factors are
// written to items.
inline Projection projection_of_factor(const ProjectionFactorGrads& job, int m, Factor* items,
                                       const void* core, void* scratch) {
    const Factor& factor = job.factors.items[m];
    int count = 0;
    items[count] = Factor{};
    items[count].values = job.grad;
    items[count++].extent = job.k_x;
    for (int l = 0; l < job.factors.count; ++l) {
        if (l == m) continue;
        items[count] = Factor{};
        items[count].values = job.factors.items[l].values;
        items[count++].extent = job.factors.items[l].extent;
    }
    Projection projection{{items, count, job.factors.n, job.factors.dtype},
                          core,
                          factor.extent,
                          factor.grad,
                          nullptr,
                          {}};
    projection.split.hoisted = job.split.hoisted;
    projection.threads = job.threads;
    projection.scratch = scratch;
    projection.x_stride = factor.grad_stride;
    return projection;
}

// Bytes of the copy of the core.
inline int64_t moved_core_bytes(const ProjectionFactorGrads& job) {
    int64_t elements = job.k_x;
    for (int m = 0; m < job.factors.count; ++m) elements *= job.factors.items[m].extent;
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype,
                      [&]<class S>(S) { bytes = elements * static_cast<int64_t>(sizeof(S)); });
    return round_up(bytes, 64);
}

inline int64_t factor_projections_scratch(const ProjectionFactorGrads& job) {
    Factor items[most_factors];
    int64_t most = 0;
    for (int m = 0; m < job.factors.count; ++m) {
        if (!job.factors.items[m].needs_grad) continue;
        most = std::max(most,
                        projection_scratch(projection_of_factor(job, m, items, nullptr, nullptr)));
    }
    return moved_core_bytes(job) + most;
}

inline void factor_projections(const ProjectionFactorGrads& job) {
    Factor items[most_factors];
    char* const moved = static_cast<char*>(job.scratch);
    char* const scratch = moved + moved_core_bytes(job);
    int64_t before = job.k_x, behind = 1;
    for (int m = 0; m < job.factors.count; ++m) behind *= job.factors.items[m].extent;
    for (int m = 0; m < job.factors.count; ++m) {
        const Factor& factor = job.factors.items[m];
        behind /= factor.extent;
        if (factor.needs_grad) {
            with_storage_type(job.factors.dtype, [&]<class S>(S) {
                transpose_chunks(static_cast<const S*>(job.core), before, factor.extent, behind,
                                 reinterpret_cast<S*>(moved), job.threads);
            });
            projection(projection_of_factor(job, m, items, moved, scratch));
        }
        before *= factor.extent;
    }
}

// Each gradient is a phase, its factor's indices the outputs.
inline void divide_factor_projections(const ProjectionFactorGrads& job, PartList& parts) {
    Factor items[most_factors];
    int64_t phase = 0;
    for (int m = 0; m < job.factors.count; ++m) {
        if (!job.factors.items[m].needs_grad) continue;
        const int64_t first = parts.count;
        divide_projection(projection_of_factor(job, m, items, nullptr, nullptr), parts);
        for (int64_t i = first; parts.items && i < parts.count; ++i) parts.items[i].phase = phase;
        ++phase;
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
