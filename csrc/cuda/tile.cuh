// The tile product: 256 threads form 128 x Columns sums of products, fed by a pipeline of copies.
//
//   acc[row][column] = sum over k of a[row][k] * b[k][column]
//
// All three primitives of the projection are this product, once for each index l of the leading
// factor:
//   projection       rows: outputs            columns: samples     summed: inner index j
//   factor grads     rows: inner index j      columns: samples     summed: outputs
//   core grad        rows: outputs            columns: inner j     summed: samples
#pragma once

#include "precision.cuh"

namespace ntensor {
namespace cuda {

constexpr int tile_threads = 256;
constexpr int tile_rows = 128;
constexpr int narrow_columns = 16;  // of a tile for few samples

// A row of a tile in global memory: its first element, and from one element to the next.
template <class S>
struct Span {
    const S* begin;
    int64_t stride = 1;
};

enum class Along { rows, columns };

// Copies tiles of Rows x Columns elements to shared memory, one after the other; row(r) is row r of
// the tile whose turn it is. Along one side of a tile the number of elements that are there differs
// from tile to tile, along the other one it is `fixed`; zeros take the place of those that are not.
//
// in_packs: all rows have stride 1, begin at multiples of 16 bytes, and consist of whole packs. A
// thread's packs then lie in the same places of every tile, and their addresses are formed once.
template <class S, int Rows, int Columns, int Stride, Along differs>
struct TileCopies {
    static constexpr int V = pack_size<S>;
    static constexpr int packs = Columns / V;
    static constexpr int at_once = tile_threads / packs;  // rows
    static constexpr int count = (Rows + at_once - 1) / at_once;
    static_assert(tile_threads % packs == 0 && (Rows % at_once == 0 || count == 1));

    int fixed;
    int place;            // of this thread's first pack
    int first;            // its row or column, along the side that differs
    uint32_t inside = 0;  // bit i: pack i lies inside along the other side
    const S* from[count];

    template <class Row>
    __device__ TileCopies(int fixed, const Row& row) : fixed(fixed) {
        const int r = static_cast<int>(threadIdx.x) / packs;
        const int c = static_cast<int>(threadIdx.x) % packs * V;
        place = kept(r * Stride + c);
        first = kept(differs == Along::rows ? r : c);
#pragma unroll
        for (int i = 0; i < count; ++i) {
            from[i] = row(r + i * at_once).begin + c;
            inside |= uint32_t{(differs == Along::rows ? c : r + i * at_once) < fixed} << i;
        }
    }

    // In packs the next tile lies so many elements on.
    __device__ void advance(int64_t elements) {
#pragma unroll
        for (int i = 0; i < count; ++i) from[i] += elements;
    }
    // there: elements along the side that differs
    template <class Row>
    __device__ void copy(Shared<S> to, bool in_packs, const Row& row, int there) const {
        if (in_packs) {
            if (Rows % at_once != 0 && threadIdx.x >= Rows * packs) return;
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const int at = first + (differs == Along::rows ? i * at_once : 0);
                copy_async<16>(to + (place + i * at_once * Stride), from[i],
                               at < there && (inside >> i & 1));
            }
        } else {
            copy_elements(to, row, differs == Along::rows ? there : fixed,
                          differs == Along::rows ? fixed : there);
        }
    }

private:
    template <class Row>
    __device__ static void copy_elements(Shared<S> to, const Row& row, int rows, int columns) {
#pragma unroll 1
        for (int at = threadIdx.x; at < Rows * Columns; at += tile_threads) {
            const int r = at / Columns, c = at % Columns;
            const bool valid = r < rows && c < columns;
            const Span<S> span = row(valid ? r : 0);
            const S* from = span.begin + (valid ? c * span.stride : 0);
            if constexpr (sizeof(S) >= 4) {
                copy_async<sizeof(S)>(to + (r * Stride + c), from, valid);
            } else {
                store(to + (r * Stride + c), valid ? *from : S{});
            }
        }
    }
};

// At most `most` of what is left.
__device__ inline int clamped(int64_t left, int most) {
    return left < most ? static_cast<int>(max64(left, 0)) : most;
}

template <class P, int Columns_, Contiguous AlongA, Contiguous AlongB>
struct Tile {
    using S = typename P::Storage;
    using T = Sum<S>;
    static constexpr int columns = Columns_;
    static constexpr int depth = 64 / static_cast<int>(sizeof(S));
    static constexpr bool wide = columns > narrow_columns;
    // Three stages leave room for sums in shared memory (Kept), for two blocks a multiprocessor.
    static constexpr int stages = wide && P::asks ? 3 : 4;
    static constexpr int warps_down = columns == narrow_columns ? 8 : 4;
    static constexpr int warps_across = 8 / warps_down;
    static constexpr int down = tile_rows / warps_down / 16;  // accumulators of a warp
    static constexpr int across = columns / warps_across / 8;

    // Rows in shared memory are padded so that the eight rows of a fragment lie in other banks.
    static constexpr int stride_of(Contiguous along, int outer) {
        return along == Contiguous::summed
                   ? depth + 16 / static_cast<int>(sizeof(S))
                   : outer + (sizeof(S) == 2 ? 16 : 32) / static_cast<int>(sizeof(S));
    }
    static constexpr int a_stride = stride_of(AlongA, tile_rows);
    static constexpr int b_stride = stride_of(AlongB, columns);
    static constexpr int a_rows = AlongA == Contiguous::summed ? tile_rows : depth;
    static constexpr int b_rows = AlongB == Contiguous::summed ? columns : depth;
    static constexpr int a_columns = AlongA == Contiguous::summed ? depth : tile_rows;
    static constexpr int b_columns = AlongB == Contiguous::summed ? depth : columns;
    static constexpr int b_at = a_rows * a_stride;
    static constexpr int stage_size = b_at + b_rows * b_stride;
    static constexpr int shared_bytes = stages * stage_size * static_cast<int>(sizeof(S));
    template <bool InMemory>
    static constexpr int shared_bytes_with_kept =
        shared_bytes + (InMemory ? tile_rows * columns * static_cast<int>(sizeof(T)) : 0);
    static_assert(shared_bytes_with_kept<wide && sizeof(S) < 8> <= 96 << 10,
                  "what every GPU from sm_80 on grants a block");
    static constexpr int step_bytes = a_rows * a_columns * static_cast<int>(sizeof(S));  // of a
    static constexpr int chain_steps = 1024 / depth;  // the longest chain of sums that are cut

    // Whether acc is added to what the caller holds and cleared, `left` steps before a sum ends.
    __device__ static bool chain_ends(int left) {
        return P::cuts ? left % static_cast<unsigned>(chain_steps) == 0 : left == 0;
    }

    template <Contiguous along>
    __device__ static int place_in(int stride, int outer, Corner corner) {
        return place_of<along>(stride, outer + corner.outer, corner.k);
    }

    struct Sums {
        T items[down][across][4];

        __device__ void clear() {
            for_each([](T& sum, int, int, int) { sum = 0; });
        }
        // f(sum, down, across, i) for each
        template <class F>
        __device__ void for_each(const F& f) {
#pragma unroll
            for (int m = 0; m < down; ++m) {
#pragma unroll
                for (int c = 0; c < across; ++c) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) f(items[m][c][i], m, c, i);
                }
            }
        }
    };

    // As many sums as Sums has, seldom added to: in registers, or where these are scarce behind the
    // stages in shared memory.
    struct KeptInRegisters : Sums {
        explicit __device__ KeptInRegisters(S*) { Sums::clear(); }
        __device__ void add(int m, int c, int i, T value) { Sums::items[m][c][i] += value; }
    };
    struct KeptInMemory {
        Shared<T> first;

        explicit __device__ KeptInMemory(S* memory)
            : first(shared_address(reinterpret_cast<T*>(memory + stages * stage_size)) +
                    static_cast<int>(threadIdx.x)) {
            for_each([](T& sum, int, int, int) { sum = 0; });
        }
        __device__ Shared<T> at(int m, int c, int i) const {
            return first + ((m * across + c) * 4 + i) * tile_threads;
        }
        __device__ void add(int m, int c, int i, T value) {
            store(at(m, c, i), load(at(m, c, i)) + value);
        }
        template <class F>
        __device__ void for_each(const F& f) {
#pragma unroll
            for (int m = 0; m < down; ++m) {
#pragma unroll
                for (int c = 0; c < across; ++c) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        T sum = load(at(m, c, i));
                        f(sum, m, c, i);
                        store(at(m, c, i), sum);
                    }
                }
            }
        }
    };
    template <bool InMemory>
    using Kept = std::conditional_t<InMemory, KeptInMemory, KeptInRegisters>;

    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    int warp_down = warp / warps_across;
    int warp_across = warp % warps_across;
    // Where a thread's parts of the first fragments lie in a stage.
    int own_a =
        kept(place_in<AlongA>(a_stride, warp_down * down * 16, P::template corner_a<AlongA>(lane)));
    int own_b = kept(b_at + place_in<AlongB>(b_stride, warp_across * across * 8,
                                             P::template corner_b<AlongB>(lane)));
    Sums acc;
    bool idle = false;  // all sums of this warp lie beyond the rows or columns that there are

    __device__ void limit(int64_t rows_left, int64_t columns_left) {
        idle = warp_down * down * 16 >= rows_left || warp_across * across * 8 >= columns_left;
    }

    // Where in the tile a thread's sums lie.
    __device__ int row(int m, int i) const {
        return (warp_down * down + m) * 16 + lane / 4 + i / 2 * 8;
    }
    __device__ int column(int c, int i) const {
        return (warp_across * across + c) * 8 + lane % 4 * 2 + i % 2;
    }

    __device__ void multiply(Shared<S> stage) {
        if (idle) return;
        const Shared<S> a_corner = stage + own_a, b_corner = stage + own_b;
#pragma unroll
        for (int k = 0; k < depth; k += P::step) {
            typename P::A a[down];
#pragma unroll
            for (int m = 0; m < down; ++m)
                P::template load_a<AlongA, a_stride>(
                    a[m], a_corner + place_of<AlongA>(a_stride, 16 * m, k));
#pragma unroll
            for (int c = 0; c < across / 2; ++c) {
                typename P::B b;
                P::template load_b<AlongB, b_stride>(
                    b, b_corner + place_of<AlongB>(b_stride, 16 * c, k));
                multiply(a, b, c);
            }
        }
    }
    __device__ void multiply(const typename P::A (&a)[down], const typename P::B& b, int c) {
        if constexpr (P::asks) {
            bool finite = P::finite(b);
#pragma unroll
            for (int m = 0; m < down; ++m) finite &= P::finite(a[m]);
            if (any_lane(!finite)) return multiply<false>(a, b, c);
        }
        multiply<true>(a, b, c);
    }
    template <bool Finite>
    __device__ void multiply(const typename P::A (&a)[down], const typename P::B& b, int c) {
#pragma unroll
        for (int m = 0; m < down; ++m) {
            for (int i = 0; i < 2; ++i)
                P::template multiply<Finite>(acc.items[m][2 * c + i], a[m], b[i]);
        }
    }

    // For each of `count` steps: load(stage) fills a and b, the sums grow, then done(last) is
    // called. load is called in the order of the steps, some steps ahead.
    template <class Load, class Done>
    __device__ void run(S* memory, int64_t count, Load& load, Done& done) {
        const Shared<S> shared = shared_address(memory);
        constexpr int ahead = stages - 1;
        const auto next = [](int stage) {
            return stage == ahead * stage_size ? 0 : stage + stage_size;
        };
        acc.clear();
#pragma unroll 1
        for (int step = 0; step < ahead; ++step) {
            if (step < count) load(shared + step * stage_size);
            commit_copies();
        }
        int read = 0, written = ahead * stage_size;
#pragma unroll 1
        for (int64_t left = count; left > 0; --left) {
            wait_for_copies<stages - 2>();
            __syncthreads();
            if (left > ahead) load(shared + written);
            commit_copies();
            multiply(shared + read);
            done(left == 1);
            read = next(read);
            written = next(written);
        }
        wait_for_copies<0>();
        __syncthreads();
    }
};

// A sum of `steps` for each of `tiles` tiles, which a device that holds `places` blocks carries
// out. A step of a tile reads step_bytes of the core; a part of the result, of all tiles, is
// part_bytes.
struct Work {
    int64_t tiles, steps, places;
    int64_t step_bytes, part_bytes;
};

// How many parts the sum is split into, so that all blocks together take the least time: in as many
// waves as they fill, each with the time that a block takes to begin and to end, and with the time
// to write and read the parts. Each part keeps steps enough to fill its pipeline more than once.
inline int64_t parts_for(const Work& work) {
    constexpr int64_t least_steps = 8, most_waves = 4;
    constexpr int64_t block_bytes = 24 << 10, launch_bytes = 32 << 10;  // read in that time
    const auto cost = [&](int64_t parts) {
        const int64_t waves = ceil_div(work.tiles * parts, work.places);
        const int64_t blocks =
            waves * (ceil_div(work.steps, parts) * work.step_bytes + block_bytes);
        return parts == 1 ? blocks
                          : blocks + 2 * parts * work.part_bytes / work.places + launch_bytes;
    };
    int64_t best = 1;
    for (int64_t waves = 1; waves <= most_waves; ++waves) {
        const int64_t parts =
            min64(work.steps / least_steps, waves * work.places / max64(work.tiles, 1));
        if (parts > best && cost(parts) < cost(best)) best = parts;
    }
    return best;
}

}  // namespace cuda
}  // namespace ntensor
