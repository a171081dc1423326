// The rotated synthesis and its gradients, by blocks of samples that the synthesis itself takes.
// Where the rotation acts on one factor alone, that factor is rotated and the feature comes out
// right; else the block's features are, which then exist beside the result only as long as the
// block does. Features too long for a block are formed in pieces (rotated_pieces.h).

#include "parallel.h"
#include "rotated_pieces.h"
#include "rotation.h"
#include "synthesis.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

// Elements of a block's rotated factor, or of its features where these are held.
constexpr int64_t most_block = 1 << 13;

int64_t feature_extent(const Factors& factors) {
    return product_of_extents(factors, 0, factors.count);
}

// The factor on which the rotation acts alone, -1 where there is none: in the layout "row" the rows
// of the matrix are thirds of the leading factor, in "column" its columns are triples of the last
// one. Factors of extent 1 do not count.
int rotated_factor(const Factors& factors, Layout layout) {
    const bool column = layout == Layout::column;
    int m = column ? factors.count - 1 : 0;
    while (factors.items[m].extent == 1) m += column ? -1 : 1;
    return factors.items[m].extent % 3 == 0 ? m : -1;
}

template <class Job>
bool in_blocks(const Job& job) {
    if (feature_extent(job.factors) <= most_block) return true;
    const bool widens = job.factors.dtype == DType::bfloat16 || job.factors.dtype == DType::float16;
    return !widens && rotated_factor(job.factors, job.layout) >= 0;
}

// How many blocks are worked on at the same time. Of few samples one after the other, each by all
// threads, where the synthesis does all that is worth dividing.
template <class Job>
int blocks_at_once(const Job& job) {
    const bool many = job.factors.n >= 8 * int64_t{job.threads};
    return many || rotated_factor(job.factors, job.layout) < 0 ? job.threads : 1;
}

bool wants_matrix(const RotatedSynthesis&) {
    return false;
}
bool wants_matrix(const RotatedSynthesisGrads& job) {
    return job.dR;
}

// Some samples at a time, and the gradients of a synthesis of them.
template <class S, class Job>
struct Block {
    using T = Accumulator<S>;
    static constexpr bool widens = sizeof(S) != sizeof(T);

    const Job& job;
    const Factors& given;
    const int place;     // of the rotated factor, -1: features are rotated
    const int64_t K, k;  // extents of the feature and of what is rotated
    const int64_t rows;  // most samples
    const int threads;
    Factor items[most_factors];
    T* copies[most_factors];  // rotated or widened values
    T* y = nullptr;           // (rows, K), where features are rotated, or rounded, or widened
    T *room, *more_room;      // k elements each
    void* scratch;            // of the synthesis
    int64_t bytes;

    Block(const Job& job_, char* base)
        : job(job_),
          given(job.factors),
          place(rotated_factor(given, job.layout)),
          K(feature_extent(given)),
          k(place < 0 ? K : given.items[place].extent),
          rows(max64(1, min64(given.n, most_block / (widens ? K : k)))),
          threads(job.threads / blocks_at_once(job)) {
        Arena arena{base};
        for (int m = 0; m < given.count; ++m) {
            Factor& item = items[m] = given.items[m];
            if (m == place) item.needs_grad |= wants_matrix(job);
            if (!widens && m != place) continue;
            copies[m] = arena.take<T>(rows * item.extent);
            item.values = {copies[m], item.extent, 1};
            if (!item.needs_grad) continue;
            item.grad = arena.take<T>(rows * item.extent);
            item.grad_stride = item.extent;
        }
        if (widens || place < 0) y = arena.take<T>(rows * K);
        room = arena.take<T>(k);
        more_room = arena.take<T>(k);
        scratch = base + arena.used;
        const Factors factors = view(rows);
        const int64_t forward = synthesis_scratch(Synthesis{factors, nullptr, threads});
        const int64_t backward = synthesis_grads_scratch(SynthesisGrads{factors, {}, threads});
        bytes = arena.used + round_up(max64(forward, backward), 64);
    }

    Factors view(int64_t count) const {
        return {items, given.count, count, sizeof(T) == 8 ? DType::float64 : DType::float32};
    }
    bool needs_grad() const {
        for (int m = 0; m < given.count; ++m)
            if (items[m].needs_grad) return true;
        return false;
    }

    // Samples s ... s + count.
    template <bool Column>
    void read(int64_t s, int64_t count) {
        for (int m = 0; m < given.count; ++m) {
            const Factor& from = given.items[m];
            if (m == place) {
                for (int64_t r = 0; r < count; ++r) {
                    T R[9];
                    widen_row<S>(job.R, s + r, 0, 9, R);
                    rotate<Column>(R, row_of<S>(from.values, s + r, k, room), k / 3, k / 3,
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

    void synthesise(int64_t count, void* to) { synthesis({view(count), to, threads, scratch}); }

    template <bool Column>
    void write_features(S* out, int64_t s, int64_t count) {
        if (!y) return synthesise(count, out);
        synthesise(count, y);
        if (place >= 0) return narrow(y, out, count * K);
        for (int64_t r = 0; r < count; ++r) {
            T R[9];
            widen_row<S>(job.R, s + r, 0, 9, R);
            if constexpr (widens) {
                rotate<Column>(R, y + r * K, K / 3, K / 3, room, K / 3);
                narrow(room, out + r * K, K);
            } else {
                rotate<Column>(R, y + r * K, K / 3, K / 3, out + r * K, K / 3);
            }
        }
    }

    // dR += g y^T for a row of gradients and of what was rotated.
    template <bool Column>
    void write_matrix_grad(int64_t s, const T* grad, const T* values) {
        T dR[9] = {};
        add_matrix_grad<Column>(grad, k / 3, values, k / 3, k / 3, dR);
        narrow(dR, static_cast<S*>(job.dR) + s * job.dR_stride, 9);
    }

    // to = R^T grad.
    template <bool Column>
    void rotate_back(int64_t s, const T* grad, T* to) {
        T R[9], transposed[9];
        widen_row<S>(job.R, s, 0, 9, R);
        transpose3(R, transposed);
        rotate<Column>(transposed, grad, k / 3, k / 3, to, k / 3);
    }

    // The gradient of the synthesis, dR where features are rotated.
    template <bool Column>
    Matrix grad_of_synthesis(int64_t s, int64_t count) {
        if (!y)
            return {static_cast<const S*>(job.grad.data) + s * job.grad.row_stride,
                    job.grad.row_stride, job.grad.col_stride};
        if (place < 0 && job.dR) synthesise(count, y);
        for (int64_t r = 0; r < count; ++r) {
            if (place >= 0) {
                widen_row<S>(job.grad, s + r, 0, K, y + r * K);
                continue;
            }
            const T* grad = row_of<S>(job.grad, s + r, K, room);
            if (job.dR) write_matrix_grad<Column>(s + r, grad, y + r * K);
            rotate_back<Column>(s + r, grad, y + r * K);
        }
        return {y, K, 1};
    }

    // What the synthesis does not write itself.
    template <bool Column>
    void write_grads(int64_t s, int64_t count) {
        for (int m = 0; m < given.count; ++m) {
            const Factor& to = given.items[m];
            if (!widens || m == place || !to.needs_grad) continue;
            for (int64_t r = 0; r < count; ++r)
                narrow(static_cast<const T*>(items[m].grad) + r * to.extent,
                       static_cast<S*>(to.grad) + (s + r) * to.grad_stride, to.extent);
        }
        if (place < 0 || !items[place].needs_grad) return;
        const Factor& to = given.items[place];
        for (int64_t r = 0; r < count; ++r) {
            const T* grad = static_cast<const T*>(items[place].grad) + r * k;
            if (to.needs_grad) {
                rotate_back<Column>(s + r, grad, more_room);
                narrow(more_room, static_cast<S*>(to.grad) + (s + r) * to.grad_stride, k);
            }
            if (job.dR)
                write_matrix_grad<Column>(s + r, grad, row_of<S>(to.values, s + r, k, room));
        }
    }
};

// Calls body(block, s, count) for each block of samples s ... s + count.
template <class Job, class Body>
void run_blocks(const Job& job, const Body& body) {
    share_samples(job, blocks_at_once(job),
                  [&]<class S, bool Column>(int t, int64_t begin, int64_t end) {
                      char* memory = static_cast<char*>(job.scratch);
                      if (t > 0) memory += t * Block<S, Job>(job, nullptr).bytes;
                      Block<S, Job> block(job, memory);
                      for (int64_t s = begin; s < end; s += block.rows) {
                          const int64_t count = min64(block.rows, end - s);
                          block.template read<Column>(s, count);
                          body.template operator()<Column>(block, s, count);
                      }
                  });
}

template <class Job>
int64_t scratch_bytes(const Job& job) {
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        if (in_blocks(job))
            bytes = blocks_at_once(job) * Block<S, Job>(job, nullptr).bytes;
        else
            bytes = job.threads * SampleScratch<S>(Grouping(job.factors, 0, 0), nullptr).bytes;
    });
    return bytes;
}

}  // namespace

int64_t rotated_synthesis_scratch(const RotatedSynthesis& job) {
    return scratch_bytes(job);
}

void rotated_synthesis(const RotatedSynthesis& job) {
    if (!in_blocks(job)) return synthesise_samples(job);
    run_blocks(job, [&]<bool Column, class S>(Block<S, RotatedSynthesis>& block, int64_t s,
                                              int64_t count) {
        S* out = static_cast<S*>(job.out) + s * block.K;
        block.template write_features<Column>(out, s, count);
    });
}

int64_t rotated_synthesis_grads_scratch(const RotatedSynthesisGrads& job) {
    return scratch_bytes(job);
}

void rotated_synthesis_grads(const RotatedSynthesisGrads& job) {
    if (!in_blocks(job)) return grads_of_samples(job);
    run_blocks(job, [&]<bool Column, class S>(Block<S, RotatedSynthesisGrads>& block, int64_t s,
                                              int64_t count) {
        const Matrix grad = block.template grad_of_synthesis<Column>(s, count);
        if (block.needs_grad())
            synthesis_grads({block.view(count), grad, block.threads, block.scratch});
        block.template write_grads<Column>(s, count);
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
