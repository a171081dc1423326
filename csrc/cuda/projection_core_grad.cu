#include "halves.cuh"
#include "projection_core_grad.cuh"

namespace ntensor {
namespace cuda {

void run(const ProjectionCoreGrad& job, Session& session) {
    with_precision(job.factors.dtype, session.tf32(), [&]<class P>() {
        using S = typename P::Storage;
        using Product = CoreGradProduct<P>;
        CoreGradTiles<S> tiles{};
        tiles.halves = two_halves<S>(session, job.factors, leading_factors(job.factors),
                                     job.grad_mean.data != nullptr);
        tiles.k_x = job.k_x;
        tiles.grad = static_cast<const S*>(job.grad.data);
        tiles.grad_row = job.grad.row_stride;
        tiles.grad_col = job.grad.col_stride;
        tiles.grad_mean = static_cast<const S*>(job.grad_mean.data);
        tiles.grad_mean_row = job.grad_mean.row_stride;
        tiles.grad_mean_col = job.grad_mean.col_stride;
        tiles.grads_in_packs = grad_in_packs<S>(job.grad) && grad_in_packs<S>(job.grad_mean);
        tiles.row_tiles = ceil_div(job.k_x, tile_rows);
        tiles.inner_tiles = ceil_div(tiles.halves.J, Product::columns);
        tiles.core_grad = static_cast<S*>(job.core_grad);
        tiles.core_in_packs = core_in_packs<S>(job.core_grad, tiles.halves.J);
        tiles.accumulate = job.accumulate;
        const LaunchShape shape{tiles.row_tiles * tiles.halves.L * tiles.inner_tiles, tile_threads,
                                core_grad_shared_bytes<P>};
        if constexpr (P::cuts) {
            if (tiles.halves.n > Product::chain_steps * Product::depth)
                return NTENSOR_LAUNCH(session, shape, tiles, core_grad_tiles<P, true>);
        }
        NTENSOR_LAUNCH(session, shape, tiles, core_grad_tiles<P, false>);
    });
}

}  // namespace cuda
}  // namespace ntensor
