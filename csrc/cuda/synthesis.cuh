// The synthesis of two factors, y[s, l J + j] = a[s, l] b[s, j], and its derivatives. The synthesis
// of more is a chain of these, with the products before the last in the type of sums, so that only
// the result is rounded.
#pragma once

#include "scalar.cuh"

namespace ntensor {
namespace cuda {

constexpr int pair_threads = 256;

template <class S, class Out>
struct PairProduct {
    Operand<S> a, b;
    int64_t n, L, J;
    Out* out;  // (n, L J)
    int64_t out_stride;
    Divider by_units, by_J;
};

template <class S, class Out, int V>
__global__ void __launch_bounds__(pair_threads) pair_product(const PairProduct<S, Out> in) {
    using T = Sum<S>;
    const int64_t K = in.L * in.J;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * pair_threads + threadIdx.x;
    const auto [s, place] = in.by_units.split(unit);
    const int64_t p = place * V;
    if (s >= in.n) return;
    auto [l, j] = in.by_J.split(p);
    Out* const to = in.out + s * in.out_stride + p;
    const int count = static_cast<int>(min64(V, K - p));
    T lead = in.a.at(s, l);
    Pack<Out, V> pack;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        if (i >= count) break;
        const T value = lead * in.b.at(s, j);
        if constexpr (sizeof(Out) == sizeof(T)) {
            pack.items[i] = value;
        } else {
            pack.items[i] = narrow<Out>(value);
        }
        if (++j == in.J && i + 1 < count) {
            j = 0;
            lead = in.a.at(s, ++l);
        }
    }
    if (count == V) {
        *reinterpret_cast<Pack<Out, V>*>(to) = pack;
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i)
            if (i < count) to[i] = pack.items[i];
    }
}

// Where a derivative of the synthesis, D = dL/dy, comes from: at(s, p), p in [0, K).
template <class S>
struct Given {
    Operand<S> D;
    __device__ Sum<S> at(int64_t s, int64_t p) const { return D.at(s, p); }

    using Cursor = int64_t;
    __device__ Cursor cursor(int64_t p) const { return p; }
    __device__ void advance(Cursor& place, int step) const { place += step; }
};

template <class S, class Source>
struct PairGrads {
    Source D;
    Operand<S> a, b;
    int64_t n, L, J;
    // Each is written where it is not null; strides between rows, wide ones have none.
    S* a_grad;
    int64_t a_grad_stride;
    Sum<S>* a_grad_wide;  // (n, L)
    S* b_grad;
    int64_t b_grad_stride;
    Sum<S>* b_grad_wide;        // (n, J)
    const Sum<S>* b_grad_more;  // (n, J), added to b's derivative, or null
};

// A block a sample.
template <class S, class Source>
__global__ void __launch_bounds__(pair_threads) pair_grads(const PairGrads<S, Source> in) {
    using T = Sum<S>;
    constexpr int warps = pair_threads / 32;
    const int64_t s = blockIdx.x;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (in.a_grad || in.a_grad_wide) {
        for (int64_t l = warp; l < in.L; l += warps) {
            T dot = 0;
            for (int64_t j = lane; j < in.J; j += 32)
                dot += in.D.at(s, l * in.J + j) * in.b.at(s, j);
            for (int mask = 16; mask > 0; mask /= 2) dot += exchange_lanes(dot, mask);
            if (lane != 0) continue;
            if (in.a_grad) in.a_grad[s * in.a_grad_stride + l] = narrow<S>(dot);
            if (in.a_grad_wide) in.a_grad_wide[s * in.L + l] = dot;
        }
    }
    if (!in.b_grad && !in.b_grad_wide) return;
    __shared__ T of_warps[warps][32];
    for (int64_t j0 = 0; j0 < in.J; j0 += 32) {
        const int64_t j = j0 + lane;
        T sum = 0;
        if (j < in.J) {
            for (int64_t l = warp; l < in.L; l += warps)
                sum += in.a.at(s, l) * in.D.at(s, l * in.J + j);
        }
        of_warps[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && j < in.J) {
            for (int w = 1; w < warps; ++w) sum += of_warps[w][lane];
            if (in.b_grad_more) sum += in.b_grad_more[s * in.J + j];
            if (in.b_grad) in.b_grad[s * in.b_grad_stride + j] = narrow<S>(sum);
            if (in.b_grad_wide) in.b_grad_wide[s * in.J + j] = sum;
        }
        __syncthreads();
    }
}

template <class S, class Out>
inline void launch_product(Session& session, PairProduct<S, Out> job) {
    constexpr int V = pack_size<Out>;
    const int64_t K = job.L * job.J;
    const bool in_packs = rows_in_packs<Out>(job.out, job.out_stride);
    const int64_t units = ceil_div(K, in_packs ? V : 1);
    job.by_units = Divider(units, job.n * units + pair_threads);
    job.by_J = Divider(job.J, K);
    const LaunchShape shape{ceil_div(job.n * units, pair_threads), pair_threads};
    if (in_packs) {
        NTENSOR_LAUNCH(session, shape, job, pair_product<S, Out, V>);
    } else {
        NTENSOR_LAUNCH(session, shape, job, pair_product<S, Out, 1>);
    }
}

// out (n, K) = the synthesis of the factors [begin, end); S or sums.
template <class S, class Out>
void write_product(Session& session, const Factors& factors, int begin, int end, Out* out,
                   int64_t out_stride) {
    Operand<S> a;
    int64_t L = 1;
    int m = begin;
    if (end - begin > 1) {
        a = Operand<S>(factors.items[m].values);
        L = factors.items[m].extent;
        ++m;
    }
    for (; m < end; ++m) {
        const Operand<S> b(factors.items[m].values);
        const int64_t J = factors.items[m].extent;
        if (m + 1 == end) {
            launch_product<S, Out>(session, {a, b, factors.n, L, J, out, out_stride, {}, {}});
        } else {
            Sum<S>* const wide = session.take<Sum<S>>(factors.n * L * J);
            launch_product<S, Sum<S>>(session, {a, b, factors.n, L, J, wide, L * J, {}, {}});
            a = Operand<S>(wide, L * J);
            L *= J;
        }
    }
}

inline bool any_needed(const Factors& factors, int begin, int end) {
    for (int m = begin; m < end; ++m)
        if (factors.items[m].needs_grad) return true;
    return false;
}

template <class S, class Source>
inline void launch_grads(Session& session, const PairGrads<S, Source>& job) {
    NTENSOR_LAUNCH(session, (LaunchShape{job.n, pair_threads}), job, pair_grads<S, Source>);
}

template <class S>
inline void set_grad(const Factor& factor, S*& grad, int64_t& stride) {
    grad = factor.needs_grad ? static_cast<S*>(factor.grad) : nullptr;
    stride = factor.grad_stride;
}

// The needed gradients of the factors [begin, end) from the derivative D of their synthesis: the
// last one's, and that of the product of those before it, and so on.
template <class S, class Source>
void write_factor_grads(Session& session, const Factors& factors, int begin, int end,
                        const Source& D) {
    if (!any_needed(factors, begin, end)) return;
    const int64_t n = factors.n;
    PairGrads<S, Source> job{};
    job.D = D;
    job.n = n;
    const Factor& last = factors.items[end - 1];
    job.b = Operand<S>(last.values);
    job.J = last.extent;
    set_grad(last, job.b_grad, job.b_grad_stride);
    if (end - begin == 1) {
        job.L = 1;
        return launch_grads(session, job);
    }
    if (end - begin == 2) {
        const Factor& first = factors.items[begin];
        job.a = Operand<S>(first.values);
        job.L = first.extent;
        set_grad(first, job.a_grad, job.a_grad_stride);
        return launch_grads(session, job);
    }
    job.L = 1;
    for (int m = begin; m < end - 1; ++m) job.L *= factors.items[m].extent;
    Sum<S>* const before = session.take<Sum<S>>(n * job.L);
    write_product<S>(session, factors, begin, end - 1, before, job.L);
    job.a = Operand<S>(before, job.L);
    const bool more = any_needed(factors, begin, end - 1);
    if (more) job.a_grad_wide = session.take<Sum<S>>(n * job.L);
    launch_grads(session, job);
    if (more)
        write_factor_grads<S>(session, factors, begin, end - 1,
                              Given<S>{Operand<S>(job.a_grad_wide, job.L)});
}

}  // namespace cuda
}  // namespace ntensor
