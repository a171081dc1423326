# NTENSOR_LEVELS: the SIMD levels that this compiler can build for the target processor.
# NTENSOR_FLAGS_<level>: the compiler flags of each.
# NTENSOR_SIMD_LEVELS names others, `all` for these; among them may be `emulated`, which is for tests:
# the plans of AVX-512 in plain instructions.
include(CheckCXXSourceCompiles)

set(NTENSOR_LEVELS portable)
set(NTENSOR_FLAGS_portable "")
set(NTENSOR_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(NTENSOR_FLAGS_avx512
  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512
  -Wno-maybe-uninitialized -Wno-uninitialized)  # GCC 12 says so of its own intrinsics
set(NTENSOR_FLAGS_avx512bf16 ${NTENSOR_FLAGS_avx512} -mavx512bf16)

set(probe_avx2 "__m256 f(__m256 a, __m128i b) { return _mm256_fmadd_ps(a, a, _mm256_cvtph_ps(b)); }")
set(probe_avx512 "__m512 f(__m512 a) { return _mm512_fmadd_ps(a, a, _mm512_and_ps(a, a)); }")
set(probe_avx512bf16 "__m512 f(__m512 a, __m512bh b) { return _mm512_dpbf16_ps(a, b, b); }")

check_cxx_source_compiles("
#ifndef __x86_64__
#error another processor
#endif
int main() { return 0; }" NTENSOR_TARGET_IS_X86_64)

# Each level is compiled to assembler and object code, so an old assembler is noticed too.
if(NTENSOR_TARGET_IS_X86_64)
  foreach(level avx2 avx512 avx512bf16)
    list(JOIN NTENSOR_FLAGS_${level} " " CMAKE_REQUIRED_FLAGS)
    check_cxx_source_compiles("
#include <immintrin.h>
${probe_${level}}
int main() { return 0; }" NTENSOR_COMPILES_${level})
    if(NTENSOR_COMPILES_${level})
      list(APPEND NTENSOR_LEVELS ${level})
    endif()
  endforeach()
  unset(CMAKE_REQUIRED_FLAGS)
endif()
set(NTENSOR_FLAGS_emulated -DNTENSOR_EMULATED)
if(NTENSOR_SIMD_LEVELS)
  set(wanted ${NTENSOR_SIMD_LEVELS})
  list(TRANSFORM wanted REPLACE "^all$" "${NTENSOR_LEVELS}")
  foreach(level IN LISTS wanted)
    if(NOT level IN_LIST NTENSOR_LEVELS AND NOT level STREQUAL "emulated")
      message(FATAL_ERROR "NTENSOR_SIMD_LEVELS must be of ${NTENSOR_LEVELS};emulated, and has '${level}'.")
    endif()
  endforeach()
  set(NTENSOR_LEVELS ${wanted})
endif()
message(STATUS "SIMD levels: ${NTENSOR_LEVELS}")
