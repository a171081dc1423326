// The Khatri-Rao synthesis of one sample, y = z_1 (x) ... (x) z_M, as index arithmetic.
//
//   y[p] = product over m of z_m[i_m],   p = (...((i_1 k_2 + i_2) k_3 + i_3)...) k_M + i_M
//
// The last factor varies fastest, so a range of p falls into segments, one for each value of (i_1,
// ..., i_{M-1}): y[segment] = scale * z_M[range], scale = product over m < M of z_m[i_m]. The
// derivative along the same segments, for D = dL/dy:
//   dz_M[range] += scale * D[segment]
//   dz_m[i_m]   += (scale / z_m[i_m]) * <D[segment], z_M[range]>    for m < M, the quotient formed
//   without division
#pragma once

#include <cstdint>

#include "../cpu/api.h"

#ifndef NTENSOR_LEVEL
#error "compile with -DNTENSOR_LEVEL=<name>, the namespace of the instructions compiled for"
#endif

namespace ntensor {
namespace NTENSOR_LEVEL {

// Calls body(m, i_m) for m = end - 1, ..., begin, where index = (...(i_begin k_{begin+1} +
// i_{begin+1})...) k_{end-1} + i_{end-1} and k_m = extent(m). Every index of several factors
// together is taken apart here.
template <class Extent, class Body>
inline void split_index(int begin, int end, int64_t index, const Extent& extent, const Body& body) {
    for (int m = end - 1; m > begin; --m) {
        const int64_t k = extent(m);
        body(m, index % k);
        index /= k;
    }
    if (begin < end) body(begin, index);
}

// The indices (i_1, ..., i_{M-1}) of a segment, counted upwards from the one that holds p.
struct SegmentIndex {
    int64_t prefix[most_factors];
    int64_t last = 0;  // i_M where the segment starts

    // extents: k_1 ... k_M
    SegmentIndex(const int64_t* extents, int count, int64_t p) {
        split_index(
            0, count, p, [extents](int m) { return extents[m]; },
            [this, count](int m, int64_t i) { (m == count - 1 ? last : prefix[m]) = i; });
    }
    void next_segment(const int64_t* extents, int count) {
        last = 0;
        for (int m = count - 2; m >= 0 && ++prefix[m] == extents[m]; --m) prefix[m] = 0;
    }
};

// Calls body(index, offset, length) for the segments of [begin, end); offset counts from begin.
template <class Body>
inline void for_each_segment(const int64_t* extents, int count, int64_t begin, int64_t end,
                             const Body& body) {
    SegmentIndex index(extents, count, begin);
    for (int64_t p = begin; p < end;) {
        const int64_t room = extents[count - 1] - index.last;
        const int64_t length = room < end - p ? room : end - p;
        body(index, p - begin, length);
        p += length;
        index.next_segment(extents, count);
    }
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
