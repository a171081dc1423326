// How a projection is divided: slabs of samples, panels of W, chunks of rows, work for threads.
#pragma once

#include "division.h"
#include "grouping.h"
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

// Elements of a thread's scratch: W and widened rows, x, H. Together under 64 K.
template <bool Pairs>
constexpr int64_t panel_budget = Pairs ? 28672 : 43008;
template <bool Pairs>
constexpr int64_t hoisted_budget = Pairs ? 18432 : 4096;
constexpr int64_t x_budget = 9216;
// Most inner indices that are added up in one chain, lest rounding errors add up.
constexpr int64_t longest_sum = 2688;
// A last factor of at least this extent is multiplied pair by pair as it stands. With a shorter one
// the pairs would be products, rounded once more, so rows of the core are widened instead.
constexpr int64_t least_extent_of_pairs = 32;
constexpr int64_t row_unit = 24;   // a multiple of the tile's rows for most widths
constexpr int64_t slab_start = 4;  // rows that take as long as to form W of a slab
constexpr int widened_rows = 8;    // at most that many rows a tile of widened rows
// A core of at most so many bytes is read by every thread rather than divided among them.
constexpr int64_t shared_core_bytes = int64_t(1) << 18;

// The core as a matrix of k_x L rows of P elements, row (r, l) at r * output_stride + l *
// hoisted_stride.
struct CoreRows {
    int64_t L, P, K;
    int64_t output_stride, hoisted_stride;

    explicit CoreRows(const Projection& job) {
        L = product_of_extents(job.factors, 0, job.split.hoisted);
        P = product_of_extents(job.factors, job.split.hoisted, job.factors.count);
        K = L * P;
        output_stride = job.split.output_inside ? P : K;
        hoisted_stride = job.split.output_inside ? job.k_x * P : P;
    }
};

// Tiles of rows lie along the outputs or along the hoisted indices: where fewer are left over.
inline bool tiles_along_hoisted(int64_t outputs, int64_t hoisted, int rows) {
    // The time of a tile in that of a row, the loads of W being that of one and a half rows.
    const auto time = [rows](int64_t count) {
        double sum = 0;
        for (int64_t left = count; left > 0; left -= rows_at_once(left, rows))
            sum += rows_at_once(left, rows) + 1.5;
        return sum / static_cast<double>(count);
    };
    // What is left over of many rows is little.
    const int64_t most = 16 * rows;
    return time(min64(hoisted, most)) * 1.02 < time(min64(outputs, most));
}

template <class S, bool Pairs>
struct ProjectionPlan : CoreRows {
    using T = Accumulator<S>;
    static constexpr int V = lanes<T>;

    const Projection& job;
    const Factors& factors;
    Grouping inner, outer;  // of the factors of W, and of H
    int64_t slabs;
    int64_t slab;   // samples of a slab
    int64_t width;  // the same in whole vectors
    int64_t panel;  // inner indices of a panel of W
    int64_t panels;
    int64_t l_parts;    // threads that divide the hoisted indices: 1 where all work on others
    int64_t l_chunk;    // hoisted indices whose H is kept at a time
    int64_t l_chunks;   // at most; where there are several, x is summed up chunk by chunk
    int64_t row_chunk;  // rows of the core whose x is kept at a time
    bool along_hoisted;

    explicit ProjectionPlan(const Projection& job_)
        : CoreRows(job_),
          job(job_),
          factors(job_.factors),
          inner(factors, job_.split.hoisted, job_.split.hoisted),
          outer(factors, 0, 0, job_.split.hoisted) {
        const int64_t n = factors.n, threads = job.threads;
        const int64_t bytes = job.k_x * K * static_cast<int64_t>(sizeof(S));
        slabs = ceil_div(n, most_slab);
        const int64_t even = round_up(slabs, threads);
        if ((bytes <= shared_core_bytes || job.k_x < 8 * threads) && n >= even * 2 * V)
            slabs = even;
        slab = round_up(ceil_div(n, slabs), V);
        slabs = ceil_div(n, slab);
        width = slab;
        // Accumulators of W, and of widened rows, for each inner index.
        const int64_t beside = Pairs ? width / 2 : width + (widens<S, Pairs> ? widened_rows : 0);
        const int64_t most = min64(longest_sum, panel_budget<Pairs> / beside);
        panels = ceil_div(P, max64(slab_unit, most / slab_unit * slab_unit));
        panel = round_up(ceil_div(P, panels), slab_unit);
        panels = ceil_div(P, panel);
        l_parts = 1;
        if (slabs % threads && slabs < 4 * threads && job.k_x < 4 * threads && L >= 4 * threads &&
            !share_less_evenly(L, job.k_x * slabs, threads))
            l_parts = threads;
        const int outputs = job.x_mean ? 2 : 1;
        const int64_t L_here = ceil_div(L, l_parts);
        l_chunk = min64(L_here, max64(1, hoisted_budget<Pairs> / width / outputs));
        l_chunks = ceil_div(L_here, l_chunk);
        const int sums = l_chunks > 1 ? 2 * outputs : outputs;
        row_chunk = max64(row_unit, x_budget / width / sums / row_unit * row_unit);
        int64_t rows_here = job.k_x;
        if (slabs % threads && l_parts == 1)
            rows_here = min64(rows_here, ceil_div(job.k_x * slabs, threads));
        row_chunk = ceil_div(rows_here, ceil_div(rows_here, row_chunk));
        if (row_chunk > rows_of<Pairs>(1)) row_chunk = round_up(row_chunk, row_unit);
        const int rows = rows_of<Pairs>(static_cast<int>(min64(wide_tile, width / V)));
        along_hoisted = tiles_along_hoisted(min64(job.k_x, row_chunk), l_chunk, rows);
    }

    // Calls body(slab, first, last, l_first, l_last) for what thread t does: rows and hoisted
    // indices from the first to before the last.
    template <class Body>
    void for_each_part(int t, const Body& body) const {
        if (l_parts > 1) {
            const int64_t l_first = first_of(L, t, job.threads);
            const int64_t l_last = first_of(L, t + 1, job.threads);
            for (int64_t at = 0; at < slabs; ++at) body(at, 0, job.k_x, l_first, l_last);
            return;
        }
        // Slabs that come out even are not divided, though the last one may have fewer samples.
        const int64_t samples = slabs % job.threads ? round_up(factors.n, V) : slabs * slab;
        Strips(job.k_x, samples, slab, job.threads, row_unit, slab_start)
            .for_each(
                t, [&](int64_t at, int64_t first, int64_t last) { body(at, first, last, 0, L); });
    }

    int64_t samples_of(int64_t slab_index) const {
        return min64(slab, factors.n - slab_index * slab);
    }

    // Elements of the sums of one thread where the hoisted indices are divided.
    int64_t partial() const {
        return l_parts > 1 ? job.k_x * width * slabs * (job.x_mean ? 2 : 1) : 0;
    }
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
