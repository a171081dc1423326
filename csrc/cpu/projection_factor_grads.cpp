// dz_m for every factor in one pass over the core, core_(1)^T G never formed for the batch.
//
// For each sample s and column p of the core, D[s, p] = sum_r G[s, r] core[r, p] = dL/dy[s, p], and the gradients
// follow from D segment by segment (math/synthesis.h). G_mean gives a second row of D for the sample, folded with
// z_1 := 1/k_1 and without a gradient for z_1.
//
// A thread holds D for one slab of samples and one panel of columns in its cache, streams the core's rows past it,
// folds the finished panel into its own sums, and the threads' sums are added in their order.

#include "factors.h"
#include "parallel.h"
#include "projection.h"
#include "tile.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t panel_budget = 36864;    // elements of D
constexpr int64_t factors_budget = 12288;  // elements of the gathered factors, and again of their gradients
constexpr int64_t row_block = 64;          // rows of the core between two updates of D
constexpr int64_t panel_unit = 48;         // a multiple of the tile's width at every level

template <class T>
constexpr int tile_width = square_tile * lanes<T>;

template <class S>
struct Plan {
    using T = Accumulator<S>;

    const ProjectionFactorGrads& job;
    const Factors& factors;
    bool both;         // rows of D for G and for G_mean
    Grouping group;
    int64_t K;
    int64_t slab;      // samples
    int64_t slabs;
    int64_t virtual_rows;  // rows of D and of G: one or two a sample
    int64_t panel;
    int64_t panels;
    bool slabs_apart;  // each thread has slabs of its own; else all share every slab and divide the panels

    explicit Plan(const ProjectionFactorGrads& job_)
        : job(job_),
          factors(job_.factors),
          both(job_.grad.data && job_.grad_mean.data),
          group(factors, 0, job_.grad_mean.data ? 1 : 0),
          K(group.extent) {
        const int64_t rows_a_sample = both ? 2 : 1;
        slab = min64(most_slab, max64(1, factors_budget / (group.sum * rows_a_sample)));
        slabs = ceil_div(factors.n, slab);
        slab = ceil_div(factors.n, slabs);
        virtual_rows = slab * rows_a_sample;
        slabs_apart = slabs >= 2 * job.threads;
        const int64_t divisor = slabs_apart ? 1 : job.threads;
        const int64_t most = max64(panel_unit, panel_budget / virtual_rows / panel_unit * panel_unit);
        panels = round_up(ceil_div(K, most), divisor);
        panel = round_up(ceil_div(K, panels), panel_unit);
        panels = ceil_div(K, panel);
    }

    // Rows of G are read where they lie, unless they must be widened or collected.
    bool reads_grad_in_place() const {
        return sizeof(S) == sizeof(T) && !both && main_grad().col_stride == 1;
    }
    const Matrix& main_grad() const { return job.grad.data ? job.grad : job.grad_mean; }
};

template <class S>
class Worker {
    using T = Accumulator<S>;

public:
    Worker(const Plan<S>& plan, char* scratch) : plan_(plan), arena_{scratch} {
        D_ = arena_.template take<T>(plan.virtual_rows * plan.panel);
        z_ = arena_.template take<T>(plan.virtual_rows * plan.group.sum);
        dz_ = arena_.template take<T>(plan.slab * plan.group.sum);
        G_ = plan.reads_grad_in_place() ? nullptr : arena_.template take<T>(plan.virtual_rows * row_block);
        core_ = arena_.template take<T>(row_block * tile_width<T>);
    }

    int64_t scratch_bytes() const { return arena_.used; }

    void select(int64_t slab) {
        s0_ = slab * plan_.slab;
        samples_ = min64(plan_.slab, plan_.factors.n - s0_);
        rows_ = plan_.both ? 2 * samples_ : samples_;
    }

    void start() {
        const int64_t sum = plan_.group.sum;
        for (int64_t row = 0; row < rows_; ++row) {
            T* z = z_ + row * sum;
            gather_sample<S>(plan_.factors, plan_.group, s0_ + row % samples_, z);
            if (of_mean(row)) {
                const int64_t k = plan_.group.extents[0];
                for (int64_t i = 0; i < k; ++i) z[i] = T(1) / static_cast<T>(k);
            }
        }
        for (int64_t i = 0; i < samples_ * sum; ++i) dz_[i] = 0;
    }

    void add_panel(int64_t index) {
        c0_ = index * plan_.panel;
        columns_ = min64(plan_.panel, plan_.K - c0_);
        for (int64_t i = 0; i < rows_ * plan_.panel; ++i) D_[i] = 0;
        for (int64_t r = 0; r < plan_.job.k_x; r += row_block) {
            multiply(r, min64(row_block, plan_.job.k_x - r));
        }
        for (int64_t row = 0; row < rows_; ++row) {
            add_factor_grads(plan_.group, z_ + row * plan_.group.sum, D_ + row * plan_.panel, c0_, c0_ + columns_,
                             of_mean(row), dz_ + row % samples_ * plan_.group.sum);
        }
    }

    void add_sums_of(const Worker& other) {
        for (int64_t i = 0; i < samples_ * plan_.group.sum; ++i) dz_[i] += other.dz_[i];
    }

    void write() const {
        for (int64_t s = 0; s < samples_; ++s) {
            scatter_grads<S>(plan_.factors, plan_.group, s0_ + s, dz_ + s * plan_.group.sum);
        }
    }

private:
    bool of_mean(int64_t row) const { return plan_.both ? row >= samples_ : plan_.job.grad.data == nullptr; }

    // D += G[:, rows]^T core[rows, panel]
    void multiply(int64_t r, int64_t depth) {
        TileInput<T> in;
        in.depth = depth;
        in.a_step = 1;
        const T* G;
        if (plan_.reads_grad_in_place()) {
            const Matrix& grad = plan_.main_grad();
            in.a_row = grad.row_stride;
            G = static_cast<const T*>(grad.data) + s0_ * grad.row_stride + r;
        } else {
            in.a_row = row_block;
            G = G_;
            for (int64_t row = 0; row < rows_; ++row) {
                const Matrix& grad = of_mean(row) ? plan_.job.grad_mean : plan_.job.grad;
                widen_row<S>(grad, s0_ + row % samples_, r, depth, G_ + row * row_block);
            }
        }
        for (int64_t c = 0; c < columns_; c += tile_width<T>) {
            const S* core = static_cast<const S*>(plan_.job.core) + r * plan_.K + c0_ + c;
            const int64_t width = min64(tile_width<T>, columns_ - c);
            if (sizeof(S) != sizeof(T) || width < tile_width<T>) {
                widen_block(core, depth, width);
                in.b = core_;
                in.b_step = tile_width<T>;
            } else {
                in.b = reinterpret_cast<const T*>(core);
                in.b_step = plan_.K;
            }
            // The next tile of the core: to the right, or at the panel's end at the start of the next rows.
            const int64_t ahead = c + tile_width<T> < columns_ ? tile_width<T> : row_block * plan_.K - c;
            in.next_b = reinterpret_cast<const T*>(core + ahead);
            for (int64_t row = 0; row < rows_;) {
                const int rows = static_cast<int>(min64(tile_rows(square_tile), rows_ - row));
                T* D = D_ + row * plan_.panel + c;
                in.a = G + row * in.a_row;
                const auto finish = [&](int i, int j, Vector<T> sum) {
                    T* to = D + i * plan_.panel + j;
                    store(to, load(to) + sum);
                };
                with_rows<tile_rows(square_tile)>(rows, [&]<int Rows>() {
                    if (row == 0 && in.b != core_) tile<T, Rows, square_tile, Prefetch::rows_of_b>(in, finish);
                    else tile<T, Rows, square_tile, Prefetch::none>(in, finish);
                });
                row += rows;
            }
        }
    }

    void widen_block(const S* core, int64_t depth, int64_t width) {
        for (int64_t k = 0; k < depth; ++k) {
            T* to = core_ + k * tile_width<T>;
            __builtin_prefetch(core + k * plan_.K + tile_width<T>);
            widen(core + k * plan_.K, to, width);
            for (int64_t j = width; j < tile_width<T>; ++j) to[j] = 0;
        }
    }

    const Plan<S>& plan_;
    Arena arena_;
    T* D_;     // [virtual_rows][panel]
    T* z_;     // [virtual_rows][sum]
    T* dz_;    // [slab][sum]
    T* G_;     // [virtual_rows][row_block]
    T* core_;  // [row_block][tile_width]: widened, or the ragged end of the rows padded with zeros
    int64_t s0_, samples_, rows_;
    int64_t c0_, columns_;
};

template <class S>
void run(const Plan<S>& plan, char* scratch) {
    const int threads = plan.job.threads;
    const int64_t bytes = Worker<S>(plan, nullptr).scratch_bytes();
    const auto worker_of = [&](int t, int64_t slab) {
        Worker<S> worker(plan, scratch + t * bytes);
        worker.select(slab);
        return worker;
    };
    if (plan.slabs_apart) {
        parallel_for_threads(threads, [&](int t) {
            for (int64_t slab = plan.slabs * t / threads; slab < plan.slabs * (t + 1) / threads; ++slab) {
                Worker<S> worker = worker_of(t, slab);
                worker.start();
                for (int64_t panel = 0; panel < plan.panels; ++panel) worker.add_panel(panel);
                worker.write();
            }
        });
        return;
    }
    for (int64_t slab = 0; slab < plan.slabs; ++slab) {
        parallel_for_threads(threads, [&](int t) {
            Worker<S> worker = worker_of(t, slab);
            worker.start();
            for (int64_t panel = plan.panels * t / threads; panel < plan.panels * (t + 1) / threads; ++panel) {
                worker.add_panel(panel);
            }
        });
        Worker<S> first = worker_of(0, slab);
        for (int t = 1; t < threads; ++t) first.add_sums_of(worker_of(t, slab));
        first.write();
    }
}

}  // namespace

int64_t projection_factor_grads_scratch(const ProjectionFactorGrads& job) {
    int64_t bytes = 0;
    with_storage_type(job.factors.dtype, [&]<class S>(S) {
        bytes = job.threads * Worker<S>(Plan<S>(job), nullptr).scratch_bytes();
    });
    return bytes;
}

void projection_factor_grads(const ProjectionFactorGrads& job) {
    with_storage_type(job.factors.dtype,
                      [&]<class S>(S) { run(Plan<S>(job), static_cast<char*>(job.scratch)); });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
