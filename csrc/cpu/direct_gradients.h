// The gradients of a projection, as direct calls make them.
#pragma once

#include "direct_run.h"

namespace ntensor {
namespace direct {

// Those of one projection, or of several behind one another. First the plans of all that is needed,
// since a part that takes the ordinary way takes all with it; then each part.
struct Gradients {
    DType dtype;
    int64_t n, k_x;          // of one problem
    Matrix grad, grad_mean;  // of both outputs; one of them may have no data
    Factor* factors;  // `needs_grad` says whose are needed; their order is that of the kernels
    const int64_t* extents;
    int count;
    int64_t problems = 1;
    Plan core_plan = {}, x_plan = {}, plan = {};

    // False: something is for the ordinary way.
    bool find_plans(bool needs_core, bool needs_x = false, bool needs_factors = true) {
        if (needs_core) {
            core_plan = plan_for(Call::core_grad, outputs());
            if (!core_plan.passes[0]) return false;
        }
        if (needs_x) {
            x_plan = plan_for(Call::projection, 0);
            if (!x_plan.passes[0]) return false;
        }
        if (const int64_t needed = needs_factors ? needed_factors() : 0) {
            plan = plan_for(Call::factor_grads, outputs() << most_direct_factors | needed);
            if (plan.choice < 0) return false;
        }
        return true;
    }

    void write_core(void* out) {
        run(core_plan,
            ProjectionCoreGrad{view(), k_x, grad, grad_mean, *core_plan.passes[0], out, false},
            problems);
    }

    // The projection itself: the derivative of <x, grad> in grad.
    void write_x(const void* core, void* out) {
        run(x_plan, Projection{view(), core, k_x, out, nullptr, *x_plan.passes[0]}, problems);
    }

    // Each where its factor says, contiguous.
    void write_factors(const void* core) {
        if (!needed_factors()) return;
        const auto& [inner, outer] = plan.passes;
        if (outer) {
            // The core's outputs and the hoisted indices change places.
            const int hoisted = plan.choice;
            int64_t L = 1;
            for (int m = 0; m < hoisted; ++m) L *= extents[m];
            Factor swapped[most_direct_factors];
            swapped[0].values = grad;
            swapped[0].extent = k_x;
            for (int m = hoisted; m < count; ++m) {
                swapped[1 + m - hoisted].values = factors[m].values;
                swapped[1 + m - hoisted].extent = extents[m];
            }
            const bool apart = hoisted > 1;
            const Scratch dH(apart ? problems * n * L * bytes_of(dtype) : 0, true);
            run(plan,
                Projection{{swapped, count - hoisted + 1, n, dtype},
                           core,
                           L,
                           apart ? dH.data() : factors[0].grad,
                           nullptr,
                           *outer},
                problems);
            if (apart)
                run(plan,
                    SynthesisGrads{{factors, hoisted, problems * n, dtype}, {dH.data(), L, 1}});
        }
        if (inner) {
            for (int m = 0; m < inner->hoisted && !inner->transposed; ++m)
                factors[m].needs_grad = false;
            run(plan, ProjectionFactorGrads{view(), core, k_x, grad, grad_mean, *inner}, problems);
        }
    }

private:
    // As ntensor/ops/direct.py counts them: x, both, x_mean.
    int64_t outputs() const { return !grad_mean.data ? 0 : grad.data ? 1 : 2; }
    Factors view() const { return {factors, count, n, dtype}; }
    Plan plan_for(Call call, int64_t option) const {
        return plan_of(call, dtype, n, k_x, option, count, extents, problems);
    }
    int64_t needed_factors() const {
        int64_t needed = 0;
        for (int m = 0; m < count; ++m)
            if (factors[m].needs_grad) needed |= int64_t(1) << m;
        return needed;
    }
};

}  // namespace direct
}  // namespace ntensor
