// The incoming gradient as a matrix with the rows of the core.
#pragma once

#include "grouping.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

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
