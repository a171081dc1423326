// The module ntensor._cuda. The context of a job is (device, stream, whether float32 products may
// be rounded to TF32, multiprocessors of the device); addresses lie on the device, which is the
// current one. Nothing here waits for the device or allocates on it.
#include <tuple>

#include "../binding.h"
#include "platform.cuh"

namespace py = pybind11;

namespace ntensor {
namespace {

struct Cuda {
    using Context = std::tuple<int, int64_t, bool, int>;

    // Checks a job; the scratch that it needs, by a rehearsal, which asks which addresses are 0.
    template <class Job>
    static int64_t prepare(const Context& context, Job& job) {
        check_sizes(job);
        const cuda::Call call = call_of(context, job);
        cuda::Session session(call, true);
        cuda::run(job, session);
        return session.used();
    }
    template <class Job>
    static void run(const Context& context, const Job& job) {
        const cuda::Call call = call_of(context, job);
        cuda::Session session(call, false);
        cuda::run(job, session);
    }
    // One problem after another, in the order of the stream.
    template <class Body>
    static void at_once(int workers, const Body& body) {
        for (int t = 0; t < workers; ++t) body(t);
    }

private:
    template <class Job>
    static cuda::Call call_of(const Context& context, const Job& job) {
        const auto& [device, stream, tf32, multiprocessors] = context;
        return {device, binding::address(stream), tf32, multiprocessors, job.scratch};
    }
};

}  // namespace
}  // namespace ntensor

PYBIND11_MODULE(_cuda, m) {
    using namespace ntensor;
    m.doc() = "The compiled core of ntensor for CUDA GPUs. Used through ntensor.backends.native.";
    m.def(
        "architectures", [] { return std::string(NTENSOR_CUDA_ARCHITECTURES); },
        "What the kernels were compiled for, in CMake's words, for example 80,90a-real.");
    m.def("runtime_version", &cuda::runtime_version, "CUDA of this build: 1000 major + 10 minor.");
    m.def("driver_version", &cuda::driver_version,
          "The newest CUDA that the driver of this machine runs; 0 without a driver.");
    binding::define_jobs<Cuda>(m);
    binding::define_rotated_jobs<Cuda>(m);
}
