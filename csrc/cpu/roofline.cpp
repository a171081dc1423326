// The loops that tell what this machine can do at most: memory traffic and arithmetic.

#include "roofline.h"

#include "parallel.h"
#include "tile.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t rounds = 2'000'000;
// Independent sums, enough to cover the latency of a multiply-add; all stay in registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int chains = 24;
#else
constexpr int chains = 12;
#endif

#if defined(__AVX512F__)
#define NTENSOR_IN_REGISTER "+v"
#elif defined(NTENSOR_EMULATED)
#define NTENSOR_IN_REGISTER "+m"
#elif defined(__SSE__)
#define NTENSOR_IN_REGISTER "+x"
#elif defined(__aarch64__)
#define NTENSOR_IN_REGISTER "+w"
#else
#define NTENSOR_IN_REGISTER "+m"
#endif

// Stops the compiler from calculating a loop's values before or after it.
template <class V>
inline void opaque(V& value) {
    asm volatile("" : NTENSOR_IN_REGISTER(value));
}

// Several streams a thread: one alone does not reach the memory's bandwidth on every processor.
double read(const float* from, int64_t count) {
    constexpr int streams = 8;
    const int64_t stride = count / streams;
    float_vector sums[streams] = {};
    for (int64_t i = 0; i < stride; i += 16) {
#pragma GCC unroll 8
        for (int c = 0; c < streams; ++c) {
            const float* at = from + c * stride + i;
            __builtin_prefetch(at + 512);
#pragma GCC unroll 4
            for (int j = 0; j < 16; j += lanes<float>) sums[c] += load(at + j);
        }
    }
    for (int c = 0; c < streams; ++c) opaque(sums[c]);
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
    opaque(a);
    opaque(b);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (int c = 0; c < chains; ++c) {
            sums[c] += a * b;
            opaque(sums[c]);
        }
    }
    return 2.0 * chains * lanes<T> * static_cast<double>(rounds);
}

double bfloat16_dot() {
#if defined(__AVX512BF16__)
    float_vector sums[chains] = {};
    pair_vector a = {}, b = {};
    opaque(a);
    opaque(b);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (int c = 0; c < chains; ++c) {
            sums[c] = add_products_of_pairs(sums[c], a, b);
            opaque(sums[c]);
        }
    }
    return 4.0 * chains * 16 * static_cast<double>(rounds);
#else
    return 0;
#endif
}

}  // namespace

// Each thread works on its share of the buffers, or does all the rounds of arithmetic.
double roof(Roof kind, void* destination, const void* source, int64_t bytes, int threads) {
    constexpr int64_t unit = 4096;  // floats
    const int64_t share = bytes / 4 / threads / unit * unit;
    double done[256] = {};
    if (threads > 256) threads = 256;
    parallel_for_threads(threads, [&](int t) {
        float* to = static_cast<float*>(destination) + t * share;
        const float* from = static_cast<const float*>(source) + t * share;
        switch (kind) {
            case Roof::read:
                done[t] = read(from, share);
                break;
            case Roof::write:
                done[t] = write(to, share);
                break;
            case Roof::copy:
                done[t] = copy(to, from, share);
                break;
            case Roof::fma32:
                done[t] = multiply_add<float>();
                break;
            case Roof::fma64:
                done[t] = multiply_add<double>();
                break;
            case Roof::bf16dot:
                done[t] = bfloat16_dot();
                break;
        }
    });
    double total = 0;
    for (int t = 0; t < threads; ++t) total += done[t];
    return total;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
