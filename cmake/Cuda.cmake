# cuda/: compiled for Hopper and both Blackwells where nvcc is, else an empty stand-in.
option(FP4SCOPE_CUDA "Build the GPU kernels where nvcc is" ON)
set(fp4scope_cuda_sources cuda/none.cpp)
if(FP4SCOPE_CUDA AND NOT CMAKE_CUDA_COMPILER)
  find_program(FP4SCOPE_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(FP4SCOPE_NVCC)
    set(CMAKE_CUDA_COMPILER ${FP4SCOPE_NVCC})
  endif()
endif()
if(FP4SCOPE_CUDA AND CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a-real 100a-real 120a-real)
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 doesn't know nvcc's
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(fp4scope_cuda_sources cuda/device.cu cuda/elements.cu cuda/encode_values.cu cuda/extremes.cu cuda/hadamard.cu
      cuda/hessian.cpp cuda/hessian.cu cuda/hessian_decide.cu cuda/hessian_filter.cu cuda/probes.cu cuda/quantize.cu
      cuda/quantize_four_over_six.cu cuda/quantize_plain.cu cuda/quantize_power.cu cuda/quantize_recipe.cu
      cuda/quantize_recipe_plain.cu cuda/quantize_rule.cu cuda/quantize_sse.cu cuda/sums.cu cuda/tensor_cores.cu)
endif()
