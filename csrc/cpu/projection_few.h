// The projection of a few samples, each with the inner indices in the lanes of a vector.
//
//   x[s, r] = sum_l H[s, l] * sum_p core[r, l, p] W[s, p]
//
// Every row of the core is read once for all samples, so nothing is padded, and W is formed as it
// is read. Threads divide the outputs, or where there are few of them the hoisted indices.
#pragma once

#include "projection_plan.h"
#include "sample.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

constexpr int64_t few_panel_budget = 16384;  // elements of W
constexpr int64_t few_l_chunk = 64;          // hoisted indices that are summed up at a time
constexpr int64_t few_row_chunk = 1024;      // outputs whose sums are kept at a time
constexpr int few_at_once = 4;               // most samples of a tile

// Where rows are no longer than this, adding up the lanes takes longer than the products: tiles
// then have as many rows as there are registers, so that the sums of a tile fill a vector.
constexpr int64_t short_row = vector_bytes == 64 ? 64 : 0;

constexpr int few_rows(int samples, bool is_short) {
    if (is_short) return samples == 1 ? 16 : samples == 2 ? 8 : samples == 3 ? 5 : 4;
    return samples == 1 ? 8 : samples == 2 ? 6 : samples == 3 ? 4 : 3;
}

template <class S>
struct FewPlan : CoreRows {
    const Projection& job;
    const Factors& factors;
    Grouping inner, outer;
    int64_t n;
    int64_t panel, panels;
    int64_t l_parts;
    int64_t row_chunk;
    bool is_short, along_hoisted;

    explicit FewPlan(const Projection& job_)
        : CoreRows(job_),
          job(job_),
          factors(job_.factors),
          inner(factors, job_.split.hoisted, job_.split.hoisted),
          outer(factors, 0, job_.x_mean ? 1 : 0, job_.split.hoisted),
          n(job_.factors.n) {
        const int64_t most = min64(longest_sum * lanes<Accumulator<S>>, few_panel_budget / n);
        panels = ceil_div(P, max64(512, most / 64 * 64));
        panel = round_up(ceil_div(P, panels), 64);
        panels = ceil_div(P, panel);
        l_parts = 1;
        if (job.k_x < 4 * job.threads && L >= 2 * job.threads &&
            !share_less_evenly(L, job.k_x, job.threads))
            l_parts = job.threads;
        row_chunk = min64(few_row_chunk, job.k_x);
        is_short = P <= short_row;
        along_hoisted = tiles_along_hoisted(job.k_x, min64(few_l_chunk, L), rows());
    }

    // As ProjectionPlan's, all samples in one slab.
    template <class Body>
    void for_each_part(int t, const Body& body) const {
        if (l_parts > 1) {
            body(0, 0, job.k_x, first_of(L, t, job.threads), first_of(L, t + 1, job.threads));
            return;
        }
        const int64_t first = first_of(job.k_x, t, job.threads);
        const int64_t last = first_of(job.k_x, t + 1, job.threads);
        if (first < last) body(0, first, last, 0, L);
    }

    int64_t samples_of(int64_t) const { return n; }

    // Of a tile.
    int rows() const { return few_rows(static_cast<int>(min64(n, few_at_once)), is_short); }

    int64_t partial() const { return l_parts > 1 ? job.k_x * n * (job.x_mean ? 2 : 1) : 0; }
};

// Whether a part of a vector is loaded by one instruction.
template <class S>
constexpr bool loads_parts =
    vector_bytes == 64 || (vector_bytes == 32 && sizeof(S) == sizeof(Accumulator<S>));

// Sums of a tile, and what is left of their last vector.
template <class T, int Rows, int Samples>
constexpr int64_t tile_sums = round_up(Rows * Samples, lanes<T>);

// sums[i * Samples + s] = sum over p of a[i * a_row + p] * b[s * b_row + p]; sums: `tile_sums`.
template <class S, int Rows, int Samples>
__attribute__((noinline)) void dot_rows(const S* a, int64_t a_row, const Accumulator<S>* b,
                                        int64_t b_row, int64_t depth, Accumulator<S>* sums) {
    using T = Accumulator<S>;
    constexpr int V = lanes<T>;
    alignas(vector_bytes) Vector<T> acc[Rows][Samples] = {};
    int64_t p = 0;
    for (; p + V <= depth; p += V) {
        Vector<T> W[Samples];
#pragma GCC unroll 4
        for (int s = 0; s < Samples; ++s) W[s] = load(b + s * b_row + p);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
            const Vector<T> row = load_widened(a + i * a_row + p);
#pragma GCC unroll 4
            for (int s = 0; s < Samples; ++s) acc[i][s] += row * W[s];
        }
    }
    if constexpr (loads_parts<S>) {
        if (p < depth) {
            Vector<T> W[Samples];
#pragma GCC unroll 4
            for (int s = 0; s < Samples; ++s) W[s] = load_first(b + s * b_row + p, depth - p);
#pragma GCC unroll 16
            for (int i = 0; i < Rows; ++i) {
                const Vector<T> row = load_first_widened(a + i * a_row + p, depth - p);
#pragma GCC unroll 4
                for (int s = 0; s < Samples; ++s) acc[i][s] += row * W[s];
            }
            p = depth;
        }
    }
    // Sums of lanes, as many at a time as a vector has lanes.
#pragma GCC unroll 8
    for (int first = 0; first < Rows * Samples; first += V) {
        Vector<T> block[V];
#pragma GCC unroll 16
        for (int i = 0; i < V; ++i) {
            const int at = first + i;
            block[i] = at < Rows * Samples ? acc[at / Samples][at % Samples] : Vector<T>{};
        }
        store(sums + first, sums_of_lanes<T>(block));
    }
    if (p == depth) return;
    for (int i = 0; i < Rows; ++i) {
        for (int s = 0; s < Samples; ++s) {
            for (int64_t q = p; q < depth; ++q)
                sums[i * Samples + s] += to_accumulator(a[i * a_row + q]) * b[s * b_row + q];
        }
    }
}

template <class S>
class FewWorker {
    using T = Accumulator<S>;
    using Plan = FewPlan<S>;

public:
    FewWorker(const Plan& plan, char* scratch) : plan_(plan), arena_{scratch} {
        const int64_t n = plan.n;
        z_inner_ = arena_.template take<T>(n * plan.inner.sum);
        z_outer_ = arena_.template take<T>(n * plan.outer.sum);
        W_ = arena_.template take<T>(n * plan.panel);
        H_ = arena_.template take<T>(n * few_l_chunk);
        x_ = arena_.template take<T>(n * plan.row_chunk);
        chunk_ = arena_.template take<T>(n * plan.row_chunk);
        if (plan.job.x_mean) {
            z_mean_ = arena_.template take<T>(n * plan.outer.sum);
            H_mean_ = arena_.template take<T>(n * few_l_chunk);
            x_mean_ = arena_.template take<T>(n * plan.row_chunk);
            chunk_mean_ = arena_.template take<T>(n * plan.row_chunk);
        }
        partial_ = arena_.template take<T>(plan.partial());
    }

    int64_t scratch_bytes() const { return arena_.used; }
    const T* partial() const { return partial_; }

    void run(int t) {
        plan_.for_each_part(
            t, [&](int64_t, int64_t first, int64_t last, int64_t l_first, int64_t l_last) {
                l_begin_ = l_first;
                l_end_ = l_last;
                gather();
                for (int64_t r = first; r < last; r += plan_.row_chunk) {
                    row0_ = r;
                    rows_ = min64(plan_.row_chunk, last - r);
                    sum_rows();
                    write(x_, plan_.job.x, 0);
                    if (x_mean_) write(x_mean_, plan_.job.x_mean, 1);
                }
            });
    }

    template <class Partial>
    void finish(const Partial& partial_of) {
        for (int t = 1; t < plan_.job.threads; ++t) {
            const T* from = partial_of(t);
            for (int64_t i = 0; i < plan_.partial(); ++i) partial_[i] += from[i];
        }
        const int64_t k_x = plan_.job.k_x;
        for (int64_t s = 0; s < plan_.n; ++s) {
            write_out(partial_ + s * k_x, plan_.job.x, s, 0, k_x);
            if (x_mean_) write_out(partial_ + (plan_.n + s) * k_x, plan_.job.x_mean, s, 0, k_x);
        }
    }

private:
    void gather() {
        for (int64_t s = 0; s < plan_.n; ++s) {
            gather_sample<S>(plan_.factors, plan_.inner, s, z_inner_ + s * plan_.inner.sum);
            if (plan_.outer.count == 0) continue;
            T* z = z_outer_ + s * plan_.outer.sum;
            gather_sample<S>(plan_.factors, plan_.outer, s, z);
            if (!x_mean_) continue;
            T* z_mean = z_mean_ + s * plan_.outer.sum;
            const int64_t k_1 = plan_.outer.extents[0];
            for (int64_t i = 0; i < plan_.outer.sum; ++i)
                z_mean[i] = i < k_1 ? T(1) / static_cast<T>(k_1) : z[i];
        }
    }

    // x of the rows [row0, row0 + rows).
    void sum_rows() {
        clear(x_);
        clear(chunk_);
        if (x_mean_) {
            clear(x_mean_);
            clear(chunk_mean_);
        }
        for (int64_t panel = 0; panel < plan_.panels; ++panel) {
            if (panel != panel_) form_panel(panel);
            for (l0_ = l_begin_; l0_ < l_end_; l0_ += few_l_chunk) {
                l_count_ = min64(few_l_chunk, l_end_ - l0_);
                form_hoisted(z_outer_, H_);
                if (x_mean_) form_hoisted(z_mean_, H_mean_);
                multiply();
                add(chunk_, x_);
                if (x_mean_) add(chunk_mean_, x_mean_);
            }
        }
    }

    void form_panel(int64_t panel) {
        panel_ = panel;
        p0_ = panel * plan_.panel;
        p_count_ = min64(plan_.panel, plan_.P - p0_);
        for (int64_t s = 0; s < plan_.n; ++s)
            synthesise(plan_.inner, z_inner_ + s * plan_.inner.sum, p0_, p0_ + p_count_,
                       W_ + s * plan_.panel);
    }

    void form_hoisted(const T* z, T* H) const {
        for (int64_t s = 0; s < plan_.n; ++s) {
            if (plan_.outer.count == 0) {
                H[s * few_l_chunk] = 1;
            } else {
                synthesise(plan_.outer, z + s * plan_.outer.sum, l0_, l0_ + l_count_,
                           H + s * few_l_chunk);
            }
        }
    }

    void multiply() {
        const int most = plan_.rows();
        if (plan_.along_hoisted) {
            for (int64_t r = 0; r < rows_; ++r) {
                for (int64_t l = 0; l < l_count_;) {
                    const int rows = rows_at_once(l_count_ - l, most);
                    multiply_rows(r, l, rows);
                    l += rows;
                }
            }
            return;
        }
        for (int64_t r = 0; r < rows_;) {
            const int rows = rows_at_once(rows_ - r, most);
            for (int64_t l = 0; l < l_count_; ++l) multiply_rows(r, l, rows);
            r += rows;
        }
    }

    // A tile's rows begin at (r, l) and lie along the outputs or the hoisted indices.
    void multiply_rows(int64_t r, int64_t l, int rows) {
        const int64_t row_stride = plan_.along_hoisted ? plan_.hoisted_stride : plan_.output_stride;
        const S* core = static_cast<const S*>(plan_.job.core) + (row0_ + r) * plan_.output_stride +
                        (l0_ + l) * plan_.hoisted_stride + p0_;
        const int most = static_cast<int>(min64(plan_.n, few_at_once));
        const auto run = [&]<int Most, int Samples>(int64_t s) {
            const auto run_rows = [&]<int Rows>() {
                T sums[tile_sums<T, Rows, Samples>];
                dot_rows<S, Rows, Samples>(core, row_stride, W_ + s * plan_.panel, plan_.panel,
                                           p_count_, sums);
                fold<Rows, Samples>(sums, r, l, s, H_, chunk_);
                if (x_mean_) fold<Rows, Samples>(sums, r, l, s, H_mean_, chunk_mean_);
            };
            if constexpr (short_row > 0) {
                if (plan_.is_short) return with_rows<few_rows(Most, true)>(rows, run_rows);
            }
            with_rows<few_rows(Most, false)>(rows, run_rows);
        };
        for (int64_t s = 0; s < plan_.n;) {
            const int samples = static_cast<int>(min64(most, plan_.n - s));
            if (most == 1) {
                run.template operator()<1, 1>(s);
            } else if (most == 2) {
                run.template operator()<2, 2>(s);
            } else if (most == 3) {
                run.template operator()<3, 3>(s);
            } else if (samples == 1) {
                run.template operator()<4, 1>(s);
            } else if (samples == 2) {
                run.template operator()<4, 2>(s);
            } else if (samples == 3) {
                run.template operator()<4, 3>(s);
            } else {
                run.template operator()<4, 4>(s);
            }
            s += samples;
        }
    }

    template <int Rows, int Samples>
    void fold(const T* __restrict sums, int64_t r, int64_t l, int64_t s, const T* __restrict H,
              T* __restrict x) const {
        for (int j = 0; j < Samples; ++j) {
            const T* scale = H + (s + j) * few_l_chunk + l;
            T* to = x + (s + j) * plan_.row_chunk + r;
            if (plan_.along_hoisted) {
                for (int i = 0; i < Rows; ++i) to[0] += scale[i] * sums[i * Samples + j];
            } else {
                for (int i = 0; i < Rows; ++i) to[i] += scale[0] * sums[i * Samples + j];
            }
        }
    }

    void clear(T* x) const {
        for (int64_t i = 0; i < plan_.n * plan_.row_chunk; ++i) x[i] = 0;
    }

    void add(T* from, T* to) const {
        for (int64_t i = 0; i < plan_.n * plan_.row_chunk; ++i) {
            to[i] += from[i];
            from[i] = 0;
        }
    }

    void write(const T* x, void* out, int64_t output) const {
        for (int64_t s = 0; s < plan_.n; ++s) {
            const T* from = x + s * plan_.row_chunk;
            if (plan_.l_parts > 1) {
                T* to = partial_ + (output * plan_.n + s) * plan_.job.k_x + row0_;
                for (int64_t r = 0; r < rows_; ++r) to[r] = from[r];
            } else {
                write_out(from, out, s, row0_, rows_);
            }
        }
    }

    // Rows [r, r + rows) of one sample.
    void write_out(const T* from, void* out, int64_t s, int64_t r, int64_t rows) const {
        S* to = static_cast<S*>(out);
        if (!plan_.job.split.transposed)
            return narrow(from, to + s * plan_.job.row_stride() + r, rows);
        for (int64_t i = 0; i < rows; ++i) round_to(from[i], to + (r + i) * plan_.n + s);
    }

    const Plan& plan_;
    Arena arena_;
    T* z_inner_;  // [n][inner.sum]
    T* z_outer_;  // [n][outer.sum]
    T* z_mean_ = nullptr;
    T* W_;  // [n][panel]
    T* H_;  // [n][few_l_chunk]
    T* H_mean_ = nullptr;
    T* x_;  // [n][row_chunk]
    T* x_mean_ = nullptr;
    T* chunk_;  // [n][row_chunk], the sum of one chunk of hoisted indices
    T* chunk_mean_ = nullptr;
    T* partial_;  // [output][n][k_x]
    int64_t panel_ = -1, p0_, p_count_;
    int64_t l_begin_, l_end_, l0_, l_count_;
    int64_t row0_, rows_;
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
