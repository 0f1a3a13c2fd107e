// The extremes of a tensor: one pass at the speed of memory. Maxima, counts and the lowest index don't depend on order.
// Each block of threads adds its own to the answer; the last one that does finishes it.
#include "cuda/fast.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;
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

/// What is wanted beside the extremes, unless `out` is null.
struct TensorScale {
  double element_max, scale_max;
  float* out;
};

__global__ void start_kernel(Extremes* out) {
  cudaGridDependencySynchronize();
  *out = nothing();
}

/// By one thread of each block of threads; out->reserved counts them. The last finds all the others' sums in place.
__device__ void finish(const Extremes& own, Extremes* out, const TensorScale& tensor_scale) {
  atomicMax(&out->finite_amax, own.finite_amax);
  if (own.nonfinite != 0) {
    atomicMax(&out->amax, own.amax);
    atomicOr(&out->has_nan, own.has_nan);
    atomicAdd(reinterpret_cast<unsigned long long*>(&out->nonfinite), own.nonfinite);
    atomicMin(reinterpret_cast<unsigned long long*>(&out->first_nonfinite), own.first_nonfinite);
  }
  __threadfence();
  if (atomicAdd(&out->reserved, 1u) + 1 != gridDim.x) return;
  __threadfence();
  const std::uint32_t finite_amax = atomicMax(&out->finite_amax, 0u);
  atomicMax(&out->amax, finite_amax);
  out->reserved = 0;
  if (tensor_scale.out == nullptr) return;
  *tensor_scale.out = sim::tensor_scale(__uint_as_float(finite_amax), tensor_scale.element_max, tensor_scale.scale_max);
}

/// Sixteen bytes without a NaN or an Inf, nearly all, take a few instructions.
template <class T>
__device__ void see_pack(Extremes& e, const uint4& words, std::int64_t i) {
  constexpr int pack = 16 / sizeof(T);
  const std::uint32_t amax = amax_bits(Elements<T, pack>{{words.x, words.y, words.z, words.w}});
  if (amax < infinity) {
    e.finite_amax = max(e.finite_amax, amax);
    return;
  }
  const T* const values = reinterpret_cast<const T*>(&words);
  for (int k = 0; k < pack; ++k) see(e, widened(values, k), i + k);
}

/// Sixteen bytes at a time from the first aligned element on, four such loads under way; `head` and the rest one by
/// one.
template <class T>
__global__ void extremes_kernel(const T* x, std::int64_t n, std::int64_t head, TensorScale tensor_scale,
                                Extremes* out) {
  constexpr int pack = 16 / sizeof(T), at_once = 4;
  __shared__ Extremes all;
  if (threadIdx.x == 0) all = nothing();
  __syncthreads();
  cudaGridDependencySynchronize();
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads, packs = (n - head) / pack;
  const auto* const words = reinterpret_cast<const uint4*>(x + head);
  Extremes e = nothing();
  std::int64_t p = first;
  for (; p + (at_once - 1) * stride < packs; p += at_once * stride) {
    uint4 w[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) w[k] = __ldcs(words + p + k * stride);
#pragma unroll
    for (int k = 0; k < at_once; ++k) see_pack<T>(e, w[k], head + (p + k * stride) * pack);
  }
  for (; p < packs; p += stride) see_pack<T>(e, __ldcs(words + p), head + p * pack);
  for (std::int64_t i = first; i < head; i += stride) see(e, widened(x, i), i);
  for (std::int64_t i = head + packs * pack + first; i < n; i += stride) see(e, widened(x, i), i);
  put_together(e, &all);
  if (threadIdx.x == 0) finish(all, out, tensor_scale);
}

}  // namespace

void find_tensor_scale(Stream& stream, Type type, const void* x, std::int64_t n, double element_max, double scale_max,
                       Extremes* out, float* tensor_scale) {
  select(stream.device());
  const int most = devices()[static_cast<std::size_t>(stream.device())].processors * 4;
  const unsigned grid = std::max(1u, std::min<unsigned>(grid_of(n, threads * 16), static_cast<unsigned>(most)));
  launch_early(stream, start_kernel, 1, 1, out);
  with_type(type, x, [&](const auto* values) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
    const auto address = reinterpret_cast<std::uintptr_t>(values);
    const std::int64_t head =
        std::min<std::int64_t>(n, static_cast<std::int64_t>((16 - address % 16) % 16 / sizeof(T)));
    launch_early(stream, extremes_kernel<T>, grid, threads, values, n, head,
                 TensorScale{element_max, scale_max, tensor_scale}, out);
  });
}

void find_extremes(Stream& stream, Type type, const void* x, std::int64_t n, Extremes* out) {
  find_tensor_scale(stream, type, x, n, 1, 1, out, nullptr);
}

}  // namespace fp4scope::cuda
