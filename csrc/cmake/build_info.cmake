# Writes build_info.h, which defines NTENSOR_BUILD_INFO: what was built, how and why, as a JSON string.
function(json_quote variable text)
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  set(${variable} "\"${text}\"" PARENT_SCOPE)
endfunction()

set(levels "")
foreach(level IN LISTS NTENSOR_LEVELS)
  json_quote(quoted "${level}")
  list(APPEND levels "${quoted}")
endforeach()
list(JOIN levels ", " levels)

set(build_info "{}")
foreach(entry
    "version|${NTENSOR_VERSION}"
    "compiler|${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}"
    "processor|${CMAKE_SYSTEM_PROCESSOR}"
    "build_type|${CMAKE_BUILD_TYPE}"
    "sanitize|${NTENSOR_SANITIZE}"
    "openmp_reason|${openmp_reason}"
    "cuda_reason|${cuda_reason}")
  string(FIND "${entry}" "|" bar)
  string(SUBSTRING "${entry}" 0 ${bar} key)
  math(EXPR bar "${bar} + 1")
  string(SUBSTRING "${entry}" ${bar} -1 value)
  json_quote(value "${value}")
  string(JSON build_info SET "${build_info}" "${key}" "${value}")
endforeach()
string(JSON build_info SET "${build_info}" levels "[${levels}]")
string(JSON build_info SET "${build_info}" openmp "${openmp_used}")
string(JSON build_info SET "${build_info}" cuda "${cuda_built}")

# The macro is one line of C, so the JSON loses its line breaks and is escaped once more.
string(REGEX REPLACE "\n *" " " build_info "${build_info}")
json_quote(NTENSOR_BUILD_INFO "${build_info}")
file(CONFIGURE OUTPUT build_info.h @ONLY
  CONTENT "#pragma once\n#define NTENSOR_BUILD_INFO @NTENSOR_BUILD_INFO@\n")
