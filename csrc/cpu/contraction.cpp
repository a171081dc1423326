// One mode of a core summed up with the weights of a vector: every element of the core is read
// once, in the order in which it lies.

#include "contraction.h"

#include "division.h"
#include "parallel.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

// Sums in chains of so many terms, lest rounding errors add up.
constexpr int64_t most_terms = 256;
// Vectors of the result whose sums are kept at a time, with one more for each chain.
constexpr int block_vectors = vector_bytes == 64 ? 16 : 8;

// to[a] = sum_e z[e] from[e * stride + a], for Vectors vectors, `left` elements of the last one
// where Part.
template <class S, int Vectors, bool Part>
void contract_columns(const S* from, int64_t stride, const Accumulator<S>* z, int64_t extent,
                      int64_t left, S* to) {
    using T = Accumulator<S>;
    constexpr int V = lanes<T>, last = Vectors - 1;
    Vector<T> total[Vectors] = {};
    for (int64_t begin = 0; begin < extent; begin += most_terms) {
        const int64_t end = min64(extent, begin + most_terms);
        Vector<T> sums[Vectors] = {};
        for (int64_t e = begin; e < end; ++e) {
            const S* row = from + e * stride;
            const T scale = z[e];
#pragma GCC unroll 16
            for (int v = 0; v < Vectors - Part; ++v) sums[v] += scale * load_widened(row + v * V);
            if constexpr (Part) sums[last] += scale * load_first_widened(row + last * V, left);
        }
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) total[v] += sums[v];
    }
    for (int v = 0; v < Vectors - Part; ++v) store_narrowed(to + v * V, total[v]);
    if constexpr (Part) {
        T rest[V];
        store(rest, total[last]);
        narrow(rest, to + last * V, left);
    }
}

template <class S, int Vectors = 1>
void contract_block(const S* from, int64_t stride, const Accumulator<S>* z, int64_t extent,
                    int64_t columns, S* to) {
    constexpr int64_t V = lanes<Accumulator<S>>, whole = Vectors * V;
    if (columns == whole) {
        contract_columns<S, Vectors, false>(from, stride, z, extent, 0, to);
    } else if (columns < whole) {
        contract_columns<S, Vectors, true>(from, stride, z, extent, columns - whole + V, to);
    } else if constexpr (Vectors < block_vectors) {
        contract_block<S, Vectors + 1>(from, stride, z, extent, columns, to);
    }
}

// to[r] = <from[r * extent ...], z> for `rows` rows, a vector of sums at a time.
template <class S>
void contract_rows(const S* from, const Accumulator<S>* z, int64_t extent, int64_t rows, S* to) {
    using T = Accumulator<S>;
    constexpr int V = lanes<T>;
    const int64_t whole = extent / V * V;
    for (int64_t r = 0; r < rows; r += V) {
        const int here = static_cast<int>(min64(V, rows - r));
        Vector<T> block[V] = {};
        for (int i = 0; i < here; ++i, from += extent) {
            Vector<T> total = {};
            for (int64_t begin = 0; begin < whole; begin += most_terms * V) {
                const int64_t end = min64(whole, begin + most_terms * V);
                Vector<T> sum = {};
                for (int64_t e = begin; e < end; e += V)
                    sum += load(z + e) * load_widened(from + e);
                total += sum;
            }
            if (whole < extent)
                total += load_first(z + whole, extent - whole) *
                         load_first_widened(from + whole, extent - whole);
            block[i] = total;
        }
        T sums[V];
        store(sums, sums_of_lanes<T>(block));
        narrow(sums, to + r, here);
    }
}

// Calls body(first, last, begin, end) for the results that thread t sums up: of the rows [first,
// last), the columns from begin to before end, in whole vectors.
template <class S, class Body>
void for_each_part(const Contraction& job, int t, const Body& body) {
    constexpr int64_t V = lanes<Accumulator<S>>;
    for_each_block(job.before, ceil_div(job.after, V), t, job.threads,
                   [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                       body(first, last, begin * V, min64(end * V, job.after));
                   });
}

template <class S>
bool lies_ready(const Contraction& job) {
    return sizeof(S) == sizeof(Accumulator<S>) && job.z_stride == 1;
}

}  // namespace

int64_t contraction_scratch(const Contraction& job) {
    int64_t bytes = 0;
    with_storage_type(job.dtype, [&]<class S>(S) {
        Arena arena{nullptr};
        if (!lies_ready<S>(job)) arena.take<Accumulator<S>>(job.extent);
        bytes = arena.used;
    });
    return bytes;
}

void contraction(const Contraction& job) {
    with_storage_type(job.dtype, [&]<class S>(S) {
        using T = Accumulator<S>;
        const T* z = static_cast<const T*>(job.z);
        if (!lies_ready<S>(job)) {
            Arena arena{static_cast<char*>(job.scratch)};
            T* widened = arena.take<T>(job.extent);
            widen_row<S>(Matrix{job.z, 0, job.z_stride}, 0, 0, job.extent, widened);
            z = widened;
        }
        const S* core = static_cast<const S*>(job.core);
        S* out = static_cast<S*>(job.out);
        constexpr int64_t width = int64_t{block_vectors} * lanes<T>;
        const int64_t E = job.extent, A = job.after;
        parallel_for_threads(job.threads, [&](int t) {
            for_each_part<S>(job, t, [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                if (A == 1) return contract_rows(core + first * E, z, E, last - first, out + first);
                for (int64_t b = first; b < last; ++b)
                    for (int64_t a = begin; a < end; a += width)
                        contract_block(core + b * E * A + a, A, z, E, min64(width, end - a),
                                       out + b * A + a);
            });
        });
    });
}

// The outputs are the indices before the mode, the hoisted ones its own, the inner ones those
// after it.
void divide_contraction(const Contraction& job, PartList& parts) {
    with_storage_type(job.dtype, [&]<class S>(S) {
        for (int t = 0; t < job.threads; ++t) {
            for_each_part<S>(job, t, [&](int64_t first, int64_t last, int64_t begin, int64_t end) {
                add_part(parts, {0, t, {0, 1}, {first, last}, {0, job.extent}, {begin, end}});
            });
        }
    });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
