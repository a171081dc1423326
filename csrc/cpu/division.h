// How work is divided among threads, and how that is told (Entry::divide in api.h).
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// The first of `total` units that is thread t's; those before t + 1's are its own.
inline int64_t first_of(int64_t total, int t, int threads) {
    return total / threads * t + total % threads * t / threads;
}

// Calls body(first, last, begin, end) for the elements [begin, end) of the rows [first, last) that
// are thread t's, whole rows all at once. Elements, not rows, are divided, so that few long rows
// occupy every thread.
template <class Body>
inline void for_each_block(int64_t rows, int64_t extent, int t, int threads, const Body& body) {
    const int64_t end = first_of(rows * extent, t + 1, threads);
    for (int64_t at = first_of(rows * extent, t, threads); at < end;) {
        const int64_t row = at / extent, begin = at % extent;
        const int64_t whole = begin ? 0 : (end - at) / extent;
        const int64_t count = whole ? whole * extent : min64(extent - begin, end - at);
        body(row, row + max64(1, whole), begin, whole ? extent : begin + count);
        at += count;
    }
}

// The same row by row: body(row, begin, end).
template <class Body>
inline void for_each_run(int64_t rows, int64_t extent, int t, int threads, const Body& body) {
    for_each_block(rows, extent, t, threads,
                   [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                       for (int64_t row = first; row < last; ++row) body(row, begin, end);
                   });
}

// Calls body(row) for each of `rows` rows that is thread t's.
template <class Body>
inline void for_each_row(int64_t rows, int t, int threads, const Body& body) {
    const int64_t end = first_of(rows, t + 1, threads);
    for (int64_t row = first_of(rows, t, threads); row < end; ++row) body(row);
}

// A matrix that threads divide: its columns in strips, each as wide as the others but the last,
// which are taken one after the other. Every thread has about as many elements, in whole rows of a
// strip.
class Strips {
public:
    // most_unit: rows that a kernel takes at a time; fewer where a thread has few. start: rows that
    // take as long as what a thread does once for a strip.
    Strips(int64_t rows, int64_t columns, int64_t strip, int threads, int64_t most_unit,
           int64_t start)
        : rows_(rows), columns_(columns), strip_(strip), threads_(threads) {
        const int64_t share = rows * columns / strip / threads;
        unit_ = share >= even * most_unit ? most_unit : share >= even * 8 ? 8 : 1;
        few_ = min64(start, share / 8);
    }

    // Calls body(strip, first, last) for the rows from the first to before the last that are
    // thread t's.
    template <class Body>
    void for_each(int t, const Body& body) const {
        const int64_t begin = first_of(rows_ * columns_, t, threads_);
        const int64_t end = first_of(rows_ * columns_, t + 1, threads_);
        const int64_t last_strip = (columns_ - 1) / strip_;
        for (int64_t at = begin / (rows_ * strip_); at <= last_strip; ++at) {
            if (at * rows_ * strip_ >= end) return;
            const int64_t first = row_of(at, begin), last = row_of(at, end);
            if (first < last) body(at, first, last);
        }
    }

private:
    // The first row of a strip that belongs behind `element`, counted in the order of the strips.
    int64_t row_of(int64_t strip, int64_t element) const {
        const int64_t width = min64(strip_, columns_ - strip * strip_);
        const int64_t inside = element - strip * rows_ * strip_;
        if (inside <= 0) return 0;
        if (inside >= rows_ * width) return rows_;
        const int64_t row = (inside + unit_ * width / 2) / (unit_ * width) * unit_;
        // What a thread does once for a strip is not worth it for few rows.
        if (min64(row, rows_ - row) <= few_) return 2 * row < rows_ ? 0 : rows_;
        return row;
    }

    static constexpr int64_t even = 20;  // a unit is no more than this part of a share
    int64_t rows_, columns_, strip_;
    int threads_;
    int64_t unit_, few_;
};

// Whether threads share `few` items less evenly than `many` others, by over one part in 20.
inline bool share_less_evenly(int64_t few, int64_t many, int64_t threads) {
    return ceil_div(few, threads) * many * 20 > ceil_div(many, threads) * few * 21;
}

inline void add_part(PartList& parts, const Part& part) {
    if (parts.items) parts.items[parts.count] = part;
    ++parts.count;
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
