// How the factors' gradients are divided into slabs, panels and threads.
#pragma once

#include "division.h"
#include "joined_grad.h"
#include "projection.h"
#include "tile.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

constexpr int64_t panel_budget = 18432;  // elements of D
constexpr int64_t factors_budget =
    16384;  // elements of the gathered factors, and twice that of their gradients
constexpr int64_t row_block = 128;  // rows of the core between two updates of D
// The same where each sample has two rows and tiles are wide: the scratch stays under 64 K elements
// at the paper's sizes.
constexpr int64_t short_row_block = 112;
// A larger core comes from memory, where rows read as they lie are faster.
constexpr int64_t most_packed_core_bytes = int64_t(24) << 20;
// From so many slabs on, and up to so many bytes, the core is copied once for all of them.
constexpr int64_t least_sharing_slabs = 4;
constexpr int64_t most_shared_bytes = int64_t(8) << 20;
// Up to so many rows of D a tile would be too small: the core's rows are added up as they lie.
constexpr int64_t most_few_rows = 3;
constexpr int64_t few_panel_budget = 6144;  // elements of D
// Blocks of rows whose sums D takes before it is added to the whole. Few rows are added one after
// the other, many within a block first.
constexpr int64_t few_blocks_of_sums = 4;
constexpr int64_t blocks_of_sums = 512;
constexpr int64_t panels_a_block = 32;
constexpr int64_t panel_unit = 48;  // a multiple of the tile's width at every level
constexpr int64_t row_unit = 16;    // rows at which threads share a panel
// Rows that take as long as to fold a panel, which every thread does that has some of it: panels
// are made narrower rather than that a thread has fewer of one.
constexpr int64_t least_rows = 64;
// The sums of threads that have more elements than this together are added up by all of them.
constexpr int64_t most_sums = 65536;

template <class S>
struct FactorGradsPlan {
    using T = Accumulator<S>;

    const ProjectionFactorGrads& job;
    const Factors& factors;
    bool both;     // rows of D for G and for G_mean
    bool of_mean;  // the only row of D is that of G_mean
    Grouping group;
    JoinedGrad<S> joined;
    int64_t K;     // columns of the core
    int64_t rows;  // its rows
    int64_t slab;  // samples
    int64_t slabs;
    int64_t virtual_rows;  // rows of D and of G: one or two a sample
    int64_t depth;         // rows of the core between two updates of D
    int64_t rows_of_sums;  // after which D is added to the whole, lest rounding errors add up
    int64_t panel;
    int64_t panels;
    bool packs;         // tiles of the core are copied: it lies in the caches, and for many rows
    int64_t tiles;      // of a block of rows
    bool shares_tiles;  // all tiles are copied once, not by each slab
    bool slabs_apart;  // each thread has slabs of its own; else all share every slab and divide the
                       // panels

    explicit FactorGradsPlan(const ProjectionFactorGrads& job_)
        : job(job_),
          factors(job_.factors),
          both(job_.split.hoisted == 0 && job_.grad.data && job_.grad_mean.data),
          of_mean(job_.split.hoisted == 0 && !job_.grad.data),
          group(factors, job_.split.hoisted,
                job_.split.hoisted == 0 && job_.grad_mean.data ? 1 : job_.split.hoisted),
          joined(job_.grad, job_.grad_mean, job_.k_x, factors, job_.split.hoisted),
          K(group.extent),
          rows(job_.k_x * product_of_extents(factors, 0, job_.split.hoisted)) {
        const int64_t rows_a_sample = both ? 2 : 1;
        slab = min64(most_slab, max64(1, factors_budget / (group.sum * rows_a_sample)));
        slabs = ceil_div(factors.n, slab);
        slab = ceil_div(factors.n, slabs);
        virtual_rows = slab * rows_a_sample;
        depth = both && tile_width<T> >= panel_unit ? short_row_block : row_block;
        rows_of_sums =
            depth * (virtual_rows <= most_few_rows ? few_blocks_of_sums : blocks_of_sums);
        slabs_apart =
            slabs >= 2 * job.threads || (slabs >= job.threads && slabs % job.threads == 0);
        packs = virtual_rows >= 12 &&
                rows * K * static_cast<int64_t>(sizeof(S)) <= most_packed_core_bytes;
        tiles = ceil_div(K, tile_width<T>);
        shares_tiles = packs && slabs_apart && slabs >= least_sharing_slabs &&
                       shared_elements() <= most_shared_bytes / static_cast<int64_t>(sizeof(T));
        const int64_t most =
            max64(panel_unit, (virtual_rows <= most_few_rows ? few_panel_budget : panel_budget) /
                                  virtual_rows / panel_unit * panel_unit);
        panels = ceil_div(K, most);
        if (!slabs_apart) {
            const int64_t even = round_up(panels, job.threads);
            panels = K >= 4 * panel_unit * job.threads
                         ? even
                         : max64(panels, min64(even, ceil_div(least_rows * job.threads, rows)));
        }
        panel = round_up(ceil_div(K, panels), panel_unit);
        panels = ceil_div(K, panel);
    }

    int64_t samples_of(int64_t index) const { return min64(slab, factors.n - index * slab); }

    // Calls body(slab) for every slab that thread t has to itself.
    template <class Body>
    void for_each_slab(int t, const Body& body) const {
        for_each_row(slabs, t, job.threads, body);
    }

    // Calls body(panel, first, last) for the rows from the first to before the last that thread t
    // adds up in each panel, of a slab that all share.
    template <class Body>
    void for_each_part(int t, const Body& body) const {
        Strips(rows, round_up(K, lanes<T>), panel, job.threads, row_unit, least_rows)
            .for_each(t, body);
    }

    // Threads that add up the sums of all threads, of so many samples.
    int adders(int64_t samples) const {
        return job.threads * samples * group.sum > most_sums ? job.threads : 1;
    }

    int64_t shared_elements() const { return rows * tiles * tile_width<T>; }
    int64_t shared_bytes() const {
        return shares_tiles ? shared_elements() * static_cast<int64_t>(sizeof(T)) : 0;
    }

    // Rows of G are read where they lie, unless they must be widened or collected.
    bool reads_grad_in_place() const {
        return (sizeof(S) == sizeof(T) || in_pairs<S>) && !both && job.split.hoisted == 0 &&
               main_grad().col_stride == 1;
    }
    const Matrix& main_grad() const { return job.grad.data ? job.grad : job.grad_mean; }
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
