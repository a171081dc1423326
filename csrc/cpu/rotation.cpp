// The feature rotation and its gradients, straight from operand to result where these are of the
// accumulator type and contiguous, else in pieces that stay in the first-level cache.

#include "rotation.h"

#include "division.h"
#include "parallel.h"
#include "rotate.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

template <class S>
struct Scratch {
    using T = Accumulator<S>;

    T* y;
    T* grad;
    T* out;
    int64_t bytes;

    Scratch(int64_t K, char* base) {
        Arena arena{base};
        const int64_t elements = min64(K, 3 * piece);
        y = arena.take<T>(elements);
        grad = arena.take<T>(elements);
        out = arena.take<T>(elements);
        bytes = arena.used;
    }
};

// Calls body(S, Column, scratch of thread t, t) on every thread.
template <class Job, class Body>
void run(const Job& job, const Body& body) {
    with_types(job.dtype, job.layout, [&]<class S, bool Column>() {
        const int64_t bytes = Scratch<S>(job.K, nullptr).bytes;
        parallel_for_threads(job.threads, [&](int t) {
            const Scratch<S> scratch(job.K, static_cast<char*>(job.scratch) + t * bytes);
            body.template operator()<S, Column>(scratch, t);
        });
    });
}

template <class Job>
int64_t scratch_bytes(const Job& job) {
    int64_t bytes = 0;
    with_storage_type(job.dtype,
                      [&]<class S>(S) { bytes = job.threads * Scratch<S>(job.K, nullptr).bytes; });
    return bytes;
}

// Columns j ... j + count of sample s.
template <bool Column, class S>
void rotate_columns(const Rotation& job, const Scratch<S>& scratch, int64_t s, int64_t j,
                    int64_t count) {
    using T = Accumulator<S>;
    const int64_t J = job.K / 3;
    T R[9];
    widen_row<S>(job.R, s, 0, 9, R);
    if constexpr (sizeof(S) == sizeof(T)) {
        if (lies_ready<S>(job.y)) {
            const int64_t place = Column ? 3 * j : j;
            rotate<Column>(R, static_cast<const S*>(job.y.data) + s * job.y.row_stride + place, J,
                           count, static_cast<S*>(job.out) + s * job.K + place, J);
            return;
        }
    }
    for (const int64_t end = j + count; j < end; j += piece) {
        const int64_t here = min64(piece, end - j);
        read_piece<Column, S>(job.y, s, job.K, j, here, scratch.y);
        rotate<Column>(R, scratch.y, here, here, scratch.out, here);
        write_piece<Column, S>(scratch.out, job.out, s, job.K, j, here);
    }
}

template <bool Column, class S>
void grads_of_sample(const RotationGrads& job, const Scratch<S>& scratch, int64_t s) {
    using T = Accumulator<S>;
    const int64_t J = job.K / 3;
    const bool grad_ready = lies_ready<S>(job.grad), y_ready = lies_ready<S>(job.y);
    constexpr bool writes_straight = sizeof(S) == sizeof(T);
    T R[9], transposed[9] = {}, dR[9] = {};
    if (job.dy) {
        widen_row<S>(job.R, s, 0, 9, R);
        transpose3(R, transposed);
    }
    for (int64_t j = 0; j < J; j += piece) {
        const int64_t here = min64(piece, J - j), place = Column ? 3 * j : j;
        const T *grad = scratch.grad, *y = scratch.y;
        if (grad_ready)
            grad = static_cast<const T*>(job.grad.data) + s * job.grad.row_stride + place;
        else
            read_piece<Column, S>(job.grad, s, job.K, j, here, scratch.grad);
        const int64_t grad_step = grad_ready ? J : here;
        if (job.dR) {
            if (y_ready)
                y = static_cast<const T*>(job.y.data) + s * job.y.row_stride + place;
            else
                read_piece<Column, S>(job.y, s, job.K, j, here, scratch.y);
            add_matrix_grad<Column>(grad, grad_step, y, y_ready ? J : here, here, dR);
        }
        if (!job.dy) continue;
        if constexpr (writes_straight) {
            rotate<Column>(transposed, grad, grad_step, here,
                           static_cast<S*>(job.dy) + s * job.K + place, J);
        } else {
            rotate<Column>(transposed, grad, grad_step, here, scratch.out, here);
            write_piece<Column, S>(scratch.out, job.dy, s, job.K, j, here);
        }
    }
    if (job.dR) narrow(dR, static_cast<S*>(job.dR) + s * 9, 9);
}

RotationGrads of_matrix_alone(const RotationMatrixGrad& job) {
    return {job.dtype, job.n,   job.K,  job.layout,  {},         job.grad,
            job.y,     nullptr, job.dR, job.threads, job.scratch};
}

}  // namespace

int64_t rotation_scratch(const Rotation& job) {
    return scratch_bytes(job);
}

void rotation(const Rotation& job) {
    run(job, [&]<class S, bool Column>(const Scratch<S>& scratch, int t) {
        for_each_run(job.n, job.K / 3, t, job.threads, [&](int64_t s, int64_t begin, int64_t end) {
            rotate_columns<Column, S>(job, scratch, s, begin, end - begin);
        });
    });
}

// The inner indices are columns of three elements.
void divide_rotation(const Rotation& job, PartList& parts) {
    for (int t = 0; t < job.threads; ++t) {
        for_each_block(job.n, job.K / 3, t, job.threads,
                       [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                           add_part(parts, {0, t, {first, last}, {0, 1}, {0, 1}, {begin, end}});
                       });
    }
}

int64_t rotation_grads_scratch(const RotationGrads& job) {
    return scratch_bytes(job);
}

void rotation_grads(const RotationGrads& job) {
    run(job, [&]<class S, bool Column>(const Scratch<S>& scratch, int t) {
        for_each_row(job.n, t, job.threads,
                     [&](int64_t s) { grads_of_sample<Column, S>(job, scratch, s); });
    });
}

void divide_rotation_grads(const RotationGrads& job, PartList& parts) {
    for (int t = 0; t < job.threads; ++t) {
        for_each_row(job.n, t, job.threads, [&](int64_t s) {
            add_part(parts, {0, t, {s, s + 1}, {0, 1}, {0, 1}, {0, job.K / 3}});
        });
    }
}

int64_t rotation_matrix_grad_scratch(const RotationMatrixGrad& job) {
    return rotation_grads_scratch(of_matrix_alone(job));
}

void rotation_matrix_grad(const RotationMatrixGrad& job) {
    rotation_grads(of_matrix_alone(job));
}

void divide_rotation_matrix_grad(const RotationMatrixGrad& job, PartList& parts) {
    divide_rotation_grads(of_matrix_alone(job), parts);
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
