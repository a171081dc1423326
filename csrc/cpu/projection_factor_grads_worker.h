// One thread's part of the factors' gradients: D of a slab of samples and a panel of columns, and
// the walk of the core's rows past it (projection_factor_grads.cpp).
#pragma once

#include "few_rows.h"
#include "projection_factor_grads_plan.h"
#include "sample.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

template <class S>
class FactorGradsWorker {
    using T = Accumulator<S>;

public:
    // shared: the core in tiles, where the plan has all threads read the same copy.
    FactorGradsWorker(const FactorGradsPlan<S>& plan, char* scratch, T* shared = nullptr)
        : plan_(plan), arena_{scratch}, shared_(shared) {
        D_ = arena_.template take<T>(plan.virtual_rows * plan.panel);
        if (plan.rows > plan.rows_of_sums)
            whole_D_ = arena_.template take<T>(plan.virtual_rows * plan.panel);
        z_ = arena_.template take<T>(plan.virtual_rows * plan.group.sum);
        dz_ = arena_.template take<T>(plan.slab * plan.group.sum);
        whole_dz_ = arena_.template take<T>(plan.slab * plan.group.sum);
        if (!plan.reads_grad_in_place())
            G_ = arena_.template take<G_type>(plan.virtual_rows * plan.depth);
        if (in_pairs<S> && plan.job.split.hoisted)
            A_ = arena_.template take<T>(plan.slab * plan.depth);
        if (!plan.shares_tiles) packed_ = arena_.template take<T>(plan.depth * tile_width<T>);
    }

    int64_t scratch_bytes() const { return arena_.used; }

    // Tiles begin .. end of the shared copy, counted along a block of rows, then from block to
    // block.
    void pack_tiles(int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t r = i / plan_.tiles * plan_.depth, c = i % plan_.tiles * tile_width<T>;
            const S* core = static_cast<const S*>(plan_.job.core) + r * plan_.K + c;
            const int64_t depth = min64(plan_.depth, plan_.rows - r);
            const int64_t width = min64(tile_width<T>, plan_.K - c);
            if constexpr (in_pairs<S>)
                pack_pairs(core, core, depth, width, shared_tile(r, c));
            else
                pack_block(core, core, depth, width, round_up(width, lanes<T>), shared_tile(r, c));
        }
    }

    void select(int64_t slab) {
        s0_ = slab * plan_.slab;
        samples_ = plan_.samples_of(slab);
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
        for (int64_t i = 0; i < samples_ * sum; ++i) dz_[i] = whole_dz_[i] = 0;
    }

    // The rows [first, last) of the core in a panel.
    void add_panel(int64_t index, int64_t first, int64_t last) {
        c0_ = index * plan_.panel;
        columns_ = min64(plan_.panel, plan_.K - c0_);
        clear(D_);
        if (whole_D_) clear(whole_D_);
        for (int64_t r = first; r < last; r += plan_.depth) {
            if (r > first && (r - first) % plan_.rows_of_sums == 0) move_sums();
            multiply(r, min64(plan_.depth, last - r));
        }
        if (whole_D_) {
            for (int64_t i = 0; i < rows_ * plan_.panel; ++i) D_[i] += whole_D_[i];
        }
        for (int64_t row = 0; row < rows_; ++row) {
            add_factor_grads(plan_.group, z_ + row * plan_.group.sum, D_ + row * plan_.panel, c0_,
                             c0_ + columns_, of_mean(row), dz_ + row % samples_ * plan_.group.sum);
        }
        if (index % panels_a_block == panels_a_block - 1) finish();
    }

    // Sums in blocks of panels, lest rounding errors add up.
    void finish() {
        for (int64_t i = 0; i < samples_ * plan_.group.sum; ++i) {
            whole_dz_[i] += dz_[i];
            dz_[i] = 0;
        }
    }

    // Of the samples [first, last) of the slab.
    void add_sums_of(const FactorGradsWorker& other, int64_t first, int64_t last) {
        const int64_t sum = plan_.group.sum;
        for (int64_t i = first * sum; i < last * sum; ++i) whole_dz_[i] += other.whole_dz_[i];
    }

    void write(int64_t first, int64_t last) const {
        for (int64_t s = first; s < last; ++s) {
            scatter_grads<S>(plan_.factors, plan_.group, s0_ + s, whole_dz_ + s * plan_.group.sum);
        }
    }

private:
    bool of_mean(int64_t row) const { return plan_.both ? row >= samples_ : plan_.of_mean; }

    void clear(T* D) const {
        for (int64_t i = 0; i < rows_ * plan_.panel; ++i) D[i] = 0;
    }

    void move_sums() {
        for (int64_t i = 0; i < rows_ * plan_.panel; ++i) {
            whole_D_[i] += D_[i];
            D_[i] = 0;
        }
    }

    // Rows of G as the tile reads them: widened, or as stored where pairs are multiplied.
    using G_type = Select<in_pairs<S>, S, T>;

    // D += G[:, r .. r + depth) core[r .. r + depth, panel]
    void multiply(int64_t r, int64_t depth) {
        const G_type* G = G_;
        int64_t G_row = plan_.depth;
        if (plan_.reads_grad_in_place()) {
            const Matrix& grad = plan_.main_grad();
            G_row = grad.row_stride;
            G = static_cast<const G_type*>(grad.data) + s0_ * G_row + r;
        } else {
            collect_grad(r, depth);
        }
        if (rows_ <= most_few_rows && columns_ >= lanes<T>) {
            const S* core = static_cast<const S*>(plan_.job.core) + r * plan_.K + c0_;
            return with_rows<most_few_rows>(static_cast<int>(rows_), [&]<int Rows>() {
                add_few_rows<Rows>(core, plan_.K, G, G_row, depth, columns_, D_, plan_.panel);
            });
        }
        for (int64_t c = 0; c < columns_; c += tile_width<T>) {
            const S* core = static_cast<const S*>(plan_.job.core) + r * plan_.K + c0_ + c;
            const int64_t width = min64(tile_width<T>, columns_ - c);
            // The next tile of the core: to the right, or at the panel's end at the start of the
            // next rows.
            const S* next =
                core + (c + tile_width<T> < columns_ ? tile_width<T> : plan_.depth * plan_.K - c);
            T* D = D_ + c;
            if constexpr (in_pairs<S>) {
                const T* tile = packed_;
                if (plan_.shares_tiles)
                    tile = shared_tile(r, c0_ + c);
                else
                    pack_pairs(core, next, depth, width, packed_);
                multiply_packed(G, G_row, tile, depth, D);
            } else if (plan_.shares_tiles) {
                with_rows<square_tile>(
                    static_cast<int>(ceil_div(width, lanes<T>)), [&]<int Vectors>() {
                        multiply_tile<Vectors>(
                            {G, G_row, 1, shared_tile(r, c0_ + c), tile_width<T>, depth}, 0, D);
                    });
            } else if (sizeof(S) != sizeof(T) || width < tile_width<T> || plan_.packs) {
                with_rows<square_tile>(
                    static_cast<int>(ceil_div(width, lanes<T>)), [&]<int Vectors>() {
                        multiply_copy<Vectors>(
                            core, next, {G, G_row, 1, packed_, tile_width<T>, depth}, width, D);
                    });
            } else {
                multiply_in_place({G, G_row, 1, reinterpret_cast<const T*>(core), plan_.K, depth},
                                  reinterpret_cast<const T*>(next), D);
            }
        }
    }

    // With the tile copied, as `in` has it. A ragged one for few rows is read as it lies: what is
    // behind a row goes to columns of D that nobody reads, as long as it is the core.
    template <int Vectors>
    void multiply_copy(const S* core, const S* next, TileInput<T> in, int64_t width, T* D) {
        constexpr int64_t padded = Vectors * lanes<T>;
        const int64_t K = plan_.K, depth = in.depth;
        int64_t lying = 0;
        if constexpr (sizeof(S) == sizeof(T)) {
            const S* begin = static_cast<const S*>(plan_.job.core);
            const int64_t left = plan_.rows * K - (core - begin) - padded;
            if (!plan_.packs && left >= 0) lying = min64(depth, left / K + 1);
            const T* b = reinterpret_cast<const T*>(core);
            if (lying > 0) multiply_tile<Vectors>({in.a, in.a_row, 1, b, K, lying}, 0, D);
        }
        if (lying == depth) return;
        pack_block(core + lying * K, next, depth - lying, width, padded, packed_);
        in.a += lying;
        in.depth -= lying;
        multiply_tile<Vectors>(in, 0, D);
    }

    // The lines of the next tile are asked for little by little: a burst of them would hold up the
    // loads.
    void multiply_in_place(TileInput<T> in, const T* next, T* D) {
        constexpr int64_t line = 64 / sizeof(T);
        constexpr int64_t lines = ceil_div(tile_width<T>, line);
        constexpr int Rows = tile_rows(square_tile);
        const T* const a = in.a;
        const int64_t groups = rows_ / Rows;
        int64_t asked = 0;
        for (int64_t group = 0; group < groups; ++group) {
            in.a = a + group * Rows * in.a_row;
            T* const to = D + group * Rows * plan_.panel;
            in.next_b = next + asked * line + line - 1;
            const int64_t wanted = ceil_div(lines - asked, groups - group);
            asked += wanted;
            switch (wanted) {
                case 0:
                    tile_in_place<T, Rows, square_tile, Prefetch::none>(in, add_each(to));
                    break;
                case 1:
                    tile_in_place<T, Rows, square_tile, Prefetch::b_one_line>(in, add_each(to));
                    break;
                case 2:
                    tile_in_place<T, Rows, square_tile, Prefetch::b_two_lines>(in, add_each(to));
                    break;
                default:
                    tile_in_place<T, Rows, square_tile, Prefetch::b_three_lines>(in, add_each(to));
                    break;
            }
        }
        in.a = a;
        int64_t done = groups * Rows;
        if (groups == 0) {
            in.next_b = next + line - 1;
            done = rows_at_once(rows_, Rows);
            with_rows<Rows>(static_cast<int>(done), [&]<int Few>() {
                tile<T, Few, square_tile, Prefetch::b_three_lines>(in, add_to(D));
            });
        }
        multiply_tile<square_tile>(in, done, D);
    }

    void collect_grad(int64_t r, int64_t depth) {
        if (plan_.job.split.hoisted) {
            if constexpr (in_pairs<S>) {
                plan_.joined.form(s0_, samples_, r, r + depth, A_, plan_.depth);
                narrow(A_, G_, samples_ * plan_.depth);
            } else {
                plan_.joined.form(s0_, samples_, r, r + depth, G_, plan_.depth);
            }
            return;
        }
        for (int64_t row = 0; row < rows_; ++row) {
            const Matrix& grad = of_mean(row) ? plan_.job.grad_mean : plan_.job.grad;
            const int64_t s = s0_ + row % samples_;
            G_type* to = G_ + row * plan_.depth;
            if constexpr (in_pairs<S>) {
                const S* from =
                    static_cast<const S*>(grad.data) + s * grad.row_stride + r * grad.col_stride;
                for (int64_t k = 0; k < depth; ++k) to[k] = from[k * grad.col_stride];
            } else {
                widen_row<S>(grad, s, r, depth, to);
            }
        }
    }

    // A tile of the core, widened and contiguous, ragged ends padded with zeros to whole vectors:
    // [depth][tile_width]
    void pack_block(const S* core, const S* next, int64_t depth, int64_t width, int64_t padded,
                    T* tile) {
        for (int64_t k = 0; k < depth; ++k) {
            T* to = tile + k * tile_width<T>;
            ask_for(next + k * plan_.K);
            if (width == tile_width<T>) {
                widen(core + k * plan_.K, to, tile_width<T>);
                continue;
            }
            widen(core + k * plan_.K, to, width);
            for (int64_t j = width; j < padded; ++j) to[j] = 0;
        }
    }

    static void ask_for(const S* tile) {
        // The last element of each line's worth: of rows that are not aligned, the tile before has
        // fetched the first.
        constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(S));
        for (int64_t at = 0; at < tile_width<T>; at += line) {
            __builtin_prefetch(tile + min64(at + line, tile_width<T>) - 1);
        }
    }

    // Rows of D from `begin` on; in.a and D are those of row 0. Whole groups are multiplied in
    // place: a call for each would cost 10 % of the time.
    template <int Vectors>
    void multiply_tile(TileInput<T> in, int64_t begin, T* D) {
        constexpr int most = tile_rows(square_tile);
        const T* const a = in.a;
        int64_t row = begin;
        for (; row + most <= rows_; row += most) {
            in.a = a + row * in.a_row;
            tile_in_place<T, most, Vectors, Prefetch::none>(in, add_each(D + row * plan_.panel));
        }
        while (row < rows_) {
            const int rows = rows_at_once(rows_ - row, most);
            in.a = a + row * in.a_row;
            with_rows<most>(rows, [&]<int Rows>() {
                tile<T, Rows, Vectors, Prefetch::none>(in, add_to(D + row * plan_.panel));
            });
            row += rows;
        }
    }

    // Adds a tile's sums to those of D; add_each: one vector at a time.
    auto add_to(T* D) const { return each_vector<T>(add_each(D)); }
    auto add_each(T* D) const {
        return [D, panel = plan_.panel](int i, int j, Vector<T> sum) {
            T* to = D + i * panel + j;
            store(to, load(to) + sum);
        };
    }

    // A tile of the core in pairs of rows: [depth / 2][tile_width]; an odd last row is paired with
    // zeros.
    void pack_pairs([[maybe_unused]] const S* core, [[maybe_unused]] const S* next,
                    [[maybe_unused]] int64_t depth, [[maybe_unused]] int64_t width,
                    [[maybe_unused]] T* tile) {
        if constexpr (in_pairs<S>) {
            constexpr S zeros[tile_width<T>] = {};
            uint32_t* to = reinterpret_cast<uint32_t*>(tile);
            for (int64_t k = 0; k < depth; k += 2, to += tile_width<T>) {
                const S* first = core + k * plan_.K;
                const S* second = k + 1 < depth ? first + plan_.K : zeros;
                ask_for(next + k * plan_.K);
                ask_for(next + (k + 1) * plan_.K);
                if (width == tile_width<T>) {
                    interleave(first, second, tile_width<T>, to);
                } else {
                    interleave(first, second, width, to);
                    for (int64_t j = width; j < tile_width<T>; ++j) to[j] = 0;
                }
            }
        }
    }

    void multiply_packed([[maybe_unused]] const G_type* G, [[maybe_unused]] int64_t G_row,
                         [[maybe_unused]] const T* core_tile, [[maybe_unused]] int64_t depth,
                         [[maybe_unused]] T* D) {
#if defined(NTENSOR_PAIRS)
        if constexpr (in_pairs<S>) {
            for (int64_t row = 0; row < rows_;) {
                const int rows = rows_at_once(rows_ - row, tile_rows(square_tile));
                with_rows<tile_rows(square_tile)>(rows, [&]<int Rows>() {
                    tile_of_pairs<Rows, square_tile>(
                        G + row * G_row, G_row, reinterpret_cast<const uint32_t*>(core_tile),
                        tile_width<T>, depth, {}, add_to(D + row * plan_.panel));
                });
                row += rows;
            }
        }
#endif
    }

    // The tile of rows r on and columns c on.
    T* shared_tile(int64_t r, int64_t c) const {
        return shared_ + r * plan_.tiles * tile_width<T> + c * min64(plan_.depth, plan_.rows - r);
    }

    const FactorGradsPlan<S>& plan_;
    Arena arena_;
    T* shared_;
    T* D_;                  // [virtual_rows][panel]
    T* whole_D_ = nullptr;  // [virtual_rows][panel], where D is summed up in blocks of rows
    T* z_;                  // [virtual_rows][sum]
    T* dz_;                 // [slab][sum], of a block of panels
    T* whole_dz_;           // [slab][sum]
    G_type* G_ = nullptr;   // [virtual_rows][depth]
    T* A_ = nullptr;        // [slab][depth], where G_ takes them rounded
    T* packed_ = nullptr;   // [depth][tile_width]
    int64_t s0_, samples_, rows_;
    int64_t c0_, columns_;
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
