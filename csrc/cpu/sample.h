// The synthesis of one sample and its derivative, segment by segment.
#pragma once

#include "grouping.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Rows of the synthesis of a gathered sample, of the last two factors (z, last) alone: element (i,
// p), of i width + p, is scale * z[i] * last[p].
template <class T>
struct Run {
    const SegmentIndex& at;  // of the factors in front of the two
    int64_t offset, length;  // elements, from the start of the range on
    int64_t first;           // p of the first one
    int64_t width;           // of the last factor
    T scale;
    int64_t place;  // of the first z[i] among the gathered ones

    // Calls part(i, p, at, count) for a row that begins or ends outside, i counted from the first
    // and elements (i, p ... p + count) at `at` of the run, and whole(i, at, rows) for those
    // between.
    template <class Part, class Whole>
    void for_each_row(const Part& part, const Whole& whole) const {
        int64_t i = 0, at = 0;
        if (first > 0) {
            at = min64(width - first, length);
            part(i++, first, 0, at);
        }
        const int64_t rows = (length - at) / width;
        if (rows > 0) whole(i, at, rows);
        at += rows * width;
        if (at < length) part(i + rows, 0, at, length - at);
    }
};

template <class T, class Body>
inline void for_each_run(const Grouping& g, const T* z, int64_t begin, int64_t end,
                         const Body& body) {
    int64_t extents[most_factors + 1];
    const int count = g.count - 1;
    const int64_t width = g.extents[count];
    for (int m = 0; m < count - 1; ++m) extents[m] = g.extents[m];
    extents[count - 1] = g.extents[count - 1] * width;
    for_each_segment(
        extents, count, begin, end, [&](const SegmentIndex& at, int64_t offset, int64_t length) {
            T scale = 1;
            int64_t start = 0;
            for (int m = 0; m < count - 1; ++m) {
                scale *= z[start + at.prefix[m]];
                start += g.extents[m];
            }
            body(
                Run<T>{at, offset, length, at.last % width, width, scale, start + at.last / width});
        });
}

// y[0, end - begin) = the range [begin, end) of the synthesis of a gathered sample.
template <class T>
inline void synthesise(const Grouping& g, const T* z, int64_t begin, int64_t end, T* y) {
    if (g.count == 1) return write_row(T(1), z + begin, end - begin, y);
    const T* last = z + g.sum - g.extents[g.count - 1];
    for_each_run(g, z, begin, end, [&](const Run<T>& run) {
        const T* z_i = z + run.place;
        T* to = y + run.offset;
        run.for_each_row(
            [&](int64_t i, int64_t p, int64_t at, int64_t count) {
                write_row(run.scale * z_i[i], last + p, count, to + at);
            },
            [&](int64_t i, int64_t at, int64_t rows) {
                write_rows(run.scale, z_i + i, rows, last, run.width, to + at);
            });
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

// Adds the derivative of the range [begin, end) of a gathered sample: dz (laid out like z) += D^T
// dy/dz. skip_first: the first factor is a constant, its derivative is not formed.
template <class T>
inline void add_factor_grads(const Grouping& g, const T* z, const T* D, int64_t begin, int64_t end,
                             bool skip_first, T* dz) {
    if (g.count == 1) {
        for (int64_t i = 0; i < end - begin; ++i) dz[begin + i] += D[i];
        return;
    }
    const int second = g.count - 2;
    const bool wanted = !(skip_first && second == 0);
    const int64_t tail = g.sum - g.extents[g.count - 1];
    const T *last = z + tail, *readable = D + (end - begin);
    Pending<T> pending(g, second, dz);
    for_each_run(g, z, begin, end, [&](const Run<T>& run) {
        const T *z_i = z + run.place, *d = D + run.offset;
        T* dz_i = wanted ? dz + run.place : nullptr;
        T total = 0;  // <D, its z (x) last>
        run.for_each_row(
            [&](int64_t i, int64_t p, int64_t at, int64_t count) {
                const T dot =
                    add_row_grad(run.scale * z_i[i], d + at, last + p, count, dz + tail + p);
                if (wanted) dz_i[i] += run.scale * dot;
                total += z_i[i] * dot;
            },
            [&](int64_t i, int64_t at, int64_t rows) {
                total += add_rows_grad(run.scale, z_i + i, rows, d + at, last, run.width,
                                       readable - (d + at), wanted ? dz_i + i : nullptr, dz + tail);
            });
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
    });
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
    T grads[most_tail + most_factors];
    for (int64_t i = 0; i < apart.sum; ++i) grads[i] = 0;
    gather_sample<S>(factors, apart, s, z);
    add_factor_grads(apart, z, dz, 0, apart.extent, false, grads);
    dz = grads;
    for (int m = g.tail; m < g.end; ++m) write(m);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
