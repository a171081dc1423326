// The loops that tell what this machine can do at most: memory traffic and arithmetic.

#include "roofline.h"

#include "parallel.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t rounds = 4'000'000;
constexpr int chains = 12;  // independent sums, enough to cover the latency of a fused multiply-add

// Keeps a value alive without storing it.
template <class V>
inline void keep(const V& value) {
    asm volatile("" : : "m"(value));
}

double read(const float* from, int64_t count) {
    float_vector sums[8] = {};
    for (int64_t i = 0; i < count; i += 8 * lanes<float>) {
        for (int c = 0; c < 8; ++c) sums[c] += load(from + i + c * lanes<float>);
        __builtin_prefetch(from + i + 2048);
        if (lanes<float> >= 4) __builtin_prefetch(from + i + 2048 + 16);
        if (lanes<float> >= 8) {
            __builtin_prefetch(from + i + 2048 + 32);
            __builtin_prefetch(from + i + 2048 + 48);
        }
        if (lanes<float> >= 16) {
            for (int c = 4; c < 8; ++c) __builtin_prefetch(from + i + 2048 + 16 * c);
        }
    }
    for (int c = 0; c < 8; ++c) keep(sums[c]);
    return 4.0 * static_cast<double>(count);
}

double write(float* to, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes<float>) store_past_caches(to + i, float_vector{});
    finish_stores();
    return 4.0 * static_cast<double>(count);
}

double copy(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes<float>) {
        if (i % 16 == 0) __builtin_prefetch(from + i + 2048);
        store_past_caches(to + i, load(from + i));
    }
    finish_stores();
    return 8.0 * static_cast<double>(count);
}

template <class T>
double multiply_add() {
    Vector<T> sums[chains] = {};
    Vector<T> a = {}, b = {};
    asm volatile("" : "+m"(a), "+m"(b));
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < chains; ++c) sums[c] += a * b;
        asm volatile("" : : : "memory");
#if defined(__AVX512F__) || defined(__SSE__)
#pragma GCC unroll 16
        for (int c = 0; c < chains; ++c) asm volatile("" : "+x"(sums[c]));
#else
#pragma GCC unroll 16
        for (int c = 0; c < chains; ++c) asm volatile("" : "+w"(sums[c]));
#endif
    }
    for (int c = 0; c < chains; ++c) keep(sums[c]);
    return 2.0 * chains * lanes<T> * static_cast<double>(rounds);
}

double bfloat16_dot() {
#if defined(__AVX512BF16__)
    __m512 sums[chains] = {};
    __m512i a = {}, b = {};
    asm volatile("" : "+m"(a), "+m"(b));
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < chains; ++c) {
            sums[c] = _mm512_dpbf16_ps(sums[c], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
        }
#pragma GCC unroll 16
        for (int c = 0; c < chains; ++c) asm volatile("" : "+x"(sums[c]));
    }
    for (int c = 0; c < chains; ++c) keep(sums[c]);
    return 4.0 * chains * 16 * static_cast<double>(rounds);
#else
    return 0;
#endif
}

}  // namespace

// Each thread works on its share of the buffers, or does all the rounds of arithmetic.
double roof(Roof kind, void* destination, const void* source, int64_t bytes, int threads) {
    constexpr int64_t unit = 1024;  // floats
    const int64_t share = bytes / 4 / threads / unit * unit;
    double done[256] = {};
    if (threads > 256) threads = 256;
    parallel_for_threads(threads, [&](int t) {
        float* to = static_cast<float*>(destination) + t * share;
        const float* from = static_cast<const float*>(source) + t * share;
        switch (kind) {
            case Roof::read: done[t] = read(from, share); break;
            case Roof::write: done[t] = write(to, share); break;
            case Roof::copy: done[t] = copy(to, from, share); break;
            case Roof::fma32: done[t] = multiply_add<float>(); break;
            case Roof::fma64: done[t] = multiply_add<double>(); break;
            case Roof::bf16dot: done[t] = bfloat16_dot(); break;
        }
    });
    double total = 0;
    for (int t = 0; t < threads; ++t) total += done[t];
    return total;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
