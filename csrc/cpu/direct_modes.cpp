// Direct calls (direct.cpp) for a tensor whose output mode lies anywhere in memory.
#include "direct.h"
#include "direct_gradients.h"
#include "transpose.h"

namespace py = pybind11;

namespace ntensor {
namespace direct {
namespace {

// to[c][r][k] = from[r][c][k] of elements of a dtype.
void transpose(DType dtype, const void* from, int64_t rows, int64_t columns, int64_t chunk,
               void* to, int threads) {
    const auto of = [&]<class T>(T) {
        transpose_chunks(static_cast<const T*>(from), rows, columns, chunk, static_cast<T*>(to),
                         threads);
    };
    const py::gil_scoped_release release;
    switch (bytes_of(dtype)) {
        case 8:
            return of(uint64_t{});
        case 4:
            return of(uint32_t{});
        default:
            return of(uint16_t{});
    }
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
        if (rank == 0 || __builtin_mul_overflow(rank, k_x, &results)) return nullptr;
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
        const bool in_place = by_rows || rank == 1;
        const Scratch rows(in_place ? 0 : results * bytes_of(dtype), true);
        Factor& target = factors[mode - 1];
        target = Factor{
            {tensor.view.data, 0, 0}, k_x, true, in_place ? out.view.data : rows.data(), k_x};
        run(plan, ProjectionFactorGrads{
                      others_of_mode, tensor.view.data, outputs, upstream, {}, *plan.passes[0]});
        if (in_place) return result.release();
        transpose(dtype, rows.data(), rank, k_x, 1, out.view.data, 1);
        return result.release();
    });
}

// The gradients of the matrices of all modes but one, and of the tensor.
class ModeGradients {
public:
    // False: they do not fit, or are for the ordinary way.
    bool read(const Items& values, int64_t mode, const Items& needs) {
        count_ = static_cast<int>(values.size) - 1;
        if (count_ < 3 || count_ > most_direct_factors || needs.size != values.size || mode < 1 ||
            mode >= count_ || !tensor_.read(values.begin[0], true) || !tensor_.is_contiguous() ||
            tensor_.view.ndim != count_ || tensor_.numel() == 0)
            return false;
        mode_ = static_cast<int>(mode);
        dtype_ = tensor_.dtype;
        needs_tensor_ = needs.begin[0] == Py_True;
        for (int m = 0; m < count_; ++m) {
            Operand matrix;
            if (!matrix.read(values.begin[1 + m], true) || matrix.view.ndim != 2 ||
                matrix.dtype != dtype_)
                return false;
            if (m == 0) n_ = matrix.view.shape[0];
            if (n_ == 0 || matrix.view.shape[0] != n_ ||
                matrix.view.shape[1] != tensor_.view.shape[m])
                return false;
            matrices_[m].values = matrix.matrix();
            matrices_[m].extent = matrix.view.shape[1];
            matrices_[m].needs_grad = m != mode_ && needs.begin[1 + m] == Py_True;
        }
        return true;
    }

    // A list of them, None where not needed; null: for the ordinary way.
    PyObject* make() {
        int64_t needed = needs_tensor_;
        for (int m = 0; m < count_; ++m)
            if (matrices_[m].needs_grad) needed |= int64_t(2) << m;
        const Plan plan =
            plan_of(Call::mode_gradients, dtype_, n_, mode_, needed, count_, tensor_.view.shape);
        const bool moves = plan.choice & 1, moves_tensor = plan.choice & 2;
        const bool needs_lead = matrices_[0].needs_grad;
        // With the output mode in front, and with the first mode there, as in memory.
        Ordered front(*this, mode_), memory(*this, 0);
        if (!front.job.find_plans(needs_tensor_ && moves_tensor, false, moves) ||
            !memory.job.find_plans(needs_tensor_ && !moves_tensor, needs_lead && !moves, !moves))
            return nullptr;
        GradientList results(count_ + 1);
        if (needs_tensor_) {
            void* out = results.add(0, tensor_.view.shape, count_, dtype_);
            if (moves_tensor) {
                const Scratch moved(bytes(), true);
                front.job.write_core(moved.data());
                turn(moved.data(), out, plan, false);
            } else {
                memory.job.write_core(out);
            }
        }
        Ordered& used = moves ? front : memory;
        for (int m = 0; m < used.job.count; ++m) {
            Factor& factor = used.factors[m];
            if (factor.needs_grad) results.add(1 + used.places[m], factor, n_, dtype_);
        }
        const void* values = tensor_.view.data;
        if (moves) {
            const Scratch moved(bytes(), true);
            turn(values, moved.data(), plan, true);
            front.job.write_factors(moved.data());
            return results.release();
        }
        if (needs_lead) {
            Factor lead = matrices_[0];
            results.add(1, lead, n_, dtype_);
            memory.job.write_x(values, lead.grad);
        }
        memory.job.write_factors(values);
        return results.release();
    }

private:
    // The matrix of one mode in the place of the incoming gradient, the others as factors.
    struct Ordered {
        Factor factors[most_direct_factors];
        int64_t extents[most_direct_factors];
        int places[most_direct_factors];
        Gradients job;

        Ordered(const ModeGradients& of, int lead)
            : job{of.dtype_,
                  of.n_,
                  of.matrices_[lead].extent,
                  of.matrices_[lead].values,
                  {},
                  factors,
                  extents,
                  0} {
            for (int ones = 1; ones >= 0; --ones) {
                for (int m = 0; m < of.count_; ++m) {
                    const Factor& matrix = of.matrices_[m];
                    if (m == lead || (matrix.extent == 1) != ones) continue;
                    factors[job.count] = matrix;
                    extents[job.count] = matrix.extent;
                    places[job.count++] = m;
                }
            }
        }
    };

    int64_t bytes() const { return tensor_.numel() * bytes_of(dtype_); }

    // From the tensor to one with the output mode in front, or back.
    void turn(const void* from, void* to, const Plan& plan, bool there) const {
        int64_t before = 1, behind = 1;
        for (int m = 0; m < mode_; ++m) before *= matrices_[m].extent;
        for (int m = mode_ + 1; m < count_; ++m) behind *= matrices_[m].extent;
        const int64_t extent = matrices_[mode_].extent;
        transpose(dtype_, from, there ? before : extent, there ? extent : before, behind, to,
                  plan.threads);
    }

    Operand tensor_;
    Factor matrices_[most_direct_factors];  // of every mode; at the output's its cotangent
    int count_ = 0, mode_ = 0;
    int64_t n_ = 0;
    DType dtype_ = DType::float32;
    bool needs_tensor_ = false;
};

// mode_gradients(values, mode, needs): for values (tensor, z_0, ..., z_M), z_m (n, I_m) the matrix
// of mode m, but at `mode` the cotangent of the result (n, I_mode), and what is needed, a list of
// the gradients, None where not needed. Only where nothing is differentiated again.
PyObject* mode_gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (count != 3 || !nothing_around() || answers(around->is_grad_enabled)) return nullptr;
        ModeGradients gradients;
        if (!gradients.read(Items(arguments[0]), PyLong_AsLongLong(arguments[1]),
                            Items(arguments[2])))
            return nullptr;
        return gradients.make();
    });
}

}  // namespace

PyMethodDef mode_methods[] = {
    {"mttkrp", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(mttkrp)), METH_FASTCALL,
     "Of plain tensors, for any mode; None: take the ordinary way."},
    {"mode_gradients", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(mode_gradients)),
     METH_FASTCALL, "Those of an MTTKRP of plain tensors; None: take the ordinary way."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace direct
}  // namespace ntensor
