// Rules (amax -> scale -> nearest elements) at the speed of memory. A thread takes sixteen elements: a block of 16, or
// half a block of 32, whose other half is its neighbour's. Its codes are 8 bytes and a warp's scales 32 (or 16) that lie
// side by side. The thresholds of every scale code wait in shared memory, so that blocks of threads stay and take
// sixteens in turn; the next sixteen is on its way while one is worked on.
//
// Reckoning for bfloat16 on an H200: 18 instructions an element can be issued in the time that memory takes, half of
// them on integers. A pair of elements takes 3 comparisons, 7 bitwise operations and 1 or 2 of packing, a block some 45.
#include "cuda/fast.cuh"
#include "cuda/fast.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;

struct RuleTask {
  FastFormat format;
  sim::ScaleRule rule;
  float tensor_scale;
  const float* on_device;  ///< the tensor scale, unless null
  int sixteens;
};

template <class T, ScaleKind kind, int per_block, bool integers>
__global__ void __launch_bounds__(threads) rule_kernel(RuleTask task, const T* x, std::uint8_t* scales, uint2* packed) {
  constexpr int codes = nan_code(kind) + 1;
  __shared__ Thresholds7 table[codes];
  const int last = task.sixteens - 1, stride = static_cast<int>(gridDim.x) * threads;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  const auto load = [&](int at) { return load_sixteen(x + static_cast<std::int64_t>(min(at, last)) * 16); };
  Sixteen<T> next = load(i);
  const float tensor_scale = task.on_device ? *task.on_device : task.tensor_scale;
  const double factor = rule_factor(task.rule, tensor_scale);
  fill_thresholds<T>(task.format, tensor_scale, codes, table);
  __syncthreads();
#pragma unroll 2
  for (; i - lane <= last; i += stride) {
    const Sixteen<T> now = next;
    if (i - lane + stride <= last) next = load(i + stride);
    std::uint32_t amax = amax_bits(now);
    if constexpr (per_block == 2) amax = max(amax, __shfl_xor_sync(~0u, amax, 1));
    const int code = scale_code_of<kind>(amax, factor, task.rule.least);
    if (i > last) continue;
    packed[i] = encode_sixteen<T, integers>(table[code], now);
    if (per_block == 1 || lane % 2 == 0) scales[i / per_block] = static_cast<std::uint8_t>(code);
  }
}

template <class T, ScaleKind kind>
void launch(Stream& stream, const search::SearchTask& task, const RuleTask& rule, const T* x, std::uint8_t* scales,
            std::uint8_t* packed) {
  const bool integers = task.format->element.twos_complement;
  const auto kernel = task.block == 16 ? integers ? rule_kernel<T, kind, 1, true> : rule_kernel<T, kind, 1, false>
                      : integers       ? rule_kernel<T, kind, 2, true>
                                       : rule_kernel<T, kind, 2, false>;
  const unsigned grid = std::min(grid_of(rule.sixteens, threads), resident_blocks(stream, kernel, threads));
  kernel<<<grid, threads, 0, handle(stream)>>>(rule, x, scales, reinterpret_cast<uint2*>(packed));
}

}  // namespace

bool quantize_rule(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                   std::uint8_t* packed, const float* tensor_scale) {
  if (task.method->kind != search::MethodKind::rule || !takes_sixteens(task, matrix, packed)) return false;
  const ScaleKind kind = scale_kind(task.format->scale, task.method->rule.rounding);
  if (kind == ScaleKind::other) return false;
  const RuleTask rule = {fast_format(*task.format), task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule,
                         task.tensor_scale, tensor_scale, static_cast<int>(matrix.rows * matrix.cols / 16)};
  if (rule.sixteens == 0) return true;
  select(stream.device());
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
    switch (kind) {
      case ScaleKind::e4m3_nearest:
        return launch<T, ScaleKind::e4m3_nearest>(stream, task, rule, x, scales, packed);
      case ScaleKind::ue8m0_down: return launch<T, ScaleKind::ue8m0_down>(stream, task, rule, x, scales, packed);
      default: return launch<T, ScaleKind::ue8m0_up>(stream, task, rule, x, scales, packed);
    }
  });
  check_launch("quantize by a rule");
  return true;
}

}  // namespace fp4scope::cuda
