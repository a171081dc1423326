// The feature rotation and the rotated synthesis, sample by sample, in pieces that stay in the
// first-level cache: the unrotated feature of rotated_synthesis exists only as such a piece.

#include "../math/rotation.h"

#include "parallel.h"
#include "rotation.h"
#include "sample.h"

namespace ntensor {
namespace NTENSOR_LEVEL {
namespace {

constexpr int64_t piece = 512;  // columns of the 3 x K/3 matrix

// A piece in the layout's order: three runs of count elements, or one run of 3 count.
template <bool Column, class Body>
inline void for_each_run(int64_t K, int64_t j, int64_t count, const Body& body) {
    if (Column) {
        body(3 * j, 0, 3 * count);
    } else {
        for (int a = 0; a < 3; ++a) body(a * (K / 3) + j, a * count, count);
    }
}

template <bool Column, class T>
inline void rotate(const T* __restrict R, const T* __restrict y, int64_t count, T* __restrict out) {
    const T R_[9] = {R[0], R[1], R[2], R[3], R[4], R[5], R[6], R[7], R[8]};
    for (int64_t j = 0; j < count; ++j) {
        const T y0 = y[place_in_piece<Column>(0, j, count)];
        const T y1 = y[place_in_piece<Column>(1, j, count)];
        const T y2 = y[place_in_piece<Column>(2, j, count)];
        out[place_in_piece<Column>(0, j, count)] = rotated_row(R_, 0, y0, y1, y2);
        out[place_in_piece<Column>(1, j, count)] = rotated_row(R_, 1, y0, y1, y2);
        out[place_in_piece<Column>(2, j, count)] = rotated_row(R_, 2, y0, y1, y2);
    }
}

// dR += g Y^T over the piece. rows: room for 6 count elements.
template <bool Column, class T>
inline void add_matrix_grad(const T* __restrict g, const T* __restrict y, int64_t count,
                            T* __restrict rows, T* dR) {
    constexpr int V = lanes<T>;
    if (Column) {
        for (int64_t j = 0; j < count; ++j) {
            rows[j] = g[3 * j];
            rows[count + j] = g[3 * j + 1];
            rows[2 * count + j] = g[3 * j + 2];
            rows[3 * count + j] = y[3 * j];
            rows[4 * count + j] = y[3 * j + 1];
            rows[5 * count + j] = y[3 * j + 2];
        }
        g = rows;
        y = rows + 3 * count;
    }
    Vector<T> sums[9] = {};
    int64_t j = 0;
    for (; j + V <= count; j += V) {
        for (int a = 0; a < 3; ++a) {
            for (int b = 0; b < 3; ++b)
                sums[3 * a + b] += load(g + a * count + j) * load(y + b * count + j);
        }
    }
    for (int i = 0; i < 9; ++i) dR[i] += sum_lanes<T>(sums[i]);
    for (; j < count; ++j) {
        for (int a = 0; a < 3; ++a) {
            for (int b = 0; b < 3; ++b) dR[3 * a + b] += g[a * count + j] * y[b * count + j];
        }
    }
}

template <class S>
struct Scratch {
    using T = Accumulator<S>;

    T* y;
    T* out;
    T* rows;
    T* z;
    T* dz;
    int64_t bytes;

    // sum: extents of the gathered factors, 0 where there are none
    Scratch(int64_t K, int64_t sum, char* base) {
        Arena arena{base};
        const int64_t elements = min64(K, 3 * piece);
        y = arena.take<T>(elements);
        out = arena.take<T>(elements);
        rows = arena.take<T>(2 * elements);
        z = arena.take<T>(sum);
        dz = arena.take<T>(sum);
        bytes = arena.used;
    }
};

// Calls body(S, Column, scratch of thread t, samples [begin, end)) on every thread.
template <class Body>
void run(DType dtype, Layout layout, int64_t n, int64_t K, int64_t sum, int threads, void* memory,
         const Body& body) {
    with_storage_type(dtype, [&]<class S>(S) {
        const int64_t bytes = Scratch<S>(K, sum, nullptr).bytes;
        parallel_for_threads(threads, [&](int t) {
            const Scratch<S> scratch(K, sum, static_cast<char*>(memory) + t * bytes);
            const int64_t begin = n * t / threads;
            const int64_t end = n * (t + 1) / threads;
            if (layout == Layout::column)
                body.template operator()<S, true>(scratch, begin, end);
            else
                body.template operator()<S, false>(scratch, begin, end);
        });
    });
}

int64_t scratch_bytes(DType dtype, int64_t K, int64_t sum, int threads) {
    int64_t bytes = 0;
    with_storage_type(dtype,
                      [&]<class S>(S) { bytes = threads * Scratch<S>(K, sum, nullptr).bytes; });
    return bytes;
}

template <bool Column, class S>
inline void read_piece(const Matrix& m, int64_t s, int64_t K, int64_t j, int64_t count,
                       Accumulator<S>* to) {
    for_each_run<Column>(K, j, count, [&](int64_t from, int64_t at, int64_t length) {
        widen_row<S>(m, s, from, length, to + at);
    });
}

template <bool Column, class S>
inline void write_piece(const Accumulator<S>* from, void* out, int64_t s, int64_t K, int64_t j,
                        int64_t count) {
    for_each_run<Column>(K, j, count, [&](int64_t to, int64_t at, int64_t length) {
        narrow(from + at, static_cast<S*>(out) + s * K + to, length);
    });
}

template <bool Column, class T>
inline void synthesise_piece(const Grouping& group, const T* z, int64_t j, int64_t count, T* to) {
    for_each_run<Column>(group.extent, j, count, [&](int64_t from, int64_t at, int64_t length) {
        synthesise(group, z, from, from + length, to + at);
    });
}

}  // namespace

int64_t rotation_scratch(const Rotation& job) {
    return scratch_bytes(job.dtype, job.K, 0, job.threads);
}

void rotation(const Rotation& job) {
    run(job.dtype, job.layout, job.n, job.K, 0, job.threads, job.scratch,
        [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t begin, int64_t end) {
            using T = Accumulator<S>;
            for (int64_t s = begin; s < end; ++s) {
                T R[9];
                widen_row<S>(job.R, s, 0, 9, R);
                for (int64_t j = 0; j < job.K / 3; j += piece) {
                    const int64_t count = min64(piece, job.K / 3 - j);
                    if constexpr (Column && sizeof(S) == sizeof(T)) {
                        if (job.y.col_stride == 1) {
                            rotate<true>(
                                R, static_cast<const S*>(job.y.data) + s * job.y.row_stride + 3 * j,
                                count, static_cast<S*>(job.out) + s * job.K + 3 * j);
                            continue;
                        }
                    }
                    read_piece<Column, S>(job.y, s, job.K, j, count, scratch.y);
                    rotate<Column>(R, scratch.y, count, scratch.out);
                    write_piece<Column, S>(scratch.out, job.out, s, job.K, j, count);
                }
            }
        });
}

int64_t rotation_matrix_grad_scratch(const RotationMatrixGrad& job) {
    return scratch_bytes(job.dtype, job.K, 0, job.threads);
}

void rotation_matrix_grad(const RotationMatrixGrad& job) {
    run(job.dtype, job.layout, job.n, job.K, 0, job.threads, job.scratch,
        [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t begin, int64_t end) {
            using T = Accumulator<S>;
            for (int64_t s = begin; s < end; ++s) {
                T dR[9] = {};
                for (int64_t j = 0; j < job.K / 3; j += piece) {
                    const int64_t count = min64(piece, job.K / 3 - j);
                    read_piece<Column, S>(job.grad, s, job.K, j, count, scratch.out);
                    read_piece<Column, S>(job.y, s, job.K, j, count, scratch.y);
                    add_matrix_grad<Column>(scratch.out, scratch.y, count, scratch.rows, dR);
                }
                narrow(dR, static_cast<S*>(job.dR) + s * 9, 9);
            }
        });
}

int64_t rotated_synthesis_scratch(const RotatedSynthesis& job) {
    const Grouping group(job.factors, 0, 0);
    return scratch_bytes(job.factors.dtype, group.extent, group.sum, job.threads);
}

void rotated_synthesis(const RotatedSynthesis& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    run(job.factors.dtype, job.layout, job.factors.n, K, group.sum, job.threads, job.scratch,
        [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t begin, int64_t end) {
            using T = Accumulator<S>;
            for (int64_t s = begin; s < end; ++s) {
                T R[9];
                widen_row<S>(job.R, s, 0, 9, R);
                gather_sample<S>(job.factors, group, s, scratch.z);
                for (int64_t j = 0; j < K / 3; j += piece) {
                    const int64_t count = min64(piece, K / 3 - j);
                    synthesise_piece<Column>(group, scratch.z, j, count, scratch.y);
                    if constexpr (Column && sizeof(S) == sizeof(T)) {
                        rotate<true>(R, scratch.y, count, static_cast<S*>(job.out) + s * K + 3 * j);
                    } else {
                        rotate<Column>(R, scratch.y, count, scratch.out);
                        write_piece<Column, S>(scratch.out, job.out, s, K, j, count);
                    }
                }
            }
        });
}

int64_t rotated_synthesis_grads_scratch(const RotatedSynthesisGrads& job) {
    const Grouping group(job.factors, 0, 0);
    return scratch_bytes(job.factors.dtype, group.extent, group.sum, job.threads);
}

void rotated_synthesis_grads(const RotatedSynthesisGrads& job) {
    const Grouping group(job.factors, 0, 0);
    const int64_t K = group.extent;
    bool factors_need_grad = false;
    for (int m = 0; m < job.factors.count; ++m)
        factors_need_grad |= job.factors.items[m].needs_grad;
    run(job.factors.dtype, job.layout, job.factors.n, K, group.sum, job.threads, job.scratch,
        [&]<class S, bool Column>(const Scratch<S>& scratch, int64_t begin, int64_t end) {
            using T = Accumulator<S>;
            for (int64_t s = begin; s < end; ++s) {
                T R[9], R_transposed[9], dR[9] = {};
                widen_row<S>(job.R, s, 0, 9, R);
                transpose3(R, R_transposed);
                gather_sample<S>(job.factors, group, s, scratch.z);
                for (int64_t i = 0; i < group.sum; ++i) scratch.dz[i] = 0;
                for (int64_t j = 0; j < K / 3; j += piece) {
                    const int64_t count = min64(piece, K / 3 - j);
                    read_piece<Column, S>(job.grad, s, K, j, count, scratch.out);
                    if (job.dR) {
                        synthesise_piece<Column>(group, scratch.z, j, count, scratch.y);
                        add_matrix_grad<Column>(scratch.out, scratch.y, count, scratch.rows, dR);
                    }
                    if (!factors_need_grad) continue;
                    rotate<Column>(R_transposed, scratch.out, count, scratch.y);
                    for_each_run<Column>(K, j, count, [&](int64_t p, int64_t at, int64_t length) {
                        add_factor_grads(group, scratch.z, scratch.y + at, p, p + length, false,
                                         scratch.dz);
                    });
                }
                if (job.dR) narrow(dR, static_cast<S*>(job.dR) + s * job.dR_stride, 9);
                scatter_grads<S>(job.factors, group, s, scratch.dz);
            }
        });
}

}  // namespace NTENSOR_LEVEL
}  // namespace ntensor
