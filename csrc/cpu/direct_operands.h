// What a call from Python gives to direct.cpp, and what surrounds it.
#pragma once

#include <pybind11/pybind11.h>

#include <new>
#include <vector>

#include "../stack.h"
#include "api.h"
#include "dlpack.h"

namespace ntensor {
namespace direct {

constexpr int most_direct_factors = 8;

// What `setup` was told. Lives as long as the process.
struct Surroundings {
    const dlpack::ExchangeApi* api = nullptr;
    PyObject* torch = nullptr;
    PyObject* tensor_types[2] = {};
    PyObject* dispatch_keys = nullptr;
    std::vector<uint64_t> plain_keys;
    std::vector<PyObject*> questions;  // each is false where nothing watches or transforms a call
    std::vector<PyObject*> overrides;  // each has no `value` where nothing is forced
    PyObject* forced_level = nullptr;  // its `value`: a SIMD level, or None
    PyObject* forward_ad = nullptr;
    PyObject* is_grad_enabled = nullptr;
    PyObject* thread_count = nullptr;
    PyObject* dtypes[4] = {};
    PyObject* cpu = nullptr;
    PyObject* plan = nullptr;
    PyObject* large_result = nullptr;         // (shape, dtype), of at least so many bytes:
    int64_t large_bytes = 0, huge_bytes = 0;  // the second of features, which are read soon
    // Names
    PyObject *raw_repr, *requires_grad, *empty, *value, *current_level, *of_empty;
};

inline Surroundings* around = nullptr;

// An owned reference. Without an object a Python error is set, and is thrown.
class Reference {
public:
    explicit Reference(PyObject* object) : object_(object) {
        if (!object) throw pybind11::error_already_set();
    }
    ~Reference() { Py_XDECREF(object_); }
    Reference(const Reference&) = delete;
    Reference& operator=(const Reference&) = delete;
    PyObject* get() const { return object_; }
    PyObject* release() {
        PyObject* object = object_;
        object_ = nullptr;
        return object;
    }

private:
    PyObject* object_;
};

// Whether a call without arguments answers something true.
inline bool answers(PyObject* question) {
    return PyObject_IsTrue(Reference(PyObject_CallNoArgs(question)).get()) != 0;
}

inline bool nothing_around() {
    if (!around) return false;
    for (PyObject* override_ : around->overrides) {
        if (Reference(PyObject_GetAttr(override_, around->value)).get() != Py_None) return false;
    }
    for (PyObject* question : around->questions)
        if (answers(question)) return false;
    const Reference level(PyObject_GetAttr(around->forward_ad, around->current_level));
    return PyLong_AsLong(level.get()) < 0;
}

// The description of a tensor, its address with the offset added.
inline dlpack::Tensor describe(PyObject* tensor) {
    dlpack::Tensor view;
    if (around->api->describe(tensor, &view) != 0) throw pybind11::error_already_set();
    view.data = static_cast<char*>(view.data) + view.byte_offset;
    return view;
}

// A plain tensor of a supported dtype on a CPU.
struct Operand {
    dlpack::Tensor view = {};
    DType dtype;

    // False: it is another one.
    bool read(PyObject* object, bool may_require_grad) {
        PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
        if (type != around->tensor_types[0] && type != around->tensor_types[1]) return false;
        if (!may_require_grad) {
            const Reference needs(PyObject_GetAttr(object, around->requires_grad));
            if (needs.get() != Py_False) return false;
        }
        const Reference keys(PyObject_CallOneArg(around->dispatch_keys, object));
        const Reference bits(PyObject_CallMethodNoArgs(keys.get(), around->raw_repr));
        const uint64_t set = PyLong_AsUnsignedLongLongMask(bits.get());
        bool is_plain = false;
        for (uint64_t known : around->plain_keys) is_plain |= set == known;
        if (!is_plain) return false;
        view = describe(object);
        // torch gives strides and single lanes; the interface allows others.
        if (!view.strides || view.dtype.lanes != 1) return false;
        switch (int64_t{view.dtype.code} << 8 | view.dtype.bits) {
            case int64_t{dlpack::is_float} << 8 | 64:
                dtype = DType::float64;
                return true;
            case int64_t{dlpack::is_float} << 8 | 32:
                dtype = DType::float32;
                return true;
            case int64_t{dlpack::is_float} << 8 | 16:
                dtype = DType::float16;
                return true;
            case int64_t{dlpack::is_bfloat} << 8 | 16:
                dtype = DType::bfloat16;
                return true;
        }
        return false;
    }

    int64_t stride(int dimension) const { return view.strides[dimension]; }
    bool is_contiguous() const {
        int64_t product = 1;
        for (int d = view.ndim - 1; d >= 0; --d) {
            if (view.shape[d] != 1 && stride(d) != product) return false;
            product *= view.shape[d];
        }
        return true;
    }
    int64_t numel() const {
        int64_t product = 1;
        for (int d = 0; d < view.ndim; ++d) product *= view.shape[d];
        return product;
    }
    Matrix matrix() const { return {view.data, stride(0), stride(1)}; }
    Matrix transposed() const { return {view.data, stride(1), stride(0)}; }
};

// The items of a tuple or list; empty for anything else.
struct Items {
    PyObject* const* begin = nullptr;
    Py_ssize_t size = 0;

    explicit Items(PyObject* object) {
        if (!PyTuple_Check(object) && !PyList_Check(object)) return;
        begin = PySequence_Fast_ITEMS(object);
        size = PySequence_Fast_GET_SIZE(object);
    }
};

// Core and factors that fit each other, nothing of them empty. They may be those of several
// problems of one size, groups of samples with a core each.
struct CoreAndFactors {
    Operand core;
    Factor factors[most_direct_factors];  // of the first problem
    int64_t extents[most_direct_factors];
    int64_t steps[most_direct_factors];  // elements from one problem's to the next one's
    int given[most_direct_factors];      // the place at which each was given
    int count = 0;
    int64_t problems = 1, n = 0, k_x = 0;  // n, k_x: of one problem

    // groups: their number where they lie behind one another in the first dimension of the core and
    // of every factor; 0: they have a dimension of their own, in front of all.
    // Factors of extent 1 come before the others from place `first` on (library.py).
    bool read(PyObject* const* values, Py_ssize_t size, bool may_require_grad, int first = 0,
              int64_t groups = 1) {
        count = static_cast<int>(size) - 1;
        if (count < 2 || count > most_direct_factors) return false;
        if (!core.read(values[0], may_require_grad)) return false;
        const int lead = groups == 0;
        if (core.view.ndim != count + 1 + lead || !core.is_contiguous()) return false;
        problems = lead ? core.view.shape[0] : groups;
        k_x = core.view.shape[lead];
        if (problems < 1 || core.numel() == 0) return false;
        for (int m = 0; m < count; ++m) {
            Operand z;
            if (!z.read(values[m + 1], may_require_grad)) return false;
            if (z.view.ndim != 2 + lead || z.dtype != core.dtype) return false;
            if (lead && z.view.shape[0] != problems) return false;
            if (m == 0) n = z.view.shape[lead];
            const int64_t extent = core.view.shape[m + 1 + lead];
            if (z.view.shape[lead] != n || z.view.shape[1 + lead] != extent) return false;
            int to = m;
            for (; extent == 1 && to > first && extents[to - 1] != 1; --to) {
                factors[to] = factors[to - 1];
                extents[to] = extents[to - 1];
                steps[to] = steps[to - 1];
                given[to] = given[to - 1];
            }
            factors[to].values = {z.view.data, z.stride(lead), z.stride(1 + lead)};
            factors[to].extent = extents[to] = extent;
            steps[to] = lead ? z.stride(0) : n / problems * z.stride(0);
            given[to] = m;
        }
        if (n == 0 || (!lead && (n % problems || k_x % problems))) return false;
        if (!lead) {
            n /= problems;
            k_x /= problems;
        }
        return true;
    }
    Factors view() const { return {factors, count, n, core.dtype}; }

    // Whether the samples of all problems lie in even steps, as if they were those of one.
    bool is_flat() const {
        for (int m = 0; m < count; ++m)
            if (problems > 1 && steps[m] != n * factors[m].values.row_stride) return false;
        return true;
    }

    // An incoming gradient, (problems n, k_x), with lead (problems, n, k_x); false: it does not
    // fit.
    bool read_grad(PyObject* object, bool lead, Matrix* found) const {
        Operand grad;
        if (!grad.read(object, true) || grad.dtype != core.dtype || grad.view.ndim != 2 + lead ||
            grad.view.shape[1 + lead] != k_x)
            return false;
        const int64_t* shape = grad.view.shape;
        if (lead ? shape[0] != problems || shape[1] != n : shape[0] != problems * n) return false;
        *found = {grad.view.data, grad.stride(lead), grad.stride(1 + lead)};
        return !lead || problems == 1 || grad.stride(0) == n * grad.stride(1);
    }
};

// torch.empty(*shape, dtype=, device=) on the CPU.
inline PyObject* call_empty(const int64_t* shape, int ndim, DType dtype) {
    const Reference empty(PyObject_GetAttr(around->torch, around->empty));
    PyObject* arguments[most_direct_factors + 3];
    for (int d = 0; d < ndim; ++d) arguments[d] = PyLong_FromLongLong(shape[d]);
    arguments[ndim] = around->dtypes[static_cast<int>(dtype)];
    arguments[ndim + 1] = around->cpu;
    PyObject* made =
        PyObject_Vectorcall(empty.get(), arguments, static_cast<size_t>(ndim), around->of_empty);
    for (int d = 0; d < ndim; ++d) Py_DECREF(arguments[d]);
    return made;
}

inline PyObject* call_large_result(const int64_t* shape, int ndim, DType dtype) {
    const Reference extents(PyTuple_New(ndim));
    for (int d = 0; d < ndim; ++d)
        PyTuple_SET_ITEM(extents.get(), d, PyLong_FromLongLong(shape[d]));
    return PyObject_CallFunctionObjArgs(around->large_result, extents.get(),
                                        around->dtypes[static_cast<int>(dtype)], nullptr);
}

// Larger results fit nowhere: the ordinary way says so.
constexpr int64_t most_result_bytes = int64_t(1) << 40;

// A new tensor on the CPU; its view.
inline PyObject* make_tensor(const int64_t* shape, int ndim, DType dtype, Operand* out,
                             bool is_feature = false) {
    int64_t bytes = bytes_of(dtype);
    for (int d = 0; d < ndim; ++d) {
        if (__builtin_mul_overflow(bytes, shape[d], &bytes) || bytes > most_result_bytes)
            throw std::bad_alloc();
    }
    const int64_t least = is_feature ? around->huge_bytes : around->large_bytes;
    const auto make = bytes < least ? call_empty : call_large_result;
    Reference made(make(shape, ndim, dtype));
    out->view = describe(made.get());
    return made.release();
}

}  // namespace direct
}  // namespace ntensor
