// The host's twins of csrc/cuda/instructions.cuh. A matrix instruction is carried out element by
// element on what the lanes lay in the warp's box.
#pragma once

#include "shim.h"

namespace ntensor {
namespace cuda {

#if defined(__aarch64__)
using compiler_half = __fp16;
#else
using compiler_half = _Float16;
#endif

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline float to_float(float16 value) {
    return static_cast<float>(bits_of<compiler_half>(value.bits));
}
inline float16 to_float16(float value) {
    return {bits_of<uint16_t>(static_cast<compiler_half>(value))};
}
inline float to_float(bfloat16 value) {
    return bits_of<float>(static_cast<uint32_t>(value.bits) << 16);
}
inline bfloat16 to_bfloat16(float value) {
    const uint32_t bits = bits_of<uint32_t>(value);
    if (value != value) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline uint32_t to_tf32(float value) {
    const uint32_t bits = bits_of<uint32_t>(value);
    if (value != value) return 0x7fffffff;
    return (bits + 0x1000) & ~uint32_t{0x1fff};  // to nearest, ties away from zero
}
inline float as_float(uint32_t bits) {
    return bits_of<float>(bits);
}

template <int Bytes>
inline void copy_async(void* to, const void* from, int valid) {
    ::shim::copy_async(to, from, Bytes, valid);
}
inline void commit_copies() {
    ::shim::commit_copies();
}
template <int Groups>
inline void wait_for_copies() {
    ::shim::wait_for_copies(Groups);
}

inline int lane() {
    return ::shim::block().current % ::shim::lanes_of_warp;
}

template <bool Transposed>
inline void load_matrices(uint32_t (&to)[4], const void* row) {
    struct Box {
        const uint16_t* rows[32];
    };
    if (reinterpret_cast<uintptr_t>(row) % 16)
        ::shim::fail("a row of a matrix that is not aligned");
    const Box& box = ::shim::exchange<Box>(
        [&](Box& b, int l) { b.rows[l] = static_cast<const uint16_t*>(row); });
    const int g = lane() / 4, t = lane() % 4;
    for (int q = 0; q < 4; ++q) {
        const uint16_t* const* rows = box.rows + 8 * q;
        const uint32_t low = Transposed ? rows[2 * t][g] : rows[g][2 * t];
        const uint32_t high = Transposed ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
        to[q] = low | high << 16;
    }
}

template <class T, int Rows, int Depth>
struct Matrices {
    T a[Rows][Depth];
    T b[Depth][8];
};

template <class S>
inline void multiply_add(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], S) {
    using Box = Matrices<float, 16, 16>;
    const int g = lane() / 4, t = lane() % 4;
    const Box& box = ::shim::exchange<Box>([&](Box& to, int) {
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                to.a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] =
                    to_float(S{static_cast<uint16_t>(a[i] >> 16 * half)});
            for (int i = 0; i < 2; ++i)
                to.b[2 * t + i * 8 + half][g] =
                    to_float(S{static_cast<uint16_t>(b[i] >> 16 * half)});
        }
    });
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 16; ++k) acc[i] += box.a[g + i / 2 * 8][k] * box.b[k][2 * t + i % 2];
}

// The instruction reads the upper 19 bits of its operands.
inline void multiply_add_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    using Box = Matrices<float, 16, 8>;
    const auto read = [](uint32_t bits) { return as_float(bits & ~uint32_t{0x1fff}); };
    const int g = lane() / 4, t = lane() % 4;
    const Box& box = ::shim::exchange<Box>([&](Box& to, int) {
        for (int i = 0; i < 4; ++i) to.a[g + i % 2 * 8][t + i / 2 * 4] = read(a[i]);
        for (int i = 0; i < 2; ++i) to.b[t + i * 4][g] = read(b[i]);
    });
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 8; ++k) acc[i] += box.a[g + i / 2 * 8][k] * box.b[k][2 * t + i % 2];
}

inline void multiply_add(double& acc0, double& acc1, double a, double b) {
    using Box = Matrices<double, 8, 4>;
    const int g = lane() / 4, t = lane() % 4;
    const Box& box = ::shim::exchange<Box>([&](Box& to, int) {
        to.a[g][t] = a;
        to.b[t][g] = b;
    });
    for (int k = 0; k < 4; ++k) {
        acc0 += box.a[g][k] * box.b[k][2 * t];
        acc1 += box.a[g][k] * box.b[k][2 * t + 1];
    }
}

template <class T>
inline T exchange_lanes(T value, int mask) {
    struct Box {
        T values[32];
    };
    const Box& box = ::shim::exchange<Box>([&](Box& b, int l) { b.values[l] = value; });
    return box.values[lane() ^ mask];
}

}  // namespace cuda
}  // namespace ntensor
