// The rotated synthesis and its gradients sample by sample, in pieces that stay in the first-level
// cache, for features of any extent.
#pragma once

#include "parallel.h"
#include "rotate.h"
#include "sample.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Calls body(S, Column, samples [begin, end)) for each of `threads` shares.
template <class Job, class Body>
void share_samples(const Job& job, int threads, const Body& body) {
    with_types(job.factors.dtype, job.layout, [&]<class S, bool Column>() {
        parallel_for_threads(threads, [&](int t) {
            const int64_t n = job.factors.n;
            body.template operator()<S, Column>(t, n * t / threads, n * (t + 1) / threads);
        });
    });
}

// Of a single sample.
template <class S>
struct SampleScratch {
    using T = Accumulator<S>;

    T* y;
    T* out;
    T* z;
    T* dz;
    int64_t bytes;

    SampleScratch(const Grouping& group, char* base) {
        Arena arena{base};
        const int64_t elements = min64(group.extent, 3 * piece);
        y = arena.take<T>(elements);
        out = arena.take<T>(elements);
        z = arena.take<T>(group.sum);
        dz = arena.take<T>(group.sum);
        bytes = arena.used;
    }
};

template <bool Column, class T>
inline void synthesise_piece(const Grouping& group, const T* z, int64_t j, int64_t count, T* to) {
    for_each_stretch<Column>(group.extent, j, count, [&](int64_t from, int64_t at, int64_t length) {
        synthesise(group, z, from, from + length, to + at);
    });
}

// Calls body(scratch, s, its R) for each sample.
template <class Job, class Body>
void run_samples(const Job& job, const Grouping& group, const Body& body) {
    share_samples(job, job.threads, [&]<class S, bool Column>(int t, int64_t begin, int64_t end) {
        const int64_t bytes = SampleScratch<S>(group, nullptr).bytes;
        const SampleScratch<S> scratch(group, static_cast<char*>(job.scratch) + t * bytes);
        for (int64_t s = begin; s < end; ++s) {
            Accumulator<S> R[9];
            widen_row<S>(job.R, s, 0, 9, R);
            gather_sample<S>(job.factors, group, s, scratch.z);
            body.template operator()<S, Column>(scratch, s, R);
        }
    });
}

inline void synthesise_samples(const RotatedSynthesis& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    run_samples(
        job, group, [&]<class S, bool Column>(const SampleScratch<S>& scratch, int64_t s, auto R) {
            for (int64_t j = 0; j < K / 3; j += piece) {
                const int64_t count = min64(piece, K / 3 - j);
                synthesise_piece<Column>(group, scratch.z, j, count, scratch.y);
                if constexpr (sizeof(S) == sizeof(Accumulator<S>)) {
                    rotate<Column>(R, scratch.y, count, count,
                                   static_cast<S*>(job.out) + s * K + (Column ? 3 * j : j), K / 3);
                } else {
                    rotate<Column>(R, scratch.y, count, count, scratch.out, count);
                    write_piece<Column, S>(scratch.out, job.out, s, K, j, count);
                }
            }
        });
}

inline void grads_of_samples(const RotatedSynthesisGrads& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    bool factors_need_grad = false;
    for (int m = 0; m < job.factors.count; ++m)
        factors_need_grad |= job.factors.items[m].needs_grad;
    run_samples(
        job, group, [&]<class S, bool Column>(const SampleScratch<S>& scratch, int64_t s, auto R) {
            using T = Accumulator<S>;
            T R_transposed[9], dR[9] = {};
            transpose3(R, R_transposed);
            for (int64_t i = 0; i < group.sum; ++i) scratch.dz[i] = 0;
            const bool ready = lies_ready<S>(job.grad);
            for (int64_t j = 0; j < K / 3; j += piece) {
                const int64_t count = min64(piece, K / 3 - j), step = ready ? K / 3 : count;
                const T* grad = scratch.out;
                if (ready)
                    grad = static_cast<const T*>(job.grad.data) + s * job.grad.row_stride +
                           (Column ? 3 * j : j);
                else
                    read_piece<Column, S>(job.grad, s, K, j, count, scratch.out);
                if (job.dR) {
                    synthesise_piece<Column>(group, scratch.z, j, count, scratch.y);
                    add_matrix_grad<Column>(grad, step, scratch.y, count, count, dR);
                }
                if (!factors_need_grad) continue;
                rotate<Column>(R_transposed, grad, step, count, scratch.y, count);
                for_each_stretch<Column>(K, j, count, [&](int64_t p, int64_t at, int64_t length) {
                    add_factor_grads(group, scratch.z, scratch.y + at, p, p + length, false,
                                     scratch.dz);
                });
            }
            if (job.dR) narrow(dR, static_cast<S*>(job.dR) + s * job.dR_stride, 9);
            scatter_grads<S>(job.factors, group, s, scratch.dz);
        });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
