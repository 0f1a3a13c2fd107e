// How kernels that walk an array in strides are launched, and how they find their way in it.
#pragma once

#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

inline bool aligned(const void* p, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

/// Thread blocks for n items, `a_block` each: at least one, and no more than the device runs at once.
template <class... Arguments>
unsigned filling_grid(const Stream& stream, void (*kernel)(Arguments...), int threads, std::int64_t n, int a_block) {
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, 0), "occupancy");
  const int most = devices()[static_cast<std::size_t>(stream.device())].processors * resident;
  return std::max(1u, std::min(grid_of(n, a_block), static_cast<unsigned>(most)));
}

/// Kernels that are launched so may be set up while the one before them in the stream ends, and call
/// cudaGridDependencySynchronize() before they touch memory.
template <class... Parameters, class... Arguments>
void launch_early(Stream& stream, void (*kernel)(Parameters...), unsigned grid, int threads, Arguments... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = handle(stream);
  config.attrs = &early;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch");
}

/// i / n, both not negative; in 32 bits, a fifth of the time, where they fit.
__device__ inline std::int64_t quotient(std::int64_t i, std::int64_t n) {
  if ((i | n) >> 32 == 0) return static_cast<std::uint32_t>(i) / static_cast<std::uint32_t>(n);
  return i / n;
}

}  // namespace fp4scope::cuda
