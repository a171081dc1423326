// Direct calls (direct.cpp) for a tensor whose output mode lies anywhere in memory.
#include "direct.h"
#include "direct_run.h"

namespace py = pybind11;

namespace ntensor {
namespace direct {
namespace {

template <class T>
void transpose_elements(const void* from, int64_t rows, int64_t columns, void* to) {
    const T* source = static_cast<const T*>(from);
    T* target = static_cast<T*>(to);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) target[c * rows + r] = source[r * columns + c];
}

// The other modes in the order in which kernels take them: those of extent 1, which may stand
// anywhere, before all others. Returns the place of the mode; 0 where nothing but these is before
// it.
int put_ones_first(const Factor* given, int count, int mode, Factor* ordered) {
    int ones = 0, before = 0;
    for (int i = 0; i < count; ++i)
        if (given[i].extent == 1) ordered[ones++] = given[i];
    int to = ones;
    for (int i = 0; i < count; ++i) {
        if (given[i].extent == 1) continue;
        ordered[to++] = given[i];
        before += i < mode;
    }
    return before == 0 ? 0 : ones + before;
}

// mttkrp(tensor, others, mode[, by_rows]): (I_mode, R), for matrices (I_m, R) of the other modes;
// by_rows: (R, I_mode), for matrices (R, I_m).
PyObject* mttkrp(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count < 3 || count > 4 || !nothing_around()) return nullptr;
        const bool may_require_grad = !answers(around->is_grad_enabled);
        const Items others(arguments[1]);
        const int64_t given_mode = PyLong_AsLongLong(arguments[2]);
        const bool by_rows = count == 4 && arguments[3] == Py_True;
        Operand tensor;
        if (!tensor.read(arguments[0], may_require_grad) || !tensor.is_contiguous()) return nullptr;
        const int modes = tensor.view.ndim;
        if (modes < 3 || modes > most_direct_factors || others.size != modes - 1 ||
            given_mode < 0 || given_mode >= modes || tensor.numel() == 0)
            return nullptr;
        const DType dtype = tensor.dtype;
        const int64_t* given_shape = tensor.view.shape;
        const int64_t k_x = given_shape[given_mode];
        Factor given[most_direct_factors];
        int64_t rank = 0;
        for (int i = 0; i < modes - 1; ++i) {
            Operand matrix;
            if (!matrix.read(others.begin[i], may_require_grad)) return nullptr;
            if (matrix.view.ndim != 2 || matrix.dtype != dtype) return nullptr;
            if (i == 0) rank = matrix.view.shape[by_rows ? 0 : 1];
            const int64_t extent = matrix.view.shape[by_rows ? 1 : 0];
            if (extent != given_shape[i + (i >= given_mode)] ||
                matrix.view.shape[by_rows ? 0 : 1] != rank)
                return nullptr;
            given[i].values = by_rows ? matrix.matrix() : matrix.transposed();
            given[i].extent = extent;
        }
        int64_t results = 0;
        if (rank == 0 || __builtin_mul_overflow(rank, k_x, &results) ||
            results >= most_result_bytes / bytes_of(dtype))
            return nullptr;
        Factor factors[most_direct_factors];
        const int mode = put_ones_first(given, modes - 1, static_cast<int>(given_mode), factors);
        int64_t shape[most_direct_factors];
        for (int m = 0; m < modes; ++m) shape[m] = m == mode ? k_x : factors[m - (m > mode)].extent;
        const Plan plan = plan_of(Call::mttkrp, dtype, rank, k_x, 2 * mode + by_rows, modes, shape);
        const int64_t result_shape[2] = {by_rows ? rank : k_x, by_rows ? k_x : rank};
        Operand out;
        Reference result(make_tensor(result_shape, 2, dtype, &out));
        const Factors others_of_mode{factors, modes - 1, rank, dtype};
        if (plan.choice) {
            run(plan, Projection{others_of_mode, tensor.view.data, k_x, out.view.data, nullptr,
                                 *plan.passes[0]});
            return result.release();
        }
        // The gradient of the factor at the mode, whose own values are not read.
        int leading = 0;
        while (factors[leading].extent == 1) ++leading;
        const Matrix upstream = factors[leading].values;
        const int64_t outputs = factors[leading].extent;
        for (int m = leading; m < mode - 1; ++m) factors[m] = factors[m + 1];
        const int64_t bytes = bytes_of(dtype);
        const bool in_place = by_rows || rank == 1;
        const Scratch rows(in_place ? 0 : results * bytes, true);
        Factor& target = factors[mode - 1];
        target = Factor{
            {tensor.view.data, 0, 0}, k_x, true, in_place ? out.view.data : rows.data(), k_x};
        run(plan, ProjectionFactorGrads{
                      others_of_mode, tensor.view.data, outputs, upstream, {}, *plan.passes[0]});
        if (in_place) return result.release();
        const auto transpose = bytes == 8   ? transpose_elements<uint64_t>
                               : bytes == 4 ? transpose_elements<uint32_t>
                                            : transpose_elements<uint16_t>;
        transpose(rows.data(), rank, k_x, out.view.data);
        return result.release();
    });
}

PyMethodDef methods[] = {
    {"mttkrp", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(mttkrp)), METH_FASTCALL,
     "Of plain tensors, for any mode; None: take the ordinary way."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace
}  // namespace direct

void define_direct_modes(py::module_& m) {
    if (PyModule_AddFunctions(m.ptr(), direct::methods) != 0) throw py::error_already_set();
}

}  // namespace ntensor
