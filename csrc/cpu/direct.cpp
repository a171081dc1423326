// The shortest way from a call in Python to a kernel.
//
// A small call costs more time in Python, where tensors are asked for their properties one by one,
// than in its kernel. Here a call is looked through in one go: that nothing watches or transforms
// it (the same questions as ntensor/ops/dispatch.py asks), what its tensors are, and whether they
// fit. Whatever is not plain, not on a CPU, empty or wrong is answered with None, and then the
// ordinary way serves it or raises. Plans are those of ntensor/backends/native/plans.py, asked for
// once.
//
// Nothing of torch is linked: tensors are described by the interface of dlpack.h.
#include "direct.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "../check.h"
#include "api.h"
#include "dlpack.h"

namespace py = pybind11;

namespace ntensor {
namespace {

constexpr int most_direct_factors = 8;
constexpr int64_t kept_scratch = int64_t(1) << 18;  // bytes that a thread keeps
// Larger results are made by the ordinary way, on huge pages.
constexpr int64_t most_result_bytes = int64_t(32) << 20;

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
    // Names
    PyObject *raw_repr, *requires_grad, *empty, *value, *current_level, *of_empty;
};

Surroundings* around = nullptr;

// An owned reference.
class Reference {
public:
    explicit Reference(PyObject* object) : object_(object) {}
    ~Reference() { Py_XDECREF(object_); }
    Reference(const Reference&) = delete;
    Reference& operator=(const Reference&) = delete;
    PyObject* get() const { return object_; }
    PyObject* release() {
        PyObject* object = object_;
        object_ = nullptr;
        return object;
    }
    explicit operator bool() const { return object_ != nullptr; }

private:
    PyObject* object_;
};

// Whether a call without arguments answers something true; an error counts as such.
bool answers(PyObject* question) {
    const Reference answer(PyObject_CallNoArgs(question));
    if (!answer) {
        PyErr_Clear();
        return true;
    }
    return PyObject_IsTrue(answer.get()) != 0;
}

bool nothing_around() {
    if (!around) return false;
    for (PyObject* override_ : around->overrides) {
        const Reference value(PyObject_GetAttr(override_, around->value));
        if (!value || value.get() != Py_None) {
            PyErr_Clear();
            return false;
        }
    }
    for (PyObject* question : around->questions)
        if (answers(question)) return false;
    const Reference level(PyObject_GetAttr(around->forward_ad, around->current_level));
    if (!level || PyLong_AsLong(level.get()) >= 0) {
        PyErr_Clear();
        return false;
    }
    return true;
}

// A plain tensor of a supported dtype on a CPU.
struct Operand {
    dlpack::Tensor view;
    DType dtype;

    // False: it is another one.
    bool read(PyObject* object, bool may_require_grad) {
        PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
        if (type != around->tensor_types[0] && type != around->tensor_types[1]) return false;
        if (!may_require_grad) {
            const Reference needs(PyObject_GetAttr(object, around->requires_grad));
            if (!needs || needs.get() != Py_False) return false;
        }
        const Reference keys(PyObject_CallOneArg(around->dispatch_keys, object));
        if (!keys) return false;
        const Reference bits(PyObject_CallMethodNoArgs(keys.get(), around->raw_repr));
        if (!bits) return false;
        const uint64_t set = PyLong_AsUnsignedLongLongMask(bits.get());
        bool is_plain = false;
        for (uint64_t known : around->plain_keys) is_plain |= set == known;
        if (!is_plain || around->api->describe(object, &view) != 0) return false;
        if (view.device.type != dlpack::on_cpu || view.dtype.lanes != 1 || !view.data) return false;
        view.data = static_cast<char*>(view.data) + view.byte_offset;
        if (view.dtype.code == dlpack::is_bfloat && view.dtype.bits == 16) {
            dtype = DType::bfloat16;
        } else if (view.dtype.code != dlpack::is_float) {
            return false;
        } else if (view.dtype.bits == 32) {
            dtype = DType::float32;
        } else if (view.dtype.bits == 64) {
            dtype = DType::float64;
        } else if (view.dtype.bits == 16) {
            dtype = DType::float16;
        } else {
            return false;
        }
        return true;
    }

    int64_t stride(int dimension) const {
        if (view.strides) return view.strides[dimension];
        int64_t product = 1;
        for (int d = dimension + 1; d < view.ndim; ++d) product *= view.shape[d];
        return product;
    }
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

int64_t bytes_of(DType dtype) {
    return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// Scratch of one call. Small memory is kept by the thread.
class Scratch {
public:
    // own: not the memory that the thread keeps, which serves one scratch at a time.
    explicit Scratch(int64_t bytes, bool own = false) {
        static thread_local Kept kept;
        if (bytes <= kept_scratch && !own) {
            if (kept.bytes < bytes) kept.grow();
            data_ = kept.bytes ? kept.data : nullptr;
            if (data_) return;
        }
        own_ = std::aligned_alloc(64, static_cast<size_t>((bytes / 64 + 1) * 64));
        data_ = own_;
    }
    ~Scratch() { std::free(own_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* data() const { return data_; }

private:
    struct Kept {
        void* data = nullptr;
        int64_t bytes = 0;
        void grow() {
            data = std::aligned_alloc(64, static_cast<size_t>(kept_scratch));
            if (data) bytes = kept_scratch;
        }
        ~Kept() { std::free(data); }
    };
    void* data_ = nullptr;
    void* own_ = nullptr;
};

enum class Call : int64_t { projection, mttkrp, core_grad, factor_grads, synthesis };

// What a plan depends on, beside what the process was started with.
struct Key {
    int64_t words[8 + most_direct_factors] = {};

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

// One or several passes of kernels; of factor gradients: inner, outer, spread (plans.py).
struct Pass {
    bool is_there = false;
    Split split;
    int64_t scratch = 0;
};

struct Plan {
    const Kernels* kernels = nullptr;
    int threads = 1;
    int choice =
        0;  // of an MTTKRP: whether it is a projection; of factor gradients: hoisted factors
    Pass passes[3];
};

// The place of the forced SIMD level among simd_levels(), from 1 on; 0: none is; -1: another one.
int64_t forced_level() {
    const Reference value(PyObject_GetAttr(around->forced_level, around->value));
    if (!value) return -1;
    if (value.get() == Py_None) return 0;
    const char* const* names = simd_levels();
    for (int64_t i = 0; names[i]; ++i)
        if (PyUnicode_CompareWithASCIIString(value.get(), names[i]) == 0) return i + 1;
    return -1;
}

// A copy, since other threads may empty what is kept while a kernel runs. Without kernels: a Python
// error is set, or there is no plan.
Plan plan_of(Call call, DType dtype, int64_t n, int64_t k_x, int64_t option, int count,
             const int64_t* extents) {
    static auto* const plans = new std::unordered_map<Key, Plan, Hash>();
    const Reference threads(PyObject_CallNoArgs(around->thread_count));
    if (!threads) return {};
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
    if (w[7] < 0) return {};
    for (int m = 0; m < count; ++m) w[8 + m] = extents[m];
    const auto known = plans->find(key);
    if (known != plans->end()) return known->second;
    if (plans->size() > 4096) plans->clear();
    const py::tuple sizes(count);
    for (int m = 0; m < count; ++m) sizes[m] = extents[m];
    const py::tuple found =
        py::reinterpret_borrow<py::object>(around->plan)(w[0], w[1], n, sizes, k_x, option, w[5]);
    Plan plan;
    plan.kernels = kernels(found[0].cast<std::string>().c_str());
    plan.threads = found[1].cast<int>();
    plan.choice = found[2].cast<int>();
    const py::tuple passes = found[3];
    for (size_t i = 0; i < passes.size() && i < 3; ++i) {
        if (passes[i].is_none()) continue;
        const py::tuple pass = passes[i];
        const auto how = pass[0].cast<std::array<int, 4>>();
        plan.passes[i] = {
            true, {how[0], how[1] != 0, how[2] != 0, how[3] != 0}, pass[1].cast<int64_t>()};
    }
    if (plan.kernels) plans->emplace(key, plan);
    return plan;
}

// torch.empty(rows, columns, dtype=, device=) or of more dimensions; its view.
PyObject* new_tensor(const int64_t* shape, int ndim, DType dtype, Operand* out) {
    const Reference empty(PyObject_GetAttr(around->torch, around->empty));
    if (!empty) return nullptr;
    PyObject* arguments[most_direct_factors + 3];
    for (int d = 0; d < ndim; ++d) arguments[d] = PyLong_FromLongLong(shape[d]);
    arguments[ndim] = around->dtypes[static_cast<int>(dtype)];
    arguments[ndim + 1] = around->cpu;
    PyObject* made =
        PyObject_Vectorcall(empty.get(), arguments, static_cast<size_t>(ndim), around->of_empty);
    for (int d = 0; d < ndim; ++d) Py_DECREF(arguments[d]);
    if (made && around->api->describe(made, &out->view) != 0) {
        Py_DECREF(made);
        return nullptr;
    }
    if (made) out->view.data = static_cast<char*>(out->view.data) + out->view.byte_offset;
    return made;
}

// Core and factors that fit each other, nothing of them empty.
struct CoreAndFactors {
    Operand core;
    Factor factors[most_direct_factors];
    int64_t extents[most_direct_factors];
    int count = 0;
    int64_t n = 0, k_x = 0;

    bool read(PyObject* const* values, Py_ssize_t size, bool may_require_grad) {
        count = static_cast<int>(size) - 1;
        if (count < 2 || count > most_direct_factors) return false;
        if (!core.read(values[0], may_require_grad)) return false;
        if (core.view.ndim != count + 1 || !core.is_contiguous()) return false;
        k_x = core.view.shape[0];
        for (int m = 0; m < count; ++m) {
            Operand z;
            if (!z.read(values[m + 1], may_require_grad)) return false;
            if (z.view.ndim != 2 || z.dtype != core.dtype) return false;
            if (m == 0) n = z.view.shape[0];
            extents[m] = core.view.shape[m + 1];
            if (z.view.shape[0] != n || z.view.shape[1] != extents[m]) return false;
            factors[m].values = z.matrix();
            factors[m].extent = extents[m];
        }
        return n > 0 && core.numel() > 0;
    }
    Factors view() const { return {factors, count, n, core.dtype}; }
};

// Runs a job without the GIL; false: its sizes are refused, and the ordinary way says why.
template <class Job>
bool run(const Kernels& table, void (*Kernels::*entry)(const Job&), const Job& job) {
    try {
        check_sizes(job);
        check_addresses(job);
    } catch (const std::invalid_argument&) {
        return false;
    }
    Py_BEGIN_ALLOW_THREADS;
    (table.*entry)(job);
    Py_END_ALLOW_THREADS;
    return true;
}

// Turns a C++ exception into None: the ordinary way will meet the same and say so.
template <class Body>
PyObject* or_none(const Body& body) {
    PyObject* result = nullptr;
    try {
        result = body();
    } catch (py::error_already_set&) {
    } catch (const std::exception&) {
    }
    if (result) return result;
    PyErr_Clear();
    Py_RETURN_NONE;
}

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

// project(values, mean): x for values (core, z_1, ..., z_M), or (x, x_mean).
PyObject* project(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 2 || !nothing_around()) return nullptr;
        const bool mean = arguments[1] == Py_True;
        const Items values(arguments[0]);
        CoreAndFactors given;
        if (!given.read(values.begin, values.size, !answers(around->is_grad_enabled)))
            return nullptr;
        const DType dtype = given.core.dtype;
        const Plan plan =
            plan_of(Call::projection, dtype, given.n, given.k_x, mean, given.count, given.extents);
        if (!plan.kernels || !plan.passes[0].is_there) return nullptr;
        const int64_t shape[2] = {given.n, given.k_x};
        Operand x, x_mean;
        Reference result(new_tensor(shape, 2, dtype, &x));
        Reference second(mean ? new_tensor(shape, 2, dtype, &x_mean) : nullptr);
        if (!result || (mean && !second)) return nullptr;
        const Scratch scratch(plan.passes[0].scratch);
        const Projection job{given.view(),
                             given.core.view.data,
                             given.k_x,
                             x.view.data,
                             mean ? x_mean.view.data : nullptr,
                             plan.passes[0].split,
                             plan.threads,
                             scratch.data()};
        if (!run(*plan.kernels, &Kernels::projection, job)) return nullptr;
        return mean ? PyTuple_Pack(2, result.get(), second.get()) : result.release();
    });
}

template <class T>
void transpose_elements(const T* from, int64_t rows, int64_t columns, T* to) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

// mttkrp(tensor, others, mode): (I_mode, R), for matrices (I_m, R) of the other modes.
PyObject* mttkrp(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 3 || !nothing_around()) return nullptr;
        const bool may_require_grad = !answers(around->is_grad_enabled);
        const Items others(arguments[1]);
        const int64_t mode = PyLong_AsLongLong(arguments[2]);
        Operand tensor;
        if (!tensor.read(arguments[0], may_require_grad) || !tensor.is_contiguous()) return nullptr;
        const int modes = tensor.view.ndim;
        if (modes < 3 || modes > most_direct_factors || others.size != modes - 1 || mode < 0 ||
            mode >= modes || tensor.numel() == 0)
            return nullptr;
        const DType dtype = tensor.dtype;
        const int64_t* shape = tensor.view.shape;
        Factor factors[most_direct_factors];
        int64_t rank = 0;
        for (int i = 0; i < modes - 1; ++i) {
            Operand matrix;
            if (!matrix.read(others.begin[i], may_require_grad)) return nullptr;
            if (matrix.view.ndim != 2 || matrix.dtype != dtype) return nullptr;
            if (i == 0) rank = matrix.view.shape[1];
            if (matrix.view.shape[0] != shape[i + (i >= mode)] || matrix.view.shape[1] != rank)
                return nullptr;
            factors[i].values = matrix.transposed();
            factors[i].extent = matrix.view.shape[0];
        }
        if (rank == 0) return nullptr;
        const Plan plan = plan_of(Call::mttkrp, dtype, rank, shape[mode], mode, modes, shape);
        if (!plan.kernels) return nullptr;
        const int64_t result_shape[2] = {shape[mode], rank};
        Operand out;
        Reference result(new_tensor(result_shape, 2, dtype, &out));
        if (!result) return nullptr;
        const Pass& pass = plan.passes[0];
        const Scratch scratch(pass.scratch);
        if (plan.choice) {
            const Projection job{{factors, modes - 1, rank, dtype},
                                 tensor.view.data,
                                 shape[mode],
                                 out.view.data,
                                 nullptr,
                                 pass.split,
                                 plan.threads,
                                 scratch.data()};
            return run(*plan.kernels, &Kernels::projection, job) ? result.release() : nullptr;
        }
        // The gradient of the factor at the mode, whose own values are not read.
        const Matrix upstream = factors[0].values;
        for (int m = 0; m < mode - 1; ++m) factors[m] = factors[m + 1];
        const int64_t bytes = bytes_of(dtype);
        const Scratch rows(rank == 1 ? 0 : rank * shape[mode] * bytes, true);
        Factor& target = factors[mode - 1];
        target = Factor{{tensor.view.data, 0, 0},
                        shape[mode],
                        true,
                        rank == 1 ? out.view.data : rows.data(),
                        shape[mode]};
        const ProjectionFactorGrads job{{factors, modes - 1, rank, dtype},
                                        tensor.view.data,
                                        shape[0],
                                        upstream,
                                        {},
                                        pass.split,
                                        plan.threads,
                                        scratch.data()};
        if (!run(*plan.kernels, &Kernels::projection_factor_grads, job)) return nullptr;
        if (rank == 1) return result.release();
        if (bytes == 8) {
            transpose_elements(static_cast<const uint64_t*>(rows.data()), rank, shape[mode],
                               static_cast<uint64_t*>(out.view.data));
        } else if (bytes == 4) {
            transpose_elements(static_cast<const uint32_t*>(rows.data()), rank, shape[mode],
                               static_cast<uint32_t*>(out.view.data));
        } else {
            transpose_elements(static_cast<const uint16_t*>(rows.data()), rank, shape[mode],
                               static_cast<uint16_t*>(out.view.data));
        }
        return result.release();
    });
}

// gradients(values, grad, needs): for values (core, z_1, ..., z_M), dL/dx and what is needed, a
// list of the gradients, None where not needed. Only where nothing is differentiated again.
PyObject* gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 3 || !nothing_around() || answers(around->is_grad_enabled)) return nullptr;
        const Items values(arguments[0]), needs(arguments[2]);
        CoreAndFactors given;
        if (!given.read(values.begin, values.size, true) || needs.size != values.size)
            return nullptr;
        Operand grad;
        const DType dtype = given.core.dtype;
        if (!grad.read(arguments[1], true) || grad.dtype != dtype || grad.view.ndim != 2 ||
            grad.view.shape[0] != given.n || grad.view.shape[1] != given.k_x)
            return nullptr;
        if (given.core.numel() * bytes_of(dtype) >= most_result_bytes) return nullptr;
        // Every plan before any work: a part that takes the ordinary way takes all with it.
        int64_t needed = 0;
        for (Py_ssize_t i = 1; i < values.size; ++i)
            if (needs.begin[i] == Py_True) needed |= int64_t(1) << (i - 1);
        const bool needs_core = needs.begin[0] == Py_True;
        Plan core_plan, plan;
        if (needs_core) {
            core_plan =
                plan_of(Call::core_grad, dtype, given.n, given.k_x, 0, given.count, given.extents);
            if (!core_plan.kernels || !core_plan.passes[0].is_there) return nullptr;
        }
        if (needed) {
            plan = plan_of(Call::factor_grads, dtype, given.n, given.k_x,
                           2 * needed + (grad.stride(1) == 1), given.count, given.extents);
            if (!plan.kernels || plan.choice < 0) return nullptr;
        }
        Reference results(PyList_New(values.size));
        if (!results) return nullptr;
        for (Py_ssize_t i = 0; i < values.size; ++i) {
            if (needs.begin[i] != Py_True) {
                PyList_SET_ITEM(results.get(), i, Py_NewRef(Py_None));
                continue;
            }
            Operand out;
            const int64_t of_factor[2] = {given.n, i ? given.extents[i - 1] : 0};
            PyObject* made = new_tensor(i ? of_factor : given.core.view.shape,
                                        i ? 2 : given.core.view.ndim, dtype, &out);
            if (!made) return nullptr;
            PyList_SET_ITEM(results.get(), i, made);
            if (i == 0) {
                const Scratch scratch(core_plan.passes[0].scratch);
                const ProjectionCoreGrad job{given.view(),
                                             given.k_x,
                                             grad.matrix(),
                                             {},
                                             core_plan.passes[0].split,
                                             out.view.data,
                                             false,
                                             core_plan.threads,
                                             scratch.data()};
                if (!run(*core_plan.kernels, &Kernels::projection_core_grad, job)) return nullptr;
            } else {
                Factor& factor = given.factors[i - 1];
                factor.needs_grad = true;
                factor.grad = out.view.data;
                factor.grad_stride = factor.extent;
            }
        }
        if (!needed) return results.release();
        const Pass &inner = plan.passes[0], &outer = plan.passes[1], &spread = plan.passes[2];
        if (outer.is_there) {
            // The core's outputs and the hoisted indices change places.
            const int hoisted = plan.choice;
            int64_t L = 1;
            for (int m = 0; m < hoisted; ++m) L *= given.extents[m];
            Factor swapped[most_direct_factors];
            swapped[0].values = grad.matrix();
            swapped[0].extent = given.k_x;
            for (int m = hoisted; m < given.count; ++m) {
                swapped[1 + m - hoisted].values = given.factors[m].values;
                swapped[1 + m - hoisted].extent = given.extents[m];
            }
            const bool apart = hoisted > 1;
            const Scratch dH(apart ? given.n * L * bytes_of(dtype) : 0, true);
            {
                const Scratch scratch(outer.scratch);
                const Projection job{{swapped, given.count - hoisted + 1, given.n, dtype},
                                     given.core.view.data,
                                     L,
                                     apart ? dH.data() : given.factors[0].grad,
                                     nullptr,
                                     outer.split,
                                     plan.threads,
                                     scratch.data()};
                if (!run(*plan.kernels, &Kernels::projection, job)) return nullptr;
            }
            if (apart) {
                const Scratch scratch(spread.scratch);
                const SynthesisGrads job{{given.factors, hoisted, given.n, dtype},
                                         {dH.data(), L, 1},
                                         plan.threads,
                                         scratch.data()};
                if (!run(*plan.kernels, &Kernels::synthesis_grads, job)) return nullptr;
            }
        }
        if (inner.is_there) {
            for (int m = 0; m < inner.split.hoisted; ++m) given.factors[m].needs_grad = false;
            const Scratch scratch(inner.scratch);
            const ProjectionFactorGrads job{
                given.view(), given.core.view.data, given.k_x,    grad.matrix(),
                {},           inner.split,          plan.threads, scratch.data()};
            if (!run(*plan.kernels, &Kernels::projection_factor_grads, job)) return nullptr;
        }
        return results.release();
    });
}

// synthesise(factors): (n, K).
PyObject* synthesise(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 1 || !nothing_around()) return nullptr;
        const bool may_require_grad = !answers(around->is_grad_enabled);
        const Items values(arguments[0]);
        if (values.size < 1 || values.size > most_direct_factors) return nullptr;
        const int factors_count = static_cast<int>(values.size);
        Factor factors[most_direct_factors];
        int64_t extents[most_direct_factors];
        int64_t shape[2] = {0, 1};
        DType dtype = DType::float32;
        for (int m = 0; m < factors_count; ++m) {
            Operand z;
            if (!z.read(values.begin[m], may_require_grad) || z.view.ndim != 2) return nullptr;
            if (m == 0) {
                shape[0] = z.view.shape[0];
                dtype = z.dtype;
            }
            if (z.view.shape[0] != shape[0] || z.dtype != dtype || z.numel() == 0) return nullptr;
            factors[m].values = z.matrix();
            factors[m].extent = extents[m] = z.view.shape[1];
            if (__builtin_mul_overflow(shape[1], extents[m], &shape[1])) return nullptr;
        }
        int64_t elements = 0;
        if (__builtin_mul_overflow(shape[0], shape[1], &elements) ||
            elements >= most_result_bytes / bytes_of(dtype))
            return nullptr;
        const Plan plan = plan_of(Call::synthesis, dtype, shape[0], 1, 0, factors_count, extents);
        if (!plan.kernels) return nullptr;
        Operand y;
        Reference result(new_tensor(shape, 2, dtype, &y));
        if (!result) return nullptr;
        const Scratch scratch(plan.passes[0].scratch);
        const Synthesis job{
            {factors, factors_count, shape[0], dtype}, y.view.data, plan.threads, scratch.data()};
        return run(*plan.kernels, &Kernels::synthesis, job) ? result.release() : nullptr;
    });
}

PyMethodDef methods[] = {
    {"synthesise", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(synthesise)),
     METH_FASTCALL, "(n, K) of plain tensors; None: take the ordinary way."},
    {"project", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(project)), METH_FASTCALL,
     "x, or (x, x_mean), of plain tensors; None: take the ordinary way."},
    {"mttkrp", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(mttkrp)), METH_FASTCALL,
     "(I_mode, R) of plain tensors; None: take the ordinary way."},
    {"gradients", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(gradients)),
     METH_FASTCALL, "Those of a projection of plain tensors; None: take the ordinary way."},
    {nullptr, nullptr, 0, nullptr},
};

PyObject* keep(const py::object& object) {
    return object.inc_ref().ptr();
}

// False: this torch does not describe its tensors so.
bool set_up(const py::object& capsule, const py::dict& given) {
    auto* api = static_cast<dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!api) {
        PyErr_Clear();
        return false;
    }
    while (api && api->major > dlpack::major_version) api = api->previous;
    if (!api || api->major != dlpack::major_version || !api->describe) return false;
    auto* made = new Surroundings();
    made->api = api;
    made->torch = keep(given["torch"]);
    made->tensor_types[0] = keep(given["tensor"]);
    made->tensor_types[1] = keep(given["parameter"]);
    made->dispatch_keys = keep(given["dispatch_keys"]);
    for (const auto& key : given["plain_keys"]) made->plain_keys.push_back(key.cast<uint64_t>());
    for (const auto& each : given["questions"])
        made->questions.push_back(keep(py::reinterpret_borrow<py::object>(each)));
    for (const auto& each : given["overrides"])
        made->overrides.push_back(keep(py::reinterpret_borrow<py::object>(each)));
    made->forced_level = keep(given["forced_level"]);
    made->forward_ad = keep(given["forward_ad"]);
    made->is_grad_enabled = keep(given["is_grad_enabled"]);
    made->thread_count = keep(given["thread_count"]);
    int place = 0;
    for (const auto& each : given["dtypes"])
        made->dtypes[place++] = keep(py::reinterpret_borrow<py::object>(each));
    made->cpu = keep(given["cpu"]);
    made->plan = keep(given["plan"]);
    made->raw_repr = PyUnicode_InternFromString("raw_repr");
    made->requires_grad = PyUnicode_InternFromString("requires_grad");
    made->empty = PyUnicode_InternFromString("empty");
    made->value = PyUnicode_InternFromString("value");
    made->current_level = PyUnicode_InternFromString("_current_level");
    made->of_empty = py::make_tuple("dtype", "device").release().ptr();
    around = made;
    return true;
}

}  // namespace

void define_direct_calls(py::module_& m) {
    m.def("set_up_direct_calls", &set_up);
    if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}

}  // namespace ntensor
