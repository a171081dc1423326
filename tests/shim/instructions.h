// The host's twins of csrc/cuda/instructions.cuh. A matrix instruction is carried out element by
// element on what the lanes lay in the warp's box.
#pragma once

#include <cmath>

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
inline uint32_t as_bits(float value) {
    return bits_of<uint32_t>(value);
}

inline int kept(int value) {
    return value;
}

template <class S>
struct Shared {
    S* at;
    Shared operator+(int elements) const { return {at + elements}; }
};
template <class S>
inline Shared<S> shared_address(S* p) {
    return {p};
}
template <class S>
inline S load(Shared<S> from) {
    return *from.at;
}
template <class S>
inline void store(Shared<S> to, S value) {
    *to.at = value;
}
template <class S>
inline void store16(Shared<S> to, const void* words) {
    if (reinterpret_cast<uintptr_t>(to.at) % 16) ::shim::fail("a store that is not aligned");
    std::memcpy(static_cast<void*>(to.at), words, 16);
}

template <int Bytes, class S>
inline void copy_async(Shared<S> to, const void* from, bool valid) {
    ::shim::copy_async(to.at, from, Bytes, valid ? Bytes : 0);
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

template <bool Transposed, class S>
inline void load_matrices(uint32_t (&to)[4], Shared<S> from) {
    const S* row = from.at;
    struct Box {
        const uint16_t* rows[32];
    };
    if (reinterpret_cast<uintptr_t>(row) % 16)
        ::shim::fail("a row of a matrix that is not aligned");
    const Box& box = ::shim::exchange<Box>(
        [&](Box& b, int l) { b.rows[l] = reinterpret_cast<const uint16_t*>(row); });
    const int g = lane() / 4, t = lane() % 4;
    for (int q = 0; q < 4; ++q) {
        const uint16_t* const* rows = box.rows + 8 * q;
        const uint32_t low = Transposed ? rows[2 * t][g] : rows[g][2 * t];
        const uint32_t high = Transposed ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
        to[q] = low | high << 16;
    }
}

// An operand of a product on tensor cores, with the exponent of its leading digit.
struct Term {
    double value;
    int exponent;
};

constexpr int no_exponent = -4096;  // of zero
constexpr int not_finite = 128;     // the exponent of infinity and NaN

// least: the exponent of the smallest normal number, which subnormal ones have too.
inline Term term_of(float value, int least) {
    const int exponent = static_cast<int>(bits_of<uint32_t>(value) >> 23 & 0xff) - 127;
    return {value, value == 0 ? no_exponent : exponent < least ? least : exponent};
}

constexpr int least_of_float = -126;
constexpr int least_exponent(bfloat16) {
    return least_of_float;
}
constexpr int least_exponent(float16) {
    return -14;
}

inline float toward_zero(double value) {
    const float rounded = static_cast<float>(value);
    const double size = std::abs(value), largest = 0x1p128;
    if (size < largest && std::abs(static_cast<double>(rounded)) > size)
        return bits_of<float>(bits_of<uint32_t>(rounded) - 1);
    return rounded;
}

// acc + the sum of a[k] b[k] as tensor cores form it: products are exact, all terms are cut toward
// zero at one bit below float32's last digit for the largest exponent among them, the exponents of
// a product's factors added, and the sum is cut to float32 toward zero.
//
// Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer
// Science 7:e330, 2021; Khattak, Mikaitis, "Accurate models of NVIDIA tensor cores",
// arXiv:2512.07004, 2025, which equals cards bit by bit. This is sm_80 to sm_89, where one bit more
// is kept; sm_90 keeps two, and forms sums twice as long at once.
template <int Count>
inline float add_products(float acc, const Term* a, const Term* b) {
    constexpr int kept = 23 + 1;
    const Term start = term_of(acc, least_of_float);
    int largest = start.exponent;
    bool finite = start.exponent != not_finite;
    double products[Count];
    for (int k = 0; k < Count; ++k) {
        products[k] = a[k].value * b[k].value;
        const int exponent = a[k].exponent + b[k].exponent;
        if (exponent > largest) largest = exponent;
        finite &= a[k].exponent != not_finite && b[k].exponent != not_finite;
    }
    double sum = start.value;
    if (!finite || largest < no_exponent / 2) {
        for (const double product : products) sum += product;
        return static_cast<float>(sum);
    }
    const double scale = bits_of<double>(static_cast<uint64_t>(1023 + kept - largest) << 52);
    sum = static_cast<double>(static_cast<int64_t>(sum * scale));
    for (const double product : products)
        sum += static_cast<double>(static_cast<int64_t>(product * scale));
    return toward_zero(sum / scale);
}

// Operands with the index that is summed over last, which goes on in groups of AtOnce.
template <int Depth, int AtOnce>
struct Matrices {
    Term a[16][Depth];
    Term b[8][Depth];

    void multiply_add(float (&acc)[4], int g, int t) const {
        for (int i = 0; i < 4; ++i) {
            for (int k = 0; k < Depth; k += AtOnce)
                acc[i] = add_products<AtOnce>(acc[i], a[g + i / 2 * 8] + k, b[2 * t + i % 2] + k);
        }
    }
};

template <class S>
inline void multiply_add(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], S) {
    using Box = Matrices<16, 8>;
    const int g = lane() / 4, t = lane() % 4;
    const auto read = [](uint32_t pair, int half) {
        return term_of(to_float(S{static_cast<uint16_t>(pair >> 16 * half)}), least_exponent(S{}));
    };
    const Box& box = ::shim::exchange<Box>([&](Box& to, int) {
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                to.a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = read(a[i], half);
            for (int i = 0; i < 2; ++i) to.b[g][2 * t + i * 8 + half] = read(b[i], half);
        }
    });
    box.multiply_add(acc, g, t);
}

// The instruction reads the upper 19 bits of its operands.
inline void multiply_add_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    using Box = Matrices<8, 4>;
    const int g = lane() / 4, t = lane() % 4;
    const auto read = [](uint32_t bits) {
        return term_of(as_float(bits & ~uint32_t{0x1fff}), least_of_float);
    };
    const Box& box = ::shim::exchange<Box>([&](Box& to, int) {
        for (int i = 0; i < 4; ++i) to.a[g + i % 2 * 8][t + i / 2 * 4] = read(a[i]);
        for (int i = 0; i < 2; ++i) to.b[g][t + i * 4] = read(b[i]);
    });
    box.multiply_add(acc, g, t);
}

inline void multiply_add(double& acc0, double& acc1, double a, double b) {
    struct Box {
        double a[8][4];
        double b[4][8];
    };
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

inline bool any_lane(bool value) {
    struct Box {
        bool values[32];
    };
    const Box& box = ::shim::exchange<Box>([&](Box& b, int l) { b.values[l] = value; });
    bool any = false;
    for (const bool each : box.values) any |= each;
    return any;
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
