// A projection with the samples side by side: one thread's panel of W, its sums, and the walk of
// the core's rows past them (projection.cpp).
#pragma once

#include "columns.h"
#include "projection_plan.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

template <class S, bool Pairs>
class SlabWorker {
    using T = Accumulator<S>;
    using Plan = ProjectionPlan<S, Pairs>;
    static constexpr int V = lanes<T>;

public:
    SlabWorker(const Plan& plan, char* scratch)
        : plan_(plan),
          arena_{scratch},
          inner_(plan.factors, plan.inner, plan.width, arena_),
          outer_(plan.factors, plan.outer, plan.width, arena_) {
        partial_ = arena_.template take<T>(plan.partial());
        if (Pairs) pair_ = arena_.template take<T>(2 * plan.width);
        const int64_t strip = min64(plan.width, wide_tile * V);
        W_ = arena_.template take<T>(Pairs ? ceil_div(plan.panel, 2) * plan.width
                                           : plan.panel * round_up(plan.width, strip));
        H_ = arena_.template take<T>(plan.l_chunk * plan.width);
        x_ = arena_.template take<T>(plan.row_chunk * plan.width);
        if (plan.job.x_mean) {
            H_mean_ = arena_.template take<T>(plan.l_chunk * plan.width);
            x_mean_ = arena_.template take<T>(plan.row_chunk * plan.width);
        }
        if (plan.l_chunks > 1) {
            whole_x_ = arena_.template take<T>(plan.row_chunk * plan.width);
            if (x_mean_) whole_x_mean_ = arena_.template take<T>(plan.row_chunk * plan.width);
        }
        if (widens<S, Pairs>) rows_ = arena_.template take<T>(widened_rows * plan.panel);
    }

    int64_t scratch_bytes() const { return arena_.used; }

    void run(int t) {
        plan_.for_each_part(
            t, [&](int64_t slab, int64_t first, int64_t last, int64_t l_first, int64_t l_last) {
                l_begin_ = l_first;
                l_end_ = l_last;
                l_chunks_ = ceil_div(l_end_ - l_begin_, plan_.l_chunk);
                for (int64_t row = first; row < last; row += plan_.row_chunk)
                    chunk(slab, row, min64(plan_.row_chunk, last - row));
            });
    }

    // Where threads have divided the hoisted indices: the sums of all, in their order, and x.
    template <class Partial>
    void finish(const Partial& partial_of) {
        for (int t = 1; t < plan_.job.threads; ++t) {
            const T* from = partial_of(t);
            for (int64_t i = 0; i < plan_.partial(); ++i) partial_[i] += from[i];
        }
        for (int64_t slab = 0; slab < plan_.slabs; ++slab) {
            select(slab);
            row0_ = 0;
            rows_here_ = plan_.job.k_x;
            write_out(partial_ + slab * plan_.job.k_x * plan_.width, plan_.job.x);
            if (x_mean_)
                write_out(partial_ + (plan_.slabs + slab) * plan_.job.k_x * plan_.width,
                          plan_.job.x_mean);
        }
    }
    const T* partial() const { return partial_; }

private:
    // x of one chunk of rows and one slab of samples.
    void chunk(int64_t slab, int64_t row, int64_t rows) {
        if (slab != slab_) start_slab(slab);
        row0_ = row;
        rows_here_ = rows;
        clear(x_);
        if (x_mean_) clear(x_mean_);
        if (whole_x_) clear(whole_x_);
        if (whole_x_mean_) clear(whole_x_mean_);
        // Neighbouring chunks go through the blocks in opposite directions, so that W and H stay
        // for the first.
        const int64_t blocks = l_chunks_ * plan_.panels;
        const bool backwards = blocks > 1 && block_ == blocks - 1;
        for (int64_t i = 0; i < blocks; ++i) {
            start_block(backwards ? blocks - 1 - i : i);
            multiply();
            if (whole_x_) move_sums(x_, whole_x_);
            if (whole_x_mean_) move_sums(x_mean_, whole_x_mean_);
        }
        write(whole_x_ ? whole_x_ : x_, plan_.job.x, 0);
        if (x_mean_) write(whole_x_mean_ ? whole_x_mean_ : x_mean_, plan_.job.x_mean, plan_.slabs);
    }

    void select(int64_t slab) {
        slab_ = slab;
        s0_ = slab * plan_.slab;
        samples_ = plan_.samples_of(slab);
        width_ = round_up(samples_, V);
    }

    void start_slab(int64_t slab) {
        select(slab);
        block_ = panel_ = l_block_ = -1;
        vectors_ = static_cast<int>(min64(wide_tile, width_ / V));
        inner_.start(s0_, samples_, width_);
        outer_.start(s0_, samples_, width_);
    }

    void start_block(int64_t block) {
        if (block == block_) return;
        block_ = block;
        const int64_t l_block = block / plan_.panels;
        if (l_block != l_block_) {
            l_block_ = l_block;
            l0_ = l_begin_ + l_block * plan_.l_chunk;
            l_count_ = min64(plan_.l_chunk, l_end_ - l0_);
            outer_.form(l0_, l0_ + l_count_, H_);
            if (H_mean_) form_mean();
        }
        const int64_t panel = block % plan_.panels;
        if (panel == panel_) return;
        panel_ = panel;
        p0_ = panel * plan_.panel;
        p_count_ = min64(plan_.panel, plan_.P - p0_);
        form_panel();
    }

    // to[s] *= z_m[s, i]
    void multiply_by_column(int m, int64_t i, T* to) const {
        const Matrix& z = plan_.factors.items[m].values;
        for (int64_t s = 0; s < samples_; ++s) to[s] *= element<S>(z, s0_ + s, i);
    }

    void form_mean() {
        const T part = T(1) / static_cast<T>(plan_.factors.items[0].extent);
        for (int64_t l = 0; l < l_count_; ++l) {
            T* H = H_mean_ + l * width_;
            for (int64_t s = 0; s < width_; ++s) H[s] = s < samples_ ? part : 0;
            split_factor_index(plan_.factors, 0, plan_.job.split.hoisted, l0_ + l,
                               [&](int m, int64_t i) {
                                   if (m > 0) multiply_by_column(m, i, H);
                               });
        }
    }

    void form_panel() {
        if constexpr (!Pairs) {
            inner_.form_strips(p0_, p0_ + p_count_, vectors_ * V, plan_.panel, W_);
        } else {
            inner_.for_each(p0_, p0_ + p_count_, [&](int64_t p, const T* column, const T* prefix) {
                inner_.multiply(column, prefix, pair_ + p % 2 * width_);
                if (p + 1 == p_count_ && p % 2 == 0) {
                    for (int64_t s = 0; s < width_; ++s) pair_[width_ + s] = 0;
                }
                if (p + 1 == p_count_ || p % 2) store_pair(p / 2);
            });
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
        const int most = rows_of<Pairs>(vectors_);
        if (plan_.along_hoisted) {
            for (int64_t r = 0; r < rows_here_; ++r) {
                for (int64_t l = 0; l < l_count_;) {
                    const int rows = rows_at_once(l_count_ - l, most);
                    multiply_rows(r, l, rows);
                    l += rows;
                }
            }
            return;
        }
        for (int64_t r = 0; r < rows_here_;) {
            const int rows = rows_at_once(rows_here_ - r, most);
            for (int64_t l = 0; l < l_count_; ++l) multiply_rows(r, l, rows);
            r += rows;
        }
    }

    // A tile's rows begin at (r, l) and lie along the outputs or the hoisted indices.
    void multiply_rows(int64_t r, int64_t l, int rows) {
        const bool along_hoisted = plan_.along_hoisted;
        const int64_t row_stride = along_hoisted ? plan_.hoisted_stride : plan_.output_stride;
        const S* core = static_cast<const S*>(plan_.job.core) + (row0_ + r) * plan_.output_stride +
                        (l0_ + l) * plan_.hoisted_stride + p0_;
        const Walk<S> walk = walk_of(core, l, rows);
        if constexpr (widens<S, Pairs>) {
            for (int i = 0; i < rows; ++i) {
                widen(core + i * row_stride, rows_ + i * plan_.panel, p_count_);
            }
        }
        const int64_t width = width_;
        for (int64_t s = 0; s < width;) {
            const int vectors = static_cast<int>(min64(vectors_, (width - s) / V));
            const T* H = H_ + l * width + s;
            const T* H_mean = x_mean_ ? H_mean_ + l * width + s : nullptr;
            T* x = x_ + r * width + s;
            T* x_mean = x_mean_ ? x_mean_ + r * width + s : nullptr;
            // x[row] += H sums[row], or x += sum over rows of H[row] sums[row]
            const auto fold = [width, along_hoisted](const T* H, T* x, auto& sums) {
                constexpr int Rows = sizeof(sums) / sizeof(sums[0]);
                constexpr int Vectors = sizeof(sums[0]) / sizeof(sums[0][0]);
                if (along_hoisted) {
#pragma GCC unroll 4
                    for (int c = 0; c < Vectors; ++c) {
                        Vector<T> sum = load(x + c * V);
#pragma GCC unroll 16
                        for (int i = 0; i < Rows; ++i)
                            sum += load(H + i * width + c * V) * sums[i][c];
                        store(x + c * V, sum);
                    }
                    return;
                }
#pragma GCC unroll 4
                for (int c = 0; c < Vectors; ++c) {
                    const Vector<T> scale = load(H + c * V);
#pragma GCC unroll 16
                    for (int i = 0; i < Rows; ++i) {
                        T* to = x + i * width + c * V;
                        store(to, load(to) + scale * sums[i][c]);
                    }
                }
            };
            with_vectors(vectors, [&]<int Most, int Vectors>() {
                columns<Most, Vectors>(core, row_stride, walk, rows, s,
                                       [fold, H, H_mean, x, x_mean](auto& sums) {
                                           fold(H, x, sums);
                                           if (x_mean) fold(H_mean, x_mean, sums);
                                       });
            });
            s += vectors * V;
        }
    }

    // How the rows of a tile go on: to the next tile.
    Walk<S> walk_of(const S* core, int64_t l, int rows) const {
        if (plan_.along_hoisted)
            return {p_count_,
                    core + (l + rows < l_count_ ? rows * plan_.hoisted_stride
                                                : plan_.output_stride - l * plan_.hoisted_stride)};
        const S* const next_rows = core - l * plan_.hoisted_stride + rows * plan_.output_stride;
        if (plan_.hoisted_stride == p_count_) return {(l_count_ - l) * p_count_, next_rows};
        return {p_count_, l + 1 < l_count_ ? core + plan_.hoisted_stride : next_rows};
    }

    // Calls body<Most, vectors>(), Most the vectors of the slab's widest tile.
    template <class Body>
    void with_vectors(int vectors, const Body& body) const {
        const auto narrower = [&]<int Most>() {
            if (vectors == Most) return body.template operator()<Most, Most>();
            if constexpr (Most == wide_tile && Most > 3) {
                if (vectors == 3) return body.template operator()<Most, 3>();
            }
            if constexpr (Most == wide_tile && Most > 2) {
                if (vectors == 2) return body.template operator()<Most, 2>();
            }
            if constexpr (Most == wide_tile && Most > 1) body.template operator()<Most, 1>();
        };
        switch (vectors_) {
            case 1:
                return narrower.template operator()<1>();
            case 2:
                return narrower.template operator()<2>();
            case 3:
                return narrower.template operator()<min64(3, wide_tile)>();
            default:
                return narrower.template operator()<min64(4, wide_tile)>();
        }
    }

    template <int Most, int Vectors, class Fold>
    void columns(const S* core, int64_t row_stride, const Walk<S>& walk, int rows, int64_t s,
                 Fold fold) {
        with_rows<rows_of<Pairs>(Most)>(rows, [&]<int Rows>() {
#if defined(NTENSOR_PAIRS)
            if constexpr (Pairs) {
                tile_of_pairs<Rows, Vectors>(core, row_stride,
                                             reinterpret_cast<const uint32_t*>(W_) + s, width_,
                                             p_count_, walk, fold);
                return;
            }
#endif
            if constexpr (widens<S, Pairs>) {
                tile<T, Rows, Vectors, Prefetch::none>(
                    {rows_, plan_.panel, 1, W_ + s * plan_.panel, Most * V, p_count_}, fold);
            } else if constexpr (!Pairs) {
                tile<T, Rows, Vectors, Prefetch::rows_of_a>(
                    {core, row_stride, 1, W_ + s * plan_.panel, Most * V, p_count_, walk}, fold);
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

    // first_slab: where the output's part of the sums begins.
    void write(const T* x, void* out, int64_t first_slab) const {
        if (plan_.l_parts == 1) return write_out(x, out);
        T* to = partial_ + ((first_slab + slab_) * plan_.job.k_x * plan_.width) + row0_ * width_;
        for (int64_t i = 0; i < rows_here_ * width_; ++i) to[i] = x[i];
    }

    void write_out(const T* x, void* out) const {
        const int64_t row = plan_.job.split.transposed ? 1 : plan_.job.row_stride();
        const int64_t column = plan_.job.split.transposed ? plan_.factors.n : 1;
        narrow_columns(x, width_, rows_here_, samples_,
                       static_cast<S*>(out) + s0_ * row + row0_ * column, row, column);
    }

    const Plan& plan_;
    Arena arena_;
    Columns<S> inner_, outer_;
    T* partial_;         // [outputs][slab][k_x][width]
    T* pair_ = nullptr;  // [2][width]
    T* W_;               // in strips of a tile's width, [strip][panel][strip's width], or pairs of
                         // bfloat16 [panel / 2][width]
    T* H_;               // [l_chunk][width]
    T* H_mean_ = nullptr;
    T* x_;  // [row_chunk][width]
    T* x_mean_ = nullptr;
    T* whole_x_ = nullptr;  // [row_chunk][width], the chunks of hoisted indices together
    T* whole_x_mean_ = nullptr;
    T* rows_ = nullptr;  // [widened_rows][panel]
    int64_t slab_ = -1, block_ = -1, panel_ = -1, l_block_ = -1;
    int64_t s0_, samples_, width_;
    int vectors_;  // of the slab's widest tile
    int64_t l_begin_, l_end_, l_chunks_;
    int64_t l0_, l_count_, p0_, p_count_;
    int64_t row0_, rows_here_;
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
