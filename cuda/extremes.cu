// The extremes of a tensor: one pass at the speed of memory. Maxima, counts and the lowest index don't depend on order.
// Each block of threads writes its own, and a second, small kernel puts them together.
#include "cuda/fast.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256, finish_threads = 1024;
constexpr std::uint32_t infinity = 0x7F800000u;

__device__ Extremes nothing() { return {0, 0, 0, 0, 0, ~0ull}; }

__device__ void see(Extremes& e, float x, std::int64_t i) {
  const std::uint32_t bits = __float_as_uint(x) & 0x7FFFFFFFu;
  if (bits < infinity) {
    e.finite_amax = max(e.finite_amax, bits);
    return;
  }
  if (bits > infinity) e.has_nan = 1;
  else e.amax = infinity;
  ++e.nonfinite;
  if (static_cast<std::uint64_t>(i) < e.first_nonfinite) e.first_nonfinite = static_cast<std::uint64_t>(i);
}

/// Adds every thread's to *all, in shared memory nothing() at first. amax holds Inf alone.
__device__ void put_together(const Extremes& e, Extremes* all) {
  const std::uint32_t finite = __reduce_max_sync(~0u, e.finite_amax);
  if (threadIdx.x % 32 == 0) atomicMax(&all->finite_amax, finite);
  if (e.nonfinite != 0) {  // seldom
    atomicMax(&all->amax, e.amax);
    atomicOr(&all->has_nan, e.has_nan);
    atomicAdd(reinterpret_cast<unsigned long long*>(&all->nonfinite), e.nonfinite);
    atomicMin(reinterpret_cast<unsigned long long*>(&all->first_nonfinite), e.first_nonfinite);
  }
  __syncthreads();
}

/// Sixteen bytes at a time from the first aligned element on; `head` and the rest one by one. Sixteen bytes without a
/// NaN or an Inf, nearly all, take a few instructions.
template <class T>
__global__ void extremes_kernel(const T* x, std::int64_t n, std::int64_t head, Extremes* out) {
  constexpr int pack = 16 / sizeof(T);
  __shared__ Extremes all;
  if (threadIdx.x == 0) all = nothing();
  __syncthreads();
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  Extremes e = nothing();
  const std::int64_t packs = (n - head) / pack;
#pragma unroll 4
  for (std::int64_t p = first; p < packs; p += stride) {
    const Elements<T, pack> words = load_elements<T, pack>(x + head + p * pack);
    const std::uint32_t amax = amax_bits(words);
    if (amax < infinity) {
      e.finite_amax = max(e.finite_amax, amax);
      continue;
    }
    for (int k = 0; k < pack; ++k) see(e, widened(x, head + p * pack + k), head + p * pack + k);
  }
  for (std::int64_t i = first; i < head; i += stride) see(e, widened(x, i), i);
  for (std::int64_t i = head + packs * pack + first; i < n; i += stride) see(e, widened(x, i), i);
  put_together(e, &all);
  if (threadIdx.x == 0) out[blockIdx.x] = all;
}

/// One block. The tensor scale is left alone where there is no place for it.
__global__ void finish_kernel(const Extremes* parts, int count, Extremes* out, double element_max, double scale_max,
                              float* tensor_scale) {
  __shared__ Extremes all;
  if (threadIdx.x == 0) all = nothing();
  __syncthreads();
  cudaGridDependencySynchronize();
  Extremes e = nothing();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += finish_threads) {
    const Extremes part = parts[i];
    e.finite_amax = max(e.finite_amax, part.finite_amax);
    e.amax = max(e.amax, part.amax);
    e.has_nan |= part.has_nan;
    e.nonfinite += part.nonfinite;
    e.first_nonfinite = min(e.first_nonfinite, part.first_nonfinite);
  }
  put_together(e, &all);
  if (threadIdx.x != 0) return;
  all.amax = max(all.amax, all.finite_amax);
  *out = all;
  if (tensor_scale) *tensor_scale = sim::tensor_scale(__uint_as_float(all.finite_amax), element_max, scale_max);
}

}  // namespace

void find_tensor_scale(Stream& stream, Type type, const void* x, std::int64_t n, double element_max, double scale_max,
                       Extremes* out, float* tensor_scale) {
  select(stream.device());
  const int most = devices()[static_cast<std::size_t>(stream.device())].processors * 8;
  const unsigned grid = std::max(1u, std::min<unsigned>(grid_of(n, threads * 16), static_cast<unsigned>(most)));
  const Scratch parts(stream, static_cast<std::int64_t>(grid * sizeof(Extremes)));
  with_type(type, x, [&](const auto* values) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
    const auto address = reinterpret_cast<std::uintptr_t>(values);
    const std::int64_t head =
        std::min<std::int64_t>(n, static_cast<std::int64_t>((16 - address % 16) % 16 / sizeof(T)));
    extremes_kernel<<<grid, threads, 0, handle(stream)>>>(values, n, head, parts.as<Extremes>());
  });
  check_launch("find_extremes");
  launch_early(stream, finish_kernel, 1, finish_threads, parts.as<Extremes>(), static_cast<int>(grid), out, element_max,
               scale_max, tensor_scale);
}

void find_extremes(Stream& stream, Type type, const void* x, std::int64_t n, Extremes* out) {
  find_tensor_scale(stream, type, x, n, 1, 1, out, nullptr);
}

}  // namespace fp4scope::cuda
