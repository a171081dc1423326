// What kernels and their launches need of CUDA, and how one call is carried out. With
// NTENSOR_HOST_SHIM the same sources are compiled by a C++ compiler against tests/shim, which runs
// the kernels on the CPU.
#pragma once

#ifdef NTENSOR_HOST_SHIM
#include "shim.h"
#else
#include <cuda_runtime.h>

#define NTENSOR_DYNAMIC_SHARED(type, name)                        \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* const name = reinterpret_cast<type*>(name##_bytes)
#endif

#include <cmath>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "api.h"

namespace ntensor {
namespace cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}
constexpr int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
constexpr int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

struct LaunchShape {
    int64_t blocks;
    int threads;
    int64_t shared_bytes = 0;
};

#ifndef NTENSOR_HOST_SHIM
inline void check(cudaError_t status, const char* what, const char* name) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // leaves no error behind for the next call of the process
    throw std::runtime_error(std::string("ntensor: ") + what + " " + name + ": " +
                             cudaGetErrorString(status));
}

inline int runtime_version() {
    return CUDART_VERSION;
}
inline int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// More than 48 KiB of shared memory must be asked for, once a kernel and device.
inline void allow_shared_memory(const Call& call, int64_t bytes, const char* name,
                                const void* kernel) {
    constexpr int64_t without_asking = 48 << 10;
    if (bytes <= without_asking) return;
    static std::mutex mutex;
    static std::set<std::pair<const void*, int>> allowed;
    const std::lock_guard<std::mutex> lock(mutex);
    if (allowed.count({kernel, call.device})) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "no shared memory for the kernel", name);
    allowed.insert({kernel, call.device});
}

// How many blocks of a launch a multiprocessor holds at once; asked for once a kernel and device.
inline int resident_blocks(const Call& call, const LaunchShape& shape, const char* name,
                           const void* kernel) {
    static std::mutex mutex;
    static std::map<std::pair<const void*, int>, int> known;
    allow_shared_memory(call, shape.shared_bytes, name, kernel);
    const std::lock_guard<std::mutex> lock(mutex);
    const auto [found, is_new] = known.insert({{kernel, call.device}, 1});
    if (is_new) {
        int blocks = 0;
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                  &blocks, kernel, shape.threads, static_cast<size_t>(shape.shared_bytes)),
              "no blocks of the kernel fit", name);
        found->second = blocks > 1 ? blocks : 1;
    }
    return found->second;
}

template <class Arguments>
inline void start(const Call& call, const LaunchShape& shape, const Arguments& arguments,
                  const char* name, void (*kernel)(Arguments)) {
    const void* function = reinterpret_cast<const void*>(kernel);
    allow_shared_memory(call, shape.shared_bytes, name, function);
    void* pointers[] = {const_cast<Arguments*>(&arguments)};
    check(cudaLaunchKernel(function, dim3(static_cast<unsigned>(shape.blocks)),
                           dim3(static_cast<unsigned>(shape.threads)), pointers,
                           static_cast<size_t>(shape.shared_bytes),
                           static_cast<cudaStream_t>(call.stream)),
          "cannot launch the kernel", name);
}
#endif

// The scratch memory and the launches of one call. Without memory it is a rehearsal: nothing is
// launched, and what the call would take is counted.
class Session {
public:
    Session(const Call& call, bool rehearsal) : call_(call), rehearsal_(rehearsal) {}

    template <class T>
    T* take(int64_t count) {
        const int64_t at = used_;
        used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
        return rehearsal_ ? nullptr : reinterpret_cast<T*>(static_cast<char*>(call_.scratch) + at);
    }
    int64_t used() const { return used_; }
    bool tf32() const { return call_.tf32; }

    // How many blocks of a launch the device holds at once.
    template <class Arguments>
    int64_t places(const LaunchShape& shape, const char* name, void (*kernel)(Arguments)) const {
        const void* function = reinterpret_cast<const void*>(kernel);
        return int64_t{call_.multiprocessors} * resident_blocks(call_, shape, name, function);
    }

    template <class Arguments>
    void launch(const LaunchShape& shape, const Arguments& arguments, const char* name,
                void (*kernel)(Arguments)) {
        if (rehearsal_ || shape.blocks == 0) return;
        if (shape.blocks > INT32_MAX)
            throw std::runtime_error(std::string("ntensor: the kernel ") + name + " would need " +
                                     std::to_string(shape.blocks) + " blocks");
        start(call_, shape, arguments, name, kernel);
    }

private:
    const Call& call_;
    bool rehearsal_;
    int64_t used_ = 0;
};

// Every launch goes through here: NTENSOR_LAUNCH(session, shape, arguments, kernel<...>).
#define NTENSOR_LAUNCH(session, shape, arguments, ...) \
    (session).launch(shape, arguments, #__VA_ARGS__, &__VA_ARGS__)
#define NTENSOR_PLACES(session, shape, ...) (session).places(shape, #__VA_ARGS__, &__VA_ARGS__)

}  // namespace cuda
}  // namespace ntensor
