// A matrix of chunks, transposed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace ntensor {
namespace {  // of each file by itself: those of a SIMD level have its instructions

template <class T, int Chunk>
void transpose_part(const T* from, int64_t rows, int64_t columns, int64_t chunk, T* to,
                    int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
    constexpr int64_t block = 16;  // of what is written side by side
    const int64_t each = Chunk ? Chunk : chunk;
    for (int64_t r0 = row_begin; r0 < row_end; r0 += block) {
        const int64_t r1 = std::min(row_end, r0 + block);
        for (int64_t c = begin; c < end; ++c) {
            for (int64_t r = r0; r < r1; ++r) {
                std::memcpy(to + (c * rows + r) * each, from + (r * columns + c) * each,
                            static_cast<size_t>(each) * sizeof(T));
            }
        }
    }
}

// to[c][r][k] = from[r][c][k], k under `chunk`, by `threads` threads.
template <class T>
void transpose_chunks(const T* from, int64_t rows, int64_t columns, int64_t chunk, T* to,
                      int threads) {
    parallel_for_threads(threads, [&](int t) {
        const bool by_rows = rows >= columns;
        const int64_t all = by_rows ? rows : columns;
        const int64_t first = all * t / threads, last = all * (t + 1) / threads;
        const auto part = [&]<int Chunk>() {
            if (by_rows)
                transpose_part<T, Chunk>(from, rows, columns, chunk, to, first, last, 0, columns);
            else
                transpose_part<T, Chunk>(from, rows, columns, chunk, to, 0, rows, first, last);
        };
        switch (chunk) {
            case 1:
                return part.template operator()<1>();
            case 2:
                return part.template operator()<2>();
            case 3:
                return part.template operator()<3>();
            case 4:
                return part.template operator()<4>();
            case 5:
                return part.template operator()<5>();
            case 6:
                return part.template operator()<6>();
            case 7:
                return part.template operator()<7>();
            case 8:
                return part.template operator()<8>();
            default:
                return part.template operator()<0>();
        }
    });
}

}  // namespace
}  // namespace ntensor
