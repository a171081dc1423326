// The steps of api.h's OptimizerStep, a run of elements at a time.
#pragma once

#include "simd.h"

namespace ntensor {
namespace NTENSOR_LEVEL {

inline float square_root(float v) {
    return __builtin_sqrtf(v);
}
inline double square_root(double v) {
    return __builtin_sqrt(v);
}
#if defined(__AVX512F__)
inline float_vector square_root(float_vector v) {
    return reinterpret_cast<float_vector>(_mm512_sqrt_ps(reinterpret_cast<__m512>(v)));
}
inline double_vector square_root(double_vector v) {
    return reinterpret_cast<double_vector>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(v)));
}
#elif defined(__AVX2__) && !defined(NTENSOR_WIDE_VECTORS)
inline float_vector square_root(float_vector v) {
    return reinterpret_cast<float_vector>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v)));
}
inline double_vector square_root(double_vector v) {
    return reinterpret_cast<double_vector>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(v)));
}
#else
template <class V>
inline V square_root(V v) {
    for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = square_root(v[i]);
    return v;
}
#endif

template <class S>
class StepOf {
    using T = Accumulator<S>;

public:
    explicit StepOf(const OptimizerStep& step)
        : is_adam_(step.is_adam),
          is_nesterov_(step.is_nesterov),
          p_(static_cast<S*>(step.parameter)),
          m_(static_cast<S*>(step.first)),
          v_(static_cast<S*>(step.second)),
          largest_(static_cast<S*>(step.largest)),
          sign_(static_cast<T>(step.sign)),
          coupled_(static_cast<T>(step.coupled)),
          kept_(static_cast<T>(step.kept)),
          rate_(static_cast<T>(step.rate)),
          momentum_(static_cast<T>(step.momentum)),
          taken_(static_cast<T>(step.taken)),
          kept_square_(static_cast<T>(step.kept_square)),
          taken_square_(static_cast<T>(step.taken_square)),
          correction_(static_cast<T>(step.correction)),
          epsilon_(static_cast<T>(step.epsilon)) {}

    // Element `at` will be needed.
    void ask_for(int64_t at) const {
        __builtin_prefetch(p_ + at, 1, 2);
        if (m_) __builtin_prefetch(m_ + at, 1, 2);
        if (v_) __builtin_prefetch(v_ + at, 1, 2);
    }

    // For `count` elements from `at` on.
    void take(const T* gradient, int64_t at, int64_t count) const {
        constexpr int V = lanes<T>;
        int64_t i = 0;
        for (; i + V <= count; i += V) take_at<Whole>(load(gradient + i), at + i);
        for (; i < count; ++i) take_at<Single>(gradient[i], at + i);
    }

private:
    struct Whole {
        using Value = Vector<T>;
        static Value read(const S* from) { return load_widened(from); }
        static void write(S* to, Value v) { store_narrowed(to, v); }
        // NaN where one of them is.
        static Value larger(Value a, Value b) { return (a > b) | (a != a) ? a : b; }
    };
    struct Single {
        using Value = T;
        static Value read(const S* from) { return to_accumulator(*from); }
        static void write(S* to, Value v) { narrow(&v, to, 1); }
        static Value larger(Value a, Value b) { return a > b || a != a ? a : b; }
    };

    template <class Some>
    void take_at(typename Some::Value g, int64_t at) const {
        using Value = typename Some::Value;
        Value p = Some::read(p_ + at);
        g = sign_ * g + coupled_ * p;
        p = kept_ * p;
        if (is_adam_) {
            Value m = Some::read(m_ + at), v = Some::read(v_ + at);
            m = m + taken_ * (g - m);
            v = kept_square_ * v + taken_square_ * g * g;
            Some::write(m_ + at, m);
            Some::write(v_ + at, v);
            if (largest_) {
                v = Some::larger(Some::read(largest_ + at), v);
                Some::write(largest_ + at, v);
            }
            p = p - rate_ * m / (square_root(v) / correction_ + epsilon_);
        } else {
            Value direction = g;
            if (m_) {
                direction = momentum_ * Some::read(m_ + at) + taken_ * g;
                Some::write(m_ + at, direction);
                if (is_nesterov_) direction = g + momentum_ * direction;
            }
            p = p - rate_ * direction;
        }
        Some::write(p_ + at, p);
    }

    const bool is_adam_, is_nesterov_;
    S *const p_, *const m_, *const v_, *const largest_;
    const T sign_, coupled_, kept_, rate_, momentum_, taken_;
    const T kept_square_, taken_square_, correction_, epsilon_;
};

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
