// The feature rotation of y, seen as a 3 x J matrix (math/rotation.h), and its matrix's derivative.
// y is given, or the synthesis of two factors, formed where it is read.
#pragma once

#include "../math/rotation.h"
#include "synthesis.cuh"

namespace ntensor {
namespace cuda {

// The synthesis of two factors as a source of values.
template <class S>
struct Formed {
    Operand<S> a, b;
    Divider by_J;
    __device__ Sum<S> at(int64_t s, int64_t p) const { return at(s, by_J.split(p)); }

    // A place that moves on without a division.
    using Cursor = IndexPair;
    __device__ Cursor cursor(int64_t p) const { return by_J.split(p); }
    __device__ Sum<S> at(int64_t s, const Cursor& place) const {
        return a.at(s, place.outer) * b.at(s, place.inner);
    }
    __device__ void advance(Cursor& place, int step) const {
        for (place.inner += step; place.inner >= by_J.d; place.inner -= by_J.d) ++place.outer;
    }
};

// Where element (a, j) of the matrix lies in the vector.
struct MatrixView {
    bool column;
    int64_t J;  // K / 3
    Divider by_J;

    __device__ int64_t place(int64_t a, int64_t j) const {
        return column ? place_in_piece<true>(a, j, J) : place_in_piece<false>(a, j, J);
    }
};

template <class S>
__device__ inline void read_matrix(const Operand<S>& R, int64_t s, Sum<S> (&to)[9]) {
#pragma unroll
    for (int i = 0; i < 9; ++i) to[i] = R.at(s, i);
}

// The derivative R^T G of the unrotated feature, from that of the rotated one.
template <class S>
struct Unrotated {
    Operand<S> G, R;
    MatrixView view;
    __device__ Sum<S> at(int64_t s, int64_t p) const {
        // Not by split: choosing between two pairs would take them to local memory.
        const int64_t b = view.column ? p % 3 : view.by_J.quotient(p);
        const int64_t j = view.column ? p / 3 : p - b * view.J;
        Sum<S> sum = 0;
#pragma unroll
        for (int a = 0; a < 3; ++a) sum += R.at(s, 3 * a + b) * G.at(s, view.place(a, j));
        return sum;
    }
};

constexpr int rotation_threads = 128;

template <class S, class Source>
struct Rotate {
    Source y;
    Operand<S> R;
    MatrixView view;
    int64_t n;
    S* out;  // (n, 3 J) contiguous
    Divider by_units;
};

// V columns a thread.
template <class S, class Source, int V>
__global__ void __launch_bounds__(rotation_threads) rotate(const Rotate<S, Source> in) {
    using T = Sum<S>;
    const int64_t J = in.view.J;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * rotation_threads + threadIdx.x;
    const auto [s, place] = in.by_units.split(unit);
    const int64_t j0 = place * V;
    if (s >= in.n) return;
    T R[9];
    read_matrix(in.R, s, R);
    typename Source::Cursor places[3];
#pragma unroll
    for (int b = 0; b < 3; ++b) places[b] = in.y.cursor(in.view.place(b, j0));
    Pack<S, V> rows[3];  // in the order of the memory
#pragma unroll
    for (int c = 0; c < V; ++c) {
        T y[3];
#pragma unroll
        for (int b = 0; b < 3; ++b) {
            y[b] = in.y.at(s, places[b]);
            if (c + 1 < V) in.y.advance(places[b], in.view.column ? 3 : 1);
        }
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            const S value = narrow<S>(rotated_row(R, a, y[0], y[1], y[2]));
            if (in.view.column) {
                rows[(3 * c + a) / V].items[(3 * c + a) % V] = value;
            } else {
                rows[a].items[c] = value;
            }
        }
    }
    S* const out = in.out + s * 3 * J;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        const int64_t at = in.view.column ? 3 * j0 + a * V : a * J + j0;
        *reinterpret_cast<Pack<S, V>*>(out + at) = rows[a];
    }
}

template <class S, class Source>
struct MatrixGrad {
    Operand<S> G;
    Source y;
    MatrixView view;
    int64_t n;
    S* dR;  // (n, 9)
    int64_t dR_stride;
};

// dR[a, b] = sum over j of G[a, j] Y[b, j], a block a sample.
template <class S, class Source>
__global__ void __launch_bounds__(rotation_threads) matrix_grad(const MatrixGrad<S, Source> in) {
    using T = Sum<S>;
    constexpr int warps = rotation_threads / 32;
    __shared__ T of_warps[warps][9];
    const int64_t s = blockIdx.x;
    T sums[9] = {};
    for (int64_t j = threadIdx.x; j < in.view.J; j += rotation_threads) {
        T G[3], y[3];
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            G[a] = in.G.at(s, in.view.place(a, j));
            y[a] = in.y.at(s, in.view.place(a, j));
        }
#pragma unroll
        for (int i = 0; i < 9; ++i) sums[i] += G[i / 3] * y[i % 3];
    }
#pragma unroll
    for (int i = 0; i < 9; ++i) {
        for (int mask = 16; mask > 0; mask /= 2) sums[i] += exchange_lanes(sums[i], mask);
        if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32][i] = sums[i];
    }
    __syncthreads();
    if (threadIdx.x >= 9) return;
    T sum = 0;
    for (int w = 0; w < warps; ++w) sum += of_warps[w][threadIdx.x];
    in.dR[s * in.dR_stride + threadIdx.x] = narrow<S>(sum);
}

inline MatrixView matrix_view(Layout layout, int64_t K) {
    return {layout == Layout::column, K / 3, Divider(K / 3, K)};
}

template <class S, class Source>
inline void launch_rotation(Session& session, Rotate<S, Source> job) {
    constexpr int V = pack_size<S>;
    const int64_t J = job.view.J;
    const bool in_packs = aligned16(job.out) && J % V == 0;
    const int64_t units = in_packs ? J / V : J;
    job.by_units = Divider(units, job.n * units + rotation_threads);
    const LaunchShape shape{ceil_div(job.n * units, rotation_threads), rotation_threads};
    if (in_packs) {
        NTENSOR_LAUNCH(session, shape, job, rotate<S, Source, V>);
    } else {
        NTENSOR_LAUNCH(session, shape, job, rotate<S, Source, 1>);
    }
}

}  // namespace cuda
}  // namespace ntensor
