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

#include "direct_gradients.h"

namespace py = pybind11;

namespace ntensor {
namespace direct {
namespace {

// project(values, mean): x for values (core, z_1, ..., z_M), or (x, x_mean).
PyObject* project(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 2 || !nothing_around()) return nullptr;
        const bool mean = arguments[1] == Py_True;
        const Items values(arguments[0]);
        CoreAndFactors given;
        if (!given.read(values.begin, values.size, !answers(around->is_grad_enabled), mean))
            return nullptr;
        const DType dtype = given.core.dtype;
        const Plan plan =
            plan_of(Call::projection, dtype, given.n, given.k_x, mean, given.count, given.extents);
        if (!plan.passes[0]) return nullptr;
        const int64_t shape[2] = {given.n, given.k_x};
        Operand x, x_mean;
        Reference result(make_tensor(shape, 2, dtype, &x));
        Reference second(mean ? make_tensor(shape, 2, dtype, &x_mean) : Py_NewRef(Py_None));
        run(plan, Projection{given.view(), given.core.view.data, given.k_x, x.view.data,
                             mean ? x_mean.view.data : nullptr, *plan.passes[0]});
        return mean ? PyTuple_Pack(2, result.get(), second.get()) : result.release();
    });
}

// project_groups(values, groups): x for values (core, z_1, ..., z_M) of several groups of samples,
// as CoreAndFactors::read takes them: (groups n, k_x), or (groups, n, k_x) for 0 groups.
PyObject* project_groups(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 2 || !nothing_around()) return nullptr;
        const Items values(arguments[0]);
        const int64_t groups = PyLong_AsLongLong(arguments[1]);
        CoreAndFactors given;
        if (groups < 0 ||
            !given.read(values.begin, values.size, !answers(around->is_grad_enabled), 0, groups))
            return nullptr;
        const DType dtype = given.core.dtype;
        const Plan plan = plan_of(Call::projection, dtype, given.n, given.k_x, 0, given.count,
                                  given.extents, given.problems);
        if (!plan.passes[0]) return nullptr;
        const int64_t shape[3] = {given.problems, given.n, given.k_x};
        const int64_t flat[2] = {given.problems * given.n, given.k_x};
        Operand x;
        Reference result(groups == 0 ? make_tensor(shape, 3, dtype, &x)
                                     : make_tensor(flat, 2, dtype, &x));
        run(plan,
            Projection{given.view(), given.core.view.data, given.k_x, x.view.data, nullptr,
                       *plan.passes[0]},
            given.problems, given.steps);
        return result.release();
    });
}

// gradients(values, grad, needs, groups): for values (core, z_1, ..., z_M), dL/dx and what is
// needed, a list of the gradients, None where not needed. Only where nothing is differentiated
// again. groups: as many, behind one another in the first dimension of every tensor.
PyObject* gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 4 || !nothing_around() || answers(around->is_grad_enabled)) return nullptr;
        const Items values(arguments[0]), needs(arguments[2]);
        const int64_t groups = PyLong_AsLongLong(arguments[3]);
        CoreAndFactors given;
        if (groups < 1 || !given.read(values.begin, values.size, true, 0, groups) ||
            needs.size != values.size)
            return nullptr;
        const int64_t rows = groups * given.n;
        Operand grad;
        const DType dtype = given.core.dtype;
        if (!grad.read(arguments[1], true) || grad.dtype != dtype || grad.view.ndim != 2 ||
            grad.view.shape[0] != rows || grad.view.shape[1] != given.k_x)
            return nullptr;
        if (given.core.numel() * bytes_of(dtype) >= most_result_bytes) return nullptr;
        Gradients job{dtype,         given.n,       given.k_x,   grad.matrix(),
                      given.factors, given.extents, given.count, groups};
        for (int m = 0; m < given.count; ++m)
            given.factors[m].needs_grad = needs.begin[1 + given.given[m]] == Py_True;
        const bool needs_core = needs.begin[0] == Py_True;
        if (!job.find_plans(needs_core)) return nullptr;
        Reference results(PyList_New(values.size));
        for (Py_ssize_t i = 0; i < values.size; ++i)
            PyList_SET_ITEM(results.get(), i, Py_NewRef(Py_None));
        if (needs_core) {
            Operand out;
            PyList_SetItem(results.get(), 0,
                           make_tensor(given.core.view.shape, given.core.view.ndim, dtype, &out));
            job.write_core(out.view.data);
        }
        for (int m = 0; m < given.count; ++m) {
            Factor& factor = given.factors[m];
            if (!factor.needs_grad) continue;
            PyList_SetItem(results.get(), 1 + given.given[m], make_grad(factor, rows, dtype));
        }
        job.write_factors(given.core.view.data);
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
        Operand y;
        Reference result(make_tensor(shape, 2, dtype, &y));
        run(plan, Synthesis{{factors, factors_count, shape[0], dtype}, y.view.data});
        return result.release();
    });
}

PyMethodDef methods[] = {
    {"synthesise", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(synthesise)),
     METH_FASTCALL, "(n, K) of plain tensors; None: take the ordinary way."},
    {"project", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(project)), METH_FASTCALL,
     "x, or (x, x_mean), of plain tensors; None: take the ordinary way."},
    {"project_groups", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(project_groups)),
     METH_FASTCALL, "x of several cores, of plain tensors; None: take the ordinary way."},
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
}  // namespace direct

void define_direct_calls(py::module_& m) {
    m.def("set_up_direct_calls", &direct::set_up);
    if (PyModule_AddFunctions(m.ptr(), direct::methods) != 0) throw py::error_already_set();
    define_direct_modes(m);
}

}  // namespace ntensor
