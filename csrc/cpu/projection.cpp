// x = core_(1) (z_1 (x) ... (x) z_M), the product never formed for the batch.
//
// With the leading factors hoisted, L their product and P the rest (K = L P), for each sample
//   x[r] = sum_l H[l] * sum_p core[r, l, p] W[p],   x_mean[r] = sum_l H_mean[l] * (the same inner
//   sum)
// H: synthesis of the hoisted factors, H_mean: with z_1 := 1/k_1, W: synthesis of the others.
//
// Samples lie side by side in the lanes of a vector, in slabs of at most 64. A thread keeps a panel
// of W for a slab in its cache, streams rows of the core past it and folds every inner sum into x
// with H.

#include "projection.h"

#include "parallel.h"
#include "projection_plan.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

template <class S, bool Pairs>
class Worker {
    using T = Accumulator<S>;
    static constexpr int V = lanes<T>;

public:
    Worker(const ProjectionPlan<S, Pairs>& plan, char* scratch) : plan_(plan), arena_{scratch} {
        if (plan.gathered) columns_ = arena_.template take<T>(plan.inner.sum * plan.slab);
        prefix_ = arena_.template take<T>(plan.slab);
        pair_ = arena_.template take<T>(2 * plan.slab);
        W_ = arena_.template take<T>((Pairs ? ceil_div(plan.panel, 2) : plan.panel) * plan.slab);
        H_ = arena_.template take<T>(plan.l_chunk * plan.slab);
        x_ = arena_.template take<T>(plan.row_chunk * plan.slab);
        if (plan.job.x_mean) {
            H_mean_ = arena_.template take<T>(plan.l_chunk * plan.slab);
            x_mean_ = arena_.template take<T>(plan.row_chunk * plan.slab);
        }
        if (plan.l_chunks > 1) {
            whole_x_ = arena_.template take<T>(plan.row_chunk * plan.slab);
            if (x_mean_) whole_x_mean_ = arena_.template take<T>(plan.row_chunk * plan.slab);
        }
        if (widens<S, Pairs>) rows_ = arena_.template take<T>(widened_rows * plan.panel);
    }

    int64_t scratch_bytes() const { return arena_.used; }

    void run(int t) {
        const int64_t items = plan_.slabs * plan_.row_chunks;
        for (int64_t item = items * t / plan_.job.threads;
             item < items * (t + 1) / plan_.job.threads; ++item) {
            chunk(item / plan_.row_chunks, item % plan_.row_chunks);
        }
    }

private:
    // x of one chunk of rows and one slab of samples.
    void chunk(int64_t slab, int64_t row_chunk) {
        if (slab != slab_) start_slab(slab);
        row0_ = row_chunk * plan_.row_chunk;
        rows_here_ = min64(plan_.row_chunk, plan_.job.k_x - row0_);
        clear(x_);
        if (x_mean_) clear(x_mean_);
        if (whole_x_) clear(whole_x_);
        if (whole_x_mean_) clear(whole_x_mean_);
        // Neighbouring chunks go through the blocks in opposite directions, so that W and H stay
        // for the first.
        const int64_t blocks = plan_.l_chunks * plan_.panels;
        const bool backwards = block_ == blocks - 1;
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t block = backwards ? blocks - 1 - i : i;
            if (block != block_) start_block(block);
            multiply();
            if (whole_x_) move_sums(x_, whole_x_);
            if (whole_x_mean_) move_sums(x_mean_, whole_x_mean_);
        }
        write(whole_x_ ? whole_x_ : x_, plan_.job.x);
        if (x_mean_) write(whole_x_mean_ ? whole_x_mean_ : x_mean_, plan_.job.x_mean);
    }

    void start_slab(int64_t slab) {
        slab_ = slab;
        block_ = -1;
        s0_ = slab * most_slab;
        samples_ = min64(most_slab, plan_.factors.n - s0_);
        width_ = round_up(samples_, slab_unit);
        vectors_ = wide_tile;
        while (width_ / V % vectors_) --vectors_;
        if (!plan_.gathered) return;
        // Tail-merged columns are formed sample by sample in W_, which is free at this point.
        const int64_t sum = plan_.inner.sum;
        for (int64_t s = 0; s < width_; ++s) {
            T* z = W_;
            if (s < samples_) gather_sample<S>(plan_.factors, plan_.inner, s0_ + s, z);
            for (int64_t k = 0; k < sum; ++k) columns_[k * width_ + s] = s < samples_ ? z[k] : 0;
        }
    }

    void start_block(int64_t block) {
        block_ = block;
        l0_ = block / plan_.panels * plan_.l_chunk;
        l_count_ = min64(plan_.l_chunk, plan_.L - l0_);
        p0_ = block % plan_.panels * plan_.panel;
        p_count_ = min64(plan_.panel, plan_.P - p0_);
        form_hoisted();
        form_panel();
    }

    // to[s] = 1 for the samples of the slab, zero for the lanes behind them.
    void start_column(T* to) const {
        for (int64_t s = 0; s < samples_; ++s) to[s] = 1;
        for (int64_t s = samples_; s < width_; ++s) to[s] = 0;
    }
    // to[s] *= z_m[s, i]
    void multiply_by_column(int m, int64_t i, T* to) const {
        const Matrix& z = plan_.factors.items[m].values;
        for (int64_t s = 0; s < samples_; ++s) to[s] *= element<S>(z, s0_ + s, i);
    }
    // The same for index i of the inner group's factor `place`.
    void multiply_by_inner(int place, int64_t i, T* to) const {
        plan_.inner.for_each_part(plan_.factors, place, i,
                                  [&](int m, int64_t own) { multiply_by_column(m, own, to); });
    }

    void form_hoisted() {
        for (int64_t l = 0; l < l_count_; ++l) {
            T* H = H_ + l * width_;
            start_column(H);
            split_factor_index(plan_.factors, 0, plan_.hoisted, l0_ + l, [&](int m, int64_t i) {
                if (m == 0 && H_mean_) {
                    const T part = T(1) / static_cast<T>(plan_.factors.items[0].extent);
                    for (int64_t s = 0; s < width_; ++s) H_mean_[l * width_ + s] = part * H[s];
                }
                multiply_by_column(m, i, H);
            });
        }
    }

    void form_panel() {
        const Grouping& g = plan_.inner;
        const int last = g.count - 1;
        for_each_segment(g.extents, g.count, p0_, p0_ + p_count_,
                         [&](const SegmentIndex& at, int64_t offset, int64_t length) {
                             if (last > 0) form_prefix(at);
                             for (int64_t j = 0; j < length; ++j) {
                                 const int64_t p = offset + j;
                                 T* to = Pairs ? pair_ + p % 2 * width_ : W_ + p * width_;
                                 const T* from = to;
                                 if (plan_.gathered) {
                                     from = columns_ +
                                            (g.sum - g.extents[last] + at.last + j) * width_;
                                 } else {
                                     start_column(to);
                                     multiply_by_inner(last, at.last + j, to);
                                 }
                                 if (last > 0) {
                                     for (int64_t s = 0; s < width_; s += V)
                                         store(to + s, load(prefix_ + s) * load(from + s));
                                 } else if (from != to) {
                                     for (int64_t s = 0; s < width_; s += V)
                                         store(to + s, load(from + s));
                                 }
                                 if constexpr (Pairs) {
                                     if (p + 1 == p_count_ && p % 2 == 0) {
                                         for (int64_t s = 0; s < width_; ++s) pair_[width_ + s] = 0;
                                     }
                                     if (p + 1 == p_count_ || p % 2) store_pair(p / 2);
                                 }
                             }
                         });
    }

    void form_prefix(const SegmentIndex& at) {
        const Grouping& g = plan_.inner;
        int64_t start = 0;
        if (!plan_.gathered) {
            start_column(prefix_);
            for (int m = 0; m < g.count - 1; ++m) multiply_by_inner(m, at.prefix[m], prefix_);
            return;
        }
        for (int m = 0; m < g.count - 1; ++m) {
            const T* from = columns_ + (start + at.prefix[m]) * width_;
            for (int64_t s = 0; s < width_; s += V) {
                store(prefix_ + s, m == 0 ? load(from + s) : load(prefix_ + s) * load(from + s));
            }
            start += g.extents[m];
        }
    }

    void store_pair([[maybe_unused]] int64_t pair) {
#if defined(NTENSOR_PAIRS)
        if constexpr (Pairs) {
            uint32_t* to = reinterpret_cast<uint32_t*>(W_) + pair * width_;
            for (int64_t s = 0; s < width_; ++s) {
                bfloat16 first, second;
                round_to(pair_[s], &first);
                round_to(pair_[width_ + s], &second);
                to[s] = first.bits | static_cast<uint32_t>(second.bits) << 16;
            }
        }
#endif
    }

    // x += H * (core W) for the rows, hoisted indices and inner indices at hand.
    void multiply() {
        for (int64_t r = 0; r < rows_here_;) {
            const int rows = rows_at_once(rows_here_ - r, rows_of<Pairs>(vectors_));
            for (int64_t l = 0; l < l_count_; ++l) multiply_rows(r, rows, l);
            r += rows;
        }
    }

    void multiply_rows(int64_t r, int rows, int64_t l) {
        const int64_t K = plan_.L * plan_.P;
        const S* core =
            static_cast<const S*>(plan_.job.core) + (row0_ + r) * K + (l0_ + l) * plan_.P + p0_;
        // The rows go on at the next hoisted index, and behind the last one with the next rows.
        const S* const next_rows = core - l * plan_.P + rows * K;
        const Walk<S> walk = plan_.panels == 1  ? Walk<S>{(l_count_ - l) * plan_.P, next_rows}
                             : l + 1 < l_count_ ? Walk<S>{p_count_, core + plan_.P}
                                                : Walk<S>{p_count_, next_rows};
        if constexpr (widens<S, Pairs>) {
            for (int i = 0; i < rows; ++i) {
                widen(core + i * K, rows_ + i * plan_.panel, p_count_);
            }
        }
        for (int64_t s = 0; s < width_; s += vectors_ * V) {
            const T* H = H_ + l * width_ + s;
            const T* H_mean = x_mean_ ? H_mean_ + l * width_ + s : nullptr;
            T* x = x_ + r * width_ + s;
            T* x_mean = x_mean_ ? x_mean_ + r * width_ + s : nullptr;
            const auto run = [&](auto fold) {
                switch (vectors_) {
                    case 1:
                        return columns<1>(core, walk, rows, s, fold);
                    case 2:
                        return columns<2>(core, walk, rows, s, fold);
                    case 3:
                        return columns<min64(3, wide_tile)>(core, walk, rows, s, fold);
                    default:
                        return columns<min64(4, wide_tile)>(core, walk, rows, s, fold);
                }
            };
            const auto fold_x = [x, H, width = width_](int i, int c, Vector<T> sum) {
                T* to = x + i * width + c;
                store(to, load(to) + load(H + c) * sum);
            };
            if (x_mean) {
                run([fold_x, x_mean, H_mean, width = width_](int i, int c, Vector<T> sum) {
                    fold_x(i, c, sum);
                    T* to = x_mean + i * width + c;
                    store(to, load(to) + load(H_mean + c) * sum);
                });
            } else {
                run(fold_x);
            }
        }
    }

    template <int Vectors, class Fold>
    void columns(const S* core, const Walk<S>& walk, int rows, int64_t s, Fold fold) {
        const int64_t K = plan_.L * plan_.P;
        with_rows<rows_of<Pairs>(Vectors)>(rows, [&]<int Rows>() {
#if defined(NTENSOR_PAIRS)
            if constexpr (Pairs) {
                tile_of_pairs<Rows, Vectors>(core, K, reinterpret_cast<const uint32_t*>(W_) + s,
                                             width_, p_count_, walk, fold);
                return;
            }
#endif
            if constexpr (widens<S, Pairs>) {
                tile<T, Rows, Vectors, Prefetch::none>(
                    {rows_, plan_.panel, 1, W_ + s, width_, p_count_}, fold);
            } else if constexpr (!Pairs) {
                tile<T, Rows, Vectors, Prefetch::rows_of_a>(
                    {core, K, 1, W_ + s, width_, p_count_, walk}, fold);
            }
        });
    }

    void clear(T* x) const {
        for (int64_t i = 0; i < rows_here_ * width_; ++i) x[i] = 0;
    }

    void move_sums(T* from, T* to) const {
        for (int64_t i = 0; i < rows_here_ * width_; ++i) {
            to[i] += from[i];
            from[i] = 0;
        }
    }

    void write(const T* x, void* out) const {
        constexpr int64_t piece = 64;
        T row[piece];
        for (int64_t s = 0; s < samples_; ++s) {
            S* to = static_cast<S*>(out) + (s0_ + s) * plan_.job.k_x + row0_;
            for (int64_t r = 0; r < rows_here_; r += piece) {
                const int64_t count = min64(piece, rows_here_ - r);
                for (int64_t i = 0; i < count; ++i) row[i] = x[(r + i) * width_ + s];
                narrow(row, to + r, count);
            }
        }
    }

    const ProjectionPlan<S, Pairs>& plan_;
    Arena arena_;
    T* columns_ = nullptr;  // [inner.sum][width]
    T* prefix_;             // [width]
    T* pair_;               // [2][width]
    T* W_;                  // [panel][width], or pairs of bfloat16 [panel / 2][width]
    T* H_;                  // [l_chunk][width]
    T* H_mean_ = nullptr;
    T* x_;  // [row_chunk][width]
    T* x_mean_ = nullptr;
    T* whole_x_ = nullptr;  // [row_chunk][width], the chunks of hoisted indices together
    T* whole_x_mean_ = nullptr;
    T* rows_ = nullptr;  // [widened_rows][panel]
    int64_t slab_ = -1, block_ = -1;
    int64_t s0_, samples_, width_;
    int vectors_;  // of a tile: the most that divide the width
    int64_t l0_, l_count_, p0_, p_count_;
    int64_t row0_, rows_here_;
};

// Calls body with a worker's template arguments for the job: its storage type and whether in pairs.
template <class Body>
void with_worker_type(const Projection& job, const Body& body) {
    const int64_t last = job.factors.items[job.factors.count - 1].extent;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        if constexpr (in_pairs<S>) {
            if (last >= least_extent_of_pairs) return body.template operator()<S, true>();
        }
        body.template operator()<S, false>();
    });
}

}  // namespace

int64_t projection_scratch(const Projection& job) {
    int64_t bytes = 0;
    with_worker_type(job, [&]<class S, bool Pairs>() {
        const ProjectionPlan<S, Pairs> plan(job);
        bytes = job.threads * Worker<S, Pairs>(plan, nullptr).scratch_bytes();
    });
    return bytes;
}

void projection(const Projection& job) {
    with_worker_type(job, [&]<class S, bool Pairs>() {
        const ProjectionPlan<S, Pairs> plan(job);
        const int64_t bytes = Worker<S, Pairs>(plan, nullptr).scratch_bytes();
        parallel_for_threads(job.threads, [&](int t) {
            Worker<S, Pairs>(plan, static_cast<char*>(job.scratch) + t * bytes).run(t);
        });
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
