// Plans of ntensor/backends/native/plans.py, kept for direct.cpp, and their scratch.
#pragma once

#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "direct_operands.h"

namespace ntensor {
namespace direct {

constexpr int64_t kept_scratch = int64_t(1) << 20;  // bytes that a thread keeps

// Scratch of one call. Small memory is kept by the thread.
class Scratch {
public:
    // own: not the memory that the thread keeps, which serves one scratch at a time.
    explicit Scratch(int64_t bytes, bool own = false) {
        static thread_local const Memory kept = allocate(kept_scratch);
        if (bytes > kept_scratch || own) own_ = allocate(bytes);
        data_ = own_ ? own_.get() : kept.get();
    }
    void* data() const { return data_; }

private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    using Memory = std::unique_ptr<void, Free>;

    static Memory allocate(int64_t bytes) {
        Memory memory(std::aligned_alloc(64, static_cast<size_t>((bytes / 64 + 1) * 64)));
        if (!memory) throw std::bad_alloc();
        return memory;
    }

    void* data_;
    Memory own_;
};

enum class Call : int64_t { projection, mttkrp, core_grad, factor_grads, features, mode_gradients };

// What a plan depends on, beside what the process was started with.
struct Key {
    int64_t words[9 + most_direct_factors] = {};

    bool operator==(const Key& other) const {
        return std::memcmp(words, other.words, sizeof(words)) == 0;
    }
};

struct Hash {
    size_t operator()(const Key& key) const {
        uint64_t hash = 1469598103934665603u;
        for (int64_t word : key.words) {
            hash ^= static_cast<uint64_t>(word);
            hash *= 1099511628211u;
            hash ^= hash >> 29;
        }
        return static_cast<size_t>(hash);
    }
};

struct Plan {
    const Kernels* kernels = nullptr;
    int threads = 1;
    int at_once = 1;  // of several problems
    // Of an MTTKRP: whether it is a projection; of factor gradients: hoisted factors; of gradients
    // of a mode: 1 where those of the matrices, 2 where that of the tensor are made with the output
    // mode in front.
    int choice = 0;
    // Of factor gradients: inner, outer (plans.py); of all else the first.
    std::optional<Split> passes[2];
};

// The place of the forced SIMD level among simd_levels(), from 1 on; 0: none is.
inline int64_t forced_level() {
    const Reference value(PyObject_GetAttr(around->forced_level, around->value));
    if (value.get() == Py_None) return 0;
    const char* const* names = simd_levels();
    for (int64_t i = 0; names[i]; ++i)
        if (PyUnicode_CompareWithASCIIString(value.get(), names[i]) == 0) return i + 1;
    throw std::invalid_argument("a level that there is");
}

// A copy, since other threads may empty what is kept while a kernel runs.
inline Plan plan_of(Call call, DType dtype, int64_t n, int64_t k_x, int64_t option, int count,
                    const int64_t* extents, int64_t problems = 1) {
    static auto* const plans = new std::unordered_map<Key, Plan, Hash>();
    const Reference threads(PyObject_CallNoArgs(around->thread_count));
    Key key;
    int64_t* w = key.words;
    w[0] = static_cast<int64_t>(call);
    w[1] = static_cast<int64_t>(dtype);
    w[2] = n;
    w[3] = k_x;
    w[4] = option;
    w[5] = PyLong_AsLong(threads.get());
    w[6] = count;
    w[7] = forced_level();
    w[8] = problems;
    for (int m = 0; m < count; ++m) w[9 + m] = extents[m];
    const auto known = plans->find(key);
    if (known != plans->end()) return known->second;
    if (plans->size() > 4096) plans->clear();
    const pybind11::tuple sizes(count);
    for (int m = 0; m < count; ++m) sizes[m] = extents[m];
    const pybind11::tuple found = pybind11::reinterpret_borrow<pybind11::object>(around->plan)(
        w[0], w[1], n, sizes, k_x, option, w[5], problems);
    Plan plan{kernels(found[0].cast<std::string>().c_str()),
              found[1].cast<int>(),
              found[2].cast<int>(),
              found[3].cast<int>(),
              {}};
    const pybind11::tuple passes = found[4];
    for (size_t i = 0; i < passes.size(); ++i) {
        if (passes[i].is_none()) continue;
        const auto how = passes[i].cast<std::array<int, 4>>();
        plan.passes[i] = Split{how[0], how[1] != 0, how[2] != 0, how[3] != 0};
    }
    plans->emplace(key, plan);
    return plan;
}

}  // namespace direct
}  // namespace ntensor
