#include "halves.cuh"
#include "projection_factor_grads.cuh"

namespace ntensor {
namespace cuda {

namespace {

template <class S>
struct HalfGrads {
    const Sum<S>* dW;  // (n, J)
    const Sum<S>* da;  // (n, L), null where it is not needed
    const Sum<S>* da_mean;
};

// What is needed of the derivatives of the two halves, summed over all parts.
struct Wanted {
    bool da, da_mean;
};

template <class P, int Columns>
HalfGrads<typename P::Storage> grads_of_halves(Session& session, const ProjectionFactorGrads& job,
                                               const TwoHalves<typename P::Storage>& halves,
                                               Wanted wanted) {
    using S = typename P::Storage;
    using T = Sum<S>;
    using Product = FactorGradProduct<P, Columns>;
    const int64_t n = halves.n, L = halves.L, J = halves.J;
    FactorGradTiles<S> tiles{};
    tiles.halves = halves;
    tiles.core = static_cast<const S*>(job.core);
    tiles.k_x = job.k_x;
    tiles.core_in_packs = core_in_packs<S>(job.core, J);
    tiles.grad = static_cast<const S*>(job.grad.data);
    tiles.grad_row = job.grad.row_stride;
    tiles.grad_col = job.grad.col_stride;
    tiles.grad_mean = static_cast<const S*>(job.grad_mean.data);
    tiles.grad_mean_row = job.grad_mean.row_stride;
    tiles.grad_mean_col = job.grad_mean.col_stride;
    tiles.grads_in_packs = job.k_x % pack_size<S> == 0 && grad_in_packs<S>(job.grad) &&
                           grad_in_packs<S>(job.grad_mean);
    tiles.grad_rows = job.grad.data ? n : 0;
    tiles.rows = tiles.grad_rows + (job.grad_mean.data ? n : 0);
    tiles.sample_tiles = ceil_div(tiles.rows, Columns);
    tiles.inner_tiles = ceil_div(J, tile_rows);
    const int64_t count = tiles.sample_tiles * tiles.inner_tiles;
    LaunchShape shape{0, tile_threads, Product::shared_bytes};
    tiles.parts = parts_for({count, ceil_div(job.k_x, Product::depth),
                             NTENSOR_PLACES(session, shape, factor_grad_tiles<P, Columns>),
                             L * Product::step_bytes, tiles.rows * J * int64_t{sizeof(T)}});
    shape.blocks = count * tiles.parts;
    const int64_t da_parts = tiles.parts * tiles.inner_tiles;
    T* const dW_parts = session.take<T>(tiles.parts * tiles.rows * J);
    T* const da_of_parts =
        wanted.da || wanted.da_mean ? session.take<T>(da_parts * tiles.rows * L) : nullptr;
    tiles.dW = dW_parts;
    tiles.da = da_of_parts;
    NTENSOR_LAUNCH(session, shape, tiles, factor_grad_tiles<P, Columns>);

    // The rows of G and of G_mean are two parts of dW.
    T* const dW = session.take<T>(n * J);
    launch_sum<T, T>(session, {dW_parts, n * J, tiles.parts * (tiles.rows / n), n, J, dW, J});
    const auto sum_of = [&](bool needed, bool given, int64_t first_row) -> const T* {
        if (!needed) return nullptr;
        T* const sum = session.take<T>(n * L);
        launch_sum<T, T>(session, {da_of_parts + first_row * L, tiles.rows * L,
                                   given ? da_parts : 0, n, L, sum, L});
        return sum;
    };
    const T* const da = sum_of(wanted.da, job.grad.data != nullptr, 0);
    const T* const da_mean = sum_of(wanted.da_mean, job.grad_mean.data != nullptr, tiles.grad_rows);
    return {dW, da, da_mean};
}

// The gradients of the leading factors [0, lead). Beyond the first one, which x_mean does not
// depend on, they have a part from da_mean.
template <class S>
void write_leading_grads(Session& session, const Factors& factors, int lead,
                         const HalfGrads<S>& grads, int64_t L) {
    const Given<S> da{Operand<S>(grads.da, L)};
    if (lead == 1) return write_factor_grads<S>(session, factors, 0, 1, da);
    const int64_t n = factors.n;
    const Factor& first = factors.items[0];
    Sum<S>* const others = session.take<Sum<S>>(n * L);
    write_product<S>(session, factors, 1, lead, others, L);
    PairGrads<S, Given<S>> job{};
    job.D = da;
    job.a = Operand<S>(first.values);
    job.b = Operand<S>(others, L);
    job.n = n;
    job.L = 1;
    job.J = L;
    set_grad(first, job.a_grad, job.a_grad_stride);
    Sum<S>* const of_others = session.take<Sum<S>>(n * L);
    job.b_grad_wide = of_others;
    job.b_grad_more = grads.da_mean;
    launch_grads(session, job);
    write_factor_grads<S>(session, factors, 1, lead, Given<S>{Operand<S>(of_others, L)});
}

}  // namespace

void run(const ProjectionFactorGrads& job, Session& session) {
    with_precision(job.factors.dtype, session.tf32(), [&]<class P>() {
        using S = typename P::Storage;
        const Factors& factors = job.factors;
        const int lead = leading_factors(factors);
        const auto halves = two_halves<S>(session, factors, lead, job.grad_mean.data != nullptr);
        const Wanted wanted{any_needed(factors, 0, lead), any_needed(factors, 1, lead)};
        const int64_t rows =
            halves.n * ((job.grad.data != nullptr) + (job.grad_mean.data != nullptr));
        const auto grads = rows <= narrow_columns
                               ? grads_of_halves<P, narrow_columns>(session, job, halves, wanted)
                               : grads_of_halves<P, P::widest>(session, job, halves, wanted);
        if (wanted.da) write_leading_grads<S>(session, factors, lead, grads, halves.L);
        write_factor_grads<S>(session, factors, lead, factors.count,
                              Given<S>{Operand<S>(grads.dW, halves.J)});
    });
}

}  // namespace cuda
}  // namespace ntensor
