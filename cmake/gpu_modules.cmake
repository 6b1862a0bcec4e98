# The GPU modules, loaded at run time from the addon's folder (native/gpu/runtime.h). One list of kernels, compiled twice:
# by nvcc into openmoe_cuda, by the host compiler into the emulator that tests run.
file(GLOB GPU_KERNELS CONFIGURE_DEPENDS native/ops/*.cu native/gpu/pack_weights.cu)
file(GLOB GPU_EMULATOR CONFIGURE_DEPENDS native/gpu/emulator/*.cpp)

foreach(source IN LISTS GPU_KERNELS)
  get_filename_component(name ${source} NAME_WE)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/kernels/emulated/${name}.cpp @ONLY CONTENT "#include \"@source@\"\n")
  list(APPEND GPU_EMULATOR ${CMAKE_BINARY_DIR}/kernels/emulated/${name}.cpp)
endforeach()
add_library(gpu_emulated STATIC EXCLUDE_FROM_ALL ${GPU_EMULATOR})
target_include_directories(gpu_emulated PUBLIC native)
add_library(openmoe_cuda_emulator MODULE EXCLUDE_FROM_ALL native/gpu/emulator_runtime.cpp)
target_link_libraries(openmoe_cuda_emulator PRIVATE gpu_emulated)
set_target_properties(openmoe_cuda_emulator PROPERTIES PREFIX "" SUFFIX ".so")

# Programs for a machine with a GPU, which `npm run gpu:check` builds and runs; here for the emulator, to prove them right.
set(GPU_PROGRAMS tests/native/gpu_conformance_test.cpp bench/gpu/moe_bench.cpp)
foreach(source IN LISTS GPU_PROGRAMS ITEMS tests/native/gpu_launches.cpp)
  get_filename_component(name ${source} NAME_WE)
  string(REPLACE "_test" "" name ${name})
  if(EXISTS ${CMAKE_SOURCE_DIR}/${source}) # not in the published package
    add_executable(${name}_emulated EXCLUDE_FROM_ALL ${source})
    target_link_libraries(${name}_emulated PRIVATE gpu_emulated Threads::Threads)
  endif()
endforeach()

set(OPENMOE_CUDA auto CACHE STRING "the CUDA module: auto (when nvcc is found), on or off")
if(OPENMOE_CUDA STREQUAL "off")
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  if(OPENMOE_CUDA STREQUAL "on")
    message(FATAL_ERROR "OPENMOE_CUDA=on, but no nvcc 12.8 or newer was found. Put it on PATH, or set CUDACXX.")
  endif()
  message(STATUS "no nvcc 12.8 or newer was found: the package is built without its CUDA module")
  return()
endif()

if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # older CMakes do not know that newer nvccs have it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
# A fused multiply-add is written fma() where it is wanted, on the GPU as on the CPU.
set(GPU_OPTIONS "$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;--expt-relaxed-constexpr>")
if(UNIX) # what ptxas says of every kernel, for npm run cuda:gate
  list(APPEND GPU_OPTIONS "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v>")
  set(CMAKE_CUDA_COMPILER_LAUNCHER sh ${CMAKE_SOURCE_DIR}/cmake/keep_output.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})
endif()
add_library(gpu_kernels OBJECT ${GPU_KERNELS})
add_library(openmoe_cuda MODULE native/gpu/cuda_runtime.cu $<TARGET_OBJECTS:gpu_kernels>)
set_target_properties(openmoe_cuda PROPERTIES PREFIX "" SUFFIX ".so")

foreach(source IN LISTS GPU_PROGRAMS)
  get_filename_component(name ${source} NAME_WE)
  string(REPLACE "_test" "" name ${name})
  if(EXISTS ${CMAKE_SOURCE_DIR}/${source}) # nvcc wants another file name
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/kernels/cuda/${name}.cu CONTENT "#include \"${CMAKE_SOURCE_DIR}/${source}\"\n")
    add_executable(${name} EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/kernels/cuda/${name}.cu $<TARGET_OBJECTS:gpu_kernels>)
    list(APPEND CUDA_TARGETS ${name})
  endif()
endforeach()
foreach(target gpu_kernels openmoe_cuda ${CUDA_TARGETS})
  # sm_80 and Hopper's sm_90a as machine code, and PTX of sm_80 for every other device from there on.
  target_include_directories(${target} PRIVATE native)
  target_compile_options(${target} PRIVATE ${GPU_OPTIONS})
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
                        CUDA_ARCHITECTURES "80-real;90a-real;80-virtual")
endforeach()
