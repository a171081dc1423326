// A product with few rows on its left: the right matrix is read row after row, as it lies in
// memory, each element once.
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

constexpr int few_depth = 8;  // rows of b at a time

// c += a[:, 0 ... Depth) b[0 ... Depth)
template <int Rows, int Depth, class S, class A, class T>
inline void add_few_rows_at_once(const S* b, int64_t b_row, const A* a, int64_t a_row,
                                 int64_t columns, T* c, int64_t c_row) {
    constexpr int V = lanes<T>;
    T scale[Depth][Rows];
    for (int k = 0; k < Depth; ++k)
        for (int i = 0; i < Rows; ++i) scale[k][i] = to_accumulator(a[i * a_row + k]);
    int64_t j = 0;
    for (; j + V <= columns; j += V) {
        Vector<T> sums[Rows];
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i) sums[i] = load(c + i * c_row + j);
#pragma GCC unroll 8
        for (int k = 0; k < Depth; ++k) {
            const Vector<T> row = load_widened(b + k * b_row + j);
#pragma GCC unroll 4
            for (int i = 0; i < Rows; ++i) sums[i] += scale[k][i] * row;
        }
#pragma GCC unroll 4
        for (int i = 0; i < Rows; ++i) store(c + i * c_row + j, sums[i]);
    }
    for (; j < columns; ++j) {
        for (int k = 0; k < Depth; ++k) {
            const T element = to_accumulator(b[k * b_row + j]);
            for (int i = 0; i < Rows; ++i) c[i * c_row + j] += scale[k][i] * element;
        }
    }
}

// c[Rows][columns] += a[Rows][depth] b[depth][columns]; S as stored, T of sums.
template <int Rows, class S, class A, class T>
inline void add_few_rows(const S* b, int64_t b_row, const A* a, int64_t a_row, int64_t depth,
                         int64_t columns, T* c, int64_t c_row) {
    int64_t k = 0;
    for (; k + few_depth <= depth; k += few_depth)
        add_few_rows_at_once<Rows, few_depth>(b + k * b_row, b_row, a + k, a_row, columns, c,
                                              c_row);
    for (; k < depth; ++k)
        add_few_rows_at_once<Rows, 1>(b + k * b_row, b_row, a + k, a_row, columns, c, c_row);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
