// How work is divided among threads, and how that is told (Entry::divide in api.h).
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// The first of `total` units that is thread t's; those before t + 1's are its own.
inline int64_t first_of(int64_t total, int t, int threads) {
    return total / threads * t + total % threads * t / threads;
}

// Calls body(row, begin, end) for the elements of each of `rows` rows that are thread t's.
// Elements, not rows, are divided, so that few long rows occupy every thread.
template <class Body>
inline void for_each_run(int64_t rows, int64_t extent, int t, int threads, const Body& body) {
    const int64_t end = first_of(rows * extent, t + 1, threads);
    for (int64_t at = first_of(rows * extent, t, threads); at < end;) {
        const int64_t begin = at % extent, count = min64(extent - begin, end - at);
        body(at / extent, begin, begin + count);
        at += count;
    }
}

// Calls body(row) for each of `rows` rows that is thread t's.
template <class Body>
inline void for_each_row(int64_t rows, int t, int threads, const Body& body) {
    const int64_t end = first_of(rows, t + 1, threads);
    for (int64_t row = first_of(rows, t, threads); row < end; ++row) body(row);
}

inline void add_part(PartList& parts, const Part& part) {
    if (parts.items) parts.items[parts.count] = part;
    ++parts.count;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
