// The synthesis of a slab of samples, which lie side by side.
#pragma once

#include "grouping.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

// The synthesis of the factors of a group for a slab of samples side by side, [index][width].
// Factors that are used again and again are kept so; of those that are too large for it some
// columns at a time are: one alone would fetch a line of memory for each sample.
template <class S>
class Columns {
    using T = Accumulator<S>;
    static constexpr int V = lanes<T>;
    static constexpr int64_t budget = 8192;  // elements of the kept factors
    static constexpr int64_t at_once = 16;   // columns of a factor that is not kept

public:
    // slab: the largest width.
    Columns(const Factors& factors, const Grouping& group, int64_t slab, Arena& arena)
        : factors_(factors), group_(group) {
        if (group.count == 0) return;
        last_ = group.extents[group.count - 1];
        const bool merged = group.end - group.tail > 1;
        keeps_last_ = merged || (group.count > 1 && last_ * slab <= budget);
        keeps_others_ = (group.sum - last_) * slab <= budget;
        prefix_ = arena.template take<T>((merged ? at_once : 1) * slab);
        if (keeps_last_) {
            kept_last_ = arena.template take<T>(last_ * slab);
        } else {
            kept_last_ = arena.template take<T>(min64(at_once, last_) * slab);
        }
        int64_t columns = 0;
        for (int m = 0; m < group.count - 1; ++m) columns += kept_columns(m);
        kept_others_ = arena.template take<T>(columns * slab);
        if (!keeps_others_) begins_ = arena.template take<int64_t>(group.count - 1);
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
        } else {
            for (int m = 0; m < group_.count - 1; ++m) begins_[m] = -1;
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
    // Columns of a factor before the last that are kept at a time.
    int64_t kept_columns(int m) const {
        const int64_t extent = group_.extents[m];
        return keeps_others_ ? extent : min64(at_once, extent);
    }

    // Column `index` of a factor before the last, whose columns are kept there.
    const T* column_of(int m, int64_t index, T* kept) {
        if (keeps_others_) return kept + index * width_;
        const int64_t begin = index / at_once * at_once;
        if (begins_[m] != begin) {
            const Factor& z = factors_.items[group_.first + m];
            widen_columns<S>(z.values, s0_, samples_, begin, min64(at_once, z.extent - begin),
                             width_, kept);
            begins_[m] = begin;
        }
        return kept + (index - begin) * width_;
    }

    const T* form_prefix(const SegmentIndex& at) {
        const T* first = nullptr;
        T* kept = kept_others_;
        for (int m = 0; m < group_.count - 1; ++m) {
            const T* from = column_of(m, at.prefix[m], kept);
            kept += kept_columns(m) * width_;
            if (m == 0) {
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
                const int64_t kept = i % at_once;
                if (kept == 0) {
                    widen_columns<S>(z.values, s0_, samples_, i, min64(at_once, z.extent - i),
                                     width_, prefix_);
                }
                // The last block lies on its own source, element by element.
                for (int64_t j = 0; j < done; ++j)
                    multiply(source + j * width_, prefix_ + kept * width_,
                             target + (i * done + j) * width_);
            }
            done *= z.extent;
        }
    }

    const Factors& factors_;
    const Grouping& group_;
    int64_t last_ = 0;
    bool keeps_last_ = false, keeps_others_ = false;
    T* prefix_ = nullptr;     // [width]; while factors are merged, [at_once][width] of one of them
    T* kept_last_ = nullptr;  // [last or at_once][width]
    T* kept_others_ = nullptr;   // for each factor before the last [extent or at_once][width]
    int64_t* begins_ = nullptr;  // for each of them the first column that is kept; -1: none
    T ones_[64];                 // one column
    int64_t s0_ = 0, samples_ = 0, width_ = 0;
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
