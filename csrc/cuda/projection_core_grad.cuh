// dcore[o, l, j] (+)= sum over s of (a[s, l] G[s, o] + a_mean[s, l] G_mean[s, o]) W[s, j]
//
// The bracket is formed while it is brought to shared memory, so one product serves both outputs.
// The result leaves through shared memory, row by row.
#pragma once

#include "projection.cuh"

namespace ntensor {
namespace cuda {

template <class S>
struct CoreGradTiles {
    TwoHalves<S> halves;
    int64_t k_x;
    // (n, k_x) strided; either may be null.
    const S* grad;
    int64_t grad_row, grad_col;
    const S* grad_mean;
    int64_t grad_mean_row, grad_mean_col;
    bool grads_in_packs;
    int64_t row_tiles, inner_tiles;
    S* core_grad;  // (k_x, L, J)
    bool core_in_packs;
    bool accumulate;
};

// V elements along the outputs of row s, zeros from `valid` on, times a scale.
template <int V, class S>
__device__ inline void add_scaled(Sum<S> (&to)[V], const S* from, int64_t stride, int valid,
                                  bool in_packs, Sum<S> scale) {
    if (in_packs && valid >= V) {
        const Pack<S, V> pack = *reinterpret_cast<const Pack<S, V>*>(from);
#pragma unroll
        for (int i = 0; i < V; ++i) to[i] += scale * widen(pack.items[i]);
    } else {
        for (int i = 0; i < V; ++i)
            if (i < valid) to[i] += scale * widen(from[i * stride]);
    }
}

template <class P>
using CoreGradProduct = Tile<P, P::widest, Contiguous::outer, Contiguous::outer>;

// The sums, row by row, after the pipeline has gone; rows are padded against bank conflicts.
template <class P>
constexpr int core_grad_stride = P::widest + 4;
template <class P>
constexpr int64_t core_grad_shared_bytes =
    max64(CoreGradProduct<P>::shared_bytes,
          tile_rows* core_grad_stride<P>* static_cast<int>(sizeof(Sum<typename P::Storage>)));

// Long: sums are longer than a chain that is cut may be.
template <class P, bool Long>
__global__ void __launch_bounds__(tile_threads)
    core_grad_tiles(const CoreGradTiles<typename P::Storage> in) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = CoreGradProduct<P>;
    constexpr int V = pack_size<S>;
    NTENSOR_DYNAMIC_SHARED(S, shared);
    const TwoHalves<S>& halves = in.halves;
    const int64_t block = blockIdx.x;
    const int64_t j0 = block % in.inner_tiles * Product::columns;
    const int64_t l = block / in.inner_tiles % halves.L;
    const int64_t row0 = block / in.inner_tiles / halves.L * tile_rows;

    int64_t load_s = 0;
    const auto W_row = [&](int r) {
        return Span<S>{halves.W + (load_s + r) * halves.w_stride + j0};
    };
    TileCopies<S, Product::depth, Product::columns, Product::b_stride, Along::rows> W(
        clamped(halves.J - j0, Product::columns), W_row);
    const bool W_in_packs = halves.w_stride == halves.J;
    auto load = [&](Shared<S> stage) {
        constexpr int packs = tile_rows / V;
        for (int at = threadIdx.x; at < Product::depth * packs; at += tile_threads) {
            const int64_t s = load_s + at / packs;
            const int r = at % packs * V;
            T sums[V] = {};
            const int valid = static_cast<int>(max64(0, min64(V, in.k_x - row0 - r)));
            if (s < halves.n && valid > 0) {
                const int64_t o = row0 + r;
                if (in.grad)
                    add_scaled<V>(sums, in.grad + s * in.grad_row + o * in.grad_col, in.grad_col,
                                  valid, in.grads_in_packs, halves.lead(s, l));
                if (in.grad_mean)
                    add_scaled<V>(sums, in.grad_mean + s * in.grad_mean_row + o * in.grad_mean_col,
                                  in.grad_mean_col, valid, in.grads_in_packs,
                                  halves.mean_lead(s, l));
            }
            Pack<S, V> pack;
#pragma unroll
            for (int i = 0; i < V; ++i) pack.items[i] = narrow<S>(sums[i]);
            store16(stage + (at / packs * Product::a_stride + r), &pack);
        }
        W.copy(stage + Product::b_at, W_in_packs, W_row,
               clamped(halves.n - load_s, Product::depth));
        W.advance(Product::depth * halves.w_stride);
        load_s += Product::depth;
    };
    Product tile;
    typename Product::Sums chains;  // that have ended
    if constexpr (Long) chains.clear();
    int64_t left = halves.n;
    auto done = [&](bool) {
        left -= Product::depth;
        if constexpr (Long) {
            if (!Product::chain_ends(static_cast<int>(max64(0, left) / Product::depth))) return;
            chains.for_each([&](T& sum, int m, int c, int i) { sum += tile.acc.items[m][c][i]; });
            tile.acc.clear();
        }
    };
    tile.limit(in.k_x - row0, halves.J - j0);
    tile.run(shared, ceil_div(halves.n, Product::depth), load, done);

    constexpr int stride = core_grad_stride<P>;
    T* const sums = reinterpret_cast<T*>(shared);
    (Long ? chains : tile.acc).for_each([&](T& sum, int m, int c, int i) {
        sums[tile.row(m, i) * stride + tile.column(c, i)] = sum;
    });
    __syncthreads();
    constexpr int packs = Product::columns / V;
    for (int at = threadIdx.x; at < tile_rows * packs; at += tile_threads) {
        const int r = at / packs, c = at % packs * V;
        const int valid = static_cast<int>(max64(0, min64(V, halves.J - j0 - c)));
        if (row0 + r >= in.k_x || valid == 0) continue;
        S* const to = in.core_grad + ((row0 + r) * halves.L + l) * halves.J + j0 + c;
        T values[V];
#pragma unroll
        for (int i = 0; i < V; ++i) values[i] = sums[r * stride + c + i];
        const bool whole = in.core_in_packs && valid == V;
        if (in.accumulate) add_scaled<V>(values, static_cast<const S*>(to), 1, valid, whole, T(1));
        if (whole) {
            Pack<S, V> pack;
#pragma unroll
            for (int i = 0; i < V; ++i) pack.items[i] = narrow<S>(values[i]);
            *reinterpret_cast<Pack<S, V>*>(to) = pack;
        } else {
            for (int i = 0; i < V; ++i)
                if (i < valid) to[i] = narrow<S>(values[i]);
        }
    }
}

}  // namespace cuda
}  // namespace ntensor
