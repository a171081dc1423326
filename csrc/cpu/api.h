// The interface between bindings.cpp and the kernels: plain structs, no torch, no Python.
//
// Symbols: n samples, k_x rows of the core, factor m of shape (n, k_m), K = k_1...k_M.
// Every array is strided in elements. Outputs and scratch are allocated by the caller.
#pragma once

#include <cstdint>
#include <tuple>

namespace ntensor {

enum class DType : int { float32, float64, bfloat16, float16 };

// Of a call. A core of torch has at most 64 dimensions, one of them k_x.
constexpr int most_factors = 63;

struct Matrix {
    const void* data = nullptr;
    int64_t row_stride = 0;
    int64_t col_stride = 0;
};

struct Factor {
    Matrix values;  // (n, extent)
    int64_t extent = 0;
    bool needs_grad = false;
    void* grad = nullptr;  // (n, extent), row stride grad_stride; written where needs_grad
    int64_t grad_stride = 0;
};

struct Factors {
    const Factor* items = nullptr;
    int count = 0;
    int64_t n = 0;
    DType dtype = DType::float32;
};

// How a projection is computed. The leading `hoisted` factors, fewer than all, are not part of the
// product W that the core is multiplied with: they join the sums, or the incoming gradient.
struct Split {
    int hoisted = 0;
    // Of a projection alone:
    bool output_inside = false;  // the core is (L, k_x, P), for L and P the extents of the hoisted
                                 // and of the other factors; else (k_x, L, P)
    bool few = false;            // each sample by itself, for few of them
    // x and x_mean are (k_x, n). Of factor gradients: each by a projection of its own, by a copy of
    // the core with the factor's mode in front; `hoisted` counts from G on, the factor left out.
    bool transposed = false;
};

// x = core_(1) y for y the synthesis of the factors; x_mean the same with z_1 := 1/k_1.
struct Projection {
    Factors factors;
    const void* core;  // (k_x, K) contiguous
    int64_t k_x;
    void* x;       // (n, k_x) or (k_x, n), contiguous
    void* x_mean;  // the same, or null; then at least one factor is hoisted
    Split split;
    int threads = 1;
    void* scratch = nullptr;
    int64_t x_stride = 0;  // of the rows of x where they are no k_x apart; without x_mean

    int64_t row_stride() const { return x_stride ? x_stride : k_x; }
};

// dz_m for every factor that needs it, from G = dL/dx and G_mean = dL/dx_mean (either may be null).
// No hoisted factor needs one, unless each gradient is a projection of its own: G alone is then
// given.
struct ProjectionFactorGrads {
    Factors factors;
    const void* core;  // (k_x, K) contiguous
    int64_t k_x;
    Matrix grad;       // (n, k_x)
    Matrix grad_mean;  // (n, k_x)
    Split split;
    int threads = 1;
    void* scratch = nullptr;
};

// dcore (+)= sum_s (H G + H_mean G_mean)^T W, H and W the syntheses of the hoisted and of the other
// factors, H_mean that with z_1 := 1/k_1. With G_mean at least one factor is hoisted.
struct ProjectionCoreGrad {
    Factors factors;
    int64_t k_x;
    Matrix grad;       // (n, k_x)
    Matrix grad_mean;  // (n, k_x)
    Split split;
    void* core_grad;  // (k_x, K) contiguous
    bool accumulate;
    int threads = 1;
    void* scratch = nullptr;
};

// A step of an optimizer for a parameter p with the gradient g, element by element:
//   g := sign g + coupled p,   p := kept p,
// then for stochastic gradient descent
//   m := momentum m + taken g (g itself without m),   p := p - rate m,
//   or p := p - rate (g + momentum m) where it is Nesterov's,
// and for Adam, u being v or its largest value so far where that is kept,
//   m := m + taken (g - m),   v := kept_square v + taken_square g^2,
//   p := p - rate m / (sqrt(u) / correction + epsilon).
struct OptimizerStep {
    bool is_adam = false;
    bool is_nesterov = false;
    void* parameter = nullptr;  // these four have the parameter's shape, contiguous
    void* first = nullptr;      // m; null: none
    void* second = nullptr;     // v; Adam's
    void* largest = nullptr;    // null: not kept
    double sign = 1, coupled = 0, kept = 1, rate = 0;
    double momentum = 0, taken = 1;
    double kept_square = 0, taken_square = 0, correction = 1, epsilon = 0;
};

// A step for the core by its gradient, which is never stored: ProjectionCoreGrad without
// `accumulate`, its core_grad the core itself. At most most_step_samples samples.
struct ProjectionCoreStep : ProjectionCoreGrad {
    OptimizerStep step;
};
constexpr int64_t most_step_samples = 256;

struct Synthesis {
    Factors factors;
    void* y;  // (n, K) contiguous
    int threads = 1;
    void* scratch = nullptr;
};

struct SynthesisGrads {
    Factors factors;
    Matrix grad;  // (n, K)
    int threads = 1;
    void* scratch = nullptr;
};

// Layout of the 3 x K/3 matrix: column: element (a, j) is y[3j + a]; row: y[a K/3 + j].
enum class Layout : int { column, row };

struct Rotation {
    DType dtype;
    int64_t n;
    int64_t K;
    Layout layout;
    Matrix y;   // (n, K)
    Matrix R;   // (n, 9): row_stride only; entries are contiguous in row-major order
    void* out;  // (n, K) contiguous
    int threads = 1;
    void* scratch = nullptr;
};

// dR[a, b] = sum_j grad[a, j] y[b, j]
struct RotationMatrixGrad {
    DType dtype;
    int64_t n;
    int64_t K;
    Layout layout;
    Matrix grad;  // (n, K)
    Matrix y;     // (n, K)
    void* dR;     // (n, 9) contiguous
    int threads = 1;
    void* scratch = nullptr;
};

// Both gradients of a rotation in one pass: dy[b, j] = sum_a R[a, b] grad[a, j], and dR as above.
struct RotationGrads {
    DType dtype;
    int64_t n;
    int64_t K;
    Layout layout;
    Matrix R;     // (n, 9)
    Matrix grad;  // (n, K)
    Matrix y;     // (n, K)
    void* dy;     // (n, K) contiguous, or null
    void* dR;     // (n, 9) contiguous, or null
    int threads = 1;
    void* scratch = nullptr;
};

struct RotatedSynthesis {
    Factors factors;
    Layout layout;
    Matrix R;   // (n, 9)
    void* out;  // (n, K) contiguous
    int threads = 1;
    void* scratch = nullptr;
};

struct RotatedSynthesisGrads {
    Factors factors;
    Layout layout;
    Matrix R;     // (n, 9)
    Matrix grad;  // (n, K)
    void* dR;     // (n, 9), row stride dR_stride, or null
    int64_t dR_stride;
    int threads = 1;
    void* scratch = nullptr;
};

// out[b, a] = sum_e z[e] core[b, e, a]: one mode of a core, with the extents before and after it.
struct Contraction {
    DType dtype;
    int64_t before, extent, after;
    const void* core;  // (before, extent, after) contiguous
    const void* z;     // (extent), z_stride
    int64_t z_stride;
    void* out;  // (before, after) contiguous
    int threads = 1;
    void* scratch = nullptr;
};

enum class Roof : int { read, write, copy, fma32, fma64, bf16dot };

// What one thread does of a job: the products of some samples, outputs, hoisted and inner indices,
// each from the first to before the last. Where rows of the core are divided whatever output and
// hoisted index they have, they stand under outputs.
struct Part {
    int64_t phase;  // begins when the phases before it are done
    int64_t thread;
    int64_t samples[2], outputs[2], hoisted[2], inner[2];
};

// Where the parts of a job are written; null: they are counted.
struct PartList {
    Part* items = nullptr;
    int64_t count = 0;
};

// One operation at one SIMD level, threads included.
template <class Job>
struct Entry {
    // What it needs for arguments of these sizes, strides and threads; no address is looked at.
    int64_t (*scratch_bytes)(const Job&);
    void (*run)(const Job&);
    // The parts that run would do, by the same functions; null: not told. No address is looked at.
    void (*divide)(const Job&, PartList&) = nullptr;
};

// One table a SIMD level.
struct Kernels {
    std::tuple<Entry<Projection>, Entry<ProjectionFactorGrads>, Entry<ProjectionCoreGrad>,
               Entry<ProjectionCoreStep>, Entry<Synthesis>, Entry<SynthesisGrads>, Entry<Rotation>,
               Entry<RotationMatrixGrad>, Entry<RotationGrads>, Entry<RotatedSynthesis>,
               Entry<RotatedSynthesisGrads>, Entry<Contraction>>
        entries;
    // Runs one pass over the buffers and returns the bytes moved or the operations done; 0: not on
    // this level.
    double (*roof)(Roof kind, void* destination, const void* source, int64_t bytes, int threads);

    template <class Job>
    const Entry<Job>& entry() const {
        return std::get<Entry<Job>>(entries);
    }
};

// Levels of this build that the processor can run, best first; null-terminated names.
const char* const* simd_levels();
// The table of a level; the best one for null or an empty name; null for an unknown name.
const Kernels* kernels(const char* level);

}  // namespace ntensor
