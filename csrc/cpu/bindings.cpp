// The module ntensor._cpu: plain functions on addresses, sizes and strides. Called by
// ntensor/backends/native alone, which checks what it passes. The GIL is released while a kernel
// runs.
//
// Every function takes the SIMD level first ("" for the best one). A factor is four integers
// (address, extent, row stride, column stride), a matrix is three (address, row stride, column
// stride; address 0 for none), strides in elements; a factor's gradient is an address (0: not
// needed), all gradients share one row stride, or each is contiguous where that is 0.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "api.h"
#include "build_info.h"

namespace py = pybind11;

namespace ntensor {
namespace {

using Integers = std::vector<int64_t>;
using MatrixArgument = std::array<int64_t, 3>;

void* address(int64_t value) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(value));
}

Matrix matrix(const MatrixArgument& m) {
    return {address(m[0]), m[1], m[2]};
}

const Kernels& table(const std::string& level) {
    const Kernels* found = kernels(level.c_str());
    if (!found)
        throw std::invalid_argument("SIMD level '" + level + "' is not to be had on this machine");
    return *found;
}

// The factors of a call and the memory that they are described in.
class FactorList {
public:
    FactorList(const Integers& described, const Integers& grads, int64_t grad_stride) {
        if (described.size() % 4 || described.empty())
            throw std::invalid_argument("a factor is four integers");
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

// Binds `run` (a member of Kernels) as name, and its scratch function as name + "_scratch"; make
// turns the arguments after the level into the job of the kernel and calls use(job).
template <class Job, class... Arguments, class Make>
void define(py::module_& m, const std::string& name, void (*Kernels::*run)(const Job&),
            int64_t (*Kernels::*scratch)(const Job&), const Make& make) {
    m.def(name.c_str(), [run, make](const std::string& level, Arguments... arguments) {
        const Kernels& kernels = table(level);
        py::gil_scoped_release release;
        make([&](const Job& job) { (kernels.*run)(job); }, arguments...);
    });
    m.def((name + "_scratch").c_str(),
          [scratch, make](const std::string& level, Arguments... arguments) {
              int64_t bytes = 0;
              const Kernels& kernels = table(level);
              make([&](const Job& job) { bytes = (kernels.*scratch)(job); }, arguments...);
              return bytes;
          });
}

double roofline(const std::string& level, int kind, int64_t destination, int64_t source,
                int64_t bytes, int threads) {
    const Kernels& kernels = table(level);
    py::gil_scoped_release release;
    const auto start = std::chrono::steady_clock::now();
    const double done = kernels.roof(static_cast<Roof>(kind), address(destination), address(source),
                                     bytes, threads);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return done / seconds.count();
}

// Asks for large pages under fresh memory; a wish, so a refusal is no error.
void advise_huge_pages([[maybe_unused]] int64_t begin, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr int64_t page = int64_t(2) << 20;
    const int64_t first = (begin + page - 1) / page * page;
    const int64_t last = (begin + bytes) / page * page;
    if (last > first) madvise(address(first), static_cast<size_t>(last - first), MADV_HUGEPAGE);
#endif
}

}  // namespace
}  // namespace ntensor

PYBIND11_MODULE(_cpu, m) {
    using namespace ntensor;
    m.doc() = "The compiled core of ntensor for CPUs. Used through ntensor.backends.native.";

    m.def(
        "build_info", [] { return std::string(NTENSOR_BUILD_INFO); },
        "What was built and how, as JSON.");
    m.def(
        "simd_levels",
        [] {
            std::vector<std::string> names;
            for (const char* const* name = simd_levels(); *name; ++name) names.emplace_back(*name);
            return names;
        },
        "The SIMD levels that this build has and this processor can run, best first.");
    m.def("roofline", &roofline, "bytes/s or flop/s of one pass of a loop.");
    m.def("advise_huge_pages", &advise_huge_pages);

    define<Projection, int, int64_t, const Integers&, int64_t, int64_t, int64_t, int64_t, int,
           int64_t>(m, "projection", &Kernels::projection, &Kernels::projection_scratch,
                    [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t core,
                       int64_t k_x, int64_t x, int64_t x_mean, int threads, int64_t scratch) {
                        const FactorList list(factors, {}, 0);
                        use(Projection{list.view(static_cast<DType>(dtype), n), address(core), k_x,
                                       address(x), address(x_mean), threads, address(scratch)});
                    });
    define<ProjectionFactorGrads, int, int64_t, const Integers&, const Integers&, int64_t, int64_t,
           int64_t, const MatrixArgument&, const MatrixArgument&, int, int64_t>(
        m, "projection_factor_grads", &Kernels::projection_factor_grads,
        &Kernels::projection_factor_grads_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, int64_t core, int64_t k_x, const MatrixArgument& grad,
           const MatrixArgument& grad_mean, int threads, int64_t scratch) {
            const FactorList list(factors, grads, grad_stride);
            use(ProjectionFactorGrads{list.view(static_cast<DType>(dtype), n), address(core), k_x,
                                      matrix(grad), matrix(grad_mean), threads, address(scratch)});
        });
    define<ProjectionCoreGrad, int, int64_t, const Integers&, int64_t, const MatrixArgument&,
           const MatrixArgument&, int64_t, bool, int, int64_t>(
        m, "projection_core_grad", &Kernels::projection_core_grad,
        &Kernels::projection_core_grad_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t k_x,
           const MatrixArgument& grad, const MatrixArgument& grad_mean, int64_t core_grad,
           bool accumulate, int threads, int64_t scratch) {
            const FactorList list(factors, {}, 0);
            use(ProjectionCoreGrad{list.view(static_cast<DType>(dtype), n), k_x, matrix(grad),
                                   matrix(grad_mean), address(core_grad), accumulate, threads,
                                   address(scratch)});
        });
    define<Synthesis, int, int64_t, const Integers&, int64_t, int, int64_t>(
        m, "synthesis", &Kernels::synthesis, &Kernels::synthesis_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t y, int threads,
           int64_t scratch) {
            const FactorList list(factors, {}, 0);
            use(Synthesis{list.view(static_cast<DType>(dtype), n), address(y), threads,
                          address(scratch)});
        });
    define<SynthesisGrads, int, int64_t, const Integers&, const Integers&, int64_t,
           const MatrixArgument&, int, int64_t>(
        m, "synthesis_grads", &Kernels::synthesis_grads, &Kernels::synthesis_grads_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, const MatrixArgument& grad, int threads, int64_t scratch) {
            const FactorList list(factors, grads, grad_stride);
            use(SynthesisGrads{list.view(static_cast<DType>(dtype), n), matrix(grad), threads,
                               address(scratch)});
        });
    define<Rotation, int, int64_t, int64_t, int, const MatrixArgument&, const MatrixArgument&,
           int64_t, int, int64_t>(
        m, "rotation", &Kernels::rotation, &Kernels::rotation_scratch,
        [](const auto& use, int dtype, int64_t n, int64_t K, int layout, const MatrixArgument& y,
           const MatrixArgument& R, int64_t out, int threads, int64_t scratch) {
            use(Rotation{static_cast<DType>(dtype), n, K, static_cast<Layout>(layout), matrix(y),
                         matrix(R), address(out), threads, address(scratch)});
        });
    define<RotationMatrixGrad, int, int64_t, int64_t, int, const MatrixArgument&,
           const MatrixArgument&, int64_t, int, int64_t>(
        m, "rotation_matrix_grad", &Kernels::rotation_matrix_grad,
        &Kernels::rotation_matrix_grad_scratch,
        [](const auto& use, int dtype, int64_t n, int64_t K, int layout, const MatrixArgument& grad,
           const MatrixArgument& y, int64_t dR, int threads, int64_t scratch) {
            use(RotationMatrixGrad{static_cast<DType>(dtype), n, K, static_cast<Layout>(layout),
                                   matrix(grad), matrix(y), address(dR), threads,
                                   address(scratch)});
        });
    define<RotatedSynthesis, int, int64_t, const Integers&, int, const MatrixArgument&, int64_t,
           int, int64_t>(
        m, "rotated_synthesis", &Kernels::rotated_synthesis, &Kernels::rotated_synthesis_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int layout,
           const MatrixArgument& R, int64_t out, int threads, int64_t scratch) {
            const FactorList list(factors, {}, 0);
            use(RotatedSynthesis{list.view(static_cast<DType>(dtype), n),
                                 static_cast<Layout>(layout), matrix(R), address(out), threads,
                                 address(scratch)});
        });
    define<RotatedSynthesisGrads, int, int64_t, const Integers&, const Integers&, int64_t, int,
           const MatrixArgument&, const MatrixArgument&, int64_t, int64_t, int, int64_t>(
        m, "rotated_synthesis_grads", &Kernels::rotated_synthesis_grads,
        &Kernels::rotated_synthesis_grads_scratch,
        [](const auto& use, int dtype, int64_t n, const Integers& factors, const Integers& grads,
           int64_t grad_stride, int layout, const MatrixArgument& R, const MatrixArgument& grad,
           int64_t dR, int64_t dR_stride, int threads, int64_t scratch) {
            const FactorList list(factors, grads, grad_stride);
            use(RotatedSynthesisGrads{list.view(static_cast<DType>(dtype), n),
                                      static_cast<Layout>(layout), matrix(R), matrix(grad),
                                      address(dR), dR_stride, threads, address(scratch)});
        });
}
