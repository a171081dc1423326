// The feature rotation of one sample: y of length K = 3 J as a 3 x J matrix Y, R Y, and back to a
// vector.
//
//   column layout (vec): Y[a, j] = y[3 j + a]        row layout: Y[a, j] = y[a J + j]
//
// Forward:  out[a, j] = sum_b R[a, b] Y[b, j].
// Backward: dY[b, j]  = sum_a R[a, b] dout[a, j], the same with R transposed,
//           dR[a, b]  = sum_j dout[a, j] Y[b, j].
#pragma once

#include <cstdint>

#ifndef NTENSOR_LEVEL
#error "compile with -DNTENSOR_LEVEL=<name>, the namespace of the instructions compiled for"
#endif

namespace ntensor {
namespace NTENSOR_LEVEL {

// Where Y[a, j] lies in a piece of `count` columns that is stored contiguously in the layout.
template <bool ColumnLayout>
constexpr int64_t place_in_piece(int64_t a, int64_t j, int64_t count) {
    return ColumnLayout ? 3 * j + a : a * count + j;
}

// R transposed, both 3 x 3 in row-major order.
template <class T>
constexpr void transpose3(const T* R, T* out) {
    for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) out[3 * b + a] = R[3 * a + b];
    }
}

// One column: out[a] = sum_b R[a, b] y[b].
template <class T>
constexpr T rotated_row(const T* R, int a, T y0, T y1, T y2) {
    return R[3 * a] * y0 + R[3 * a + 1] * y1 + R[3 * a + 2] * y2;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
