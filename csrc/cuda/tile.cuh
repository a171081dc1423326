// The tile product: 256 threads form 128 x Columns sums of products, fed by a pipeline of copies.
//
//   acc[row][column] = sum over k of a[row][k] * b[k][column]
//
// All three primitives of the projection are this product, once for each index l of the leading
// factor:
//   projection       rows: outputs            columns: samples     summed: inner index j
//   factor grads     rows: inner index j      columns: samples     summed: outputs
//   core grad        rows: outputs            columns: inner j     summed: samples
#pragma once

#include "precision.cuh"

namespace ntensor {
namespace cuda {

constexpr int tile_threads = 256;
constexpr int tile_rows = 128;
constexpr int narrow_columns = 16;  // of a tile for few samples

// A row of a tile in global memory: `count` elements (none where it is not positive), the first at
// `begin`, which is an address that may be formed in any case.
template <class S>
struct Span {
    const S* begin;
    int64_t count;
    int64_t stride = 1;
};

// Copies Rows x Columns elements to shared memory, zeros where a span ends. in_packs: every span
// has stride 1 and begins at a multiple of 16 bytes.
template <int Rows, int Columns, int Stride, class S, class Row>
__device__ inline void copy_rows(S* to, bool in_packs, const Row& row) {
    if (in_packs) {
        constexpr int V = pack_size<S>;
        constexpr int packs = Columns / V;
        for (int at = threadIdx.x; at < Rows * packs; at += tile_threads) {
            const int r = at / packs, c = at % packs * V;
            const Span<S> span = row(r);
            const int64_t valid = max64(0, min64(V, span.count - c));
            copy_async<16>(to + r * Stride + c, valid > 0 ? span.begin + c : span.begin,
                           static_cast<int>(valid * sizeof(S)));
        }
    } else {
        for (int at = threadIdx.x; at < Rows * Columns; at += tile_threads) {
            const int r = at / Columns, c = at % Columns;
            const Span<S> span = row(r);
            const bool valid = c < span.count;
            const S* from = valid ? span.begin + c * span.stride : span.begin;
            if constexpr (sizeof(S) >= 4) {
                copy_async<sizeof(S)>(to + r * Stride + c, from, valid ? sizeof(S) : 0);
            } else {
                to[r * Stride + c] = valid ? *from : S{};
            }
        }
    }
}

template <class P, int Columns_, Contiguous AlongA, Contiguous AlongB>
struct Tile {
    using S = typename P::Storage;
    using T = Sum<S>;
    static constexpr int columns = Columns_;
    static constexpr int depth = 64 / static_cast<int>(sizeof(S));
    static constexpr int stages = 4;
    static constexpr int warps_down = columns == narrow_columns ? 8 : 4;
    static constexpr int warps_across = 8 / warps_down;
    static constexpr int down = tile_rows / warps_down / 16;  // accumulators of a warp
    static constexpr int across = columns / warps_across / 8;

    // Rows in shared memory are padded so that the eight rows of a fragment lie in other banks.
    static constexpr int stride_of(Contiguous along, int outer) {
        return along == Contiguous::summed
                   ? depth + 16 / static_cast<int>(sizeof(S))
                   : outer + (sizeof(S) == 2 ? 16 : 32) / static_cast<int>(sizeof(S));
    }
    static constexpr int a_stride = stride_of(AlongA, tile_rows);
    static constexpr int b_stride = stride_of(AlongB, columns);
    static constexpr int a_rows = AlongA == Contiguous::summed ? tile_rows : depth;
    static constexpr int b_rows = AlongB == Contiguous::summed ? columns : depth;
    static constexpr int a_columns = AlongA == Contiguous::summed ? depth : tile_rows;
    static constexpr int b_columns = AlongB == Contiguous::summed ? depth : columns;
    static constexpr int b_at = a_rows * a_stride;
    static constexpr int stage_size = b_at + b_rows * b_stride;
    static constexpr int shared_bytes = stages * stage_size * static_cast<int>(sizeof(S));
    static_assert(shared_bytes <= 96 << 10, "what every GPU from sm_80 on grants a block");
    static constexpr int chain_steps = 1024 / depth;  // the longest chain of sums that are cut

    // Whether acc is added to what the caller holds and cleared, `left` steps before a sum ends.
    __device__ static bool chain_ends(int64_t left) {
        return P::cuts ? left % chain_steps == 0 : left == 0;
    }

    struct Sums {
        T items[down][across][4];

        __device__ void clear() {
            for_each([](T& sum, int, int, int) { sum = 0; });
        }
        // f(sum, down, across, i) for each
        template <class F>
        __device__ void for_each(const F& f) {
#pragma unroll
            for (int m = 0; m < down; ++m) {
#pragma unroll
                for (int c = 0; c < across; ++c) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) f(items[m][c][i], m, c, i);
                }
            }
        }
    };

    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    int warp_down = warp / warps_across;
    int warp_across = warp % warps_across;
    Sums acc;
    bool idle = false;  // all sums of this warp lie beyond the rows or columns that there are

    __device__ void limit(int64_t rows_left, int64_t columns_left) {
        idle = warp_down * down * 16 >= rows_left || warp_across * across * 8 >= columns_left;
    }

    // Where in the tile a thread's sums lie.
    __device__ int row(int m, int i) const {
        return (warp_down * down + m) * 16 + lane / 4 + i / 2 * 8;
    }
    __device__ int column(int c, int i) const {
        return (warp_across * across + c) * 8 + lane % 4 * 2 + i % 2;
    }

    // From k = valid on the stage holds zeros.
    __device__ void multiply(const S* stage, int valid) {
        if (idle) return;
#pragma unroll
        for (int k = 0; k < depth; k += P::step) {
            if (k >= valid) return;
            typename P::A a[down];
            typename P::B b[across / 2];
#pragma unroll
            for (int m = 0; m < down; ++m)
                P::template load_a<AlongA>(a[m], stage, a_stride, (warp_down * down + m) * 16, k,
                                           lane);
#pragma unroll
            for (int c = 0; c < across / 2; ++c)
                P::template load_b<AlongB>(b[c], stage + b_at, b_stride,
                                           (warp_across * across + 2 * c) * 8, k, lane);
#pragma unroll
            for (int m = 0; m < down; ++m) {
#pragma unroll
                for (int c = 0; c < across; ++c)
                    P::multiply(acc.items[m][c], a[m], b[c / 2][c % 2]);
            }
        }
    }

    // For each of `count` steps: load(stage) fills a and b, the sums grow by the first valid()
    // terms of the step, then done() is called. load is called in the order of the steps, some
    // steps ahead.
    template <class Load, class Valid, class Done>
    __device__ void run(S* shared, int64_t count, Load& load, const Valid& valid, Done& done) {
        acc.clear();
        for (int64_t step = 0; step < stages - 1; ++step) {
            if (step < count) load(shared + step * stage_size);
            commit_copies();
        }
        for (int64_t step = 0; step < count; ++step) {
            wait_for_copies<stages - 2>();
            __syncthreads();
            const int64_t ahead = step + stages - 1;
            if (ahead < count) load(shared + ahead % stages * stage_size);
            commit_copies();
            multiply(shared + step % stages * stage_size, valid());
            done();
        }
        wait_for_copies<0>();
        __syncthreads();
    }
};

// How many parts a sum of `steps` is split into, so that `tiles` tiles keep the device busy. Each
// part keeps steps enough to fill its pipeline more than once.
inline int64_t parts_for(int64_t tiles, int64_t steps, int multiprocessors) {
    constexpr int64_t least_steps = 8;
    const int64_t wanted = ceil_div(2 * multiprocessors, max64(tiles, 1));
    return max64(1, min64(wanted, steps / least_steps));
}

}  // namespace cuda
}  // namespace ntensor
