#include "halves.cuh"

namespace ntensor {
namespace cuda {

namespace {

template <class P, int Columns, bool Mean>
void project(Session& session, const Projection& job,
             const TwoHalves<typename P::Storage>& halves) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = ProjectionProduct<P, Columns, Mean>;
    constexpr int outputs = Mean ? 2 : 1;
    const int64_t n = halves.n, elements = n * job.k_x;
    ProjectionTiles<S> tiles{};
    tiles.halves = halves;
    tiles.core = static_cast<const S*>(job.core);
    tiles.k_x = job.k_x;
    tiles.core_in_packs = core_in_packs<S>(job.core, halves.J);
    tiles.sample_tiles = ceil_div(n, Columns);
    tiles.row_tiles = ceil_div(job.k_x, tile_rows);
    tiles.x = static_cast<S*>(job.x);
    tiles.x_mean = static_cast<S*>(job.x_mean);
    const int64_t count = tiles.sample_tiles * tiles.row_tiles;
    LaunchShape shape{0, tile_threads, Product::shared_bytes};
    tiles.parts = parts_for({count, halves.L * ceil_div(halves.J, Product::depth),
                             NTENSOR_PLACES(session, shape, project_tiles<P, Columns, Mean>),
                             Product::step_bytes, outputs * elements * int64_t{sizeof(T)}});
    shape.blocks = count * tiles.parts;
    if (tiles.parts > 1) tiles.partial = session.take<T>(tiles.parts * outputs * elements);
    NTENSOR_LAUNCH(session, shape, tiles, project_tiles<P, Columns, Mean>);
    if (tiles.parts == 1) return;
    for (int which = 0; which < outputs; ++which) {
        launch_sum<T, S>(
            session, {tiles.partial + which * elements, outputs * elements, tiles.parts, n, job.k_x,
                      which ? tiles.x_mean : tiles.x, job.k_x});
    }
}

}  // namespace

void run(const Projection& job, Session& session) {
    with_precision(job.factors.dtype, session.tf32(), [&]<class P>() {
        const bool mean = job.x_mean != nullptr;
        const auto halves = two_halves<typename P::Storage>(session, job.factors,
                                                            leading_factors(job.factors), mean);
        const auto run = [&]<int Columns>() {
            if (mean) {
                project<P, Columns, true>(session, job, halves);
            } else {
                project<P, Columns, false>(session, job, halves);
            }
        };
        if (halves.n <= narrow_columns) {
            run.template operator()<narrow_columns>();
        } else {
            run.template operator()<P::widest>();
        }
    });
}

}  // namespace cuda
}  // namespace ntensor
