// The rotated synthesis and its gradients. Where the rotation acts on one factor alone, blocks of
// samples are synthesised with that factor rotated. Where it does not, samples are taken one by
// one, in pieces that stay in the first-level cache. The unrotated feature exists only as such a
// piece.

#include "parallel.h"
#include "rotate.h"
#include "rotation.h"
#include "sample.h"
#include "synthesis.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

// Elements of a block's rotated factor, or of its synthesis where that is widened.
constexpr int64_t most_block = 1 << 14;

int64_t feature_extent(const Factors& factors) {
    return product_of_extents(factors, 0, factors.count);
}

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

// The factor on which the rotation acts alone, -1 where there is none: in the layout "row" the rows
// of the matrix are thirds of the leading factor, in "column" its columns are triples of the last
// one. Factors of extent 1 do not count.
template <class Job>
int rotated_factor(const Job& job) {
    const Factors& factors = job.factors;
    const bool column = job.layout == Layout::column;
    const bool widens = factors.dtype == DType::bfloat16 || factors.dtype == DType::float16;
    if (widens && feature_extent(factors) > most_block) return -1;
    int m = column ? factors.count - 1 : 0;
    while (factors.items[m].extent == 1) m += column ? -1 : 1;
    return factors.items[m].extent % 3 == 0 ? m : -1;
}

// Some samples at a time, one of their factors rotated, and the gradients of a synthesis of them.
template <class S>
struct Block {
    using T = Accumulator<S>;
    static constexpr bool widens = sizeof(S) != sizeof(T);

    const Factors& given;
    const int place;     // of the rotated factor
    const int64_t k, K;  // extents of that factor and of the feature
    const int64_t rows;  // most samples
    Factor items[most_factors];
    T* copies[most_factors];  // rotated or widened values
    T* y = nullptr;           // (rows, K), where results are rounded or gradients widened
    T *room, *grad_room;      // a row of the rotated factor
    int64_t used;             // bytes, what follows is scratch of the synthesis

    Block(const Factors& factors, int rotated, bool of_matrix, char* base)
        : given(factors),
          place(rotated),
          k(factors.items[rotated].extent),
          K(feature_extent(factors)),
          rows(max64(1, min64(factors.n, most_block / (widens ? K : k)))) {
        Arena arena{base};
        for (int m = 0; m < given.count; ++m) {
            Factor& item = items[m] = given.items[m];
            if (m == place) item.needs_grad |= of_matrix;
            if (!widens && m != place) continue;
            copies[m] = arena.take<T>(rows * item.extent);
            item.values = {copies[m], item.extent, 1};
            if (!item.needs_grad) continue;
            item.grad = arena.take<T>(rows * item.extent);
            item.grad_stride = item.extent;
        }
        if (widens) y = arena.take<T>(rows * K);
        room = arena.take<T>(k);
        grad_room = arena.take<T>(k);
        used = arena.used;
    }

    Factors view(int64_t count) const {
        return {items, given.count, count, sizeof(T) == 8 ? DType::float64 : DType::float32};
    }

    // Samples s ... s + count.
    template <bool Column>
    void read(const Matrix& R, int64_t s, int64_t count) {
        for (int m = 0; m < given.count; ++m) {
            const Factor& from = given.items[m];
            if (m == place) {
                for (int64_t r = 0; r < count; ++r) {
                    T entries[9];
                    widen_row<S>(R, s + r, 0, 9, entries);
                    rotate<Column>(entries, row_of<S>(from.values, s + r, k, room), k / 3, k / 3,
                                   copies[m] + r * k, k / 3);
                }
            } else if (widens) {
                for (int64_t r = 0; r < count; ++r)
                    widen_row<S>(from.values, s + r, 0, from.extent, copies[m] + r * from.extent);
            } else {
                items[m].values.data =
                    static_cast<const S*>(from.values.data) + s * from.values.row_stride;
                if (from.needs_grad)
                    items[m].grad = static_cast<S*>(from.grad) + s * from.grad_stride;
            }
        }
    }

    // The gradients of samples s ... s + count that the synthesis does not write itself.
    template <bool Column>
    void write_grads(const RotatedSynthesisGrads& job, int64_t s, int64_t count) {
        for (int m = 0; m < given.count; ++m) {
            const Factor& to = given.items[m];
            if (!widens || m == place || !to.needs_grad) continue;
            for (int64_t r = 0; r < count; ++r)
                narrow(static_cast<const T*>(items[m].grad) + r * to.extent,
                       static_cast<S*>(to.grad) + (s + r) * to.grad_stride, to.extent);
        }
        if (!items[place].needs_grad) return;
        const Factor& to = given.items[place];
        for (int64_t r = 0; r < count; ++r) {
            const T* grad = static_cast<const T*>(items[place].grad) + r * k;
            if (to.needs_grad) {
                T entries[9], transposed[9];
                widen_row<S>(job.R, s + r, 0, 9, entries);
                transpose3(entries, transposed);
                rotate<Column>(transposed, grad, k / 3, k / 3, grad_room, k / 3);
                narrow(grad_room, static_cast<S*>(to.grad) + (s + r) * to.grad_stride, k);
            }
            if (job.dR) {
                T dR[9] = {};
                add_matrix_grad<Column>(grad, k / 3, row_of<S>(to.values, s + r, k, room), k / 3,
                                        k / 3, dR);
                narrow(dR, static_cast<S*>(job.dR) + (s + r) * job.dR_stride, 9);
            }
        }
    }
};

// How many blocks are worked on at the same time. Of few samples one after the other, each by all
// threads.
template <class Job>
int blocks_at_once(const Job& job) {
    return job.factors.n >= 8 * int64_t{job.threads} ? job.threads : 1;
}

Synthesis inner_job(const RotatedSynthesis&, const Factors& factors, int threads) {
    return {factors, nullptr, threads};
}
SynthesisGrads inner_job(const RotatedSynthesisGrads&, const Factors& factors, int threads) {
    return {factors, {}, threads};
}
int64_t inner_scratch(const Synthesis& job) {
    return synthesis_scratch(job);
}
int64_t inner_scratch(const SynthesisGrads& job) {
    return synthesis_grads_scratch(job);
}
bool wants_matrix(const RotatedSynthesis&) {
    return false;
}
bool wants_matrix(const RotatedSynthesisGrads& job) {
    return job.dR;
}

template <class S, class Job>
int64_t block_bytes(const Job& job, int place) {
    const Block<S> block(job.factors, place, wants_matrix(job), nullptr);
    const int threads = job.threads / blocks_at_once(job);
    return block.used +
           round_up(inner_scratch(inner_job(job, block.view(block.rows), threads)), 64);
}

// Calls body(block, its synthesis, s, count) for each block of samples s ... s + count.
template <class Job, class Body>
void run_blocks(const Job& job, int place, const Body& body) {
    const int at_once = blocks_at_once(job);
    share_samples(job, at_once, [&]<class S, bool Column>(int t, int64_t begin, int64_t end) {
        char* memory = static_cast<char*>(job.scratch) + t * block_bytes<S>(job, place);
        Block<S> block(job.factors, place, wants_matrix(job), memory);
        for (int64_t s = begin; s < end; s += block.rows) {
            const int64_t count = min64(block.rows, end - s);
            block.template read<Column>(job.R, s, count);
            auto inner = inner_job(job, block.view(count), job.threads / at_once);
            inner.scratch = memory + block.used;
            body.template operator()<Column>(block, inner, s, count);
        }
    });
}

// Of a single sample.
template <class S>
struct Scratch {
    using T = Accumulator<S>;

    T* y;
    T* out;
    T* z;
    T* dz;
    int64_t bytes;

    Scratch(const Grouping& group, char* base) {
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
        const int64_t bytes = Scratch<S>(group, nullptr).bytes;
        const Scratch<S> scratch(group, static_cast<char*>(job.scratch) + t * bytes);
        for (int64_t s = begin; s < end; ++s) {
            Accumulator<S> R[9];
            widen_row<S>(job.R, s, 0, 9, R);
            gather_sample<S>(job.factors, group, s, scratch.z);
            body.template operator()<S, Column>(scratch, s, R);
        }
    });
}

template <class Job>
int64_t scratch_bytes(const Job& job) {
    const int place = rotated_factor(job);
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        if (place >= 0)
            bytes = blocks_at_once(job) * block_bytes<S>(job, place);
        else
            bytes = job.threads * Scratch<S>(Grouping(job.factors, 0, 0), nullptr).bytes;
    });
    return bytes;
}

void synthesise_samples(const RotatedSynthesis& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    run_samples(
        job, group, [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t s, auto R) {
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

void grads_of_samples(const RotatedSynthesisGrads& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    bool factors_need_grad = false;
    for (int m = 0; m < job.factors.count; ++m)
        factors_need_grad |= job.factors.items[m].needs_grad;
    run_samples(
        job, group, [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t s, auto R) {
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

}  // namespace

int64_t rotated_synthesis_scratch(const RotatedSynthesis& job) {
    return scratch_bytes(job);
}

void rotated_synthesis(const RotatedSynthesis& job) {
    const int place = rotated_factor(job);
    if (place < 0) return synthesise_samples(job);
    run_blocks(
        job, place,
        [&]<bool Column, class S>(Block<S>& block, Synthesis& inner, int64_t s, int64_t count) {
            S* out = static_cast<S*>(job.out) + s * block.K;
            inner.y = block.widens ? static_cast<void*>(block.y) : out;
            synthesis(inner);
            if (block.widens) narrow(block.y, out, count * block.K);
        });
}

int64_t rotated_synthesis_grads_scratch(const RotatedSynthesisGrads& job) {
    return scratch_bytes(job);
}

void rotated_synthesis_grads(const RotatedSynthesisGrads& job) {
    const int place = rotated_factor(job);
    if (place < 0) return grads_of_samples(job);
    run_blocks(job, place,
               [&]<bool Column, class S>(Block<S>& block, SynthesisGrads& inner, int64_t s,
                                         int64_t count) {
                   inner.grad = job.grad;
                   if (block.widens) {
                       for (int64_t r = 0; r < count; ++r)
                           widen_row<S>(job.grad, s + r, 0, block.K, block.y + r * block.K);
                       inner.grad = {block.y, block.K, 1};
                   } else {
                       inner.grad.data =
                           static_cast<const S*>(job.grad.data) + s * job.grad.row_stride;
                   }
                   synthesis_grads(inner);
                   block.template write_grads<Column>(job, s, count);
               });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
