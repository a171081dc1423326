// Rows of an outer product z (x) last, as the last two factors of a synthesis make them, and their
// derivative.
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Sums in blocks of so many rows, lest rounding errors add up.
constexpr int64_t rows_a_block = 64;
// Rows of so many vectors are added up in registers.
constexpr int most_row_vectors = wide_tile;
// Longer ones are added to the result itself.
constexpr int64_t most_block_width = 128;

// to[0, count) = scale * from.
template <class T>
inline void write_row(T scale, const T* from, int64_t count, T* to) {
    constexpr int V = lanes<T>;
    int64_t p = 0;
    for (; p + V <= count; p += V) store(to + p, scale * load(from + p));
    if (p < count) store_first(to + p, scale * load_first(from + p, count - p), count - p);
}

// write_rows for rows of Whole vectors, and part of another where Part.
template <int Whole, bool Part, class T>
inline void write_rows_of(T scale, const T* z, int64_t rows, const T* last, int64_t width, T* to) {
    constexpr int V = lanes<T>;
    const int64_t left = width - Whole * V;
    Vector<T> row[Whole + 1];
    for (int v = 0; v < Whole; ++v) row[v] = load(last + v * V);
    if constexpr (Part) row[Whole] = load_first(last + Whole * V, left);
    // The last vector of a row runs over into the next ones, which are written afterwards.
    const int64_t over = Part ? min64(rows, ceil_div(V - left, width)) : 0;
    int64_t i = 0;
    for (; i < rows - over; ++i, to += width) {
        const T factor = scale * z[i];
        for (int v = 0; v < Whole + Part; ++v) store(to + v * V, factor * row[v]);
    }
    for (; i < rows; ++i, to += width) {
        const T factor = scale * z[i];
        for (int v = 0; v < Whole; ++v) store(to + v * V, factor * row[v]);
        store_first(to + Whole * V, factor * row[Whole], left);
    }
}

// write_rows for rows of two.
template <class T>
inline void write_pairs(T scale, const T* z, int64_t rows, const T* last, T* to) {
    constexpr int V = lanes<T>;
    const T factors[2] = {scale * last[0], scale * last[1]};
    int64_t i = 0;
    for (; i + V <= rows; i += V) {
        const Vector<T> first = factors[0] * load(z + i), second = factors[1] * load(z + i);
        store(to + 2 * i, interleave<false>(first, second));
        store(to + 2 * i + V, interleave<true>(first, second));
    }
    for (; i < rows; ++i)
        for (int p = 0; p < 2; ++p) to[2 * i + p] = factors[p] * z[i];
}

// to[i width + p] = scale * z[i] * last[p] for i < rows, p < width. Nothing else is written.
template <class T>
inline void write_rows(T scale, const T* z, int64_t rows, const T* last, int64_t width, T* to) {
    constexpr int V = lanes<T>;
    if (width == 1) return write_row(scale * last[0], z, rows, to);
    if (width == 2) return write_pairs(scale, z, rows, last, to);
    if (width < V) return write_rows_of<0, true>(scale, z, rows, last, width, to);
    if (width == V) return write_rows_of<1, false>(scale, z, rows, last, width, to);
    if (width < 2 * V) return write_rows_of<1, true>(scale, z, rows, last, width, to);
    if (width == 2 * V) return write_rows_of<2, false>(scale, z, rows, last, width, to);
    if (width < 3 * V) return write_rows_of<2, true>(scale, z, rows, last, width, to);
    for (int64_t i = 0; i < rows; ++i) write_row(scale * z[i], last, width, to + i * width);
}

// dlast[0, count) += scale * D; returns <D, last>.
template <class T>
inline T add_row_grad(T scale, const T* D, const T* last, int64_t count, T* dlast) {
    constexpr int V = lanes<T>;
    Vector<T> dots = {};
    int64_t p = 0;
    for (; p + V <= count; p += V) {
        const Vector<T> d = load(D + p);
        dots += d * load(last + p);
        store(dlast + p, load(dlast + p) + scale * d);
    }
    if (p < count) {
        const Vector<T> d = load_first(D + p, count - p);
        dots += d * load_first(last + p, count - p);
        store_first(dlast + p, load_first(dlast + p, count - p) + scale * d, count - p);
    }
    return sum_lanes<T>(dots);
}

// add_rows_grad for a block of long rows, four at a time.
template <class T>
inline void add_block_of_long_rows(T scale, const T* z, int64_t rows, const T* D, const T* last,
                                   int64_t width, T* dz, T* dlast, T* total) {
    constexpr int V = lanes<T>;
    const auto add = [&](int64_t i, T dot) {
        *total += z[i] * dot;
        if (dz) dz[i] += scale * dot;
    };
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const T* d[4];
        T factor[4];
        Vector<T> dots[4] = {};
        for (int r = 0; r < 4; ++r) {
            d[r] = D + (i + r) * width;
            factor[r] = scale * z[i + r];
        }
        const auto take = [&](Vector<T> row, Vector<T> sum, const auto& load_part) {
            for (int r = 0; r < 4; ++r) {
                const Vector<T> values = load_part(d[r]);
                dots[r] += values * row;
                sum += factor[r] * values;
            }
            return sum;
        };
        int64_t p = 0;
        for (; p + V <= width; p += V)
            store(dlast + p, take(load(last + p), load(dlast + p),
                                  [p](const T* from) { return load(from + p); }));
        if (const int64_t left = width - p) {
            const auto load_part = [&](const T* from) { return load_first(from + p, left); };
            store_first(dlast + p, take(load_part(last), load_part(dlast), load_part), left);
        }
        for (int r = 0; r < 4; ++r) add(i + r, sum_lanes<T>(dots[r]));
    }
    for (; i < rows; ++i) add(i, add_row_grad(scale * z[i], D + i * width, last, width, dlast));
}

// add_rows_grad for a block of rows of as many vectors, added up in registers.
template <int Vectors, class T>
inline void add_block_of_rows(T scale, const T* z, int64_t rows, const T* D, const T* last,
                              int64_t width, int64_t readable, T* dz, T* dlast, T* total) {
    constexpr int V = lanes<T>;
    constexpr int full = Vectors - 1;
    const int64_t left = width - full * V;
    Vector<T> row[Vectors], sum[Vectors] = {};
    for (int v = 0; v < full; ++v) row[v] = load(last + v * V);
    row[full] = load_first(last + full * V, left);
    const auto products = [&](int64_t i) {
        const T* d = D + i * width;
        const T z_i = z[i];
        Vector<T> dots = {};
        for (int v = 0; v < full; ++v) {
            const Vector<T> values = load(d + v * V);
            dots += values * row[v];
            sum[v] += z_i * values;
        }
        const bool inside = i * width + Vectors * V <= readable;
        const Vector<T> values =
            inside ? keep_first<T>(load(d + full * V), left) : load_first(d + full * V, left);
        dots += values * row[full];
        sum[full] += z_i * values;
        return dots;
    };
    Vector<T> totals = {};
    int64_t i = 0;
    for (; i + V <= rows; i += V) {
        Vector<T> dots[V];
#pragma GCC unroll 16
        for (int j = 0; j < V; ++j) dots[j] = products(i + j);
        const Vector<T> found = sums_of_lanes<T>(dots);
        totals += load(z + i) * found;
        if (dz) store(dz + i, load(dz + i) + scale * found);
    }
    if (rows - i >= V * 3 / 4) {
        const int64_t here = rows - i;
        Vector<T> dots[V] = {};
        for (int64_t j = 0; j < here; ++j) dots[j] = products(i + j);
        const Vector<T> found = sums_of_lanes<T>(dots);
        totals += load_first(z + i, here) * found;
        if (dz) store_first(dz + i, load_first(dz + i, here) + scale * found, here);
        i = rows;
    }
    *total += sum_lanes<T>(totals);
    for (; i < rows; ++i) {
        const T dot = sum_lanes<T>(products(i));
        *total += z[i] * dot;
        if (dz) dz[i] += scale * dot;
    }
    for (int v = 0; v < full; ++v) store(dlast + v * V, load(dlast + v * V) + scale * sum[v]);
    T* to = dlast + full * V;
    store_first(to, load_first(to, left) + scale * sum[full], left);
}

// add_rows_grad for a block of rows of two.
template <class T>
inline T add_block_of_pairs(T scale, const T* z, int64_t rows, const T* D, const T* last, T* dz,
                            T* dlast) {
    constexpr int V = lanes<T>;
    const T factors[2] = {scale * last[0], scale * last[1]};
    Vector<T> sums[2] = {};
    int64_t i = 0;
    for (; i + V <= rows; i += V) {
        const Vector<T> low = load(D + 2 * i), high = load(D + 2 * i + V), z_i = load(z + i);
        const Vector<T> first = every_second<false>(low, high);
        const Vector<T> second = every_second<true>(low, high);
        sums[0] += z_i * first;
        sums[1] += z_i * second;
        if (dz) store(dz + i, load(dz + i) + (factors[0] * first + factors[1] * second));
    }
    T found[2] = {sum_lanes<T>(sums[0]), sum_lanes<T>(sums[1])};
    for (; i < rows; ++i) {
        for (int p = 0; p < 2; ++p) {
            found[p] += z[i] * D[2 * i + p];
            if (dz) dz[i] += factors[p] * D[2 * i + p];
        }
    }
    for (int p = 0; p < 2; ++p) dlast[p] += scale * found[p];
    return last[0] * found[0] + last[1] * found[1];
}

// The derivative of write_rows for D = dL/dto: dlast[p] += scale sum_i z[i] D[i, p], dz[i] += scale
// <D_i, last> unless null; returns sum_i z[i] <D_i, last>. readable: elements from D on, no fewer
// than rows * width.
template <class T>
inline T add_rows_grad(T scale, const T* z, int64_t rows, const T* D, const T* last, int64_t width,
                       int64_t readable, T* dz, T* dlast) {
    constexpr int V = lanes<T>;
    T total = 0;
    if (width == 1) {
        Vector<T> dots = {};
        const T factor = scale * last[0];
        int64_t i = 0;
        for (; i + V <= rows; i += V) {
            const Vector<T> d = load(D + i);
            dots += d * load(z + i);
            if (dz) store(dz + i, load(dz + i) + factor * d);
        }
        T dot = sum_lanes<T>(dots);
        for (; i < rows; ++i) {
            dot += D[i] * z[i];
            if (dz) dz[i] += factor * D[i];
        }
        dlast[0] += scale * dot;
        return dot * last[0];
    }
    if (width == 2) {
        for (int64_t first = 0; first < rows; first += rows_a_block * V) {
            const int64_t here = min64(rows_a_block * V, rows - first);
            total += add_block_of_pairs(scale, z + first, here, D + first * 2, last,
                                        dz ? dz + first : nullptr, dlast);
        }
        return total;
    }
    const int64_t vectors = ceil_div(width, V);
    for (int64_t first = 0; first < rows; first += rows_a_block) {
        const int64_t here = min64(rows_a_block, rows - first);
        const T* d = D + first * width;
        T* to = dz ? dz + first : nullptr;
        if (width > most_block_width) {
            add_block_of_long_rows(scale, z + first, here, d, last, width, to, dlast, &total);
            continue;
        }
        if (vectors > most_row_vectors) {
            T sums[most_block_width];
            for (int64_t p = 0; p < width; ++p) sums[p] = 0;
            add_block_of_long_rows(scale, z + first, here, d, last, width, to, sums, &total);
            for (int64_t p = 0; p < width; ++p) dlast[p] += sums[p];
            continue;
        }
        const auto add = [&]<int Vectors>() {
            add_block_of_rows<Vectors>(scale, z + first, here, d, last, width,
                                       readable - first * width, to, dlast, &total);
        };
        if (vectors == 1) add.template operator()<1>();
        if (vectors == 2) add.template operator()<2>();
        if constexpr (most_row_vectors > 2) {
            if (vectors == 3) add.template operator()<3>();
            if (vectors == 4) add.template operator()<4>();
        }
    }
    return total;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
