// The micro-kernel: one tile of a matrix product, held in registers.
//
//   acc[i][c] = sum over k in [0, depth) of a[i * a_row + k * a_step] * b[k * b_step + c]
//
// All three primitives of the projection are this product:
//   projection       a: rows of the core      b: W, packed with the samples side by side
//   factor grads     a: rows of G (samples)   b: rows of the core
//   core grad        a: G, packed             b: rows of W
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// What the tile asks the memory for while it calculates.
enum class Prefetch { none, rows_of_a, rows_of_b };

// Distance, in elements, at which rows of the core are asked for ahead of their use.
constexpr int64_t prefetch_distance = 512;

template <class T>
struct TileInput {
    const T* a;
    int64_t a_row;
    int64_t a_step;
    const T* b;
    int64_t b_step;
    int64_t depth;
    const T* next_b = nullptr;  // Prefetch::rows_of_b: the tile of b that comes next
};

template <class T, int Rows, int Vectors, Prefetch Ahead, class Finish>
inline void tile(const TileInput<T>& in, const Finish& finish) {
    constexpr int V = lanes<T>;
    constexpr int64_t line = 64 / sizeof(T);
    Vector<T> acc[Rows][Vectors] = {};
    const T* a = in.a;
    const T* b = in.b;
    const T* next_b = in.next_b;
    const int64_t a_row = in.a_row;
    for (int64_t k0 = 0; k0 < in.depth; k0 += line) {
        const int64_t count = min64(line, in.depth - k0);
        if constexpr (Ahead == Prefetch::rows_of_a) {
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) __builtin_prefetch(a + i * a_row + prefetch_distance);
        }
#pragma GCC unroll 4
        for (int64_t k = 0; k < count; ++k) {
            Vector<T> row[Vectors];
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c) row[c] = load(b + c * V);
            if constexpr (Ahead == Prefetch::rows_of_b) {
#pragma GCC unroll 4
                for (int c = 0; c < Vectors; ++c) {
                    if (c * V % line == 0) __builtin_prefetch(next_b + c * V);
                }
                next_b += in.b_step;
            }
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) {
                const T scale = a[i * a_row];
#pragma GCC unroll 4
                for (int c = 0; c < Vectors; ++c) acc[i][c] += scale * row[c];
            }
            a += in.a_step;
            b += in.b_step;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) finish(i, c * V, acc[i][c]);
    }
}

#if defined(__AVX512BF16__)
// The same for bfloat16 with pairs of k side by side: a pair of a is one 32-bit word, b holds b_step words a pair.
template <int Rows, int Vectors, class Finish>
inline void tile_of_pairs(const bfloat16* a, int64_t a_row, const uint32_t* b, int64_t b_step, int64_t depth,
                          const Finish& finish) {
    __m512 acc[Rows][Vectors] = {};
    const auto step = [&](const auto& pair_of_row) {
        __m512bh row[Vectors];
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) row[c] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + c * 16));
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            const __m512bh scale = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_of_row(i)));
#pragma GCC unroll 4
            for (int c = 0; c < Vectors; ++c) acc[i][c] = _mm512_dpbf16_ps(acc[i][c], scale, row[c]);
        }
        a += 2;
        b += b_step;
    };
    const auto whole_pair = [&](int i) {
        int32_t pair;
        std::memcpy(&pair, a + i * a_row, 4);
        return pair;
    };
    const int64_t pairs = depth / 2;
    for (int64_t k0 = 0; k0 < pairs; k0 += 16) {
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) __builtin_prefetch(a + i * a_row + 2 * prefetch_distance);
        const int64_t count = min64(16, pairs - k0);
#pragma GCC unroll 4
        for (int64_t k = 0; k < count; ++k) step(whole_pair);
    }
    // An odd end: the partner belongs to the next row and may be NaN, so it is not read.
    if (depth % 2) step([&](int i) { return static_cast<int32_t>(a[i * a_row].bits); });
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) finish(i, c * 16, reinterpret_cast<float_vector>(acc[i][c]));
    }
}
#endif

// Calls body.template operator()<Rows>() for the run-time value rows in [1, Most].
template <int Most, class Body>
inline void with_rows(int rows, const Body& body) {
    if (rows == Most) {
        body.template operator()<Most>();
    } else if constexpr (Most > 1) {
        with_rows<Most - 1>(rows, body);
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
