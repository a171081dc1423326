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

#include "direct_run.h"

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
        const int64_t result_shape[2] = {shape[mode], rank};
        Operand out;
        Reference result(make_tensor(result_shape, 2, dtype, &out));
        const Factors others_of_mode{factors, modes - 1, rank, dtype};
        if (plan.choice) {
            run(plan, Projection{others_of_mode, tensor.view.data, shape[mode], out.view.data,
                                 nullptr, *plan.passes[0]});
            return result.release();
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
        run(plan, ProjectionFactorGrads{
                      others_of_mode, tensor.view.data, shape[0], upstream, {}, *plan.passes[0]});
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
        if (given.core.numel() * bytes_of(dtype) >= most_result_bytes) return nullptr;
        // Every plan before any work: a part that takes the ordinary way takes all with it.
        int64_t needed = 0;
        for (int m = 0; m < given.count; ++m)
            if (needs.begin[1 + given.given[m]] == Py_True && (of_x || given.given[m] != 0))
                needed |= int64_t(1) << m;
        const int64_t outputs = of_mean ? 2 - of_x : 0;  // x, both, x_mean
        const bool needs_core = needs.begin[0] == Py_True;
        Plan core_plan, plan;
        if (needs_core) {
            core_plan = plan_of(Call::core_grad, dtype, given.n, given.k_x, outputs, given.count,
                                given.extents, problems);
            if (!core_plan.passes[0]) return nullptr;
        }
        if (needed) {
            plan = plan_of(Call::factor_grads, dtype, given.n, given.k_x,
                           outputs << most_direct_factors | needed, given.count, given.extents,
                           problems);
            if (plan.choice < 0) return nullptr;
        }
        GradientList results(values.size);
        if (needs_core) {
            void* dcore = results.add(0, given.core.view.shape, given.core.view.ndim, dtype);
            run(core_plan,
                ProjectionCoreGrad{given.view(), given.k_x, grad, grad_mean, *core_plan.passes[0],
                                   dcore, false},
                problems);
        }
        for (int m = 0; m < given.count; ++m) {
            if (!(needed >> m & 1)) continue;
            Factor& factor = given.factors[m];
            const int64_t shape[3] = {problems, given.n, factor.extent};
            const int64_t flat[2] = {rows, factor.extent};
            factor.needs_grad = true;
            factor.grad = results.add(1 + given.given[m], groups == 0 ? shape : flat,
                                      groups == 0 ? 3 : 2, dtype);
            factor.grad_stride = factor.extent;
        }
        if (!needed) return results.release();
        const auto& [inner, outer] = plan.passes;
        if (outer) {
            // The core's outputs and the hoisted indices change places.
            const int hoisted = plan.choice;
            int64_t L = 1;
            for (int m = 0; m < hoisted; ++m) L *= given.extents[m];
            Factor swapped[most_direct_factors];
            swapped[0].values = grad;
            swapped[0].extent = given.k_x;
            for (int m = hoisted; m < given.count; ++m) {
                swapped[1 + m - hoisted].values = given.factors[m].values;
                swapped[1 + m - hoisted].extent = given.extents[m];
            }
            const bool apart = hoisted > 1;
            const Scratch dH(apart ? rows * L * bytes_of(dtype) : 0, true);
            run(plan,
                Projection{{swapped, given.count - hoisted + 1, given.n, dtype},
                           given.core.view.data,
                           L,
                           apart ? dH.data() : given.factors[0].grad,
                           nullptr,
                           *outer},
                problems);
            if (apart)
                run(plan, SynthesisGrads{{given.factors, hoisted, rows, dtype}, {dH.data(), L, 1}});
        }
        if (inner) {
            for (int m = 0; m < inner->hoisted && !inner->transposed; ++m)
                given.factors[m].needs_grad = false;
            run(plan,
                ProjectionFactorGrads{given.view(), given.core.view.data, given.k_x, grad,
                                      grad_mean, *inner},
                problems);
        }
        return results.release();
    });
}

PyMethodDef methods[] = {
    {"project", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(project)), METH_FASTCALL,
     "x, or (x, x_mean), of plain tensors; None: take the ordinary way."},
    {"project_groups", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(project_groups)),
     METH_FASTCALL, "x of several cores, of plain tensors; None: take the ordinary way."},
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
}  // namespace direct

void define_direct_calls(py::module_& m) {
    m.def("set_up_direct_calls", &direct::set_up);
    for (PyMethodDef* each : {direct::methods, direct::feature_methods})
        if (PyModule_AddFunctions(m.ptr(), each) != 0) throw py::error_already_set();
}

}  // namespace ntensor
