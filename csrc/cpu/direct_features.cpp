// Direct calls (direct.cpp) of the synthesis, the rotation and the rotated synthesis, of all
// gradients of one of them, and of a contraction.
#include <memory>

#include "direct_run.h"

namespace ntensor {
namespace direct {
namespace {

// From so many elements on, a factor that scales the rows of one other is left to torch.
constexpr int64_t least_scaled = 2048;
// Shorter rows of a core are left to torch where they are contracted: most lanes would be empty.
constexpr int64_t least_row = 5;

// Factors (n, k_m) that fit each other, nothing of them empty.
struct Features {
    Factor factors[most_direct_factors];
    int64_t extents[most_direct_factors];
    int given[most_direct_factors];  // the place at which each was given
    int count = 0;
    int64_t n = 0, K = 1;
    DType dtype = DType::float32;

    // Factors of extent 1 come before the others from place `first` on (library.py).
    bool read(PyObject* const* values, Py_ssize_t size, bool may_require_grad, int first) {
        if (size < 1 || size > most_direct_factors) return false;
        count = static_cast<int>(size);
        for (int m = 0; m < count; ++m) {
            Operand z;
            if (!z.read(values[m], may_require_grad) || z.view.ndim != 2) return false;
            if (m == 0) {
                n = z.view.shape[0];
                dtype = z.dtype;
            }
            if (z.view.shape[0] != n || z.dtype != dtype || z.numel() == 0) return false;
            const int64_t extent = z.view.shape[1];
            int to = m;
            for (; extent == 1 && to > first && extents[to - 1] != 1; --to) {
                factors[to] = factors[to - 1];
                extents[to] = extents[to - 1];
                given[to] = given[to - 1];
            }
            factors[to].values = z.matrix();
            factors[to].extent = extents[to] = extent;
            given[to] = m;
            if (__builtin_mul_overflow(K, extent, &K)) return false;
        }
        int64_t elements = 0;
        return !__builtin_mul_overflow(n, K, &elements);
    }
    Factors view() const { return {factors, count, n, dtype}; }
    bool scales_rows() const { return count == 2 && extents[0] == 1; }
    Plan plan() const { return plan_of(Call::features, dtype, n, 1, 0, count, extents); }

    // Makes the needed gradients; their places in the list are those of the factors.
    void make_grads(GradientList& results, const Items& needs) {
        for (int m = 0; m < count; ++m) {
            if (needs.begin[given[m]] != Py_True) continue;
            const int64_t shape[2] = {n, extents[m]};
            factors[m].needs_grad = true;
            factors[m].grad = results.add(given[m], shape, 2, dtype);
            factors[m].grad_stride = extents[m];
        }
    }
};

// A matrix (n, K) of this dtype.
bool read_feature(Operand& feature, PyObject* object, bool may_require_grad, int64_t n, int64_t K,
                  DType dtype) {
    return feature.read(object, may_require_grad) && feature.dtype == dtype &&
           feature.view.ndim == 2 && feature.view.shape[0] == n && feature.view.shape[1] == K;
}

// Matrices R (n, 3, 3) with their nine entries side by side: a copy where they are not.
class Rotations {
public:
    bool read(PyObject* object, bool may_require_grad, int64_t n, DType dtype) {
        Operand R;
        if (!R.read(object, may_require_grad) || R.dtype != dtype || R.view.ndim != 3 ||
            R.view.shape[0] != n || R.view.shape[1] != 3 || R.view.shape[2] != 3)
            return false;
        view = {R.view.data, R.stride(0), 1};
        if (R.stride(1) == 3 && R.stride(2) == 1) return true;
        const int64_t bytes = bytes_of(dtype);
        copy_ = std::make_unique<Scratch>(n * 9 * bytes, true);
        char* to = static_cast<char*>(copy_->data());
        for (int64_t i = 0; i < 9 * n; ++i) {
            const int64_t offset =
                i / 9 * R.stride(0) + i / 3 % 3 * R.stride(1) + i % 3 * R.stride(2);
            std::memcpy(to + i * bytes, static_cast<const char*>(R.view.data) + offset * bytes,
                        static_cast<size_t>(bytes));
        }
        view = {to, 9, 1};
        return true;
    }
    Matrix view;

private:
    std::unique_ptr<Scratch> copy_;
};

bool read_layout(PyObject* object, Layout& layout) {
    if (!PyUnicode_Check(object)) return false;
    const bool column = PyUnicode_CompareWithASCIIString(object, "column") == 0;
    layout = column ? Layout::column : Layout::row;
    return column || PyUnicode_CompareWithASCIIString(object, "row") == 0;
}

bool may_require_grad() {
    return !answers(around->is_grad_enabled);
}

// Whether a call of so many arguments may go this way.
bool is_open(Py_ssize_t count, Py_ssize_t wanted) {
    return count == wanted && nothing_around();
}
bool is_open_for_gradients(Py_ssize_t count, Py_ssize_t wanted) {
    return is_open(count, wanted) && !answers(around->is_grad_enabled);
}

// synthesise(factors): (n, K).
PyObject* synthesise(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open(count, 1)) return nullptr;
        const Items values(arguments[0]);
        Features given;
        if (!given.read(values.begin, values.size, may_require_grad(), 0)) return nullptr;
        if (given.scales_rows() && given.n * given.K >= least_scaled) return nullptr;
        const int64_t shape[2] = {given.n, given.K};
        Operand y;
        Reference result(make_tensor(shape, 2, given.dtype, &y, true));
        run(given.plan(), Synthesis{given.view(), y.view.data});
        return result.release();
    });
}

// synthesis_gradients(factors, grad, needs): a list of them.
PyObject* synthesis_gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open_for_gradients(count, 3)) return nullptr;
        const Items values(arguments[0]), needs(arguments[2]);
        Features given;
        Operand grad;
        if (needs.size != values.size || !given.read(values.begin, values.size, true, 0) ||
            !read_feature(grad, arguments[1], true, given.n, given.K, given.dtype))
            return nullptr;
        GradientList results(values.size);
        given.make_grads(results, needs);
        run(given.plan(), SynthesisGrads{given.view(), grad.matrix()});
        return results.release();
    });
}

// A feature y (n, K) and its rotations, which fit.
struct Turned {
    Features given;  // y as a single factor
    Rotations R;
    Layout layout;

    bool read(PyObject* y, PyObject* rotations, PyObject* name, bool may_require) {
        return read_layout(name, layout) && given.read(&y, 1, may_require, 0) && given.K % 3 == 0 &&
               R.read(rotations, may_require, given.n, given.dtype);
    }
};

// rotate(y, R, layout): (n, K).
PyObject* rotate(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open(count, 3)) return nullptr;
        Turned turned;
        if (!turned.read(arguments[0], arguments[1], arguments[2], may_require_grad()))
            return nullptr;
        const auto& [given, R, layout] = turned;
        const int64_t shape[2] = {given.n, given.K};
        Operand out;
        Reference result(make_tensor(shape, 2, given.dtype, &out, true));
        run(given.plan(), Rotation{given.dtype, given.n, given.K, layout, given.factors[0].values,
                                   R.view, out.view.data});
        return result.release();
    });
}

// rotation_gradients((y, R), grad, layout, needs): a list of two.
PyObject* rotation_gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open_for_gradients(count, 4)) return nullptr;
        const Items values(arguments[0]), needs(arguments[3]);
        Turned turned;
        Operand grad;
        if (values.size != 2 || needs.size != 2 ||
            !turned.read(values.begin[0], values.begin[1], arguments[2], true))
            return nullptr;
        const auto& [given, R, layout] = turned;
        if (!read_feature(grad, arguments[1], true, given.n, given.K, given.dtype)) return nullptr;
        GradientList results(2);
        const int64_t shape[2] = {given.n, given.K}, nine[3] = {given.n, 3, 3};
        void *dy = nullptr, *dR = nullptr;
        if (needs.begin[0] == Py_True) dy = results.add(0, shape, 2, given.dtype);
        if (needs.begin[1] == Py_True) dR = results.add(1, nine, 3, given.dtype);
        run(given.plan(), RotationGrads{given.dtype, given.n, given.K, layout, R.view,
                                        grad.matrix(), given.factors[0].values, dy, dR});
        return results.release();
    });
}

// Two factors and rotations of their synthesis, which fit.
struct TurnedPair {
    Features given;
    Rotations R;
    Layout layout;

    bool read(const Items& values, PyObject* name, bool may_require) {
        return values.size == 3 && read_layout(name, layout) &&
               given.read(values.begin, 2, may_require, 2) && given.K % 3 == 0 &&
               R.read(values.begin[2], may_require, given.n, given.dtype);
    }
};

// synthesise_rotated((z_exp, z_id, R), layout): (n, K).
PyObject* synthesise_rotated(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open(count, 2)) return nullptr;
        TurnedPair pair;
        if (!pair.read(Items(arguments[0]), arguments[1], may_require_grad())) return nullptr;
        const Features& given = pair.given;
        const int64_t shape[2] = {given.n, given.K};
        Operand out;
        Reference result(make_tensor(shape, 2, given.dtype, &out, true));
        run(given.plan(), RotatedSynthesis{given.view(), pair.layout, pair.R.view, out.view.data});
        return result.release();
    });
}

// rotated_gradients((z_exp, z_id, R), grad, layout, needs): a list of three.
PyObject* rotated_gradients(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        if (!is_open_for_gradients(count, 4)) return nullptr;
        const Items needs(arguments[3]);
        TurnedPair pair;
        Operand grad;
        Features& given = pair.given;
        if (needs.size != 3 || !pair.read(Items(arguments[0]), arguments[2], true) ||
            !read_feature(grad, arguments[1], true, given.n, given.K, given.dtype))
            return nullptr;
        GradientList results(3);
        given.make_grads(results, needs);
        const int64_t nine[3] = {given.n, 3, 3};
        void* dR = nullptr;
        if (needs.begin[2] == Py_True) dR = results.add(2, nine, 3, given.dtype);
        run(given.plan(),
            RotatedSynthesisGrads{given.view(), pair.layout, pair.R.view, grad.matrix(), dR, 9});
        return results.release();
    });
}

// contract(core, z, mode): the core without the mode, by its number from 1 on or from the end.
PyObject* contract(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    return or_none([&]() -> PyObject* {
        Operand core, z;
        if (!is_open(count, 3) || !PyLong_CheckExact(arguments[2]) ||
            !core.read(arguments[0], may_require_grad()) ||
            !z.read(arguments[1], may_require_grad()))
            return nullptr;
        const int64_t* shape = core.view.shape;
        const int factors = core.view.ndim - 1;
        const long given = PyLong_AsLong(arguments[2]);
        const int mode = static_cast<int>(given < 0 ? given + factors + 1 : given);
        if (factors < 1 || factors > most_direct_factors || given > factors || mode < 1 ||
            z.view.ndim != 1 || z.view.shape[0] != shape[mode] || z.dtype != core.dtype ||
            core.numel() == 0 || !core.is_contiguous())
            return nullptr;
        Contraction job{};
        job.dtype = core.dtype;
        job.before = job.after = 1;
        job.extent = shape[mode];
        if (mode == factors && job.extent < least_row) return nullptr;
        int64_t rest[most_direct_factors];
        for (int d = 0; d <= factors; ++d) {
            if (d != mode) rest[d < mode ? d : d - 1] = shape[d];
            if (d < mode) job.before *= shape[d];
            if (d > mode) job.after *= shape[d];
        }
        const int64_t extents[2] = {job.extent, job.after};
        const Plan plan = plan_of(Call::features, core.dtype, job.before, 1, 0, 2, extents);
        Operand out;
        Reference result(make_tensor(rest, factors, core.dtype, &out));
        job.core = core.view.data;
        job.z = z.view.data;
        job.z_stride = z.stride(0);
        job.out = out.view.data;
        run(plan, job);
        return result.release();
    });
}

using Function = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

PyMethodDef method(const char* name, Function call, const char* says) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL,
            says};
}

}  // namespace

PyMethodDef feature_methods[] = {
    method("synthesise", synthesise, "(n, K) of plain tensors; None: take the ordinary way."),
    method("synthesis_gradients", synthesis_gradients, "A list; None: take the ordinary way."),
    method("rotate", rotate, "(n, K) of plain tensors; None: take the ordinary way."),
    method("rotation_gradients", rotation_gradients, "A list; None: take the ordinary way."),
    method("synthesise_rotated", synthesise_rotated,
           "(n, K) of plain tensors; None: take the ordinary way."),
    method("rotated_gradients", rotated_gradients, "A list; None: take the ordinary way."),
    method("contract", contract, "Of plain tensors; None: take the ordinary way."),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace direct
}  // namespace ntensor
