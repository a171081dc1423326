#include <cstring>

#include "api.h"

#define NTENSOR_DECLARE_LEVEL(level) \
    namespace level {                \
    extern const Kernels kernels;    \
    }

namespace ntensor {

#ifdef NTENSOR_HAVE_AVX512BF16
NTENSOR_DECLARE_LEVEL(avx512bf16)
#endif
#ifdef NTENSOR_HAVE_AVX512
NTENSOR_DECLARE_LEVEL(avx512)
#endif
#ifdef NTENSOR_HAVE_AVX2
NTENSOR_DECLARE_LEVEL(avx2)
#endif
#ifdef NTENSOR_HAVE_PORTABLE
NTENSOR_DECLARE_LEVEL(portable)
#endif
#ifdef NTENSOR_HAVE_EMULATED
NTENSOR_DECLARE_LEVEL(emulated)
#endif

namespace {

struct Level {
    const char* name;
    const Kernels* table;
    bool (*runs_here)();
};

#if defined(NTENSOR_HAVE_AVX512) || defined(NTENSOR_HAVE_AVX512BF16)
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

// Best first.
const Level all_levels[] = {
#ifdef NTENSOR_HAVE_AVX512BF16
    {"avx512bf16", &avx512bf16::kernels,
     [] { return has_avx512() && static_cast<bool>(__builtin_cpu_supports("avx512bf16")); }},
#endif
#ifdef NTENSOR_HAVE_AVX512
    {"avx512", &avx512::kernels, has_avx512},
#endif
#ifdef NTENSOR_HAVE_AVX2
    {"avx2", &avx2::kernels,
     [] {
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
     }},
#endif
#ifdef NTENSOR_HAVE_PORTABLE
    {"portable", &portable::kernels, [] { return true; }},
#endif
#ifdef NTENSOR_HAVE_EMULATED
    {"emulated", &emulated::kernels, [] { return true; }},
#endif
};

constexpr int level_count = sizeof(all_levels) / sizeof(all_levels[0]);

struct Available {
    const char* names[level_count + 1] = {};
    const Kernels* tables[level_count] = {};
    int count = 0;

    Available() {
        for (const Level& level : all_levels) {
            if (!level.runs_here()) continue;
            names[count] = level.name;
            tables[count++] = level.table;
        }
    }
};

const Available& available() {
    static const Available levels;
    return levels;
}

}  // namespace

const char* const* simd_levels() {
    return available().names;
}

const Kernels* kernels(const char* level) {
    const Available& levels = available();
    if (level == nullptr || *level == '\0') return levels.tables[0];
    for (int i = 0; i < levels.count; ++i) {
        if (std::strcmp(levels.names[i], level) == 0) return levels.tables[i];
    }
    return nullptr;
}

}  // namespace ntensor
