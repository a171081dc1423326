// CUDA on the CPU, as much of it as the kernels of csrc/cuda use: every thread of a block is a
// fiber, blocks run one after the other, and a launch returns when its kernel has.
//
// A barrier that some threads reach while others wait at another one, or have left, throws
// "divergent barrier" out of the launch. Dynamic shared memory is an allocation of its own and
// full of NaN when a block begins. Races between warps are not found.
#pragma once

#include <dlfcn.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

struct Dim {
    unsigned x = 0;
};

enum class State { ready, at_block_barrier, at_warp_barrier, left };

// A copy to shared memory that is under way.
struct Copy {
    void* to;
    const void* from;
    int bytes;
    int valid;
    int64_t group;
};

constexpr size_t stack_bytes = 256 << 10;
constexpr int lanes_of_warp = 32;
constexpr size_t box_bytes = 8192;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    State state = State::left;
    Dim thread;
    int box = 0;  // which of its warp's boxes it uses next
    std::vector<Copy> copies;
    int64_t groups = 0;  // committed so far
};

// What the lanes of a warp lay open to each other. A lane that is one exchange ahead uses the other
// box.
struct Warp {
    alignas(16) unsigned char boxes[2][box_bytes];
    int waiting = 0;
};

struct Block {
    Dim index;
    int threads = 0;
    int waiting = 0;
    int left = 0;
    int current = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned char* dynamic_shared = nullptr;
    ucontext_t launcher;
    void (*body)(const void*) = nullptr;
    const void* body_argument = nullptr;
    std::string error;
#if defined(__SANITIZE_ADDRESS__)
    const void* launcher_stack = nullptr;
    size_t launcher_stack_bytes = 0;
#endif
};

inline Block& block() {
    static Block one;
    return one;
}
inline Fiber& fiber() {
    return block().fibers[static_cast<size_t>(block().current)];
}

// to < 0: the launcher.
inline void switch_to(ucontext_t& from, int to) {
    Block& b = block();
    ucontext_t& target = to < 0 ? b.launcher : b.fibers[static_cast<size_t>(to)].context;
    if (to >= 0) b.current = to;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to < 0 ? b.launcher_stack : b.fibers[to].stack.get(),
                                   to < 0 ? b.launcher_stack_bytes : stack_bytes);
    swapcontext(&from, &target);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&from, &target);
#endif
}

inline void fail(const std::string& error) {
    block().error = error;
    switch_to(fiber().context, -1);
}

// Gives the processor to the next thread that can run.
inline void yield() {
    Block& b = block();
    Fiber& self = fiber();
    const int here = b.current;
    for (int step = 1; step <= b.threads; ++step) {
        const int next = here + step < b.threads ? here + step : here + step - b.threads;
        if (b.fibers[static_cast<size_t>(next)].state == State::ready) {
            if (next != here) switch_to(self.context, next);
            return;
        }
    }
    if (b.left < b.threads) b.error = "divergent barrier: threads wait that no others will join";
    switch_to(self.context, -1);
}

inline void release(int begin, int end, State state) {
    for (int t = begin; t < end; ++t) {
        Fiber& other = block().fibers[static_cast<size_t>(t)];
        if (other.state == state) other.state = State::ready;
    }
}

inline void block_barrier() {
    Block& b = block();
    fiber().state = State::at_block_barrier;
    if (++b.waiting == b.threads) {
        b.waiting = 0;
        release(0, b.threads, State::at_block_barrier);
        return;
    }
    yield();
}

inline void warp_barrier() {
    Block& b = block();
    const int warp = b.current / lanes_of_warp;
    fiber().state = State::at_warp_barrier;
    if (++b.warps[static_cast<size_t>(warp)].waiting == lanes_of_warp) {
        b.warps[static_cast<size_t>(warp)].waiting = 0;
        release(warp * lanes_of_warp, (warp + 1) * lanes_of_warp, State::at_warp_barrier);
        return;
    }
    yield();
}

// The warp's box of type Box, after write(box) of every lane.
template <class Box, class Write>
inline const Box& exchange(const Write& write) {
    static_assert(sizeof(Box) <= box_bytes);
    Fiber& self = fiber();
    Warp& warp = block().warps[static_cast<size_t>(block().current / lanes_of_warp)];
    Box& box = *reinterpret_cast<Box*>(warp.boxes[self.box]);
    self.box ^= 1;
    write(box, block().current % lanes_of_warp);
    warp_barrier();
    return box;
}

inline void run_fiber() {
    Block& b = block();
#if defined(__SANITIZE_ADDRESS__)
    const void* from = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &from, &bytes);
    if (!b.launcher_stack) {
        b.launcher_stack = from;
        b.launcher_stack_bytes = bytes;
    }
#endif
    b.body(b.body_argument);
    Fiber& self = fiber();
    if (!self.copies.empty()) b.error = "a thread left while its copies were under way";
    self.state = State::left;
    ++b.left;
    if (!b.error.empty()) switch_to(self.context, -1);
    yield();
}

inline void run_block(int64_t index, int threads, int64_t shared_bytes) {
    Block& b = block();
    b.index.x = static_cast<unsigned>(index);
    b.threads = threads;
    b.waiting = b.left = 0;
    b.error.clear();
    if (b.fibers.size() < static_cast<size_t>(threads))
        b.fibers.resize(static_cast<size_t>(threads));
    b.warps.assign(static_cast<size_t>((threads + lanes_of_warp - 1) / lanes_of_warp), Warp{});
    const std::align_val_t alignment{16};
    const std::unique_ptr<unsigned char, void (*)(unsigned char*)> memory(
        static_cast<unsigned char*>(operator new(static_cast<size_t>(shared_bytes), alignment)),
        [](unsigned char* p) { operator delete(p, std::align_val_t{16}); });
    std::memset(memory.get(), 0xff, static_cast<size_t>(shared_bytes));
    b.dynamic_shared = memory.get();
    for (int t = 0; t < threads; ++t) {
        Fiber& f = b.fibers[static_cast<size_t>(t)];
        f.state = State::ready;
        f.thread.x = static_cast<unsigned>(t);
        f.box = 0;
        f.copies.clear();
        f.groups = 0;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = stack_bytes;
        f.context.uc_link = nullptr;
        makecontext(&f.context, run_fiber, 0);
    }
#if defined(__SANITIZE_ADDRESS__)
    b.launcher_stack = nullptr;
#endif
    switch_to(b.launcher, 0);
    if (!b.error.empty()) throw std::runtime_error(b.error);
}

inline void copy_async(void* to, const void* from, int bytes, int valid) {
    if (reinterpret_cast<uintptr_t>(to) % static_cast<unsigned>(bytes) ||
        reinterpret_cast<uintptr_t>(from) % static_cast<unsigned>(bytes))
        fail("a copy that is not aligned to its size");
    fiber().copies.push_back({to, from, bytes, valid, fiber().groups});
}
inline void commit_copies() {
    ++fiber().groups;
}
inline void wait_for_copies(int groups) {
    Fiber& self = fiber();
    size_t done = 0;
    for (; done < self.copies.size(); ++done) {
        const Copy& copy = self.copies[done];
        if (copy.group >= self.groups - groups) break;
        std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid));
        std::memset(static_cast<char*>(copy.to) + copy.valid, 0,
                    static_cast<size_t>(copy.bytes - copy.valid));
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<long>(done));
}

// How often each kernel was launched so far, by its mangled name, which is the same on a GPU.
inline std::map<std::string, int64_t>& launched() {
    static std::map<std::string, int64_t> counts;
    return counts;
}

// The mangled name of a kernel, or nothing. Looked up once, which takes longer than all else that a
// launch does on the host.
inline const std::string& name_of(const void* kernel) {
    static std::map<const void*, std::string> names;
    const auto [at, is_new] = names.insert({kernel, ""});
    Dl_info found{};
    if (is_new && dladdr(kernel, &found) && found.dli_saddr == kernel) at->second = found.dli_sname;
    return at->second;
}

inline void count_launch(const void* kernel) {
    const std::string& name = name_of(kernel);
    if (!name.empty()) ++launched()[name];
}

// While it records, launches are noted and not carried out.
struct Record {
    const void* kernel;
    int64_t blocks;
    int threads;
    int64_t shared_bytes;  // dynamic
};
struct Records {
    bool on = false;
    std::vector<Record> rows;
};
inline Records& records() {
    static Records one;
    return one;
}

// How many blocks of a kernel a multiprocessor of the imagined device holds.
inline std::map<std::string, int>& resident() {
    static std::map<std::string, int> blocks;
    return blocks;
}

}  // namespace shim

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define threadIdx (::shim::fiber().thread)
#define blockIdx (::shim::block().index)
#define __syncthreads() ::shim::block_barrier()
#define NTENSOR_DYNAMIC_SHARED(type, name) \
    type* const name = reinterpret_cast<type*>(::shim::block().dynamic_shared)

namespace ntensor {
namespace cuda {

struct LaunchShape;

template <class Shape>
inline int resident_blocks(const Call&, const Shape&, const char*, const void* kernel) {
    const auto found = ::shim::resident().find(::shim::name_of(kernel));
    return found == ::shim::resident().end() ? 2 : found->second;
}

inline int runtime_version() {
    return 0;
}
inline int driver_version() {
    return 0;
}

template <class Shape, class Arguments>
inline void start(const Call&, const Shape& shape, const Arguments& arguments, const char* name,
                  void (*kernel)(Arguments)) {
    struct Job {
        void (*kernel)(Arguments);
        const Arguments* arguments;
    };
    const Job job{kernel, &arguments};
    ::shim::block().body = [](const void* given) {
        const Job& one = *static_cast<const Job*>(given);
        one.kernel(*one.arguments);
    };
    ::shim::block().body_argument = &job;
    const void* function = reinterpret_cast<const void*>(kernel);
    if (::shim::records().on) {
        ::shim::records().rows.push_back(
            {function, shape.blocks, shape.threads, shape.shared_bytes});
        return;
    }
    ::shim::count_launch(function);
    for (int64_t index = 0; index < shape.blocks; ++index) {
        try {
            ::shim::run_block(index, shape.threads, shape.shared_bytes);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error("ntensor: cannot launch the kernel " + std::string(name) +
                                     ": " + error.what());
        }
    }
}

}  // namespace cuda
}  // namespace ntensor
