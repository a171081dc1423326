// The storage types: how their elements become those of vectors, and back.
#pragma once

#include "vectors.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Storage types. accumulator: the type of every sum and of every product of factors.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// The compiler's half type; GCC before 13 knows it on 64-bit Arm by its older name only.
#if defined(__aarch64__)
using compiler_half = __fp16;
#else
using compiler_half = _Float16;
#endif

template <class S>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
template <class S>
using Accumulator = typename AccumulatorOf<S>::type;

inline float to_accumulator(float v) {
    return v;
}
inline double to_accumulator(double v) {
    return v;
}
inline float to_accumulator(bfloat16 v) {
    uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
inline float to_accumulator(float16 v) {
#if defined(__F16C__)
    return _cvtsh_ss(v.bits);
#else
    compiler_half h;
    std::memcpy(&h, &v.bits, 2);
    return static_cast<float>(h);
#endif
}

inline void round_to(float v, float* out) {
    *out = v;
}
inline void round_to(double v, double* out) {
    *out = v;
}
// To nearest, ties to even; NaN stays NaN.
inline void round_to(float v, bfloat16* out) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out->bits =
        static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}
inline void round_to(float v, float16* out) {
#if defined(__F16C__)
    out->bits = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT);
#else
    const compiler_half h = static_cast<compiler_half>(v);
    std::memcpy(&out->bits, &h, 2);
#endif
}

template <class S>
inline void widen(const S* from, Accumulator<S>* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = to_accumulator(from[i]);
}
template <class S>
inline void narrow(const Accumulator<S>* from, S* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) round_to(from[i], to + i);
}
// A type that is its own accumulator is copied.
template <class T>
inline void copy_row(const T* from, T* to, int64_t count) {
    int64_t i = 0;
    for (; i + lanes<T> <= count; i += lanes<T>) store(to + i, load(from + i));
    if (i < count) store_first(to + i, load_first(from + i, count - i), count - i);
}
inline void widen(const float* from, float* to, int64_t count) {
    copy_row(from, to, count);
}
inline void widen(const double* from, double* to, int64_t count) {
    copy_row(from, to, count);
}
inline void narrow(const float* from, float* to, int64_t count) {
    copy_row(from, to, count);
}
inline void narrow(const double* from, double* to, int64_t count) {
    copy_row(from, to, count);
}
#if defined(__AVX512F__)
inline void widen(const float16* from, float* to, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask =
            count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
        _mm512_mask_storeu_ps(to + i, mask,
                              _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from + i)));
    }
}
inline void narrow(const float* from, float16* to, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask =
            count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
        const __m256i half =
            _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, from + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_mask_storeu_epi16(to + i, mask, half);
    }
}
#endif

// A vector of the accumulator type out of stored elements, and into them.
template <class S>
inline Vector<Accumulator<S>> load_widened(const S* p) {
    using T = Accumulator<S>;
    if constexpr (sizeof(S) == sizeof(T)) return load(p);
    T values[lanes<T>];
    widen(p, values, lanes<T>);
    return load(values);
}
template <class S>
inline void store_narrowed(S* p, Vector<Accumulator<S>> v) {
    using T = Accumulator<S>;
    if constexpr (sizeof(S) == sizeof(T)) return store(p, v);
    T values[lanes<T>];
    store(values, v);
    narrow(values, p, lanes<T>);
}

typedef uint32_t word_vector __attribute__((vector_size(vector_bytes)));
typedef uint16_t half_vector __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));

template <>
inline float_vector load_widened<bfloat16>(const bfloat16* p) {
    const half_vector bits = *reinterpret_cast<const half_vector*>(p);
    return reinterpret_cast<float_vector>(__builtin_convertvector(bits, word_vector) << 16);
}
template <>
inline void store_narrowed<bfloat16>(bfloat16* p, float_vector v) {
    const word_vector bits = reinterpret_cast<word_vector>(v);
    const word_vector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const word_vector quiet = (bits >> 16) | 0x40u;
    const word_vector chosen = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
    *reinterpret_cast<half_vector*>(p) = __builtin_convertvector(chosen, half_vector);
}
// load_first of stored elements.
template <class S>
inline Vector<Accumulator<S>> load_first_widened(const S* p, int64_t count) {
    using T = Accumulator<S>;
    if constexpr (sizeof(S) == sizeof(T)) return load_first(p, count);
    T values[lanes<T>] = {};
    widen(p, values, count);
    return load(values);
}
#if defined(__AVX512F__)
template <>
inline float_vector load_first_widened<bfloat16>(const bfloat16* p, int64_t count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
    return reinterpret_cast<float_vector>(_mm512_slli_epi32(bits, 16));
}
template <>
inline float_vector load_first_widened<float16>(const float16* p, int64_t count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    return reinterpret_cast<float_vector>(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)));
}
#endif
inline void widen(const bfloat16* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + lanes<float> <= count; i += lanes<float>) store(to + i, load_widened(from + i));
    for (; i < count; ++i) to[i] = to_accumulator(from[i]);
}
inline void narrow(const float* from, bfloat16* to, int64_t count) {
    int64_t i = 0;
    for (; i + lanes<float> <= count; i += lanes<float>) store_narrowed(to + i, load(from + i));
    for (; i < count; ++i) round_to(from[i], to + i);
}

template <class S>
inline Accumulator<S> element(const Matrix& m, int64_t row, int64_t col) {
    return to_accumulator(static_cast<const S*>(m.data)[row * m.row_stride + col * m.col_stride]);
}

// to[0, count) = row `row` of m, columns from `col` on.
template <class S>
inline void widen_row(const Matrix& m, int64_t row, int64_t col, int64_t count,
                      Accumulator<S>* to) {
    const S* from = static_cast<const S*>(m.data) + row * m.row_stride + col * m.col_stride;
    if (m.col_stride == 1) {
        widen(from, to, count);
    } else {
        for (int64_t i = 0; i < count; ++i) to[i] = to_accumulator(from[i * m.col_stride]);
    }
}

// to[i * width + s] = m[row + s, col + i] for `rows` rows of m, `count` columns: rows become lanes.
// The lanes from `rows` to `width`, a multiple of a vector's, become zero.
template <class S>
inline void widen_columns(const Matrix& m, int64_t row, int64_t rows, int64_t col, int64_t count,
                          int64_t width, Accumulator<S>* to) {
    using T = Accumulator<S>;
    constexpr int V = lanes<T>;
    const S* from = static_cast<const S*>(m.data) + row * m.row_stride + col * m.col_stride;
    if (m.row_stride == 1) {
        for (int64_t i = 0; i < count; ++i) {
            widen(from + i * m.col_stride, to + i * width, rows);
            for (int64_t s = rows; s < width; ++s) to[i * width + s] = 0;
        }
        return;
    }
    for (int64_t s0 = 0; s0 < width; s0 += V) {
        const int64_t here = max64(0, min64(V, rows - s0));
        int64_t i = 0;
        if (m.col_stride == 1) {
            // What is left over is taken with some columns of the block before it.
            for (; i < count && count >= V; i += V) {
                if (i + V > count) i = count - V;
                Vector<T> block[V];
                for (int s = 0; s < V; ++s) {
                    if (s < here) {
                        block[s] = load_widened(from + (s0 + s) * m.row_stride + i);
                    } else {
                        block[s] = Vector<T>{};
                    }
                }
                transpose<T>(block);
                for (int j = 0; j < V; ++j) store(to + (i + j) * width + s0, block[j]);
            }
        }
        for (; i < count; ++i) {
            T* lane = to + i * width + s0;
            for (int64_t s = 0; s < here; ++s)
                lane[s] = to_accumulator(from[(s0 + s) * m.row_stride + i * m.col_stride]);
            for (int64_t s = here; s < V; ++s) lane[s] = 0;
        }
    }
}

// to[s * row_stride + r * col_stride] = from[r * width + s] for `rows` rows r, `samples` lanes s:
// the way back. One of the strides is 1.
template <class S>
inline void narrow_columns(const Accumulator<S>* from, int64_t width, int64_t rows, int64_t samples,
                           S* to, int64_t to_stride, int64_t col_stride) {
    using T = Accumulator<S>;
    constexpr int V = lanes<T>;
    if (col_stride != 1) {
        for (int64_t r = 0; r < rows; ++r) narrow(from + r * width, to + r * col_stride, samples);
        return;
    }
    for (int64_t s0 = 0; s0 < samples; s0 += V) {
        const int64_t here = min64(V, samples - s0);
        int64_t r = 0;
        for (; r + V <= rows; r += V) {
            Vector<T> block[V];
            for (int j = 0; j < V; ++j) block[j] = load(from + (r + j) * width + s0);
            transpose<T>(block);
            for (int64_t s = 0; s < here; ++s)
                store_narrowed(to + (s0 + s) * to_stride + r, block[s]);
        }
        for (; r < rows; ++r) {
            for (int64_t s = 0; s < here; ++s)
                round_to(from[r * width + s0 + s], to + (s0 + s) * to_stride + r);
        }
    }
}

// Calls body(S{}) with the storage type of dtype.
template <class Body>
inline void with_storage_type(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::float32:
            return body(float{});
        case DType::float64:
            return body(double{});
        case DType::bfloat16:
            return body(bfloat16{});
        case DType::float16:
            return body(float16{});
    }
}

// Hands out consecutive, 64-byte aligned pieces of the scratch memory; with a null base it only
// counts.
struct Arena {
    char* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t count) {
        T* piece = reinterpret_cast<T*>(base + used);
        used += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
        return piece;
    }
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
