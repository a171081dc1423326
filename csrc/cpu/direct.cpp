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

// gradients(values, grad, needs, groups[, grad_mean]): for values (core, z_1, ..., z_M), dL/dx and
// what is needed, a list of the gradients, None where not needed. Only where nothing is
// differentiated again. groups: as many, behind one another in the first dimension of every tensor;
// 0: in a dimension of their own, in front of all. grad_mean: dL/dx_mean of one group; then one of
// both may be None.
PyObject* gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count < 4 || count > 5 || !nothing_around() || answers(around->is_grad_enabled))
            return nullptr;
        const Items values(arguments[0]), needs(arguments[2]);
        const int64_t groups = PyLong_AsLongLong(arguments[3]);
        const bool of_x = arguments[1] != Py_None, of_mean = count == 5 && arguments[4] != Py_None;
        if (groups < 0 || (of_mean ? groups != 1 : !of_x)) return nullptr;
        CoreAndFactors given;
        if (!given.read(values.begin, values.size, true, of_mean, groups) ||
            needs.size != values.size || (groups == 0 && !given.is_flat()))
            return nullptr;
        const int64_t problems = given.problems, rows = problems * given.n;
        const DType dtype = given.core.dtype;
        Matrix grad{}, grad_mean{};
        if ((of_x && !given.read_grad(arguments[1], groups == 0, &grad)) ||
            (of_mean && !given.read_grad(arguments[4], false, &grad_mean)))
            return nullptr;
        Gradients job{dtype,         given.n,       given.k_x,   grad,    grad_mean,
                      given.factors, given.extents, given.count, problems};
        for (int m = 0; m < given.count; ++m)
            given.factors[m].needs_grad =
                needs.begin[1 + given.given[m]] == Py_True && (of_x || given.given[m] != 0);
        const bool needs_core = needs.begin[0] == Py_True;
        if (!job.find_plans(needs_core)) return nullptr;
        GradientList results(values.size);
        if (needs_core)
            job.write_core(results.add(0, given.core.view.shape, given.core.view.ndim, dtype));
        for (int m = 0; m < given.count; ++m) {
            Factor& factor = given.factors[m];
            if (factor.needs_grad)
                results.add(1 + given.given[m], factor, rows, dtype, groups == 0 ? problems : 0);
        }
        job.write_factors(given.core.view.data);
        return results.release();
    });
}

PyMethodDef methods[] = {
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
    made->large_result = keep(given["large_result"]);
    made->large_bytes = given["large_bytes"].cast<int64_t>();
    made->huge_bytes = given["huge_bytes"].cast<int64_t>();
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
    for (PyMethodDef* each :
         {direct::methods, direct::feature_methods, direct::mode_methods, direct::by_torch_methods})
        if (PyModule_AddFunctions(m.ptr(), each) != 0) throw py::error_already_set();
}

}  // namespace ntensor
