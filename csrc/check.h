// The checks of a job's sizes, numbers and addresses: a kernel divides by them, makes arrays of
// them and multiplies them without looking again.
#pragma once

#include <stdexcept>
#include <string>

#include "cpu/api.h"

namespace ntensor {

constexpr int most_threads = 1 << 16;

inline void require(bool right, const char* wanted) {
    if (!right) throw std::invalid_argument(std::string("wanted ") + wanted);
}

// A product of sizes: under 2^48, more than any memory holds, so that no sum of offsets overflows.
class Size {
public:
    void times(int64_t k) {
        require(k > 0, "sizes of at least 1");
        require(!__builtin_mul_overflow(product_, k, &product_) && product_ < int64_t(1) << 48,
                "fewer than 2^48 elements");
    }

private:
    int64_t product_ = 1;
};

inline void check_run(DType dtype, int64_t n, int threads) {
    require(dtype >= DType::float32 && dtype <= DType::float16, "a dtype from 0 to 3");
    require(n > 0, "sizes of at least 1");
    require(threads > 0 && threads <= most_threads, "1 to 65536 threads");
}

// `least`: the fewest factors. k_x: the core's rows, 1 where there is no core.
inline void check_factors(const Factors& factors, int least, int64_t k_x, int threads) {
    check_run(factors.dtype, factors.n, threads);
    require(factors.count >= least && factors.count <= most_factors,
            "2 to 63 factors, or 1 for a synthesis");
    Size core, synthesis, output;
    core.times(k_x);
    synthesis.times(factors.n);
    output.times(factors.n);
    output.times(k_x);
    for (int m = 0; m < factors.count; ++m) {
        core.times(factors.items[m].extent);
        synthesis.times(factors.items[m].extent);
    }
}

inline void check_rotation(DType dtype, int64_t n, int64_t K, Layout layout, int threads) {
    check_run(dtype, n, threads);
    require(layout == Layout::column || layout == Layout::row, "a layout of 0 or 1");
    require(K > 0 && K % 3 == 0, "a K that 3 divides");
    Size feature;
    feature.times(n);
    feature.times(K);
}

inline void check_rotated(const Factors& factors, Layout layout, int threads) {
    check_factors(factors, 1, 1, threads);
    int64_t K = 1;
    for (int m = 0; m < factors.count; ++m) K *= factors.items[m].extent;
    check_rotation(factors.dtype, factors.n, K, layout, threads);
}

// least: the fewest hoisted factors.
inline void check_split(const Split& split, int least, const Factors& factors) {
    require(split.hoisted >= least && split.hoisted < factors.count,
            "fewer hoisted factors than there are, at least one with a mean output");
}

// Most samples that are taken one by one.
constexpr int64_t most_few = 64;

inline void check_sizes(const Projection& job) {
    check_factors(job.factors, 2, job.k_x, job.threads);
    check_split(job.split, job.x_mean ? 1 : 0, job.factors);
    require(!job.x_mean || !job.split.output_inside, "outputs outside with a mean output");
    require(!job.split.few || job.factors.n <= most_few, "at most 64 samples one by one");
}
inline void check_sizes(const ProjectionFactorGrads& job) {
    check_factors(job.factors, 2, job.k_x, job.threads);
    check_split(job.split, 0, job.factors);
    require(job.grad.data || job.grad_mean.data, "an incoming gradient");
    if (job.split.transposed)
        return require(!job.grad_mean.data, "no mean output where gradients are projections");
    for (int m = 0; m < job.split.hoisted; ++m)
        require(!job.factors.items[m].needs_grad, "no gradient of a hoisted factor");
}
inline void check_sizes(const ProjectionCoreGrad& job) {
    check_factors(job.factors, 2, job.k_x, job.threads);
    check_split(job.split, job.grad_mean.data ? 1 : 0, job.factors);
    require(job.grad.data || job.grad_mean.data, "an incoming gradient");
}
inline void check_sizes(const ProjectionCoreStep& job) {
    check_sizes(static_cast<const ProjectionCoreGrad&>(job));
    require(job.factors.n <= most_step_samples, "at most 256 samples in a step");
}
inline void check_sizes(const Synthesis& job) {
    check_factors(job.factors, 1, 1, job.threads);
}
inline void check_sizes(const SynthesisGrads& job) {
    check_factors(job.factors, 1, 1, job.threads);
}
inline void check_sizes(const Rotation& job) {
    check_rotation(job.dtype, job.n, job.K, job.layout, job.threads);
}
inline void check_sizes(const RotationMatrixGrad& job) {
    check_rotation(job.dtype, job.n, job.K, job.layout, job.threads);
}
inline void check_sizes(const RotationGrads& job) {
    check_rotation(job.dtype, job.n, job.K, job.layout, job.threads);
}
inline void check_sizes(const RotatedSynthesis& job) {
    check_rotated(job.factors, job.layout, job.threads);
}
inline void check_sizes(const RotatedSynthesisGrads& job) {
    check_rotated(job.factors, job.layout, job.threads);
}
inline void check_sizes(const Contraction& job) {
    check_run(job.dtype, job.before, job.threads);
    Size core;
    core.times(job.before);
    core.times(job.extent);
    core.times(job.after);
}

// No address that a kernel reads or writes without asking is 0. Scratch may be: a job may need
// none.
inline void check_given(const void* address) {
    require(address != nullptr, "the address of every operand");
}
inline void check_given(const Factors& factors) {
    for (int m = 0; m < factors.count; ++m) check_given(factors.items[m].values.data);
}
template <class... Addresses>
inline void check_each(const Addresses&... addresses) {
    (check_given(addresses), ...);
}

inline void check_addresses(const Projection& job) {
    check_each(job.factors, job.core, job.x);
}
inline void check_addresses(const ProjectionFactorGrads& job) {
    check_each(job.factors, job.core);
}
inline void check_addresses(const ProjectionCoreGrad& job) {
    check_each(job.factors, job.core_grad);
}
inline void check_addresses(const ProjectionCoreStep& job) {
    check_each(job.factors, job.step.parameter);
    if (job.step.is_adam) check_each(job.step.first, job.step.second);
}
inline void check_addresses(const Synthesis& job) {
    check_each(job.factors, job.y);
}
inline void check_addresses(const SynthesisGrads& job) {
    check_each(job.factors, job.grad.data);
}
inline void check_addresses(const Rotation& job) {
    check_each(job.y.data, job.R.data, job.out);
}
inline void check_addresses(const RotationMatrixGrad& job) {
    check_each(job.grad.data, job.y.data, job.dR);
}
inline void check_addresses(const RotationGrads& job) {
    check_each(job.R.data, job.grad.data, job.y.data);
}
inline void check_addresses(const RotatedSynthesis& job) {
    check_each(job.factors, job.R.data, job.out);
}
inline void check_addresses(const RotatedSynthesisGrads& job) {
    check_each(job.factors, job.R.data, job.grad.data);
}
inline void check_addresses(const Contraction& job) {
    check_each(job.core, job.z, job.out);
}

}  // namespace ntensor
