# The target ntensor_threads: OpenMP where it shares torch's runtime, else std::thread.
# torch on Linux loads GCC's libgomp.so.1. Another compiler's runtime would be a second pool of threads
# in the same process, so only GCC on Linux uses OpenMP unless NTENSOR_OPENMP=on insists.
add_library(ntensor_threads INTERFACE)
set(openmp_used false)

if(NTENSOR_OPENMP STREQUAL "off")
  set(openmp_reason "switched off by NTENSOR_OPENMP=off")
elseif(NTENSOR_OPENMP STREQUAL "auto"
       AND NOT (CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU"))
  set(openmp_reason "only GCC on Linux shares the OpenMP runtime of torch")
else()
  find_package(OpenMP COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    set(openmp_used true)
    set(openmp_reason "")
    target_link_libraries(ntensor_threads INTERFACE OpenMP::OpenMP_CXX)
    target_compile_definitions(ntensor_threads INTERFACE NTENSOR_OPENMP)
  elseif(NTENSOR_OPENMP STREQUAL "on")
    message(FATAL_ERROR "NTENSOR_OPENMP=on, but this compiler has no OpenMP.")
  else()
    set(openmp_reason "the compiler has no OpenMP")
  endif()
endif()

if(NOT openmp_used)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads REQUIRED)
  target_link_libraries(ntensor_threads INTERFACE Threads::Threads)
endif()
message(STATUS "OpenMP: ${openmp_used} ${openmp_reason}")
