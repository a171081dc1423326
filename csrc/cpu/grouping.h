// Factors as the kernels read them: widened to the accumulator type, contiguous, and with short
// trailing factors merged, so that segments (math/synthesis.h) are never needlessly short.
#pragma once

#include "../math/synthesis.h"
#include "rows.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Trailing factors are merged until their product reaches this extent, as long as it stays under
// the most.
constexpr int64_t least_tail = 32;
constexpr int64_t most_tail = 128;

// split_index (math/synthesis.h) for the factors [begin, end).
template <class Body>
inline void split_factor_index(const Factors& factors, int begin, int end, int64_t index,
                               const Body& body) {
    split_index(begin, end, index, [&](int m) { return factors.items[m].extent; }, body);
}

// Factors [first, end) with [tail, end) merged into one: extents[0 .. merged_count).
struct Grouping {
    int64_t extents[most_factors + 1];
    int count;       // factors after merging
    int first;       // index of the first factor of the group
    int tail;        // index of the first merged factor
    int end;         // behind the last factor
    int64_t extent;  // product of all
    int64_t sum;     // sum of extents after merging

    Grouping(const Factors& factors, int first_, int keep)
        : Grouping(factors, first_, keep, factors.count) {}

    // Factors before `keep`, which is at least `first`, are never merged. No factors: extent 1.
    Grouping(const Factors& factors, int first_, int keep, int end_) : first(first_), end(end_) {
        count = 0;
        sum = 0;
        extent = 1;
        tail = end - 1;
        if (first == end) return;
        int64_t tail_extent = factors.items[tail].extent;
        while (tail > keep && tail_extent < least_tail &&
               tail_extent * factors.items[tail - 1].extent <= most_tail) {
            tail_extent *= factors.items[--tail].extent;
        }
        for (int m = first; m < tail; ++m) push(factors.items[m].extent);
        push(tail_extent);
    }

    // Calls body(m, i) for each factor m that has a part in index `at` of the group's factor
    // `place`, i its own index: for one factor, or for all that are merged.
    template <class Body>
    void for_each_part(const Factors& factors, int place, int64_t at, const Body& body) const {
        const bool merged = place == count - 1;
        const int begin = merged ? tail : first + place;
        split_factor_index(factors, begin, merged ? end : begin + 1, at, body);
    }

private:
    void push(int64_t k) {
        extents[count++] = k;
        extent *= k;
        sum += k;
    }
};

inline int64_t product_of_extents(const Factors& factors, int begin, int end) {
    int64_t product = 1;
    for (int m = begin; m < end; ++m) product *= factors.items[m].extent;
    return product;
}

// One sample's factors side by side, z_first ... z_tail-merged: to[0 .. grouping.sum).
template <class S>
inline void gather_sample(const Factors& factors, const Grouping& g, int64_t s,
                          Accumulator<S>* to) {
    for (int m = g.first; m < g.tail; ++m) {
        widen_row<S>(factors.items[m].values, s, 0, factors.items[m].extent, to);
        to += factors.items[m].extent;
    }
    const int64_t tail_extent = g.extents[g.count - 1];
    const Factor& last = factors.items[g.end - 1];
    widen_row<S>(last.values, s, 0, last.extent, to + tail_extent - last.extent);
    // Grown from the right end of `to`.
    int64_t done = last.extent;
    for (int m = g.end - 2; m >= g.tail; --m) {
        const Factor& factor = factors.items[m];
        if (factor.extent == 1) {
            const Accumulator<S> z = element<S>(factor.values, s, 0);
            write_row(z, to + tail_extent - done, done, to + tail_extent - done);
            continue;
        }
        Accumulator<S> z[most_tail], source[most_tail];
        widen_row<S>(factor.values, s, 0, factor.extent, z);
        widen(to + tail_extent - done, source, done);
        done *= factor.extent;
        write_rows(Accumulator<S>(1), z, factor.extent, source, done / factor.extent,
                   to + tail_extent - done);
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
