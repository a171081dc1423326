// How direct calls run a kernel, and what they answer.
#pragma once

#include "../check.h"
#include "direct_operands.h"
#include "direct_plan.h"
#include "parallel.h"

namespace ntensor {
namespace direct {

// Functions of direct_features.cpp and direct_modes.cpp, after them one of nulls.
extern PyMethodDef feature_methods[], mode_methods[], by_torch_methods[];

// Runs a job without the GIL, on all threads, or one for each of several problems; steps: as in
// stack.h.
template <class Job>
void run(const Plan& plan, Job job, int64_t problems = 1, const int64_t* steps = nullptr) {
    const Entry<Job>& entry = plan.kernels->entry<Job>();
    const int at_once = problems > 1 ? plan.at_once : 1;
    job.threads = plan.threads * plan.at_once / at_once;
    check_sizes(job);
    const int64_t one = whole_lines(entry.scratch_bytes(job));
    const Scratch scratch(one * at_once);
    job.scratch = scratch.data();
    check_addresses(job);
    if constexpr (requires { move(job, problems); }) {
        if (problems > 1) {
            const Stack stack{problems, at_once};
            check_stack(stack, job);
            const pybind11::gil_scoped_release release;
            return parallel_for_threads(at_once, [&](int t) {
                const auto solve = [&](Job& each) {
                    each.scratch = static_cast<char*>(scratch.data()) + t * one;
                    entry.run(each);
                };
                solve_each(stack, job, t, solve, steps);
            });
        }
    }
    const pybind11::gil_scoped_release release;
    entry.run(job);
}

// Turns an exception, of Python too, into None: the ordinary way will meet the same and say so.
template <class Body>
PyObject* or_none(const Body& body) {
    PyObject* result = nullptr;
    try {
        result = body();
    } catch (const std::exception&) {
    }
    if (result) return result;
    PyErr_Clear();
    Py_RETURN_NONE;
}

// The gradients of a call, None where not needed.
class GradientList {
public:
    explicit GradientList(Py_ssize_t size) : list_(PyList_New(size)) {
        for (Py_ssize_t i = 0; i < size; ++i) PyList_SET_ITEM(list_.get(), i, Py_NewRef(Py_None));
    }
    // The address of a new one, contiguous, at this place.
    void* add(Py_ssize_t place, const int64_t* shape, int ndim, DType dtype) {
        Operand made;
        PyList_SetItem(list_.get(), place, make_tensor(shape, ndim, dtype, &made));
        return made.view.data;
    }
    // Of a factor, for `rows` samples; problems: they have a dimension of their own; 0: none.
    void add(Py_ssize_t place, Factor& factor, int64_t rows, DType dtype, int64_t problems = 0) {
        const int64_t flat[2] = {rows, factor.extent};
        const int64_t shape[3] = {problems, problems ? rows / problems : 0, factor.extent};
        factor.grad = problems ? add(place, shape, 3, dtype) : add(place, flat, 2, dtype);
        factor.grad_stride = factor.extent;
    }
    PyObject* release() { return list_.release(); }

private:
    Reference list_;
};

}  // namespace direct
}  // namespace ntensor
