// The instructions that C++ has no words for, each behind a function. The host shim has a twin of
// every one of them (tests/shim/instructions.h).
//
// Fragments of the matrix instructions, for lane = 4 g + t of a warp: an accumulator of 16 x 8
// holds (row, column) = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
#pragma once

#include "platform.cuh"

namespace ntensor {
namespace cuda {

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

}  // namespace cuda
}  // namespace ntensor

#ifdef NTENSOR_HOST_SHIM
#include "instructions.h"
#else

namespace ntensor {
namespace cuda {

__device__ inline float to_float(float16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}
__device__ inline float16 to_float16(float value) {
    float16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    return narrow;
}
__device__ inline float to_float(bfloat16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ inline bfloat16 to_bfloat16(float value) {
    bfloat16 narrow;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    return narrow;
}
// The nearest TF32 number, as bits of a float.
__device__ inline uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}
__device__ inline float as_float(uint32_t bits) {
    return __uint_as_float(bits);
}
__device__ inline uint32_t as_bits(float value) {
    return __float_as_uint(value);
}

// Keeps what is formed from indices in a register, where the compiler would form it again at every
// use.
__device__ inline int kept(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// An address in shared memory.
template <class S>
struct Shared {
    uint32_t at;
    __device__ Shared operator+(int elements) const {
        return {at + static_cast<uint32_t>(elements * static_cast<int>(sizeof(S)))};
    }
};
template <class S>
__device__ inline Shared<S> shared_address(S* p) {
    return {static_cast<uint32_t>(kept(static_cast<int>(__cvta_generic_to_shared(p))))};
}
__device__ inline float load(Shared<float> from) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(from.at) : "memory");
    return value;
}
__device__ inline double load(Shared<double> from) {
    double value;
    asm volatile("ld.shared.f64 %0, [%1];" : "=d"(value) : "r"(from.at) : "memory");
    return value;
}
__device__ inline void store(Shared<float> to, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(to.at), "f"(value) : "memory");
}
__device__ inline void store(Shared<bfloat16> to, bfloat16 value) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to.at), "h"(value.bits) : "memory");
}
__device__ inline void store(Shared<float16> to, float16 value) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to.at), "h"(value.bits) : "memory");
}
template <class S>
__device__ inline void store16(Shared<S> to, const void* words) {
    const uint32_t* from = static_cast<const uint32_t*>(words);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to.at), "r"(from[0]),
                 "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
}

// Copies Bytes (4, 8 or 16) to shared memory without waiting. Where it is not valid the source is
// not read, and zeros are written.
template <int Bytes, class S>
__device__ inline void copy_async(Shared<S> to, const void* from, bool valid) {
    const int ignored = !valid;
    if constexpr (Bytes == 16) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n"
            "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, p;\n}" ::"r"(to.at),
            "l"(from), "r"(ignored)
            : "memory");
    } else {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.s32 p, %2, 0;\n"
            "cp.async.ca.shared.global [%0], [%1], %3, p;\n}" ::"r"(to.at),
            "l"(from), "r"(ignored), "n"(Bytes)
            : "memory");
    }
}
__device__ inline void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most Groups of this thread's committed groups are under way.
template <int Groups>
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane 8 q + r gives the address of row r of matrix q.
template <bool Transposed, class S>
__device__ inline void load_matrices(uint32_t (&to)[4], Shared<S> row) {
    const uint32_t from = row.at;
    if constexpr (Transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(from)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(from)
                     : "memory");
    }
}

// acc (16 x 8) += a (16 x 16) b (16 x 8)
__device__ inline void multiply_add(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    bfloat16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply_add(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    float16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// acc (16 x 8) += a (16 x 8) b (8 x 8), a and b in TF32
__device__ inline void multiply_add_tf32(float (&acc)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// (acc0, acc1) (8 x 8) += a (8 x 4) b (4 x 8)
__device__ inline void multiply_add(double& acc0, double& acc1, double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(acc0), "+d"(acc1)
        : "d"(a), "d"(b));
}

__device__ inline bool any_lane(bool value) {
    return __any_sync(0xffffffffu, value);
}

// The value of the lane whose number differs by the bits of `mask`.
template <class T>
__device__ inline T exchange_lanes(T value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

}  // namespace cuda
}  // namespace ntensor
#endif
