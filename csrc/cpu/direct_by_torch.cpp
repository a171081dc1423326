// Which calls products of torch serve better than the kernels: see ntensor/ops/by_torch.py.
#include "direct.h"
#include "direct_run.h"

namespace ntensor {
namespace direct {
namespace {

// Fewer samples and multiply-adds are faster by the kernels in spite of what torch keeps.
constexpr int64_t least_samples = 4, least_multiply_adds = int64_t(1) << 22;

bool is_recorded(PyObject* tensor) {
    return Reference(PyObject_GetAttr(tensor, around->requires_grad)).get() == Py_True;
}

// What torch rounds once at each step, as the kernels do.
bool is_wide(DType dtype) {
    return dtype == DType::float32 || dtype == DType::float64;
}

// Whether `z` is (..., extent) with the leading dimensions of `like`.
bool fits(const dlpack::Tensor& z, const dlpack::Tensor& like, int64_t extent) {
    if (z.ndim != like.ndim || z.ndim < 1 || z.shape[z.ndim - 1] != extent) return false;
    for (int d = 0; d + 1 < z.ndim; ++d)
        if (z.shape[d] != like.shape[d]) return false;
    return true;
}

// is_one_output(core, first, second, most_dimensions): (1, k_1, k_2), (..., k_1), (..., k_2), of at
// most so many dimensions, all three recorded.
PyObject* is_one_output(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 4 || !around) return nullptr;
        // Last what takes longest: most calls are of other sizes.
        Operand core, first, second;
        if (!core.read(arguments[0], true) || core.view.ndim != 3 || core.view.shape[0] != 1 ||
            core.numel() == 0 || !is_wide(core.dtype))
            return nullptr;
        if (!first.read(arguments[1], true) || !second.read(arguments[2], true) ||
            first.dtype != core.dtype || second.dtype != core.dtype)
            return nullptr;
        const int64_t* k = core.view.shape + 1;
        if (!fits(first.view, first.view, k[0]) || !fits(second.view, first.view, k[1]) ||
            first.view.ndim > PyLong_AsLong(arguments[3]))
            return nullptr;
        int64_t n = 1;
        for (int d = 0; d + 1 < first.view.ndim; ++d) n *= first.view.shape[d];
        if (n < least_samples || n <= (least_multiply_adds - 1) / core.numel()) return nullptr;
        for (int place = 0; place < 3; ++place)
            if (!is_recorded(arguments[place])) return nullptr;
        if (!answers(around->is_grad_enabled) || !nothing_around()) return nullptr;
        return Py_NewRef(Py_True);
    });
}

// scales_rows(first, second): matrices (n, 1) and (n, k), or the other way round. Half types are
// rounded once, as by the kernels, so they are not recorded: their gradients would be rounded
// before they are added up.
PyObject* scales_rows(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 2 || !around) return nullptr;
        Operand first, second;
        if (!first.read(arguments[0], true) || !second.read(arguments[1], true)) return nullptr;
        if (first.view.ndim != 2 || second.view.ndim != 2 || first.dtype != second.dtype ||
            first.view.shape[0] != second.view.shape[0] ||
            (first.view.shape[1] != 1 && second.view.shape[1] != 1))
            return nullptr;
        const bool may_be_recorded = is_wide(first.dtype) || !answers(around->is_grad_enabled);
        if (!may_be_recorded && (is_recorded(arguments[0]) || is_recorded(arguments[1])))
            return nullptr;
        return nothing_around() ? Py_NewRef(Py_True) : nullptr;
    });
}

}  // namespace

PyMethodDef by_torch_methods[] = {
    {"is_one_output", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(is_one_output)),
     METH_FASTCALL, "Whether torch's products serve a recorded projection to one output; or None."},
    {"scales_rows", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(scales_rows)),
     METH_FASTCALL, "Whether torch's product serves a synthesis with one column; or None."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace direct
}  // namespace ntensor
