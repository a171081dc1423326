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
// `asks`: multiply must be told whether all operands are finite.
#pragma once

#include "scalar.cuh"

namespace ntensor {
namespace cuda {

enum class Contiguous { summed, outer };

// Where element (outer, k) lies in a tile.
template <Contiguous along>
__device__ constexpr int place_of(int stride, int outer, int k) {
    return along == Contiguous::summed ? outer * stride + k : k * stride + outer;
}

// The element of a fragment, which begins at (0, 0), that a lane's part of it begins at.
struct Corner {
    int outer, k;
};

template <class S>
struct Half {
    using Storage = S;
    static constexpr bool cuts = true;
    static constexpr bool asks = false;
    static constexpr int step = 16;
    static constexpr int widest = 64;  // columns of a tile
    using A = uint32_t[4];
    using B = uint32_t[2][2];

    template <Contiguous along>
    __device__ static Corner corner_a(int lane) {
        const int q = lane / 8, r = lane % 8;
        return along == Contiguous::summed ? Corner{q % 2 * 8 + r, q / 2 * 8}
                                           : Corner{q % 2 * 8, q / 2 * 8 + r};
    }
    template <Contiguous along>
    __device__ static Corner corner_b(int lane) {
        const int q = lane / 8, r = lane % 8;
        return along == Contiguous::summed ? Corner{q / 2 * 8 + r, q % 2 * 8}
                                           : Corner{q / 2 * 8, q % 2 * 8 + r};
    }
    template <Contiguous along, int stride>
    __device__ static void load_a(A& a, Shared<S> corner) {
        load_matrices<along == Contiguous::outer>(a, corner);
    }
    template <Contiguous along, int stride>
    __device__ static void load_b(B& b, Shared<S> corner) {
        uint32_t four[4];
        load_matrices<along == Contiguous::outer>(four, corner);
        for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = four[i];
    }
    template <bool>
    __device__ static void multiply(float (&acc)[4], const A& a, const uint32_t (&b)[2]) {
        multiply_add(acc, a, b, S{});
    }
};

// Where fragments are read element by element.
struct ByElement {
    template <Contiguous along>
    __device__ static Corner corner_a(int lane) {
        return {lane / 4, lane % 4};
    }
    template <Contiguous along>
    __device__ static Corner corner_b(int lane) {
        return {lane / 4, lane % 4};
    }
};

// float32 by TF32 products. Split: each number is a sum of two TF32 numbers, and three products
// keep float32's accuracy; else its rounded value alone is multiplied.
template <bool Split>
struct Float : ByElement {
    using Storage = float;
    static constexpr bool cuts = !Split;
    static constexpr bool asks = Split;
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

    // The instruction reads the upper 19 bits of a number. The large part is cut, so that it is
    // finite where the number is, and has the sign of the small part, which is rounded.
    __device__ static void split(float value, uint32_t& big, uint32_t& small) {
        if constexpr (Split) {
            big = as_bits(value) & ~uint32_t{0x1fff};
            small = as_bits(value - as_float(big)) + 0x1000;
        } else {
            big = to_tf32(value);
        }
    }
    template <Contiguous along, int stride>
    __device__ static void load_a(A& a, Shared<float> corner) {
        for (int i = 0; i < 4; ++i)
            split(load(corner + place_of<along>(stride, i % 2 * 8, i / 2 * 4)), a.big[i],
                  a.small[i]);
    }
    template <Contiguous along, int stride>
    __device__ static void load_b(B& b, Shared<float> corner) {
        for (int i = 0; i < 4; ++i)
            split(load(corner + place_of<along>(stride, i / 2 * 8, i % 2 * 4)), b[i / 2].big[i % 2],
                  b[i / 2].small[i % 2]);
    }
    __device__ static bool finite(const A& a) {
        return finite(a.big[0], a.big[1], a.big[2], a.big[3]);
    }
    __device__ static bool finite(const B& b) {
        return finite(b[0].big[0], b[0].big[1], b[1].big[0], b[1].big[1]);
    }
    // Finite: all operands are.
    template <bool Finite>
    __device__ static void multiply(float (&acc)[4], const A& a, const Pair& b) {
        if constexpr (Split) {
            float sum[4] = {};
            multiply_add_tf32(sum, a.small, b.big);
            multiply_add_tf32(sum, a.big, b.small);
            if constexpr (!Finite) {
                // Infinity has no small part: the large product alone tells the result.
                for (int i = 0; i < 4; ++i)
                    if (!(fabsf(sum[i]) < INFINITY)) sum[i] = 0;
            }
            multiply_add_tf32(sum, a.big, b.big);
            for (int i = 0; i < 4; ++i) acc[i] += sum[i];
        } else {
            multiply_add_tf32(acc, a.big, b.big);
        }
    }

private:
    template <class... Bits>
    __device__ static bool finite(Bits... bits) {
        return (... && (fabsf(as_float(bits)) < INFINITY));
    }
};

struct Double : ByElement {
    using Storage = double;
    static constexpr bool cuts = false;
    static constexpr bool asks = false;
    static constexpr int step = 4;
    static constexpr int widest = 32;
    using A = double[2];
    using B = double[2];

    template <Contiguous along, int stride>
    __device__ static void load_a(A& a, Shared<double> corner) {
        for (int i = 0; i < 2; ++i) a[i] = load(corner + place_of<along>(stride, i * 8, 0));
    }
    template <Contiguous along, int stride>
    __device__ static void load_b(B& b, Shared<double> corner) {
        for (int i = 0; i < 2; ++i) b[i] = load(corner + place_of<along>(stride, i * 8, 0));
    }
    template <bool>
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
