// One sample's feature as a 3 x J matrix, in either layout: its product with R, the derivative of
// that by R, and pieces of both that stay in the first-level cache.
#pragma once

#include "../math/rotation.h"
#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

constexpr int64_t piece = 512;  // columns of the matrix

// Columns j ... j + count of the matrix in the layout's order: three runs of count elements, or one
// run of 3 count. Calls body(place in the feature, place in a contiguous piece, elements).
template <bool Column, class Body>
inline void for_each_stretch(int64_t K, int64_t j, int64_t count, const Body& body) {
    if (Column) {
        body(3 * j, 0, 3 * count);
    } else {
        for (int a = 0; a < 3; ++a) body(a * (K / 3) + j, a * count, count);
    }
}

// out = R y for count columns. In the row layout the rows of y and out are `step` and `out_step`
// apart.
template <bool Column, class T>
inline void rotate(const T* __restrict R, const T* __restrict y, int64_t step, int64_t count,
                   T* __restrict out, int64_t out_step) {
    const T R_[9] = {R[0], R[1], R[2], R[3], R[4], R[5], R[6], R[7], R[8]};
    for (int64_t j = 0; j < count; ++j) {
        const T y0 = y[place_in_piece<Column>(0, j, step)];
        const T y1 = y[place_in_piece<Column>(1, j, step)];
        const T y2 = y[place_in_piece<Column>(2, j, step)];
        out[place_in_piece<Column>(0, j, out_step)] = rotated_row(R_, 0, y0, y1, y2);
        out[place_in_piece<Column>(1, j, out_step)] = rotated_row(R_, 1, y0, y1, y2);
        out[place_in_piece<Column>(2, j, out_step)] = rotated_row(R_, 2, y0, y1, y2);
    }
}

// dR += g Y^T, rows `g_step` and `y_step` apart.
template <class T>
inline void add_row_products(const T* __restrict g, int64_t g_step, const T* __restrict y,
                             int64_t y_step, int64_t count, T* dR) {
    constexpr int V = lanes<T>;
    int64_t j = 0;
    if (count >= V) {
        Vector<T> sums[9] = {};
        for (; j + V <= count; j += V) {
            for (int a = 0; a < 3; ++a) {
                for (int b = 0; b < 3; ++b)
                    sums[3 * a + b] += load(g + a * g_step + j) * load(y + b * y_step + j);
            }
        }
        for (int i = 0; i < 9; ++i) dR[i] += sum_lanes<T>(sums[i]);
    }
    for (; j < count; ++j) {
        for (int a = 0; a < 3; ++a) {
            for (int b = 0; b < 3; ++b) dR[3 * a + b] += g[a * g_step + j] * y[b * y_step + j];
        }
    }
}

// The rows of count columns, `step` apart.
template <class T>
inline void take_apart(const T* __restrict columns, int64_t count, T* __restrict rows,
                       int64_t step) {
    T *second = rows + step, *third = rows + 2 * step;
    for (int64_t j = 0; j < count; ++j) {
        rows[j] = columns[3 * j];
        second[j] = columns[3 * j + 1];
        third[j] = columns[3 * j + 2];
    }
}

// dR += g Y^T over count columns, steps as in `rotate`. Sums of a piece at a time, lest rounding
// errors add up.
template <bool Column, class T>
inline void add_matrix_grad(const T* g, int64_t g_step, const T* y, int64_t y_step, int64_t count,
                            T* dR) {
    if constexpr (!Column) {
        for (int64_t j = 0; j < count; j += piece)
            add_row_products(g + j, g_step, y + j, y_step, min64(piece, count - j), dR);
        return;
    }
    if (count < lanes<T>) {
        for (int64_t j = 0; j < 3 * count; j += 3) {
            for (int a = 0; a < 3; ++a) {
                for (int b = 0; b < 3; ++b) dR[3 * a + b] += g[j + a] * y[j + b];
            }
        }
        return;
    }
    constexpr int64_t block = 128;
    for (int64_t begin = 0; begin < count; begin += block) {
        const int64_t here = min64(block, count - begin);
        T rows[6 * block];
        take_apart(g + 3 * begin, here, rows, block);
        take_apart(y + 3 * begin, here, rows + 3 * block, block);
        add_row_products(rows, block, rows + 3 * block, block, here, dR);
    }
}

// Whether rows of a matrix are read where they stand: they need neither be widened nor collected.
template <class S>
inline bool lies_ready(const Matrix& m) {
    return sizeof(S) == sizeof(Accumulator<S>) && m.col_stride == 1;
}

// The row itself where it lies ready, else its widened copy in `room`.
template <class S>
inline const Accumulator<S>* row_of(const Matrix& m, int64_t s, int64_t count,
                                    Accumulator<S>* room) {
    if constexpr (sizeof(S) == sizeof(Accumulator<S>)) {
        if (m.col_stride == 1) return static_cast<const S*>(m.data) + s * m.row_stride;
    }
    widen_row<S>(m, s, 0, count, room);
    return room;
}

template <bool Column, class S>
inline void read_piece(const Matrix& m, int64_t s, int64_t K, int64_t j, int64_t count,
                       Accumulator<S>* to) {
    for_each_stretch<Column>(K, j, count, [&](int64_t from, int64_t at, int64_t length) {
        widen_row<S>(m, s, from, length, to + at);
    });
}

template <bool Column, class S>
inline void write_piece(const Accumulator<S>* from, void* out, int64_t s, int64_t K, int64_t j,
                        int64_t count) {
    for_each_stretch<Column>(K, j, count, [&](int64_t to, int64_t at, int64_t length) {
        narrow(from + at, static_cast<S*>(out) + s * K + to, length);
    });
}

// Calls body(S, Column) with the storage type of dtype and the layout.
template <class Body>
inline void with_types(DType dtype, Layout layout, const Body& body) {
    with_storage_type(dtype, [&]<class S>(S) {
        if (layout == Layout::column)
            body.template operator()<S, true>();
        else
            body.template operator()<S, false>();
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
