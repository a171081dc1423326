// Vectors and tiles of the SIMD level that this file is compiled for.
//
// Files that include this one are compiled once a level, inside the namespace NTENSOR_LEVEL. They
// use no function template of the standard library: the linker could keep the copy with the widest
// instructions.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__F16C__) || defined(__AVX512F__) || defined(__SSE__)
#include <immintrin.h>
#endif

#include "api.h"

#ifndef NTENSOR_LEVEL
#error "compile with -DNTENSOR_LEVEL=<name of the SIMD level>"
#endif

namespace ntensor {
namespace NTENSOR_LEVEL {

// NTENSOR_EMULATED: a level of the vectors and tiles of AVX-512 and its pairs of bfloat16 in other
// instructions, slow but the same plans, so that every machine can test them.
#if defined(__AVX512F__) || defined(NTENSOR_EMULATED)
#define NTENSOR_WIDE_VECTORS
#endif
#if defined(__AVX512BF16__) || defined(NTENSOR_EMULATED)
#define NTENSOR_PAIRS
#endif

#if defined(NTENSOR_WIDE_VECTORS)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// Accumulator tiles of the micro-kernel: (rows, vectors) that fill the register file.
// 32 registers: 8 x 3, or 6 x 4 where four vectors span a slab of 64 samples; 16 registers: 6 x 2.
#if defined(NTENSOR_WIDE_VECTORS) || defined(__aarch64__)
constexpr int wide_tile = 4;
constexpr int square_tile = 3;
constexpr int tile_rows(int vectors) {
    return vectors == 4 ? 6 : 8;
}
#else
constexpr int wide_tile = 2;
constexpr int square_tile = 2;
constexpr int tile_rows(int vectors) {
    return vectors == 2 ? 6 : 8;
}
#endif

typedef float float_vector __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
typedef double double_vector __attribute__((vector_size(vector_bytes), aligned(8), may_alias));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    using type = float_vector;
};
template <>
struct VectorOf<double> {
    using type = double_vector;
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

template <class T>
inline Vector<T> load(const T* p) {
    return *reinterpret_cast<const Vector<T>*>(p);
}
template <class T>
inline void store(T* p, Vector<T> v) {
    *reinterpret_cast<Vector<T>*>(p) = v;
}
// Past the caches; p is aligned to vector_bytes.
inline void store_past_caches(float* p, float_vector v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif defined(NTENSOR_EMULATED)
    store(p, v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#elif defined(__SSE__)
    _mm_stream_ps(p, reinterpret_cast<__m128>(v));
#else
    store(p, v);
#endif
}
inline void store_past_caches(double* p, double_vector v) {
    store_past_caches(reinterpret_cast<float*>(p), reinterpret_cast<float_vector>(v));
}
// Orders store_past_caches before what other threads read afterwards.
inline void finish_stores() {
#if defined(__SSE__)
    _mm_sfence();
#endif
}

template <bool first, class A, class B>
struct SelectType {
    using type = A;
};
template <class A, class B>
struct SelectType<false, A, B> {
    using type = B;
};
template <bool first, class A, class B>
using Select = typename SelectType<first, A, B>::type;

// Integers as wide as the lanes of a vector.
template <class T>
struct Lanes {
    typedef Select<sizeof(T) == 4, int32_t, int64_t> index;
    typedef index type __attribute__((vector_size(vector_bytes)));

    static type places() {
        return []<int... I>(std::integer_sequence<int, I...>) {
            return type{I...};
        }(std::make_integer_sequence<int, lanes<T>>());
    }
};

// v with 0 in the lanes from count on.
template <class T>
inline Vector<T> keep_first(Vector<T> v, int64_t count) {
    using Mask = typename Lanes<T>::type;
    using Index = typename Lanes<T>::index;
    const Mask kept = Lanes<T>::places() < static_cast<Index>(count);
    return reinterpret_cast<Vector<T>>(reinterpret_cast<Mask>(v) & kept);
}

// The first count lanes alone, fewer than all of them; the others are 0.
template <class T>
inline Vector<T> load_first(const T* p, int64_t count) {
    T values[lanes<T>] = {};
    for (int64_t i = 0; i < count; ++i) values[i] = p[i];
    return load(values);
}
template <class T>
inline void store_first(T* p, Vector<T> v, int64_t count) {
    T values[lanes<T>];
    store(values, v);
    for (int64_t i = 0; i < count; ++i) p[i] = values[i];
}
#if defined(__AVX512F__)
inline float_vector load_first(const float* p, int64_t count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    return reinterpret_cast<float_vector>(_mm512_maskz_loadu_ps(mask, p));
}
inline void store_first(float* p, float_vector v, int64_t count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_ps(p, mask, reinterpret_cast<__m512>(v));
}
inline double_vector load_first(const double* p, int64_t count) {
    const auto mask = static_cast<__mmask8>((1u << count) - 1);
    return reinterpret_cast<double_vector>(_mm512_maskz_loadu_pd(mask, p));
}
inline void store_first(double* p, double_vector v, int64_t count) {
    const auto mask = static_cast<__mmask8>((1u << count) - 1);
    _mm512_mask_storeu_pd(p, mask, reinterpret_cast<__m512d>(v));
}
#elif defined(__AVX2__) && !defined(NTENSOR_WIDE_VECTORS)
inline float_vector load_first(const float* p, int64_t count) {
    const auto mask = Lanes<float>::places() < static_cast<int32_t>(count);
    return reinterpret_cast<float_vector>(_mm256_maskload_ps(p, reinterpret_cast<__m256i>(mask)));
}
inline double_vector load_first(const double* p, int64_t count) {
    const auto mask = Lanes<double>::places() < count;
    return reinterpret_cast<double_vector>(_mm256_maskload_pd(p, reinterpret_cast<__m256i>(mask)));
}
#endif

// first[0], second[0], first[1], second[1], ..., of the lower or the upper halves.
template <bool Upper, class V>
inline V interleave(V first, V second) {
    constexpr int count = sizeof(V) / sizeof(first[0]);
    return [&]<int... I>(std::integer_sequence<int, I...>) {
        constexpr int start = Upper ? count / 2 : 0;
#if defined(__clang__)
        return __builtin_shufflevector(first, second, (start + I / 2 + I % 2 * count)...);
#else
        using Index = Select<sizeof(first[0]) == 4, int32_t, int64_t>;
        typedef Index indices __attribute__((vector_size(sizeof(V))));
        return __builtin_shuffle(first, second, indices{(start + I / 2 + I % 2 * count)...});
#endif
    }(std::make_integer_sequence<int, count>());
}

// first[Odd], first[Odd + 2], ..., then those of second.
template <bool Odd, class V>
inline V every_second(V first, V second) {
    constexpr int count = sizeof(V) / sizeof(first[0]);
    return [&]<int... I>(std::integer_sequence<int, I...>) {
#if defined(__clang__)
        return __builtin_shufflevector(first, second, (2 * I + Odd)...);
#else
        using Index = Select<sizeof(first[0]) == 4, int32_t, int64_t>;
        typedef Index indices __attribute__((vector_size(sizeof(V))));
        return __builtin_shuffle(first, second, indices{(2 * I + Odd)...});
#endif
    }(std::make_integer_sequence<int, count>());
}

// Lane i is v[i + Places], lanes counted around.
template <int Places, class V>
inline V rotate_lanes(V v) {
    constexpr int count = sizeof(V) / sizeof(v[0]);
    return [&]<int... I>(std::integer_sequence<int, I...>) {
#if defined(__clang__)
        return __builtin_shufflevector(v, v, ((I + Places) % count)...);
#else
        using Index = Select<sizeof(v[0]) == 4, int32_t, int64_t>;
        typedef Index indices __attribute__((vector_size(sizeof(V))));
        return __builtin_shuffle(v, indices{((I + Places) % count)...});
#endif
    }(std::make_integer_sequence<int, count>());
}

template <class T, int Half = lanes<T> / 2>
inline T sum_lanes(Vector<T> v) {
    if constexpr (Half == 0) {
        return v[0];
    } else {
        return sum_lanes<T, Half / 2>(v + rotate_lanes<Half>(v));
    }
}

// A square of lanes x lanes elements: its rows become its columns.
template <class T>
inline void transpose(Vector<T> (&v)[lanes<T>]) {
    constexpr int V = lanes<T>;
#pragma GCC unroll 4
    for (int round = 1; round < V; round *= 2) {
        Vector<T> mixed[V];
#pragma GCC unroll 8
        for (int i = 0; i < V / 2; ++i) {
            mixed[2 * i] = interleave<false>(v[i], v[i + V / 2]);
            mixed[2 * i + 1] = interleave<true>(v[i], v[i + V / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < V; ++i) v[i] = mixed[i];
    }
}

// Lane i of the result is the sum of the lanes of v[i].
template <class T>
inline Vector<T> sums_of_lanes(Vector<T> (&v)[lanes<T>]) {
    constexpr int V = lanes<T>;
#pragma GCC unroll 4
    for (int half = V / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i)
            v[i] = interleave<false>(v[i], v[i + half]) + interleave<true>(v[i], v[i + half]);
    }
    return v[0];
}

constexpr int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
constexpr int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
