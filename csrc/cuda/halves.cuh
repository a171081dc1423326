// Cuts the factors of a projection in two halves and forms the synthesis of each in scratch memory.
#pragma once

#include "projection.cuh"
#include "synthesis.cuh"

namespace ntensor {
namespace cuda {

// The factors [0, lead) are taken out of the sum: the first one, and those of extent 1 before it
// alike, so that W has n K / k elements for the first extent k above 1. Where no more than one
// factor is above 1 it stays in W.
inline int leading_factors(const Factors& factors) {
    int large = 0;
    for (int m = 0; m < factors.count; ++m) large += factors.items[m].extent > 1;
    int lead = 1;
    while (lead < factors.count - 1 && factors.items[lead - 1].extent == 1 &&
           (large > 1 || factors.items[lead].extent == 1))
        ++lead;
    return lead;
}

// mean: x_mean or G_mean takes part.
template <class S>
TwoHalves<S> two_halves(Session& session, const Factors& factors, int lead, bool mean) {
    TwoHalves<S> halves{};
    const int64_t n = halves.n = factors.n;
    halves.L = halves.J = 1;
    for (int m = 0; m < factors.count; ++m)
        (m < lead ? halves.L : halves.J) *= factors.items[m].extent;
    Sum<S>* const a = session.take<Sum<S>>(n * halves.L);
    write_product<S>(session, factors, 0, lead, a, halves.L);
    halves.a = a;
    halves.constant = Sum<S>(1) / static_cast<Sum<S>>(factors.items[0].extent);
    if (mean && lead > 1) {
        // k_1 is 1, so the mean leaves the first factor out.
        Sum<S>* const a_mean = session.take<Sum<S>>(n * halves.L);
        write_product<S>(session, factors, 1, lead, a_mean, halves.L);
        halves.a_mean = a_mean;
    }
    halves.w_stride = round_up(halves.J, pack_size<S>);
    S* const W = session.take<S>(n * halves.w_stride);
    write_product<S>(session, factors, lead, factors.count, W, halves.w_stride);
    halves.W = W;
    return halves;
}

template <class S>
inline bool core_in_packs(const void* core, int64_t J) {
    return rows_in_packs<S>(core, J);
}

template <class S>
inline bool grad_in_packs(const Matrix& grad) {
    return !grad.data || (grad.col_stride == 1 && rows_in_packs<S>(grad.data, grad.row_stride));
}

}  // namespace cuda
}  // namespace ntensor
