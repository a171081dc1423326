// How a projection is divided: what is hoisted, slabs of samples, panels of W, chunks of rows.
#pragma once

#include "factors.h"
#include "projection.h"
#include "tile.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

template <bool Pairs>
constexpr int rows_of(int vectors) {
#if defined(NTENSOR_PAIRS)
    if (Pairs) return rows_of_pairs(vectors);
#endif
    return tile_rows(vectors);
}

// Whether rows of the core are widened to the accumulator type before the tile reads them.
template <class S, bool Pairs>
constexpr bool widens = sizeof(S) != sizeof(Accumulator<S>) && !Pairs;

// Elements of a thread's scratch: W and widened rows, gathered factors, x, H. Together under 64 K.
template <bool Pairs>
constexpr int64_t panel_budget = Pairs ? 28672 : 43008;
template <bool Pairs>
constexpr int64_t hoisted_budget = Pairs ? 18432 : 4096;
constexpr int64_t gather_budget = 8192;
constexpr int64_t x_budget = 9216;
// A last factor of at least this extent is multiplied pair by pair as it stands. With a shorter one
// the pairs would be products, rounded once more, so rows of the core are widened instead.
constexpr int64_t least_extent_of_pairs = 32;
constexpr int64_t row_unit = 24;  // a multiple of the tile's rows for most widths
constexpr int widened_rows = 8;   // at most that many rows a tile of widened rows

template <class S, bool Pairs>
struct ProjectionPlan {
    using T = Accumulator<S>;

    const Projection& job;
    const Factors& factors;
    int hoisted;  // number of hoisted factors
    Grouping inner;
    int64_t L, P;
    int64_t slab;  // samples of the widest slab, rounded up to whole vectors
    int64_t slabs;
    int64_t panel;  // inner indices of a panel of W
    int64_t panels;
    int64_t l_chunk;    // hoisted indices whose H is kept at a time
    int64_t l_chunks;   // where there are several, x is summed up chunk by chunk
    int64_t row_chunk;  // rows of the core whose x is kept at a time
    int64_t row_chunks;
    bool gathered;  // the inner factors fit the gather budget

    explicit ProjectionPlan(const Projection& job_)
        : job(job_),
          factors(job_.factors),
          hoisted(count_hoisted(job_)),
          inner(factors, hoisted, hoisted) {
        L = product_of_extents(factors, 0, hoisted);
        P = inner.extent;
        slab = min64(most_slab, round_up(factors.n, slab_unit));
        slabs = ceil_div(factors.n, most_slab);
        // Accumulators of W, and of widened rows, for each inner index.
        const int64_t beside = Pairs ? slab / 2 : slab + (widens<S, Pairs> ? widened_rows : 0);
        panels =
            ceil_div(P, max64(slab_unit, panel_budget<Pairs> / beside / slab_unit * slab_unit));
        panel = round_up(ceil_div(P, panels), slab_unit);
        panels = ceil_div(P, panel);
        const int outputs = job.x_mean ? 2 : 1;
        l_chunk = min64(L, max64(1, hoisted_budget<Pairs> / slab / outputs));
        l_chunks = ceil_div(L, l_chunk);
        const int sums = l_chunks > 1 ? 2 * outputs : outputs;
        row_chunk = max64(row_unit, x_budget / slab / sums / row_unit * row_unit);
        row_chunks = ceil_div(job.k_x, row_chunk);
        if (slabs % job.threads) row_chunks = round_up(row_chunks, job.threads);
        row_chunk = round_up(ceil_div(job.k_x, row_chunks), row_unit);
        row_chunks = ceil_div(job.k_x, row_chunk);
        gathered = inner.sum * slab <= gather_budget;
    }

    static int count_hoisted(const Projection& job) {
        int64_t extents[most_factors];
        const int last = job.factors.count - 1;
        for (int m = 0; m <= last; ++m) extents[m] = job.factors.items[m].extent;
        if (Pairs) return last;
        return hoisted_factors(extents, job.factors.count, job.x_mean ? 1 : 0);
    }
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
