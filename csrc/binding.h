// The jobs of api.h as functions of a Python module, alike for every compiled backend: plain
// functions on addresses, sizes and strides, called by ntensor/backends/native alone. Every size,
// number and needed address is checked here (check.h), so that no kernel meets what it cannot
// serve; what lies at an address cannot be checked. The GIL is released while a job runs.
//
// Every function takes the backend's context first (where and how to run). A factor is four
// integers (address, extent, row stride, column stride), a matrix is three (address, row stride,
// column stride; address 0 for none), strides in elements; a split is four (hoisted, output_inside,
// few, transposed), a stack two (problems, at once); a factor's gradient is an address (0: not
// needed), all gradients share one row stride, or each is contiguous where that is 0.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "stack.h"

namespace ntensor {
namespace binding {

namespace py = pybind11;

using Integers = std::vector<int64_t>;
using MatrixArgument = std::array<int64_t, 3>;

inline void* address(int64_t value) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(value));
}

// (hoisted, output_inside, few, transposed)
using SplitArgument = std::array<int, 4>;

// (problems, at once)
using StackArgument = std::array<int64_t, 2>;

inline Stack stack(const StackArgument& s) {
    require(s[1] <= most_threads, "1 to 65536 threads");
    return {s[0], static_cast<int>(s[1])};
}

inline Matrix matrix(const MatrixArgument& m) {
    return {address(m[0]), m[1], m[2]};
}

inline Split split(const SplitArgument& s) {
    return {s[0], s[1] != 0, s[2] != 0, s[3] != 0};
}

// The factors of a call and the memory that they are described in.
class FactorList {
public:
    FactorList(const Integers& described, const Integers& grads, int64_t grad_stride) {
        if (described.size() % 4 || described.empty() || described.size() > 4 * most_factors)
            throw std::invalid_argument("a factor is four integers, and there are 1 to 63 factors");
        items_.resize(described.size() / 4);
        if (!grads.empty() && grads.size() != items_.size())
            throw std::invalid_argument("one gradient a factor");
        for (size_t m = 0; m < items_.size(); ++m) {
            const int64_t* at = described.data() + 4 * m;
            items_[m].values = {address(at[0]), at[2], at[3]};
            items_[m].extent = at[1];
            if (grads.empty()) continue;
            items_[m].grad = address(grads[m]);
            items_[m].needs_grad = grads[m] != 0;
            items_[m].grad_stride = grad_stride ? grad_stride : items_[m].extent;
        }
    }

    Factors view(DType dtype, int64_t n) const {
        return {items_.data(), static_cast<int>(items_.size()), n, dtype};
    }

private:
    std::vector<Factor> items_;
};

// Runs a job with this scratch memory, or returns how many bytes it lacks: then nothing was done
// and no address was looked at.
template <class Backend, class Job>
std::optional<int64_t> run(const typename Backend::Context& context, Job job, int64_t scratch,
                           int64_t bytes) {
    const int64_t needed = Backend::prepare(context, job);
    if (needed > bytes) return needed;
    job.scratch = address(scratch);
    check_addresses(job);
    Backend::run(context, job);
    return std::nullopt;
}

// The same for a stack of problems, `first` the job of its first one.
template <class Backend, class Job>
std::optional<int64_t> run(const typename Backend::Context& context, Job first, const Stack& stack,
                           int64_t scratch, int64_t bytes) {
    if (stack.problems == 1 && stack.at_once == 1)
        return run<Backend>(context, first, scratch, bytes);
    const int64_t one = whole_lines(Backend::prepare(context, first));
    check_stack(stack, first);
    if (one * stack.at_once > bytes) return one * stack.at_once;
    check_addresses(first);
    Backend::at_once(stack.at_once, [&](int t) {
        solve_each(stack, first, t, [&](Job& job) {
            job.scratch = scratch ? address(scratch + t * one) : nullptr;
            Backend::run(context, job);
        });
    });
    return std::nullopt;
}

// Binds a job as `name`: its context, its arguments, and the address and bytes of scratch memory.
// Returns what run does. make turns the arguments into the job and calls use(job) or
// use(job, stack).
template <class Backend, class... Arguments, class Make>
void define(py::module_& m, const char* name, const Make& make) {
    using Context = typename Backend::Context;
    m.def(name,
          [make](const Context& context, Arguments... arguments, int64_t scratch,
                 int64_t bytes) -> std::optional<int64_t> {
              const py::gil_scoped_release release;
              std::optional<int64_t> lacking;
              make(
                  [&](const auto& job, const auto&... stack) {
                      lacking = run<Backend>(context, job, stack..., scratch, bytes);
                  },
                  arguments...);
              return lacking;
          });
}

template <class Backend>
void define_jobs(py::module_& m) {
    define<Backend, int, int64_t, const Integers&, int64_t, int64_t, int64_t, int64_t,
           const SplitArgument&, const StackArgument&>(
        m, "projection",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t core,
           int64_t k_x, int64_t x, int64_t x_mean, const SplitArgument& how,
           const StackArgument& many) {
            const FactorList list(factors, {}, 0);
            use(Projection{list.view(static_cast<DType>(dtype), n), address(core), k_x, address(x),
                           address(x_mean), split(how)},
                stack(many));
        });
    define<Backend, int, int64_t, const Integers&, const Integers&, int64_t, int64_t, int64_t,
           const MatrixArgument&, const MatrixArgument&, const SplitArgument&,
           const StackArgument&>(
        m, "projection_factor_grads",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, int64_t core, int64_t k_x, const MatrixArgument& grad,
           const MatrixArgument& grad_mean, const SplitArgument& how, const StackArgument& many) {
            const FactorList list(factors, grads, grad_stride);
            use(ProjectionFactorGrads{list.view(static_cast<DType>(dtype), n), address(core), k_x,
                                      matrix(grad), matrix(grad_mean), split(how)},
                stack(many));
        });
    define<Backend, int, int64_t, const Integers&, int64_t, const MatrixArgument&,
           const MatrixArgument&, int64_t, bool, const SplitArgument&, const StackArgument&>(
        m, "projection_core_grad",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t k_x,
           const MatrixArgument& grad, const MatrixArgument& grad_mean, int64_t core_grad,
           bool accumulate, const SplitArgument& how, const StackArgument& many) {
            const FactorList list(factors, {}, 0);
            use(ProjectionCoreGrad{list.view(static_cast<DType>(dtype), n), k_x, matrix(grad),
                                   matrix(grad_mean), split(how), address(core_grad), accumulate},
                stack(many));
        });
    define<Backend, int, int64_t, const Integers&, int64_t>(
        m, "synthesis",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t y) {
            const FactorList list(factors, {}, 0);
            use(Synthesis{list.view(static_cast<DType>(dtype), n), address(y)});
        });
    define<Backend, int, int64_t, const Integers&, const Integers&, int64_t, const MatrixArgument&>(
        m, "synthesis_grads",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, const MatrixArgument& grad) {
            const FactorList list(factors, grads, grad_stride);
            use(SynthesisGrads{list.view(static_cast<DType>(dtype), n), matrix(grad)});
        });
    define<Backend, int, int64_t, int64_t, int, const MatrixArgument&, const MatrixArgument&,
           int64_t>(m, "rotation",
                    [](const auto& use, int dtype, int64_t n, int64_t K, int layout,
                       const MatrixArgument& y, const MatrixArgument& R, int64_t out) {
                        use(Rotation{static_cast<DType>(dtype), n, K, static_cast<Layout>(layout),
                                     matrix(y), matrix(R), address(out)});
                    });
    define<Backend, int, int64_t, int64_t, int, const MatrixArgument&, const MatrixArgument&,
           int64_t>(
        m, "rotation_matrix_grad",
        [](const auto& use, int dtype, int64_t n, int64_t K, int layout, const MatrixArgument& grad,
           const MatrixArgument& y, int64_t dR) {
            use(RotationMatrixGrad{static_cast<DType>(dtype), n, K, static_cast<Layout>(layout),
                                   matrix(grad), matrix(y), address(dR)});
        });
}

// Apart, since their division among threads is not told.
template <class Backend>
void define_rotated_jobs(py::module_& m) {
    define<Backend, int, int64_t, const Integers&, int, const MatrixArgument&, int64_t>(
        m, "rotated_synthesis",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int layout,
           const MatrixArgument& R, int64_t out) {
            const FactorList list(factors, {}, 0);
            use(RotatedSynthesis{list.view(static_cast<DType>(dtype), n),
                                 static_cast<Layout>(layout), matrix(R), address(out)});
        });
    define<Backend, int, int64_t, const Integers&, const Integers&, int64_t, int,
           const MatrixArgument&, const MatrixArgument&, int64_t, int64_t>(
        m, "rotated_synthesis_grads",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, int layout, const MatrixArgument& R, const MatrixArgument& grad,
           int64_t dR, int64_t dR_stride) {
            const FactorList list(factors, grads, grad_stride);
            use(RotatedSynthesisGrads{list.view(static_cast<DType>(dtype), n),
                                      static_cast<Layout>(layout), matrix(R), matrix(grad),
                                      address(dR), dR_stride});
        });
}

}  // namespace binding
}  // namespace ntensor
