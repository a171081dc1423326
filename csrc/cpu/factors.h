// Factors brought into the form that the kernels read: widened to the accumulator type, contiguous,
// and with short trailing factors merged, so that segments (math/synthesis.h) are never needlessly
// short.
#pragma once

#include "../math/synthesis.h"
#include "projection.h"
#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// Trailing factors are merged until their product reaches this extent, as long as it stays under
// the most.
constexpr int64_t least_tail = 32;
constexpr int64_t most_tail = 128;
constexpr int64_t short_tail = 12;

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

    // Segments would be shorter than a vector.
    bool has_short_tail() const { return count > 1 && extents[count - 1] < short_tail; }

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
    // Grown from the right end of `to`, so that the product can be written where its source stands.
    int64_t done = last.extent;
    for (int m = g.end - 2; m >= g.tail; --m) {
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

// The synthesis of the factors of a group for a slab of samples side by side, [index][width].
// Factors that are used again and again are kept so; a last factor that is too large for it is read
// where it lies.
template <class S>
class Columns {
    using T = Accumulator<S>;
    static constexpr int V = lanes<T>;
    static constexpr int64_t budget = 8192;  // elements of the kept factors
    static constexpr int64_t at_once = 16;   // columns of a last factor that is not kept

public:
    // slab: the largest width.
    Columns(const Factors& factors, const Grouping& group, int64_t slab, Arena& arena)
        : factors_(factors), group_(group) {
        if (group.count == 0) return;
        last_ = group.extents[group.count - 1];
        const bool merged = group.end - group.tail > 1;
        keeps_last_ = merged || (group.count > 1 && last_ * slab <= budget);
        keeps_others_ = (group.sum - last_) * slab <= budget;
        prefix_ = arena.template take<T>(slab);
        if (keeps_last_) {
            kept_last_ = arena.template take<T>(last_ * slab);
        } else {
            kept_last_ = arena.template take<T>(min64(at_once, last_) * slab);
        }
        if (keeps_others_) kept_others_ = arena.template take<T>((group.sum - last_) * slab);
    }

    // width: the samples, padded to whole vectors.
    void start(int64_t s0, int64_t samples, int64_t width) {
        s0_ = s0;
        samples_ = samples;
        width_ = width;
        if (group_.count == 0) return;
        if (keeps_others_) {
            T* to = kept_others_;
            for (int m = group_.first; m < group_.tail; ++m) {
                const Factor& z = factors_.items[m];
                widen_columns<S>(z.values, s0, samples, 0, z.extent, width, to);
                to += z.extent * width;
            }
        }
        if (keeps_last_) keep_last();
    }

    // Calls body(p, column) for the indices p of [begin, end), counted from begin, in order; with
    // `prefix`, column[s] = prefix[s] * its own product, else prefix is null.
    template <class Body>
    void for_each(int64_t begin, int64_t end, const Body& body) {
        if (group_.count == 0) {
            for (int64_t s = 0; s < width_; ++s) ones_[s] = 1;
            body(0, ones_, static_cast<const T*>(nullptr));
            return;
        }
        for_each_segment(group_.extents, group_.count, begin, end,
                         [&](const SegmentIndex& at, int64_t offset, int64_t length) {
                             const T* prefix = form_prefix(at);
                             if (keeps_last_) {
                                 for (int64_t j = 0; j < length; ++j)
                                     body(offset + j, kept_last_ + (at.last + j) * width_, prefix);
                                 return;
                             }
                             const Matrix& z = factors_.items[group_.end - 1].values;
                             for (int64_t j = 0; j < length; j += at_once) {
                                 const int64_t here = min64(at_once, length - j);
                                 widen_columns<S>(z, s0_, samples_, at.last + j, here, width_,
                                                  kept_last_);
                                 for (int64_t i = 0; i < here; ++i)
                                     body(offset + j + i, kept_last_ + i * width_, prefix);
                             }
                         });
    }

    // to[p][s] for the indices [begin, end)
    void form(int64_t begin, int64_t end, T* to) {
        for_each(begin, end, [&](int64_t p, const T* column, const T* prefix) {
            multiply(column, prefix, to + p * width_);
        });
    }

    // The same in strips of samples, each [depth][strip], one after the other.
    void form_strips(int64_t begin, int64_t end, int64_t strip, int64_t depth, T* to) {
        for_each(begin, end, [&](int64_t p, const T* column, const T* prefix) {
            T* row = to + p * strip;
            for (int64_t s0 = 0; s0 < width_; s0 += strip, row += depth * strip) {
                const int64_t here = min64(strip, width_ - s0);
                for (int64_t s = 0; s < here; s += V) {
                    const Vector<T> v = load(column + s0 + s);
                    store(row + s, prefix ? load(prefix + s0 + s) * v : v);
                }
            }
        });
    }

    void multiply(const T* column, const T* prefix, T* to) const {
        if (prefix) {
            for (int64_t s = 0; s < width_; s += V)
                store(to + s, load(prefix + s) * load(column + s));
        } else {
            for (int64_t s = 0; s < width_; s += V) store(to + s, load(column + s));
        }
    }

private:
    const T* form_prefix(const SegmentIndex& at) {
        const T* first = nullptr;
        int64_t start = 0;
        for (int m = 0; m < group_.count - 1; ++m) {
            const T* from = kept_others_ + (start + at.prefix[m]) * width_;
            if (!keeps_others_) {
                from = ones_;
                widen_columns<S>(factors_.items[group_.first + m].values, s0_, samples_,
                                 at.prefix[m], 1, width_, ones_);
            }
            start += group_.extents[m];
            if (m == 0 && keeps_others_) {
                first = from;
            } else {
                multiply(from, first, prefix_);
                first = prefix_;
            }
        }
        return first;
    }

    // The last factor, or the product of the merged ones, grown from the right end.
    void keep_last() {
        const Factor& last = factors_.items[group_.end - 1];
        T* source = kept_last_ + (last_ - last.extent) * width_;
        widen_columns<S>(last.values, s0_, samples_, 0, last.extent, width_, source);
        int64_t done = last.extent;
        for (int m = group_.end - 2; m >= group_.tail; --m) {
            const Factor& z = factors_.items[m];
            source = kept_last_ + (last_ - done) * width_;
            T* target = kept_last_ + (last_ - done * z.extent) * width_;
            for (int64_t i = 0; i < z.extent; ++i) {
                widen_columns<S>(z.values, s0_, samples_, i, 1, width_, prefix_);
                // The last block lies on its own source, element by element.
                for (int64_t j = 0; j < done; ++j)
                    multiply(source + j * width_, prefix_, target + (i * done + j) * width_);
            }
            done *= z.extent;
        }
    }

    const Factors& factors_;
    const Grouping& group_;
    int64_t last_ = 0;
    bool keeps_last_ = false, keeps_others_ = false;
    T* prefix_ = nullptr;
    T* kept_last_ = nullptr;    // [last or at_once][width]
    T* kept_others_ = nullptr;  // [sum - last][width]
    T ones_[64];                // one column
    int64_t s0_ = 0, samples_ = 0, width_ = 0;
};

// The incoming gradient joined by the hoisted factors: for a sample s and a row q = (r, l) of the
// core as a matrix of k_x L rows,
//   A[s, q] = G[s, r] H[s, l] + G_mean[s, r] H_mean[s, l]
// H: the synthesis of the hoisted factors, H_mean: the same with z_1 := 1/k_1.
template <class S>
class JoinedGrad {
    using T = Accumulator<S>;

public:
    // Without hoisted factors only one of both may be given.
    JoinedGrad(const Matrix& grad, const Matrix& grad_mean, int64_t k_x, const Factors& factors,
               int hoisted)
        : grad_(grad), grad_mean_(grad_mean), factors_(factors), count_(hoisted + 1) {
        extents_[0] = k_x;
        for (int m = 0; m < hoisted; ++m) extents_[m + 1] = factors.items[m].extent;
    }

    // to[s * stride + q - begin] = A[s0 + s, q] for `samples` samples and the rows [begin, end).
    void form(int64_t s0, int64_t samples, int64_t begin, int64_t end, T* to,
              int64_t stride) const {
        if (!grad_.data)
            return form_of<false>(grad_mean_, count_ > 1, s0, samples, begin, end, to, stride);
        form_of<false>(grad_, false, s0, samples, begin, end, to, stride);
        if (grad_mean_.data) form_of<true>(grad_mean_, true, s0, samples, begin, end, to, stride);
    }

private:
    template <bool Add>
    void form_of(const Matrix& grad, bool mean, int64_t s0, int64_t samples, int64_t begin,
                 int64_t end, T* to, int64_t stride) const {
        const int last = count_ - 1;
        // The last of G and the hoisted factors is read along its row, what is before it scales.
        const bool constant = mean && last == 1;
        const Matrix& row = last == 0 ? grad : factors_.items[last - 1].values;
        for_each_segment(extents_, count_, begin, end,
                         [&](const SegmentIndex& at, int64_t offset, int64_t length) {
                             for (int64_t s = 0; s < samples; ++s) {
                                 T scale = 1;
                                 if (last > 0) scale = element<S>(grad, s0 + s, at.prefix[0]);
                                 for (int m = 1; m < last; ++m)
                                     scale *= factor_element(mean, m, s0 + s, at.prefix[m]);
                                 T* out = to + s * stride + offset;
                                 if (constant) {
                                     add_row<Add>(scale * mean_element(), nullptr, 0, length, out);
                                 } else {
                                     const S* from = static_cast<const S*>(row.data) +
                                                     (s0 + s) * row.row_stride +
                                                     at.last * row.col_stride;
                                     add_row<Add>(scale, from, row.col_stride, length, out);
                                 }
                             }
                         });
    }

    // out (+)= scale * from, or scale where from is null
    template <bool Add>
    static void add_row(T scale, const S* from, int64_t step, int64_t length, T* out) {
        constexpr int V = lanes<T>;
        int64_t i = 0;
        if (step == 1) {
            for (; i + V <= length; i += V) {
                Vector<T> v = scale * load_widened(from + i);
                if (Add) v += load(out + i);
                store(out + i, v);
            }
        }
        for (; i < length; ++i) {
            const T v = from ? scale * to_accumulator(from[i * step]) : scale;
            out[i] = Add ? out[i] + v : v;
        }
    }

    T mean_element() const { return T(1) / static_cast<T>(extents_[1]); }

    T factor_element(bool mean, int m, int64_t s, int64_t i) const {
        if (mean && m == 1) return mean_element();
        return element<S>(factors_.items[m - 1].values, s, i);
    }

    const Matrix grad_, grad_mean_;
    const Factors& factors_;
    int count_;
    int64_t extents_[most_factors + 1];
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
