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
struct ProjectionProduct : Tile<P, Columns, Contiguous::summed, Contiguous::summed> {
    static constexpr bool x_in_memory = Columns > narrow_columns && (P::asks || (Mean && P::cuts));
    static constexpr int shared_bytes =
        ProjectionProduct::Tile::template shared_bytes_with_kept<x_in_memory>;
    // A multiprocessor has registers for so many.
    static constexpr int least_blocks = Columns > narrow_columns && Mean && !P::cuts ? 1 : 2;
};

template <class P, int Columns, bool Mean>
__global__ void __launch_bounds__(tile_threads, (ProjectionProduct<P, Columns, Mean>::least_blocks))
    project_tiles(const ProjectionTiles<typename P::Storage> in) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = ProjectionProduct<P, Columns, Mean>;
    NTENSOR_DYNAMIC_SHARED(S, shared);
    const TwoHalves<S>& halves = in.halves;
    const int64_t block = blockIdx.x;
    const int64_t s0 = block % in.sample_tiles * Columns;
    const int64_t row0 = block / in.sample_tiles % in.row_tiles * tile_rows;
    const int64_t part = block / in.sample_tiles / in.row_tiles;
    const int steps_a_lead = static_cast<int>(ceil_div(halves.J, Product::depth));
    const int last_of_lead =
        static_cast<int>(halves.J - int64_t{steps_a_lead - 1} * Product::depth);
    const int64_t steps = halves.L * steps_a_lead;
    const int64_t begin = steps * part / in.parts;
    const int64_t end = steps * (part + 1) / in.parts;
    const int64_t first_l = begin / steps_a_lead;
    const int first_step = static_cast<int>(begin % steps_a_lead);

    int64_t load_l = first_l;
    int load_left = steps_a_lead - first_step;  // of this lead
    const auto load_j = [&] { return int64_t{steps_a_lead - load_left} * Product::depth; };
    const auto core_row = [&](int r) {
        return Span<S>{in.core + ((row0 + r) * halves.L + load_l) * halves.J + load_j()};
    };
    const auto W_row = [&](int r) {
        return Span<S>{halves.W + (s0 + r) * halves.w_stride + load_j()};
    };
    TileCopies<S, tile_rows, Product::depth, Product::a_stride, Along::columns> core(
        clamped(in.k_x - row0, tile_rows), core_row);
    TileCopies<S, Columns, Product::depth, Product::b_stride, Along::columns> W(
        clamped(halves.n - s0, Columns), W_row);
    const bool W_in_packs = halves.w_stride == halves.J;
    auto load = [&](Shared<S> stage) {
        const bool last = load_left == 1;
        const int valid = last ? last_of_lead : Product::depth;
        core.copy(stage, in.core_in_packs, core_row, valid);
        W.copy(stage + Product::b_at, W_in_packs, W_row, valid);
        core.advance(valid);  // the next lead follows in memory
        W.advance(last ? int64_t{1 - steps_a_lead} * Product::depth : Product::depth);
        load_left = last ? steps_a_lead : load_left - 1;
        load_l += last;
    };

    Product tile;
    typename Product::template Kept<Product::x_in_memory> x(shared);
    [[maybe_unused]] typename Product::KeptInRegisters x_mean(shared);
    int64_t l = first_l;
    int left_of_lead = steps_a_lead - first_step;
    auto done = [&](bool last) {
        --left_of_lead;
        if (!Product::chain_ends(left_of_lead) && !last) return;
        // Formed here, so that no register holds it through the other steps.
        const int first_column = kept(tile.column(0, 0));
#pragma unroll
        for (int c = 0; c < Product::across; ++c) {
            T lead[2], mean_lead[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int64_t s = s0 + first_column + 8 * c + i;
                lead[i] = s < halves.n ? halves.lead(s, l) : T(0);
                if constexpr (Mean) mean_lead[i] = s < halves.n ? halves.mean_lead(s, l) : T(0);
            }
#pragma unroll
            for (int m = 0; m < Product::down; ++m) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    x.add(m, c, i, lead[i % 2] * tile.acc.items[m][c][i]);
                    if constexpr (Mean)
                        x_mean.add(m, c, i, mean_lead[i % 2] * tile.acc.items[m][c][i]);
                }
            }
        }
        tile.acc.clear();
        if (left_of_lead != 0) return;
        left_of_lead = steps_a_lead;
        ++l;
    };
    tile.limit(in.k_x - row0, halves.n - s0);
    tile.run(shared, end - begin, load, done);

    const auto write = [&](auto& sums, S* out, int which) {
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

// out[r, c] = sum over the parts of in[part][r, c], in a fixed order: where there are many, `split`
// threads take a stretch of them each, whose sums are added up in their order.
template <class T, class Out>
struct PartsSum {
    const T* in;
    int64_t part_stride, parts;
    int64_t rows;
    int64_t columns;
    Out* out;
    int64_t out_stride;
    int split = 1;
};

constexpr int flat_threads = 256;

template <class T, class Out>
__global__ void __launch_bounds__(flat_threads) sum_parts(const PartsSum<T, Out> in) {
    __shared__ T stretches[flat_threads];
    const int elements = flat_threads / in.split;
    const int place = static_cast<int>(threadIdx.x) % elements;
    const int stretch = static_cast<int>(threadIdx.x) / elements;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * elements + place;
    const bool inside = at < in.rows * in.columns;
    T sum = 0;
    if (inside) {
        const int64_t end = in.parts * (stretch + 1) / in.split;
        for (int64_t part = in.parts * stretch / in.split; part < end; ++part)
            sum += in.in[part * in.part_stride + at];
    }
    if (in.split > 1) {
        stretches[threadIdx.x] = sum;
        __syncthreads();
        for (int other = 1; other < in.split && stretch == 0; ++other)
            sum += stretches[other * elements + place];
    }
    if (!inside || stretch != 0) return;
    Out& to = in.out[at / in.columns * in.out_stride + at % in.columns];
    if constexpr (sizeof(T) == sizeof(Out)) {
        to = sum;
    } else {
        to = narrow<Out>(sum);
    }
}

template <class T, class Out>
inline void launch_sum(Session& session, PartsSum<T, Out> sum) {
    sum.split = sum.parts < 32 ? 1 : 16;
    const int64_t blocks = ceil_div(sum.rows * sum.columns * sum.split, flat_threads);
    NTENSOR_LAUNCH(session, (LaunchShape{blocks, flat_threads}), sum, sum_parts<T, Out>);
}

}  // namespace cuda
}  // namespace ntensor
