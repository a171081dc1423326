// dcore[q, p] (+)= sum_s A[s, q] W[s, p],   A[s, q] = H[s, l] G[s, r] + H_mean[s, l] G_mean[s, r]
//
// for the rows q = (r, l) of the core, H the synthesis of the hoisted factors (1 for none), W that
// of the others. With G_mean the leading factor is hoisted, so both outputs cost one product.
//
// A thread forms W for a block of samples and a panel of columns once, then writes the panel for
// all rows. Where the samples do not fit one block, later blocks add to what the first one wrote.
//
// Or the gradient is not written at all: an optimizer's step for the core takes it, tile by tile.

#include "division.h"
#include "joined_grad.h"
#include "optimizer_step.h"
#include "parallel.h"
#include "projection.h"
#include "sample.h"
#include "tile.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t panel_budget = 40960;  // elements of W
// The same for a step, which is the faster the longer the parts of rows are that it takes at a
// time.
constexpr int64_t step_budget = int64_t(1) << 20;
constexpr int64_t step_columns = 16384;
constexpr int64_t step_held = 98304;  // elements of the gradient, formed before the step takes them
constexpr int64_t packed_budget = 4096;  // elements of A
constexpr int64_t packed_rows = 16;      // rows of the core whose A is formed at a time
static_assert(packed_budget / packed_rows == most_step_samples);
constexpr int64_t panel_unit = 48;  // a multiple of the tile's width at every level
// Rows that take as long as to form W of a panel, which every thread does that has some of it.
constexpr int64_t panel_start = 16;
// Fewer panels than threads are made narrower rather than that a thread has fewer rows of one.
constexpr int64_t least_rows = 64;
// Results larger than this do not stay in the caches anyway and are written past them.
constexpr int64_t cached_bytes = int64_t(16) << 20;

template <class S>
struct Plan {
    using T = Accumulator<S>;

    const ProjectionCoreGrad& job;
    const Factors& factors;
    int64_t Q, P;  // rows and columns of the core
    Grouping inner;
    JoinedGrad<S> joined;
    int64_t block;  // samples
    int64_t blocks;
    int64_t panel;
    int64_t panels;
    bool steps;
    int64_t step_rows;  // whose gradients are held for a step
    bool past_caches;

    explicit Plan(const ProjectionCoreGrad& job_, bool steps_ = false)
        : job(job_),
          factors(job_.factors),
          Q(job_.k_x * product_of_extents(factors, 0, job_.split.hoisted)),
          inner(factors, job_.split.hoisted, job_.split.hoisted),
          joined(job_.grad, job_.grad_mean, job_.k_x, factors, job_.split.hoisted) {
        steps = steps_;
        P = inner.extent;
        block = min64(packed_budget / packed_rows, factors.n);
        blocks = ceil_div(factors.n, block);
        block = ceil_div(factors.n, blocks);
        int64_t columns = panel_budget / block;
        if (steps) columns = min64(step_columns, step_budget / block);
        const int64_t most = max64(panel_unit, columns / panel_unit * panel_unit);
        panels = ceil_div(P, most);
        // Of a step threads share the rows alone: parts of one row, read and written in the caches
        // of several threads, would be fetched to and fro.
        if (!steps && P >= 4 * panel_unit * job.threads)
            panels = round_up(panels, job.threads);
        else if (!steps && panels < job.threads)
            panels = max64(panels, min64(min64(ceil_div(P, 2 * panel_unit), job.threads),
                                         ceil_div(least_rows * job.threads, Q)));
        panel = round_up(ceil_div(P, panels), panel_unit);
        panels = ceil_div(P, panel);
        step_rows = max64(tile_rows(square_tile), step_held / panel / packed_rows * packed_rows);
        const char* base = static_cast<const char*>(job.core_grad);
        past_caches = !steps && !job.accumulate && blocks == 1 && sizeof(S) == sizeof(T) &&
                      P % lanes<T> == 0 && Q * P * static_cast<int64_t>(sizeof(S)) > cached_bytes &&
                      reinterpret_cast<uintptr_t>(base) % vector_bytes == 0;
    }

    // Calls body(panel, first, last) for the rows from the first to before the last that thread t
    // writes of each panel, for every block of samples.
    template <class Body>
    void for_each_part(int t, const Body& body) const {
        Strips(Q, round_up(P, lanes<T>), panel, job.threads, packed_rows, panel_start)
            .for_each(t, body);
    }

    int64_t samples_of(int64_t index) const { return min64(block, factors.n - index * block); }
};

template <class S>
class Worker {
    using T = Accumulator<S>;
    static constexpr int width = tile_width<T>;

public:
    Worker(const Plan<S>& plan, char* scratch, const StepOf<S>* step = nullptr)
        : plan_(plan), step_(step), arena_{scratch} {
        W_ = arena_.template take<T>(plan.block * plan.panel);
        z_ = arena_.template take<T>(plan.inner.sum);
        y_ = arena_.template take<T>(plan.panel);
        A_ = arena_.template take<T>(plan.block * packed_rows);
        if (plan.steps) D_ = arena_.template take<T>(plan.step_rows * plan.panel);
    }

    int64_t scratch_bytes() const { return arena_.used; }

    void run(int t) {
        for (int64_t block = 0; block < plan_.blocks; ++block) {
            s0_ = block * plan_.block;
            samples_ = plan_.samples_of(block);
            add_ = plan_.job.accumulate || block > 0;
            plan_.for_each_part(t, [&](int64_t panel, int64_t first, int64_t last) {
                write_part(panel, first, last);
            });
        }
        if (plan_.past_caches) finish_stores();
    }

private:
    void write_part(int64_t panel, int64_t first, int64_t last) {
        p0_ = panel * plan_.panel;
        columns_ = min64(plan_.panel, plan_.P - p0_);
        form_panel();
        for (int64_t r = first; r < last; r += packed_rows)
            write_rows(r, min64(packed_rows, last - r), last);
    }

    // W, tile by tile: [tile][sample][width], the last tile padded with zeros.
    void form_panel() {
        for (int64_t s = 0; s < samples_; ++s) {
            gather_sample<S>(plan_.factors, plan_.inner, s0_ + s, z_);
            synthesise(plan_.inner, z_, p0_, p0_ + columns_, y_);
            for (int64_t p = columns_; p < round_up(columns_, width); ++p) y_[p] = 0;
            for (int64_t p = 0; p < columns_; p += width) {
                std::memcpy(W_ + (p / width * samples_ + s) * width, y_ + p, width * sizeof(T));
            }
        }
    }

    // A for rows [q, q + rows): [sample][packed_rows]
    void pack(int64_t q, int64_t rows) {
        if (rows < packed_rows) {
            for (int64_t i = 0; i < samples_ * packed_rows; ++i) A_[i] = 0;
        }
        plan_.joined.form(s0_, samples_, q, q + rows, A_, packed_rows);
    }

    void write_rows(int64_t r, int64_t rows, int64_t last) {
        pack(r, rows);
        for (int64_t i = 0; i < rows;) {
            const int here = rows_at_once(rows - i, tile_rows(square_tile));
            with_rows<tile_rows(square_tile)>(
                here, [&]<int Rows>() { write_tiles<Rows>(r + i, A_ + i, last); });
            i += here;
            if (!step_) continue;
            held_ += here;
            if (held_ + tile_rows(square_tile) > plan_.step_rows || r + i == last)
                take_step(r + i - held_);
        }
    }

    // For the rows from r on whose gradients are held.
    void take_step(int64_t r) {
        for (int64_t i = 0; i < held_; ++i)
            step_->take(D_ + i * plan_.panel, (r + i) * plan_.P + p0_, columns_);
        held_ = 0;
    }

    template <int Rows>
    void write_tiles(int64_t r, const T* A, int64_t last) {
        for (int64_t p = 0; p < columns_; p += width) {
            const int64_t left = columns_ - p;
            if (left >= width) {
                write_tile<Rows, square_tile>(r, p, A, last);
            } else {
                const int vectors = static_cast<int>(ceil_div(left, lanes<T>));
                with_rows<square_tile>(
                    vectors, [&]<int Vectors>() { write_tile<Rows, Vectors>(r, p, A, last); });
            }
        }
    }

    // Rows from r on, of which `last` is no more this thread's, and columns from p on.
    template <int Rows, int Vectors>
    void write_tile(int64_t r, int64_t p, const T* A, int64_t last) {
        constexpr int64_t here = Vectors * lanes<T>;
        const int64_t K = plan_.P, count = columns_ - p;
        S* to = static_cast<S*>(plan_.job.core_grad) + r * K + p0_ + p;
        const TileInput<T> in{A, 1, packed_rows, W_ + p * samples_, width, samples_};
        // What a row's last vector writes beyond its end, the rows after it write over.
        if (step_) {
            T* D = D_ + held_ * plan_.panel + p;
            tile_in_place<T, Rows, Vectors, Prefetch::none>(
                in, [D, stride = plan_.panel](int i, int c, Vector<T> sum) {
                    store(D + i * stride + c, sum);
                });
            return;
        }
        const bool over = columns_ == K && p == 0 && !add_ && (r + Rows - 1) * K + here <= last * K;
        if (count < here && !over) {
            T sums[Rows * here];
            tile_in_place<T, Rows, Vectors, Prefetch::none>(
                in, [to = sums](int i, int c, Vector<T> sum) { store(to + i * here + c, sum); });
            for (int i = 0; i < Rows; ++i) finish_row(sums + i * here, to + i * K, count);
        } else if (plan_.past_caches) {
            if constexpr (sizeof(S) == sizeof(T)) {
                tile_in_place<T, Rows, Vectors, Prefetch::none>(
                    in, [to, K](int i, int c, Vector<T> sum) {
                        store_past_caches(to + i * K + c, sum);
                    });
            }
        } else if (add_) {
            for (int i = 0; i < Rows; ++i) {
                for (int c = 0; c < Vectors; ++c) __builtin_prefetch(to + i * K + c * lanes<T>, 1);
            }
            tile_in_place<T, Rows, Vectors, Prefetch::none>(
                in, [to, K](int i, int c, Vector<T> sum) {
                    store_narrowed(to + i * K + c, load_widened(to + i * K + c) + sum);
                });
        } else {
            tile_in_place<T, Rows, Vectors, Prefetch::none>(
                in, [to, K](int i, int c, Vector<T> sum) { store_narrowed(to + i * K + c, sum); });
        }
    }

    void finish_row(T* sums, S* to, int64_t count) const {
        if (add_) {
            for (int64_t i = 0; i < count; ++i) sums[i] += to_accumulator(to[i]);
        }
        narrow(sums, to, count);
    }

    const Plan<S>& plan_;
    const StepOf<S>* step_;  // null: the gradient is written
    Arena arena_;
    T* W_;  // [panel / width][samples][width]
    T* z_;  // [sum]
    T* y_;  // [panel]
    T* A_;  // [samples][packed_rows]
    T* D_;  // [step_rows][panel]
    bool add_;
    int64_t held_ = 0;  // rows of D
    int64_t s0_, samples_;
    int64_t p0_, columns_;
};

void add_parts(const ProjectionCoreGrad& job, bool steps, PartList& parts) {
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        const Plan<S> plan(job, steps);
        for (int64_t block = 0; block < plan.blocks; ++block) {
            const int64_t s0 = block * plan.block;
            for (int t = 0; t < job.threads; ++t) {
                plan.for_each_part(t, [&](int64_t panel, int64_t first, int64_t last) {
                    const int64_t p0 = panel * plan.panel;
                    add_part(parts, {0,
                                     t,
                                     {s0, s0 + plan.samples_of(block)},
                                     {first, last},
                                     {0, 1},
                                     {p0, min64(p0 + plan.panel, plan.P)}});
                });
            }
        }
    });
}

template <class S>
int64_t bytes_of_thread(const Plan<S>& plan) {
    return Worker<S>(plan, nullptr).scratch_bytes();
}

int64_t scratch_of(const ProjectionCoreGrad& job, bool steps) {
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        bytes = job.threads * bytes_of_thread(Plan<S>(job, steps));
    });
    return bytes;
}

template <class S>
void run_worker(const Plan<S>& plan, const StepOf<S>* step) {
    const int64_t bytes = bytes_of_thread(plan);
    parallel_for_threads(plan.job.threads, [&](int t) {
        Worker<S>(plan, static_cast<char*>(plan.job.scratch) + t * bytes, step).run(t);
    });
}

}  // namespace

int64_t projection_core_grad_scratch(const ProjectionCoreGrad& job) {
    return scratch_of(job, false);
}

void projection_core_grad(const ProjectionCoreGrad& job) {
    with_storage_type(job.factors.dtype, [&]<class S>(S) { run_worker<S>(Plan<S>(job), nullptr); });
}

void divide_core_grad(const ProjectionCoreGrad& job, PartList& parts) {
    add_parts(job, false, parts);
}

int64_t projection_core_step_scratch(const ProjectionCoreStep& job) {
    return scratch_of(job, true);
}

void projection_core_step(const ProjectionCoreStep& job) {
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        const StepOf<S> step(job.step);
        run_worker<S>(Plan<S>(job, true), &step);
    });
}

void divide_core_step(const ProjectionCoreStep& job, PartList& parts) {
    add_parts(job, true, parts);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
