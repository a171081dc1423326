// Factors brought into the form that the kernels read: widened to the accumulator type, contiguous,
// and with short trailing factors merged, so that segments (math/synthesis.h) are never needlessly
// short.
#pragma once

#include "../math/synthesis.h"
#include "simd.h"

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

// Factors [first, count) with [tail, count) merged into one: extents[0 .. merged_count).
struct Grouping {
    int64_t extents[most_factors];
    int count;       // factors after merging
    int first;       // index of the first factor of the group
    int tail;        // index of the first merged factor
    int64_t extent;  // product of all
    int64_t sum;     // sum of extents after merging

    // Factors before `keep`, which is at least `first`, are never merged.
    Grouping(const Factors& factors, int first_, int keep) : first(first_) {
        tail = factors.count - 1;
        int64_t tail_extent = factors.items[tail].extent;
        while (tail > keep && tail_extent < least_tail &&
               tail_extent * factors.items[tail - 1].extent <= most_tail) {
            tail_extent *= factors.items[--tail].extent;
        }
        count = 0;
        sum = 0;
        extent = 1;
        for (int m = first; m < tail; ++m) push(factors.items[m].extent);
        push(tail_extent);
    }

    // Calls body(m, i) for each factor m that has a part in index `at` of the group's factor
    // `place`, i its own index: for one factor, or for all that are merged.
    template <class Body>
    void for_each_part(const Factors& factors, int place, int64_t at, const Body& body) const {
        const bool merged = place == count - 1;
        const int begin = merged ? tail : first + place;
        split_factor_index(factors, begin, merged ? factors.count : begin + 1, at, body);
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
    const Factor& last = factors.items[factors.count - 1];
    widen_row<S>(last.values, s, 0, last.extent, to + tail_extent - last.extent);
    // Grown from the right end of `to`, so that the product can be written where its source stands.
    int64_t done = last.extent;
    for (int m = factors.count - 2; m >= g.tail; --m) {
        const Factor& factor = factors.items[m];
        const Accumulator<S>* source = to + tail_extent - done;
        Accumulator<S>* target = to + tail_extent - done * factor.extent;
        for (int64_t i = 0; i < factor.extent; ++i) {
            const Accumulator<S> z = element<S>(factor.values, s, i);
            // The last block lies on its own source, element by element.
            for (int64_t j = 0; j < done; ++j) target[i * done + j] = z * source[j];
        }
        done *= factor.extent;
    }
}

// y[0, end - begin) = the range [begin, end) of the synthesis of a gathered sample.
template <class T>
inline void synthesise(const Grouping& g, const T* z, int64_t begin, int64_t end, T* y) {
    const T* last = z + g.sum - g.extents[g.count - 1];
    for_each_segment(g.extents, g.count, begin, end,
                     [&](const SegmentIndex& at, int64_t offset, int64_t length) {
                         T scale = 1;
                         const T* z_m = z;
                         for (int m = 0; m < g.count - 1; ++m) {
                             scale *= z_m[at.prefix[m]];
                             z_m += g.extents[m];
                         }
                         const T* from = last + at.last;
                         T* to = y + offset;
                         for (int64_t i = 0; i < length; ++i) to[i] = scale * from[i];
                     });
}

// Adds the derivative of the range [begin, end) of a gathered sample: dz (laid out like z) += D^T
// dy/dz. skip_first: the first factor is a constant, its derivative is not formed.
template <class T>
inline void add_factor_grads(const Grouping& g, const T* z, const T* D, int64_t begin, int64_t end,
                             bool skip_first, T* dz) {
    constexpr int V = lanes<T>;
    const int64_t tail_at = g.sum - g.extents[g.count - 1];
    // A short last factor collects a sum for every segment: in blocks, lest rounding errors add up.
    constexpr int segments_a_block = 64;
    const bool in_blocks = g.extents[g.count - 1] <= most_tail;
    T block[most_tail] = {};
    int segments = 0;
    const auto finish_block = [&] {
        for (int64_t i = 0; i < g.extents[g.count - 1]; ++i) {
            dz[tail_at + i] += block[i];
            block[i] = 0;
        }
        segments = 0;
    };
    const auto add_segment = [&](const SegmentIndex& at, int64_t offset, int64_t length) {
        T before[most_factors];  // product of the factors in front of m
        T scale = 1;
        int64_t start = 0;
        for (int m = 0; m < g.count - 1; ++m) {
            before[m] = scale;
            scale *= z[start + at.prefix[m]];
            start += g.extents[m];
        }
        const T* d = D + offset;
        const T* last = z + tail_at + at.last;
        T* dlast = (in_blocks ? block : dz + tail_at) + at.last;
        Vector<T> dots = {};
        int64_t i = 0;
        for (; i + V <= length; i += V) {
            const Vector<T> v = load(d + i);
            dots += v * load(last + i);
            store(dlast + i, load(dlast + i) + scale * v);
        }
        T dot = sum_lanes<T>(dots);
        for (; i < length; ++i) {
            dot += d[i] * last[i];
            dlast[i] += scale * d[i];
        }
        T after = dot;
        for (int m = g.count - 2; m >= (skip_first ? 1 : 0); --m) {
            start -= g.extents[m];
            dz[start + at.prefix[m]] += before[m] * after;
            after *= z[start + at.prefix[m]];
        }
        if (in_blocks && ++segments == segments_a_block) finish_block();
    };
    for_each_segment(g.extents, g.count, begin, end, add_segment);
    if (in_blocks) finish_block();
}

// Writes a gathered sample's gradient to the factors that need one.
template <class S>
inline void scatter_grads(const Factors& factors, const Grouping& g, int64_t s,
                          const Accumulator<S>* dz) {
    using T = Accumulator<S>;
    const auto write = [&](int m) {
        const Factor& factor = factors.items[m];
        if (factor.needs_grad)
            narrow(dz, static_cast<S*>(factor.grad) + s * factor.grad_stride, factor.extent);
        dz += factor.extent;
    };
    for (int m = g.first; m < g.tail; ++m) write(m);
    if (factors.count - g.tail == 1) return write(g.tail);
    // The merged factors, each for itself: the gradient of their product is folded once more.
    const Grouping apart(factors, g.tail, factors.count);
    T z[most_tail + most_factors];
    T grads[most_tail + most_factors] = {};
    gather_sample<S>(factors, apart, s, z);
    add_factor_grads(apart, z, dz, 0, apart.extent, false, grads);
    dz = grads;
    for (int m = g.tail; m < factors.count; ++m) write(m);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
