// The extremes of a tensor: one pass at the speed of memory. Maxima, counts and the lowest index don't depend on order.
#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;
constexpr std::uint32_t infinity = 0x7F800000u;

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

/// The first thread of each warp adds the warp's to *out.
__device__ void add(const Extremes& e, Extremes* out) {
  const std::uint32_t finite = __reduce_max_sync(~0u, e.finite_amax);
  if (threadIdx.x % 32 == 0) atomicMax(&out->finite_amax, finite);
  if (e.nonfinite == 0) return;  // seldom otherwise
  atomicMax(&out->amax, e.amax);
  atomicOr(&out->has_nan, e.has_nan);
  atomicAdd(reinterpret_cast<unsigned long long*>(&out->nonfinite), e.nonfinite);
  atomicMin(reinterpret_cast<unsigned long long*>(&out->first_nonfinite), e.first_nonfinite);
}

/// Sixteen bytes at a time from the first aligned element on; `head` and the rest one by one.
template <class T>
__global__ void extremes_kernel(const T* x, std::int64_t n, std::int64_t head, Extremes* out) {
  constexpr int pack = 16 / sizeof(T);
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
  Extremes e = {0, 0, 0, 0, 0, ~0ull};
  const std::int64_t packs = (n - head) / pack;
  for (std::int64_t p = first; p < packs; p += stride) {
    const uint4 words = __ldcs(reinterpret_cast<const uint4*>(x + head) + p);
    const T* const values = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int k = 0; k < pack; ++k) see(e, widened(values, k), head + p * pack + k);
  }
  for (std::int64_t i = first; i < head; i += stride) see(e, widened(x, i), i);
  for (std::int64_t i = head + packs * pack + first; i < n; i += stride) see(e, widened(x, i), i);
  add(e, out);
}

/// amax holds Inf alone until here.
__global__ void start_kernel(Extremes* out) { *out = {0, 0, 0, 0, 0, ~0ull}; }
__global__ void finish_kernel(Extremes* out) { out->amax = max(out->amax, out->finite_amax); }

}  // namespace

void find_extremes(Stream& stream, Type type, const void* x, std::int64_t n, Extremes* out) {
  select(stream.device());
  start_kernel<<<1, 1, 0, handle(stream)>>>(out);
  with_type(type, x, [&](const auto* values) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(values)>>;
    const auto address = reinterpret_cast<std::uintptr_t>(values);
    const std::int64_t head =
        std::min<std::int64_t>(n, static_cast<std::int64_t>((16 - address % 16) % 16 / sizeof(T)));
    const int most = devices()[static_cast<std::size_t>(stream.device())].processors * 8;
    const unsigned grid = std::max(1u, std::min<unsigned>(grid_of(n, threads * 16), static_cast<unsigned>(most)));
    extremes_kernel<<<grid, threads, 0, handle(stream)>>>(values, n, head, out);
  });
  finish_kernel<<<1, 1, 0, handle(stream)>>>(out);
  check_launch("find_extremes");
}

}  // namespace fp4scope::cuda
