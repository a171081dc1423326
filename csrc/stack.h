// Several problems of one size behind one another: the operands and results of a job, each with one
// part a problem, of the same sizes and strides.
#pragma once

#include <vector>

#include "check.h"

namespace ntensor {

struct Stack {
    int64_t problems = 1;
    int at_once = 1;  // problems that are solved at the same time, each with the job's threads
};

inline int64_t bytes_of(DType dtype) {
    return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}

// The factors of each problem of a stack in turn.
class StackedFactors {
public:
    // steps: elements from the values of a factor of one problem to those of the next; null: n
    // rows.
    StackedFactors(const Factors& first, const int64_t* steps)
        : first_(first), items_(first.items, first.items + first.count), steps_(steps) {}

    Factors of(int64_t problem) {
        const int64_t bytes = problem * bytes_of(first_.dtype);
        for (int m = 0; m < first_.count; ++m) {
            const Factor& factor = first_.items[m];
            const int64_t step = steps_ ? steps_[m] : first_.n * factor.values.row_stride;
            items_[m].values.data = moved(factor.values.data, bytes * step);
            items_[m].grad = moved(factor.grad, bytes * first_.n * factor.grad_stride);
        }
        return {items_.data(), first_.count, first_.n, first_.dtype};
    }

    // An address that is 0 stays so.
    static const void* moved(const void* address, int64_t bytes) {
        return address ? static_cast<const char*>(address) + bytes : nullptr;
    }
    static void* moved(void* address, int64_t bytes) {
        return address ? static_cast<char*>(address) + bytes : nullptr;
    }

private:
    const Factors& first_;
    std::vector<Factor> items_;
    const int64_t* const steps_;
};

inline int64_t extent_of(const Factors& factors) {
    int64_t K = 1;
    for (int m = 0; m < factors.count; ++m) K *= factors.items[m].extent;
    return K;
}

inline Matrix moved(Matrix matrix, int64_t rows, DType dtype) {
    matrix.data = StackedFactors::moved(matrix.data, rows * matrix.row_stride * bytes_of(dtype));
    return matrix;
}

inline void move(Projection& job, int64_t problem) {
    const int64_t k_x = problem * job.k_x * bytes_of(job.factors.dtype);
    job.core = StackedFactors::moved(job.core, k_x * extent_of(job.factors));
    job.x = StackedFactors::moved(job.x, k_x * job.factors.n);
    job.x_mean = StackedFactors::moved(job.x_mean, k_x * job.factors.n);
}
inline void move(ProjectionFactorGrads& job, int64_t problem) {
    const DType dtype = job.factors.dtype;
    const int64_t bytes = problem * job.k_x * extent_of(job.factors) * bytes_of(dtype);
    job.core = StackedFactors::moved(job.core, bytes);
    job.grad = moved(job.grad, problem * job.factors.n, dtype);
    job.grad_mean = moved(job.grad_mean, problem * job.factors.n, dtype);
}
inline void move(ProjectionCoreGrad& job, int64_t problem) {
    const DType dtype = job.factors.dtype;
    const int64_t bytes = problem * job.k_x * extent_of(job.factors) * bytes_of(dtype);
    job.core_grad = StackedFactors::moved(job.core_grad, bytes);
    job.grad = moved(job.grad, problem * job.factors.n, dtype);
    job.grad_mean = moved(job.grad_mean, problem * job.factors.n, dtype);
}

// Scratch of one problem of several, in bytes: those of two threads share no line.
inline int64_t whole_lines(int64_t bytes) {
    constexpr int64_t line = 64;
    return (bytes + line - 1) / line * line;
}

// Each array of a stack has fewer than 2^48 elements.
template <class Job>
void check_stack(const Stack& stack, const Job& job) {
    require(stack.problems > 0 && stack.at_once > 0 && stack.at_once <= stack.problems,
            "at least one problem, and no more at once than there are");
    require(static_cast<int64_t>(stack.at_once) * job.threads <= most_threads,
            "1 to 65536 threads");
    const int64_t K = extent_of(job.factors), n = job.factors.n;
    for (const auto& [rows, columns] : {std::pair(job.k_x, K), {n, job.k_x}, {n, K}}) {
        Size size;
        size.times(stack.problems);
        size.times(rows);
        size.times(columns);
    }
}

// Calls solve(job) for the problems of a stack that are worker t's, of `at_once`, in their order.
template <class Job, class Solve>
void solve_each(const Stack& stack, const Job& first, int t, const Solve& solve,
                const int64_t* steps = nullptr) {
    StackedFactors factors(first.factors, steps);
    const int64_t end = stack.problems * (t + 1) / stack.at_once;
    for (int64_t problem = stack.problems * t / stack.at_once; problem < end; ++problem) {
        Job job = first;
        job.factors = factors.of(problem);
        move(job, problem);
        solve(job);
    }
}

}  // namespace ntensor
