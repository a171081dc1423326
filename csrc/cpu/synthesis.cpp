// y = z_1 (x) ... (x) z_M row by row, and the gradients of the factors from dL/dy, one pass over
// it.

#include "synthesis.h"

#include "division.h"
#include "parallel.h"
#include "sample.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t piece =
    4096;  // elements of y that are formed at a time where they must be rounded or collected

template <class S>
struct Scratch {
    Accumulator<S>* z;
    Accumulator<S>* dz;
    Accumulator<S>* whole_dz;
    Accumulator<S>* y;
    int64_t bytes;

    Scratch(const Grouping& group, char* base) {
        Arena arena{base};
        z = arena.take<Accumulator<S>>(group.sum);
        dz = arena.take<Accumulator<S>>(group.sum);
        whole_dz = arena.take<Accumulator<S>>(group.sum);
        y = arena.take<Accumulator<S>>(min64(piece, group.extent));
        bytes = arena.used;
    }
};

template <class S>
void synthesis_rows(const Synthesis& job, const Grouping& group, const Scratch<S>& scratch, int t) {
    const int64_t K = group.extent;
    for_each_run(job.factors.n, K, t, job.threads, [&](int64_t s, int64_t begin, int64_t end) {
        S* to = static_cast<S*>(job.y) + s * K + begin;
        if constexpr (sizeof(S) == sizeof(Accumulator<S>)) {
            if (group.count == 1 && end - begin == K)
                return gather_sample<S>(job.factors, group, s, to);
        }
        gather_sample<S>(job.factors, group, s, scratch.z);
        if constexpr (sizeof(S) == sizeof(Accumulator<S>)) {
            synthesise(group, scratch.z, begin, end, to);
        } else {
            for (int64_t p = begin; p < end; p += piece) {
                const int64_t here = min64(piece, end - p);
                synthesise(group, scratch.z, p, p + here, scratch.y);
                narrow(scratch.y, to + (p - begin), here);
            }
        }
    });
}

template <class S>
void grad_rows(const SynthesisGrads& job, const Grouping& group, const Scratch<S>& scratch, int t) {
    for_each_row(job.factors.n, t, job.threads, [&](int64_t s) {
        gather_sample<S>(job.factors, group, s, scratch.z);
        for (int64_t i = 0; i < group.sum; ++i) scratch.dz[i] = scratch.whole_dz[i] = 0;
        for (int64_t p = 0; p < group.extent; p += piece) {
            const int64_t count = min64(piece, group.extent - p);
            const Accumulator<S>* D = scratch.y;
            if constexpr (sizeof(S) == sizeof(Accumulator<S>)) {
                if (job.grad.col_stride == 1) {
                    D = static_cast<const S*>(job.grad.data) + s * job.grad.row_stride + p;
                } else {
                    widen_row<S>(job.grad, s, p, count, scratch.y);
                }
            } else {
                widen_row<S>(job.grad, s, p, count, scratch.y);
            }
            add_factor_grads(group, scratch.z, D, p, p + count, false, scratch.dz);
            // Sums in blocks of pieces, lest rounding errors add up.
            if (p / piece % 32 != 31 && p + count < group.extent) continue;
            for (int64_t i = 0; i < group.sum; ++i) {
                scratch.whole_dz[i] += scratch.dz[i];
                scratch.dz[i] = 0;
            }
        }
        scatter_grads<S>(job.factors, group, s, scratch.whole_dz);
    });
}

template <class Job>
int64_t scratch_of(const Job& job) {
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        bytes = job.threads * Scratch<S>(Grouping(job.factors, 0, 0), nullptr).bytes;
    });
    return bytes;
}

// Calls rows(job, group, scratch of thread t, t) on every thread.
template <class Job, class Rows>
void run(const Job& job, const Rows& rows) {
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        const Grouping group(job.factors, 0, 0);
        const int64_t bytes = Scratch<S>(group, nullptr).bytes;
        parallel_for_threads(job.threads, [&](int t) {
            rows(job, group, Scratch<S>(group, static_cast<char*>(job.scratch) + t * bytes), t);
        });
    });
}

}  // namespace

int64_t synthesis_scratch(const Synthesis& job) {
    return scratch_of(job);
}

void synthesis(const Synthesis& job) {
    run(job, [](const auto& job, const auto& group, const auto& scratch, int t) {
        synthesis_rows(job, group, scratch, t);
    });
}

int64_t synthesis_grads_scratch(const SynthesisGrads& job) {
    return scratch_of(job);
}

void synthesis_grads(const SynthesisGrads& job) {
    run(job, [](const auto& job, const auto& group, const auto& scratch, int t) {
        grad_rows(job, group, scratch, t);
    });
}

void divide_synthesis(const Synthesis& job, PartList& parts) {
    const int64_t K = Grouping(job.factors, 0, 0).extent;
    for (int t = 0; t < job.threads; ++t) {
        for_each_block(job.factors.n, K, t, job.threads,
                       [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                           add_part(parts, {0, t, {first, last}, {0, 1}, {0, 1}, {begin, end}});
                       });
    }
}

void divide_synthesis_grads(const SynthesisGrads& job, PartList& parts) {
    const int64_t K = Grouping(job.factors, 0, 0).extent;
    for (int t = 0; t < job.threads; ++t) {
        for_each_row(job.factors.n, t, job.threads, [&](int64_t s) {
            add_part(parts, {0, t, {s, s + 1}, {0, 1}, {0, 1}, {0, K}});
        });
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
