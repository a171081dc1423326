// How products are formed in each precision: fragments of a and b out of tiles in shared memory,
// and acc += a b for one 16 x 8 accumulator.
//
// A tile holds an operand with one of its two indices contiguous: the one that is summed over, or
// the outer one (a row of the product for a, a column for b). b is read for two accumulators side
// by side.
//
// Tensor cores add in float32 too, but cut each sum toward zero, so that the error of a chain of
// products grows with its length and does not cancel. `cuts`: multiply leaves acc to such a chain,
// which Tile then ends after so many terms; else it adds to acc by itself, rounded to nearest.
#pragma once

#include "scalar.cuh"

namespace ntensor {
namespace cuda {

enum class Contiguous { summed, outer };

template <class S>
struct Half {
    using Storage = S;
    static constexpr bool cuts = true;
    static constexpr int step = 16;
    static constexpr int widest = 64;  // columns of a tile
    using A = uint32_t[4];
    using B = uint32_t[2][2];

    template <Contiguous along>
    __device__ static void load_a(A& a, const S* tile, int stride, int row, int k, int lane) {
        const int q = lane / 8, r = lane % 8;
        if constexpr (along == Contiguous::summed) {
            load_matrices<false>(a, tile + (row + q % 2 * 8 + r) * stride + k + q / 2 * 8);
        } else {
            load_matrices<true>(a, tile + (k + q / 2 * 8 + r) * stride + row + q % 2 * 8);
        }
    }
    template <Contiguous along>
    __device__ static void load_b(B& b, const S* tile, int stride, int column, int k, int lane) {
        const int q = lane / 8, r = lane % 8;
        uint32_t four[4];
        if constexpr (along == Contiguous::summed) {
            load_matrices<false>(four, tile + (column + q / 2 * 8 + r) * stride + k + q % 2 * 8);
        } else {
            load_matrices<true>(four, tile + (k + q % 2 * 8 + r) * stride + column + q / 2 * 8);
        }
        for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
    }
    __device__ static void multiply(float (&acc)[4], const A& a, const uint32_t (&b)[2]) {
        multiply_add(acc, a, b, S{});
    }
};

// Element (outer, k) of a tile.
template <Contiguous along, class S>
__device__ inline S tile_element(const S* tile, int stride, int outer, int k) {
    return along == Contiguous::summed ? tile[outer * stride + k] : tile[k * stride + outer];
}

// float32 by TF32 products. Split: each number is a sum of two TF32 numbers, and three products
// keep float32's accuracy; else its rounded value alone is multiplied.
template <bool Split>
struct Float {
    using Storage = float;
    static constexpr bool cuts = !Split;
    static constexpr int step = 8;
    static constexpr int widest = 64;
    struct A {
        uint32_t big[4];
        uint32_t small[4];
    };
    struct Pair {
        uint32_t big[2];
        uint32_t small[2];
    };
    using B = Pair[2];

    __device__ static void split(float value, uint32_t& big, uint32_t& small) {
        big = to_tf32(value);
        if constexpr (Split) {
            // Beyond the largest TF32 number a finite value would be rounded to infinity.
            if (fabsf(as_float(big)) == INFINITY) big = as_bits(value) & ~uint32_t{0x1fff};
            small = to_tf32(value - as_float(big));
        }
    }
    template <Contiguous along>
    __device__ static void load_a(A& a, const float* tile, int stride, int row, int k, int lane) {
        for (int i = 0; i < 4; ++i) {
            split(tile_element<along>(tile, stride, row + lane / 4 + i % 2 * 8,
                                      k + lane % 4 + i / 2 * 4),
                  a.big[i], a.small[i]);
        }
    }
    template <Contiguous along>
    __device__ static void load_b(B& b, const float* tile, int stride, int column, int k,
                                  int lane) {
        for (int i = 0; i < 4; ++i) {
            split(tile_element<along>(tile, stride, column + lane / 4 + i / 2 * 8,
                                      k + lane % 4 + i % 2 * 4),
                  b[i / 2].big[i % 2], b[i / 2].small[i % 2]);
        }
    }
    __device__ static void multiply(float (&acc)[4], const A& a, const Pair& b) {
        if constexpr (Split) {
            float sum[4] = {};
            multiply_add_tf32(sum, a.small, b.big);
            multiply_add_tf32(sum, a.big, b.small);
            // Where an operand is infinite its small part is NaN, and the large product alone tells
            // the result; so it does where the product overflows.
            for (int i = 0; i < 4; ++i)
                if (!(fabsf(sum[i]) < INFINITY)) sum[i] = 0;
            multiply_add_tf32(sum, a.big, b.big);
            for (int i = 0; i < 4; ++i) acc[i] += sum[i];
        } else {
            multiply_add_tf32(acc, a.big, b.big);
        }
    }
};

struct Double {
    using Storage = double;
    static constexpr bool cuts = false;
    static constexpr int step = 4;
    static constexpr int widest = 32;
    using A = double[2];
    using B = double[2];

    template <Contiguous along>
    __device__ static void load_a(A& a, const double* tile, int stride, int row, int k, int lane) {
        for (int i = 0; i < 2; ++i)
            a[i] = tile_element<along>(tile, stride, row + lane / 4 + i * 8, k + lane % 4);
    }
    template <Contiguous along>
    __device__ static void load_b(B& b, const double* tile, int stride, int column, int k,
                                  int lane) {
        for (int i = 0; i < 2; ++i)
            b[i] = tile_element<along>(tile, stride, column + lane / 4 + i * 8, k + lane % 4);
    }
    __device__ static void multiply(double (&acc)[4], const A& a, double b) {
        multiply_add(acc[0], acc[1], a[0], b);
        multiply_add(acc[2], acc[3], a[1], b);
    }
};

// Calls body.template operator()<P>() for the precision that serves dtype.
template <class Body>
inline void with_precision(DType dtype, bool tf32, const Body& body) {
    switch (dtype) {
        case DType::float32:
            return tf32 ? body.template operator()<Float<false>>()
                        : body.template operator()<Float<true>>();
        case DType::float64:
            return body.template operator()<Double>();
        case DType::bfloat16:
            return body.template operator()<Half<bfloat16>>();
        case DType::float16:
            return body.template operator()<Half<float16>>();
    }
    throw std::invalid_argument("unknown dtype");
}

}  // namespace cuda
}  // namespace ntensor
