// For D_l[s, j] = sum over o of G[s, o] core[o, l, j], the derivatives of the two halves of the
// synthesis,
//
//   da[s, l] = sum over j of D_l[s, j] W[s, j],    dW[s, j] = sum over l of a[s, l] D_l[s, j],
//
// in one pass over the core: D_l stays in registers. G_mean has rows of its own beside those of G,
// with a_mean for a.
#pragma once

#include "projection.cuh"

namespace ntensor {
namespace cuda {

template <class S>
struct FactorGradTiles {
    TwoHalves<S> halves;
    const S* core;  // (k_x, L, J)
    int64_t k_x;
    bool core_in_packs;
    // Rows [0, grad_rows) are those of grad, [grad_rows, rows) those of grad_mean; strided.
    const S* grad;
    int64_t grad_row, grad_col;
    const S* grad_mean;
    int64_t grad_mean_row, grad_mean_col;
    int64_t grad_rows, rows;
    bool grads_in_packs;
    int64_t sample_tiles, inner_tiles, parts;
    Sum<S>* da;  // (parts, inner_tiles, rows, L), or null where it is not needed
    Sum<S>* dW;  // (parts, rows, J)
};

template <class P, int Columns>
struct FactorGradProduct : Tile<P, Columns, Contiguous::outer, Contiguous::summed> {
    static constexpr bool dW_in_memory = Columns > narrow_columns&& P::asks;
    static constexpr int shared_bytes =
        FactorGradProduct::Tile::template shared_bytes_with_kept<dW_in_memory>;
};

template <class P, int Columns>
__global__ void __launch_bounds__(tile_threads, 2)
    factor_grad_tiles(const FactorGradTiles<typename P::Storage> in) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = FactorGradProduct<P, Columns>;
    NTENSOR_DYNAMIC_SHARED(S, shared);
    __shared__ T da_of_warps[Product::warps_down][Columns];
    const TwoHalves<S>& halves = in.halves;
    const int64_t block = blockIdx.x;
    const int64_t row0 = block % in.sample_tiles * Columns;
    const int64_t j_tile = block / in.sample_tiles % in.inner_tiles;
    const int64_t j0 = j_tile * tile_rows;
    const int64_t part = block / in.sample_tiles / in.inner_tiles;
    const int64_t all_steps = ceil_div(in.k_x, Product::depth);
    const int64_t o_begin = all_steps * part / in.parts * Product::depth;
    const int64_t o_end = min64(in.k_x, all_steps * (part + 1) / in.parts * Product::depth);
    const int steps_a_lead = static_cast<int>(ceil_div(o_end - o_begin, Product::depth));
    const int last_of_lead =
        static_cast<int>(o_end - o_begin - int64_t{steps_a_lead - 1} * Product::depth);

    int64_t load_l = 0;
    int load_left = steps_a_lead;  // of this lead
    const auto load_o = [&] {
        return o_begin + int64_t{steps_a_lead - load_left} * Product::depth;
    };
    const auto core_row = [&](int r) {
        return Span<S>{in.core + ((load_o() + r) * halves.L + load_l) * halves.J + j0};
    };
    const auto grad_row = [&](int r) {
        const int64_t row = row0 + r, s = row - in.grad_rows;
        return row < in.grad_rows
                   ? Span<S>{in.grad + row * in.grad_row + load_o() * in.grad_col, in.grad_col}
                   : Span<S>{in.grad_mean + s * in.grad_mean_row + load_o() * in.grad_mean_col,
                             in.grad_mean_col};
    };
    TileCopies<S, Product::depth, tile_rows, Product::a_stride, Along::rows> core(
        clamped(halves.J - j0, tile_rows), core_row);
    TileCopies<S, Columns, Product::depth, Product::b_stride, Along::columns> grads(
        clamped(in.rows - row0, Columns), grad_row);
    auto load = [&](Shared<S> stage) {
        const bool last = load_left == 1;
        const int valid = last ? last_of_lead : Product::depth;
        core.copy(stage, in.core_in_packs, core_row, valid);
        grads.copy(stage + Product::b_at, in.grads_in_packs, grad_row, valid);
        const int64_t on = last ? int64_t{1 - steps_a_lead} * Product::depth : Product::depth;
        core.advance(on * halves.L * halves.J + (last ? halves.J : 0));
        grads.advance(on);
        load_left = last ? steps_a_lead : load_left - 1;
        load_l += last;
    };

    Product tile;
    typename Product::template Kept<Product::dW_in_memory> dW(shared);
    int64_t l = 0;
    int left_of_lead = steps_a_lead;
    bool begun = false;  // a chain of this l has ended before
    auto done = [&](bool) {
        if (!Product::chain_ends(--left_of_lead)) return;
        // Formed here, so that no register holds it through the other steps.
        const int first_column = kept(tile.column(0, 0)), first_row = kept(tile.row(0, 0));
#pragma unroll
        for (int c = 0; c < Product::across; ++c) {
            T dot[2] = {};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int64_t row = row0 + first_column + 8 * c + i;
                if (row >= in.rows) continue;
                const bool mean = row >= in.grad_rows;
                const int64_t s = mean ? row - in.grad_rows : row;
                const T lead = mean ? halves.mean_lead(s, l) : halves.lead(s, l);
                const S* W = halves.W + s * halves.w_stride + j0;
#pragma unroll
                for (int m = 0; m < Product::down; ++m) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const T D = tile.acc.items[m][c][i + 2 * half];
                        dW.add(m, c, i + 2 * half, lead * D);
                        const int j = first_row + 16 * m + 8 * half;
                        if (in.da && j0 + j < halves.J) dot[i] += D * widen(W[j]);
                    }
                }
            }
            if (in.da) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    for (int mask = 4; mask < 32; mask *= 2) dot[i] += exchange_lanes(dot[i], mask);
                    if (tile.lane < 4) da_of_warps[tile.warp_down][tile.column(c, i)] = dot[i];
                }
            }
        }
        tile.acc.clear();
        if (in.da) {
            __syncthreads();
            const int64_t row = row0 + threadIdx.x;
            if (threadIdx.x < Columns && row < in.rows) {
                T sum = 0;
                for (int w = 0; w < Product::warps_down; ++w) sum += da_of_warps[w][threadIdx.x];
                T& da = in.da[((part * in.inner_tiles + j_tile) * in.rows + row) * halves.L + l];
                da = begun ? da + sum : sum;
            }
            __syncthreads();
        }
        begun = left_of_lead != 0;
        if (begun) return;
        left_of_lead = steps_a_lead;
        ++l;
    };
    tile.limit(halves.J - j0, in.rows - row0);
    tile.run(shared, halves.L * steps_a_lead, load, done);

    dW.for_each([&](T& sum, int m, int c, int i) {
        const int64_t j = j0 + tile.row(m, i);
        const int64_t row = row0 + tile.column(c, i);
        if (j < halves.J && row < in.rows) in.dW[(part * in.rows + row) * halves.J + j] = sum;
    });
}

}  // namespace cuda
}  // namespace ntensor
