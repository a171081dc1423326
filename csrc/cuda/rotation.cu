#define NTENSOR_LEVEL cuda
#include "rotation.cuh"

namespace ntensor {
namespace cuda {

namespace {

template <class S>
Formed<S> formed(const Factors& factors) {
    const int64_t J = factors.items[1].extent;
    return {Operand<S>(factors.items[0].values), Operand<S>(factors.items[1].values),
            Divider(J, factors.items[0].extent * J)};
}

int64_t product_of_two(const Factors& factors) {
    return factors.items[0].extent * factors.items[1].extent;
}

}  // namespace

void run(const Rotation& job, Session& session) {
    with_storage(job.dtype, [&]<class S>() {
        launch_rotation<S, Given<S>>(session, {{Operand<S>(job.y)},
                                               Operand<S>(job.R),
                                               matrix_view(job.layout, job.K),
                                               job.n,
                                               static_cast<S*>(job.out),
                                               {}});
    });
}

void run(const RotatedSynthesis& job, Session& session) {
    with_storage(job.factors.dtype, [&]<class S>() {
        launch_rotation<S, Formed<S>>(session,
                                      {formed<S>(job.factors),
                                       Operand<S>(job.R),
                                       matrix_view(job.layout, product_of_two(job.factors)),
                                       job.factors.n,
                                       static_cast<S*>(job.out),
                                       {}});
    });
}

void run(const RotationMatrixGrad& job, Session& session) {
    with_storage(job.dtype, [&]<class S>() {
        const MatrixGrad<S, Given<S>> grad{Operand<S>(job.grad),           {Operand<S>(job.y)},
                                           matrix_view(job.layout, job.K), job.n,
                                           static_cast<S*>(job.dR),        9};
        NTENSOR_LAUNCH(session, (LaunchShape{job.n, rotation_threads}), grad,
                       matrix_grad<S, Given<S>>);
    });
}

void run(const RotatedSynthesisGrads& job, Session& session) {
    with_storage(job.factors.dtype, [&]<class S>() {
        const Operand<S> G(job.grad), R(job.R);
        const MatrixView view = matrix_view(job.layout, product_of_two(job.factors));
        write_factor_grads<S>(session, job.factors, 0, 2, Unrotated<S>{G, R, view});
        if (!job.dR) return;
        const MatrixGrad<S, Formed<S>> grad{
            G, formed<S>(job.factors), view, job.factors.n, static_cast<S*>(job.dR), job.dR_stride};
        NTENSOR_LAUNCH(session, (LaunchShape{job.factors.n, rotation_threads}), grad,
                       matrix_grad<S, Formed<S>>);
    });
}

}  // namespace cuda
}  // namespace ntensor
