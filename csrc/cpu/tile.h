// The micro-kernel: one tile of a matrix product, held in registers.
//
//   acc[i][c] = sum over k in [0, depth) of a[i * a_row + k * a_step] * b[k * b_step + c]
//
// finish(sums) takes what the tile has summed up, sums[row][vector]. It is handed over by value,
// and captures by value: behind a reference, all that it captured would be loaded again after each
// of its stores.
//
// All three primitives of the projection are this product:
//   projection       a: rows of the core      b: W, packed with the samples side by side
//   factor grads     a: rows of G (samples)   b: rows of the core
//   core grad        a: G, packed             b: rows of W
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Columns of a square tile.
template <class T>
constexpr int tile_width = square_tile * lanes<T>;

// What the tile asks the memory for while it calculates: the rows of a further on, or for each k
// one, two or three lines of the tile of b that comes next.
enum class Prefetch { none, rows_of_a, b_one_line, b_two_lines, b_three_lines };

constexpr int lines_of_b(Prefetch ahead) {
    return ahead < Prefetch::b_one_line
               ? 0
               : static_cast<int>(ahead) - static_cast<int>(Prefetch::b_one_line) + 1;
}

// Bytes between the use of a row of a and what is asked for.
constexpr int64_t prefetch_bytes = 2048;

// How the rows of a go on: `length` elements without a gap, then at `next`.
template <class S>
struct Walk {
    int64_t length = 0;
    const S* next = nullptr;

    // The place prefetch_bytes behind element k of a.
    const S* ahead_of(const S* a, int64_t k) const {
        constexpr int64_t distance = prefetch_bytes / sizeof(S);
        return k + distance < length ? a + k + distance : next + (k + distance - length);
    }
};

template <class T>
struct TileInput {
    const T* a;
    int64_t a_row;
    int64_t a_step;
    const T* b;
    int64_t b_step;
    int64_t depth;
    Walk<T> walk = {};  // Prefetch::rows_of_a
    const T* next_b =
        nullptr;  // Prefetch::b_...: where the lines to ask for start, in the next tile of b
};

// sums += a * b, in the order in which the products stand, each sum in its own register: left to
// itself the compiler would hold more values at a time than there are registers, and take sums to
// memory and back in each step, or from one register to another.
template <class V>
__attribute__((always_inline)) inline void add_product(V& sums, V a, V b) {
#if defined(NTENSOR_EMULATED)
    sums += a * b;  // its vectors have no registers
#elif defined(__FMA__)
    if constexpr (sizeof(sums[0]) == 4)
        asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    else
        asm volatile("vfmadd231pd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
#else
    sums += a * b;
#if defined(__x86_64__)
    asm volatile("" : "+x"(sums));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(sums));
#endif
#endif
}

// Whether a multiply-add itself takes a number of memory to all lanes.
#if defined(__AVX512F__)
constexpr bool scales_from_memory = true;
#else
constexpr bool scales_from_memory = false;
#endif

// add_product for a number of memory that is used once.
template <class T>
__attribute__((always_inline)) inline void add_scaled(Vector<T>& sums, const T* a, Vector<T> b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        asm volatile("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(b), "m"(*a));
    else
        asm volatile("vfmadd231pd %2%{1to8%}, %1, %0" : "+v"(sums) : "v"(b), "m"(*a));
#else
    add_product(sums, *a - Vector<T>{}, b);
#endif
}

// Calls finish with a copy: sums whose address is taken would not stay in registers.
template <class V, int Rows, int Vectors, class Finish>
__attribute__((always_inline)) inline void finish_with(const V (&acc)[Rows][Vectors],
                                                       const Finish& finish) {
    alignas(vector_bytes) V sums[Rows][Vectors];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) sums[i][c] = acc[i][c];
    }
    finish(sums);
}

// acc[i][c] += the products of the tile; Pinned: each sum stays in its register.
template <class T, int Rows, int Vectors, Prefetch Ahead, bool Pinned>
__attribute__((always_inline)) inline void add_products(const TileInput<T>& in,
                                                        Vector<T> (&acc)[Rows][Vectors]) {
    constexpr int V = lanes<T>;
    constexpr int64_t line = 64 / sizeof(T);
    const T* a = in.a;
    const T* b = in.b;
    const T* next_b = in.next_b;
    const int64_t a_row = in.a_row;
    const int64_t a_step = Ahead == Prefetch::rows_of_a ? 1 : in.a_step;
    const auto ask_ahead = [&](int64_t k) __attribute__((always_inline)) {
        if constexpr (Ahead == Prefetch::rows_of_a) {
            const T* ahead = in.walk.ahead_of(in.a, k);
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) __builtin_prefetch(ahead + i * a_row);
        }
    };
    const auto step = [&]() __attribute__((always_inline)) {
        Vector<T> row[Vectors];
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) row[c] = load(b + c * V);
        if constexpr (lines_of_b(Ahead) > 0) {
            for (int c = 0; c < lines_of_b(Ahead); ++c) __builtin_prefetch(next_b + c * line);
            next_b += in.b_step;
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            if constexpr (Pinned && Vectors == 1) {
                add_scaled(acc[i][0], a + i * a_row, row[0]);
                continue;
            }
            const T scale = a[i * a_row];
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c) {
                if constexpr (Pinned)
                    add_product(acc[i][c], scale - Vector<T>{}, row[c]);
                else
                    acc[i][c] += scale * row[c];
            }
        }
        a += a_step;
        b += in.b_step;
        // One pointer that moves on, not one for each of the steps below: there are few registers.
        // Nor one for each row, where the multiply-add itself reads a.
        asm volatile("" : "+r"(b));
        if constexpr (Pinned && Vectors == 1 && scales_from_memory) asm volatile("" : "+r"(a));
    };
    // Whole lines have loops without a remainder, which leave every sum in its register.
    int64_t k = 0;
    for (; k + line <= in.depth; k += line) {
        ask_ahead(k);
        for (int64_t i = 0; i < line; i += 4) {
            step();
            step();
            step();
            step();
        }
    }
    if (k < in.depth) {
        ask_ahead(k);
        for (; k < in.depth; ++k) step();
    }
}

// Never inlined: it needs every register for itself.
template <class T, int Rows, int Vectors, Prefetch Ahead, class Finish>
__attribute__((noinline)) void tile(TileInput<T> in, Finish finish) {
    // Aligned, since a template's argument has the vector's own alignment.
    alignas(vector_bytes) Vector<T> acc[Rows][Vectors] = {};
    add_products<T, Rows, Vectors, Ahead, true>(in, acc);
    finish_with(acc, finish);
}

// The same in the caller's own code, for loops over many shallow tiles, where the call would count;
// finish(i, c, sums) takes one vector at a time, c its first column.
template <class T, int Rows, int Vectors, Prefetch Ahead, class Finish>
__attribute__((always_inline)) inline void tile_in_place(const TileInput<T>& in, Finish finish) {
    alignas(vector_bytes) Vector<T> acc[Rows][Vectors] = {};
    add_products<T, Rows, Vectors, Ahead, false>(in, acc);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) finish(i, c * lanes<T>, acc[i][c]);
    }
}

// A `finish` that calls body(i, c, sums) for each row i and each vector, c its first column.
template <class T, class Body>
inline auto each_vector(Body body) {
    return [body](auto& sums) {
        constexpr int Rows = sizeof(sums) / sizeof(sums[0]);
        constexpr int Vectors = sizeof(sums[0]) / sizeof(sums[0][0]);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c) body(i, c * lanes<T>, sums[i][c]);
        }
    };
}

// Storage types that are multiplied pair by pair, without being widened first.
template <class S>
constexpr bool in_pairs = false;

#if defined(NTENSOR_PAIRS)
template <>
constexpr bool in_pairs<bfloat16> = true;

// Two bfloat16 a word, the first of a pair in its lower half.
typedef uint32_t pair_vector __attribute__((vector_size(vector_bytes), aligned(4), may_alias));

// sums[i] + a.first[i] b.first[i] + a.second[i] b.second[i]
inline float_vector add_products_of_pairs(float_vector sums, pair_vector a, pair_vector b) {
#if defined(__AVX512BF16__)
    return reinterpret_cast<float_vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums),
                                                           reinterpret_cast<__m512bh>(a),
                                                           reinterpret_cast<__m512bh>(b)));
#else
    const auto second = [](pair_vector v) {
        return reinterpret_cast<float_vector>(v & 0xffff0000u);
    };
    const auto first = [](pair_vector v) { return reinterpret_cast<float_vector>(v << 16); };
    return sums + (first(a) * first(b) + second(a) * second(b));
#endif
}

// The same for bfloat16 with pairs of k side by side: a pair of a is one 32-bit word, b holds
// b_step words a pair. Without walk.next nothing is asked for ahead. The instruction's latency is
// longer than a multiply-add's, so narrow tiles have more rows, and one vector two sums a row.
// Never inlined: it needs every register for itself.
constexpr int rows_of_pairs(int vectors) {
    return vectors <= 2 ? 12 : tile_rows(vectors);
}

template <int Rows, int Vectors, class Finish>
__attribute__((noinline)) void tile_of_pairs(const bfloat16* a, int64_t a_row, const uint32_t* b,
                                             int64_t b_step, int64_t depth, Walk<bfloat16> walk,
                                             Finish finish) {
    constexpr int Sums = Vectors == 1 ? 2 : 1;
    const bfloat16* const begin = a;
    alignas(vector_bytes) float_vector acc[Sums][Rows][Vectors] = {};
    const auto step = [&](int sum, const auto& pair_of_row) __attribute__((always_inline)) {
        pair_vector row[Vectors];
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c)
            row[c] = *reinterpret_cast<const pair_vector*>(b + c * lanes<float>);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
            const pair_vector scale = pair_vector{} + pair_of_row(i);
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c)
                acc[sum][i][c] = add_products_of_pairs(acc[sum][i][c], scale, row[c]);
        }
        a += 2;
        b += b_step;
    };
    const auto whole_pair = [&](int i) {
        uint32_t pair;
        std::memcpy(&pair, a + i * a_row, 4);
        return pair;
    };
    const auto ask_ahead = [&](int64_t pair) __attribute__((always_inline)) {
        if (!walk.next) return;
        const bfloat16* ahead = walk.ahead_of(begin, 2 * pair);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) __builtin_prefetch(ahead + i * a_row);
    };
    const int64_t pairs = depth / 2;
    constexpr int64_t line = 16;  // pairs
    constexpr int second = Sums - 1;
    // As in add_products: whole lines have loops without a remainder.
    int64_t k = 0;
    for (; k + line <= pairs; k += line) {
        ask_ahead(k);
        for (int64_t i = 0; i < line; i += 4) {
            step(0, whole_pair);
            step(second, whole_pair);
            step(0, whole_pair);
            step(second, whole_pair);
        }
    }
    if (k < pairs) {
        ask_ahead(k);
        for (; k + 2 <= pairs; k += 2) {
            step(0, whole_pair);
            step(second, whole_pair);
        }
        if (k < pairs) step(0, whole_pair);
    }
    // An odd end: the partner belongs to the next row and may be NaN, so it is not read.
    if (depth % 2) step(0, [&](int i) { return static_cast<uint32_t>(a[i * a_row].bits); });
    if (Sums == 2) {
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c) acc[0][i][c] += acc[Sums - 1][i][c];
        }
    }
    finish_with(acc[0], finish);
}
#endif

// Pairs for tile_of_pairs out of two rows: to[c] = (first[c], second[c]).
inline void interleave(const bfloat16* first, const bfloat16* second, int64_t count, uint32_t* to) {
    for (int64_t c = 0; c < count; ++c)
        to[c] = first[c].bits | static_cast<uint32_t>(second[c].bits) << 16;
}

// How many of the rows that are left the next tile takes: all that it can hold, towards the end a
// power of two, so that few tiles have to be compiled.
constexpr int rows_at_once(int64_t left, int most) {
    if (left >= most) return most;
    int rows = 1;
    while (2 * rows <= left) rows *= 2;
    return rows;
}

// Calls body.template operator()<Rows>() for rows = rows_at_once(left, Most).
template <int Most, class Body>
inline void with_rows(int rows, const Body& body) {
    constexpr int next = rows_at_once(Most - 1, Most);
    if (rows == Most) {
        body.template operator()<Most>();
    } else if constexpr (Most > 1) {
        with_rows<next>(rows, body);
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
