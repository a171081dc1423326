// The module ntensor._cpu. The context of a job is (SIMD level, threads).
#include <chrono>
#include <string>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../binding.h"
#include "api.h"
#include "build_info.h"
#include "direct.h"
#include "parallel.h"

namespace py = pybind11;

namespace ntensor {
namespace {

using binding::address;

const Kernels& table(const std::string& level) {
    const Kernels* found = kernels(level.c_str());
    if (!found)
        throw std::invalid_argument("SIMD level '" + level + "' is not to be had on this machine");
    return *found;
}

struct Cpu {
    using Context = std::tuple<std::string, int>;

    // Completes and checks a job; the scratch that it needs.
    template <class Job>
    static int64_t prepare(const Context& context, Job& job) {
        job.threads = std::get<1>(context);
        check_sizes(job);
        return table(std::get<0>(context)).entry<Job>().scratch_bytes(job);
    }
    template <class Job>
    static void run(const Context& context, const Job& job) {
        table(std::get<0>(context)).entry<Job>().run(job);
    }
    // Calls body(t) for each t in [0, workers) at the same time.
    template <class Body>
    static void at_once(int workers, const Body& body) {
        parallel_for_threads(workers, body);
    }
};

// Tells how a job is divided instead of running it: its parts take the place of scratch memory.
struct Division {
    using Context = Cpu::Context;

    template <class Job>
    static void divide(const Context& context, const Job& job, PartList& parts) {
        const auto tell = table(std::get<0>(context)).entry<Job>().divide;
        require(tell, "a job whose division is told");
        tell(job, parts);
    }
    template <class Job>
    static int64_t prepare(const Context& context, Job& job) {
        job.threads = std::get<1>(context);
        check_sizes(job);
        PartList parts;
        divide(context, job, parts);
        return parts.count * static_cast<int64_t>(sizeof(Part));
    }
    template <class Job>
    static void run(const Context& context, const Job& job) {
        PartList parts{static_cast<Part*>(job.scratch)};
        divide(context, job, parts);
    }
    template <class Body>
    static void at_once(int, const Body&) {
        require(false, "one problem");
    }
};

double roofline(const std::string& level, int kind, int64_t destination, int64_t source,
                int64_t bytes, int threads) {
    const Kernels& kernels = table(level);
    require(kind >= 0 && kind <= static_cast<int>(Roof::bf16dot), "a kind from 0 to 5");
    require(bytes > 0 && destination && source, "two buffers");
    require(threads > 0 && threads <= most_threads, "1 to 65536 threads");
    py::gil_scoped_release release;
    const auto start = std::chrono::steady_clock::now();
    const double done = kernels.roof(static_cast<Roof>(kind), address(destination), address(source),
                                     bytes, threads);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return done / seconds.count();
}

// A step for the core, from (parameter, m, v, largest) and its ten numbers in the order of api.h.
OptimizerStep optimizer_step(bool is_adam, bool is_nesterov, const std::array<int64_t, 4>& at,
                             const std::array<double, 10>& numbers) {
    const auto& [sign, coupled, kept, rate, momentum, taken, kept_square, taken_square, correction,
                 epsilon] = numbers;
    return {is_adam,        is_nesterov,    address(at[0]), address(at[1]),
            address(at[2]), address(at[3]), sign,           coupled,
            kept,           rate,           momentum,       taken,
            kept_square,    taken_square,   correction,     epsilon};
}

template <class Backend>
void define_core_step(py::module_& m) {
    using namespace binding;
    define<Backend, int, int64_t, const Integers&, int64_t, const MatrixArgument&,
           const MatrixArgument&, const SplitArgument&, bool, bool, const std::array<int64_t, 4>&,
           const std::array<double, 10>&>(
        m, "projection_core_step",
        [](const auto& use, int dtype, int64_t n, const Integers& factors, int64_t k_x,
           const MatrixArgument& grad, const MatrixArgument& grad_mean, const SplitArgument& how,
           bool is_adam, bool is_nesterov, const std::array<int64_t, 4>& arrays,
           const std::array<double, 10>& numbers) {
            const FactorList list(factors, {}, 0);
            use(ProjectionCoreStep{{list.view(static_cast<DType>(dtype), n), k_x, matrix(grad),
                                    matrix(grad_mean), split(how), address(arrays[0]), false},
                                   optimizer_step(is_adam, is_nesterov, arrays, numbers)});
        });
}

// Direct calls alone run it (direct_features.cpp).
template <class Backend>
void define_contraction(py::module_& m) {
    binding::define<Backend, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>(
        m, "contraction",
        [](const auto& use, int dtype, int64_t before, int64_t extent, int64_t after, int64_t core,
           int64_t z, int64_t z_stride, int64_t out) {
            use(Contraction{static_cast<DType>(dtype), before, extent, after, address(core),
                            address(z), z_stride, address(out)});
        });
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

    binding::define_jobs<Cpu>(m);
    binding::define_rotated_jobs<Cpu>(m);
    define_core_step<Cpu>(m);
    py::module_ division = m.def_submodule(
        "division", "The jobs, which write their parts (api.h) instead of their results.");
    binding::define_jobs<Division>(division);
    define_core_step<Division>(division);
    define_contraction<Division>(division);
    define_direct_calls(m);
}
