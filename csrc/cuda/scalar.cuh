// Storage types and the types that sums are formed in, operands read element by element, and
// division by a number that all threads share.
#pragma once

#include "instructions.cuh"

namespace ntensor {
namespace cuda {

template <class S>
struct SumOf {
    using type = float;
};
template <>
struct SumOf<double> {
    using type = double;
};
template <class S>
using Sum = typename SumOf<S>::type;

__device__ inline float widen(float value) {
    return value;
}
__device__ inline double widen(double value) {
    return value;
}
__device__ inline float widen(bfloat16 value) {
    return to_float(value);
}
__device__ inline float widen(float16 value) {
    return to_float(value);
}

template <class S>
__device__ inline S narrow(Sum<S> value) {
    return value;
}
template <>
__device__ inline bfloat16 narrow<bfloat16>(float value) {
    return to_bfloat16(value);
}
template <>
__device__ inline float16 narrow<float16>(float value) {
    return to_float16(value);
}

// V elements that are moved in one piece.
template <class S, int V>
struct alignas(sizeof(S) * V) Pack {
    S items[V];
};

template <class S>
constexpr int pack_size = 16 / static_cast<int>(sizeof(S));

inline bool aligned16(const void* p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Rows of `columns` elements that begin every `stride` elements can be moved in packs.
template <class S>
inline bool rows_in_packs(const void* data, int64_t stride) {
    return aligned16(data) && stride % pack_size<S> == 0;
}

// A strided matrix of S, or of sums where `wide`. Without data every element is 1.
template <class S>
struct Operand {
    const void* data = nullptr;
    int64_t row_stride = 0;
    int64_t col_stride = 0;
    bool wide = false;

    Operand() = default;
    explicit Operand(const Matrix& m)
        : data(m.data), row_stride(m.row_stride), col_stride(m.col_stride) {}
    Operand(const Sum<S>* sums, int64_t columns)
        : data(sums), row_stride(columns), col_stride(1), wide(true) {}

    __device__ Sum<S> at(int64_t row, int64_t column) const {
        const int64_t place = row * row_stride + column * col_stride;
        if (!data) return 1;
        return wide ? static_cast<const Sum<S>*>(data)[place]
                    : widen(static_cast<const S*>(data)[place]);
    }
};

// A merged index as the two that it was made of: the inner one counts fastest.
struct IndexPair {
    int64_t outer, inner;
};

// Takes indices apart that are below the `most` that it was made for, by a multiplication where it
// can. d: the extent of the inner index.
struct Divider {
    int64_t d = 1;
    uint32_t factor = 0;
    int shift = 0;
    bool fast = false;

    Divider() = default;
    Divider(int64_t divisor, int64_t most) : d(divisor) {
        if (most >= INT32_MAX || d >= INT32_MAX) return;
        fast = true;
        while ((int64_t(1) << shift) < d) ++shift;
        factor =
            static_cast<uint32_t>(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
    }
    __device__ IndexPair split(int64_t index) const {
        const int64_t outer = quotient(index);
        return {outer, index - outer * d};
    }
    __device__ int64_t quotient(int64_t n) const {
        if (!fast) return n / d;
        const uint32_t small = static_cast<uint32_t>(n);
        const uint32_t high = static_cast<uint32_t>((static_cast<uint64_t>(small) * factor) >> 32);
        return (high + small) >> shift;
    }
};

// Calls body.template operator()<S>() for the storage type S of dtype.
template <class Body>
inline void with_storage(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::float32:
            return body.template operator()<float>();
        case DType::float64:
            return body.template operator()<double>();
        case DType::bfloat16:
            return body.template operator()<bfloat16>();
        case DType::float16:
            return body.template operator()<float16>();
    }
    throw std::invalid_argument("unknown dtype");
}

}  // namespace cuda
}  // namespace ntensor
