// x[s, o] = sum over l of a[s, l] * (sum over j of core[o, l, j] W[s, j]), and x_mean the same with
// a_mean. The leading factor scales the accumulator, so one product serves both.
#pragma once

#include "tile.cuh"

namespace ntensor {
namespace cuda {

// The projection with the synthesis in two halves: a (n, L) holds the leading factors, W (n, J) all
// others. Without a_mean it is 1/L everywhere.
template <class S>
struct TwoHalves {
    int64_t n, L, J;
    const Sum<S>* a;
    const Sum<S>* a_mean;
    Sum<S> constant;  // 1/L
    const S* W;
    int64_t w_stride;  // rows of W begin at multiples of 16 bytes

    __device__ Sum<S> lead(int64_t s, int64_t l) const { return a[s * L + l]; }
    __device__ Sum<S> mean_lead(int64_t s, int64_t l) const {
        return a_mean ? a_mean[s * L + l] : constant;
    }
};

template <class S>
struct ProjectionTiles {
    TwoHalves<S> halves;
    const S* core;  // (k_x, L, J)
    int64_t k_x;
    bool core_in_packs;
    int64_t sample_tiles, row_tiles, parts;
    S* x;  // (n, k_x), written where there is one part
    S* x_mean;
    Sum<S>* partial;  // (parts, x and x_mean, n, k_x)
};

template <class P, int Columns, bool Mean>
__global__ void __launch_bounds__(tile_threads)
    project_tiles(const ProjectionTiles<typename P::Storage> in) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = Tile<P, Columns, Contiguous::summed, Contiguous::summed>;
    NTENSOR_DYNAMIC_SHARED(S, shared);
    const TwoHalves<S>& halves = in.halves;
    const int64_t block = blockIdx.x;
    const int64_t s0 = block % in.sample_tiles * Columns;
    const int64_t row0 = block / in.sample_tiles % in.row_tiles * tile_rows;
    const int64_t part = block / in.sample_tiles / in.row_tiles;
    const int64_t steps_a_lead = ceil_div(halves.J, Product::depth);
    const int64_t steps = halves.L * steps_a_lead;
    const int64_t begin = steps * part / in.parts;
    const int64_t end = steps * (part + 1) / in.parts;

    int64_t load_l = begin / steps_a_lead;
    int64_t load_j = begin % steps_a_lead * Product::depth;
    auto load = [&](S* stage) {
        copy_rows<tile_rows, Product::depth, Product::a_stride>(
            stage, in.core_in_packs, [&](int r) {
                const bool inside = row0 + r < in.k_x;
                const int64_t row = inside ? row0 + r : 0;
                return Span<S>{in.core + (row * halves.L + load_l) * halves.J + load_j,
                               inside ? halves.J - load_j : 0};
            });
        copy_rows<Columns, Product::depth, Product::b_stride>(
            stage + Product::b_at, true, [&](int r) {
                const bool inside = s0 + r < halves.n;
                return Span<S>{halves.W + (inside ? s0 + r : 0) * halves.w_stride + load_j,
                               inside ? halves.J - load_j : 0};
            });
        load_j += Product::depth;
        if (load_j >= halves.J) {
            load_j = 0;
            ++load_l;
        }
    };

    Product tile;
    typename Product::Sums x, x_mean;
    x.clear();
    if constexpr (Mean) x_mean.clear();
    int64_t l = begin / steps_a_lead;
    int64_t left = end - begin;
    int64_t left_of_lead = steps_a_lead - begin % steps_a_lead;
    auto done = [&] {
        --left;
        --left_of_lead;
        if (!Product::chain_ends(left_of_lead) && left != 0) return;
#pragma unroll
        for (int c = 0; c < Product::across; ++c) {
            T lead[2], mean_lead[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int64_t s = s0 + tile.column(c, i);
                lead[i] = s < halves.n ? halves.lead(s, l) : T(0);
                if constexpr (Mean) mean_lead[i] = s < halves.n ? halves.mean_lead(s, l) : T(0);
            }
#pragma unroll
            for (int m = 0; m < Product::down; ++m) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    x.items[m][c][i] += lead[i % 2] * tile.acc.items[m][c][i];
                    if constexpr (Mean)
                        x_mean.items[m][c][i] += mean_lead[i % 2] * tile.acc.items[m][c][i];
                }
            }
        }
        tile.acc.clear();
        if (left_of_lead != 0) return;
        left_of_lead = steps_a_lead;
        ++l;
    };
    constexpr bool skips = sizeof(S) < sizeof(double);  // which has no registers left for it
    const int last_of_lead = static_cast<int>(halves.J - (steps_a_lead - 1) * Product::depth);
    const auto valid = [&] { return skips && left_of_lead == 1 ? last_of_lead : Product::depth; };
    if constexpr (skips) tile.limit(in.k_x - row0, halves.n - s0);
    tile.run(shared, end - begin, load, valid, done);

    const auto write = [&](typename Product::Sums& sums, S* out, int which) {
        sums.for_each([&](T& sum, int m, int c, int i) {
            const int64_t o = row0 + tile.row(m, i);
            const int64_t s = s0 + tile.column(c, i);
            if (o >= in.k_x || s >= halves.n) return;
            if (in.parts == 1) {
                out[s * in.k_x + o] = narrow<S>(sum);
            } else {
                in.partial[((part * (Mean ? 2 : 1) + which) * halves.n + s) * in.k_x + o] = sum;
            }
        });
    };
    write(x, in.x, 0);
    if constexpr (Mean) write(x_mean, in.x_mean, 1);
}

// out[r, c] = sum over the parts of in[part][r, c], in their order.
template <class T, class Out>
struct PartsSum {
    const T* in;
    int64_t part_stride, parts;
    int64_t rows;
    int64_t columns;
    Out* out;
    int64_t out_stride;
};

constexpr int flat_threads = 256;

template <class T, class Out>
__global__ void __launch_bounds__(flat_threads) sum_parts(const PartsSum<T, Out> in) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * flat_threads + threadIdx.x;
    if (at >= in.rows * in.columns) return;
    T sum = 0;
    for (int64_t part = 0; part < in.parts; ++part) sum += in.in[part * in.part_stride + at];
    Out& to = in.out[at / in.columns * in.out_stride + at % in.columns];
    if constexpr (sizeof(T) == sizeof(Out)) {
        to = sum;
    } else {
        to = narrow<Out>(sum);
    }
}

template <class T, class Out>
inline void launch_sum(Session& session, const PartsSum<T, Out>& sum) {
    NTENSOR_LAUNCH(session,
                   (LaunchShape{ceil_div(sum.rows * sum.columns, flat_threads), flat_threads}), sum,
                   sum_parts<T, Out>);
}

}  // namespace cuda
}  // namespace ntensor
