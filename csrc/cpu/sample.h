// The synthesis of one sample and its derivative, segment by segment.
#pragma once

#include "grouping.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// A piece of the synthesis of a gathered sample with a short last factor, of the last two factors
// (z, last) alone: element (i, p), of i width + p, is scale * z[i] * last[p].
template <class T>
struct Run {
    const SegmentIndex& at;  // of the factors in front of the two
    int64_t offset, length;  // elements, from the start of the range on
    int64_t first;           // i width + p of the first one
    int64_t width;           // of the last factor
    T scale;
    const T* z;     // from the first i on
    int64_t start;  // where the second last factor begins

    // Calls body(i, p, at, count) for each i, counted from the first: elements (i, p ... p + count)
    // stand at offset + at.
    template <class Body>
    void for_each_row(const Body& body) const {
        int64_t p = first % width;
        for (int64_t i = 0, at = 0; at < length; ++i, p = 0) {
            const int64_t count = min64(width - p, length - at);
            body(i, p, at, count);
            at += count;
        }
    }
};

template <class T, class Body>
inline void for_each_run(const Grouping& g, const T* z, int64_t begin, int64_t end,
                         const Body& body) {
    int64_t extents[most_factors + 1];
    const int count = g.count - 1;
    for (int m = 0; m < count; ++m) extents[m] = g.extents[m];
    const int64_t width = g.extents[count];
    extents[count - 1] *= width;
    for_each_segment(extents, count, begin, end,
                     [&](const SegmentIndex& at, int64_t offset, int64_t length) {
                         T scale = 1;
                         int64_t start = 0;
                         for (int m = 0; m < count - 1; ++m) {
                             scale *= z[start + at.prefix[m]];
                             start += g.extents[m];
                         }
                         body(Run<T>{at, offset, length, at.last, width, scale,
                                     z + start + at.last / width, start});
                     });
}

// y[0, end - begin) = the range [begin, end) of the synthesis of a gathered sample.
template <class T>
inline void synthesise(const Grouping& g, const T* z, int64_t begin, int64_t end, T* y) {
    if (g.has_short_tail()) {
        const T* last = z + g.sum - g.extents[g.count - 1];
        for_each_run(g, z, begin, end, [&](const Run<T>& run) {
            T* to = y + run.offset;
            if (run.width == 1) {
                const T scale = run.scale * last[0];
                for (int64_t i = 0; i < run.length; ++i) to[i] = scale * run.z[i];
                return;
            }
            run.for_each_row([&](int64_t i, int64_t p, int64_t at, int64_t count) {
                const T scale = run.scale * run.z[i];
                for (int64_t j = 0; j < count; ++j) to[at + j] = scale * last[p + j];
            });
        });
        return;
    }
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

// Sums for the factors in front of the last ones, added to their gradients in blocks, lest rounding
// errors of thousands of additions to one element add up.
template <class T>
class Pending {
public:
    Pending(const Grouping& g, int count, T* dz) : count_(count) {
        for (int m = 0; m < count; ++m) {
            to_[m] = dz;
            at_[m] = 0;
            sums_[m] = 0;
            dz += g.extents[m];
        }
    }
    ~Pending() { finish(); }
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;

    // Element i of factor m.
    void add(int m, int64_t i, T value) {
        if (at_[m] != i) {
            finish(m);
            at_[m] = i;
        }
        sums_[m] += value;
    }

    // After each segment or run.
    void next() {
        if (++added_ % block == 0) finish();
    }

private:
    static constexpr int block = 64;

    void finish(int m) {
        to_[m][at_[m]] += sums_[m];
        sums_[m] = 0;
    }
    void finish() {
        for (int m = 0; m < count_; ++m) finish(m);
    }

    const int count_;
    int added_ = 0;
    T* to_[most_factors];
    int64_t at_[most_factors];
    T sums_[most_factors];
};

template <class T>
inline void add_grads_of_run(const Grouping& g, const T* z, const T* D, const Run<T>& run,
                             bool skip_first, T* dz, Pending<T>& pending) {
    constexpr int V = lanes<T>;
    const int second = g.count - 2;
    const T* last = z + g.sum - run.width;
    T* dlast = dz + g.sum - run.width;
    const T* d = D + run.offset;
    T* dsecond = dz + run.start + (run.z - (z + run.start));
    const bool wanted = !(skip_first && second == 0);
    // <D, its z (x) last>
    T total = 0;
    if (run.width == 1) {
        Vector<T> dots = {};
        const T scale = wanted ? run.scale * last[0] : 0;
        int64_t i = 0;
        for (; i + V <= run.length; i += V) {
            const Vector<T> v = load(d + i);
            dots += v * load(run.z + i);
            if (wanted) store(dsecond + i, load(dsecond + i) + scale * v);
        }
        T dot = sum_lanes<T>(dots);
        for (; i < run.length; ++i) {
            dot += d[i] * run.z[i];
            if (wanted) dsecond[i] += scale * d[i];
        }
        dlast[0] += run.scale * dot;
        total = dot * last[0];
    } else {
        // Sums in blocks, lest rounding errors add up.
        constexpr int rows_a_block = 64;
        T sums[short_tail] = {};
        T part = 0;
        const auto finish = [&] {
            for (int64_t p = 0; p < run.width; ++p) {
                dlast[p] += run.scale * sums[p];
                sums[p] = 0;
            }
            total += part;
            part = 0;
        };
        run.for_each_row([&](int64_t i, int64_t p, int64_t at, int64_t count) {
            const T z_i = run.z[i];
            T dot = 0;
            for (int64_t j = 0; j < count; ++j) {
                dot += d[at + j] * last[p + j];
                sums[p + j] += z_i * d[at + j];
            }
            if (wanted) dsecond[i] += run.scale * dot;
            part += z_i * dot;
            if (i % rows_a_block == rows_a_block - 1) finish();
        });
        finish();
    }
    T before[most_factors];  // product of the factors in front of m
    T scale = 1;
    int64_t start = 0;
    for (int m = 0; m < second; ++m) {
        before[m] = scale;
        scale *= z[start + run.at.prefix[m]];
        start += g.extents[m];
    }
    T after = total;
    for (int m = second - 1; m >= (skip_first ? 1 : 0); --m) {
        start -= g.extents[m];
        pending.add(m, run.at.prefix[m], before[m] * after);
        after *= z[start + run.at.prefix[m]];
    }
    pending.next();
}

// Adds the derivative of the range [begin, end) of a gathered sample: dz (laid out like z) += D^T
// dy/dz. skip_first: the first factor is a constant, its derivative is not formed.
template <class T>
inline void add_factor_grads(const Grouping& g, const T* z, const T* D, int64_t begin, int64_t end,
                             bool skip_first, T* dz) {
    constexpr int V = lanes<T>;
    const int64_t tail_at = g.sum - g.extents[g.count - 1];
    if (g.has_short_tail()) {
        Pending<T> pending(g, g.count - 2, dz);
        for_each_run(g, z, begin, end, [&](const Run<T>& run) {
            add_grads_of_run(g, z, D, run, skip_first, dz, pending);
        });
        return;
    }
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
    Pending<T> pending(g, g.count - 1, dz);
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
            pending.add(m, at.prefix[m], before[m] * after);
            after *= z[start + at.prefix[m]];
        }
        pending.next();
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
    if (g.end - g.tail == 1) return write(g.tail);
    // The merged factors, each for itself: the gradient of their product is folded once more.
    const Grouping apart(factors, g.tail, g.end, g.end);
    T z[most_tail + most_factors];
    T grads[most_tail + most_factors] = {};
    gather_sample<S>(factors, apart, s, z);
    add_factor_grads(apart, z, dz, 0, apart.extent, false, grads);
    dz = grads;
    for (int m = g.tail; m < g.end; ++m) write(m);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
