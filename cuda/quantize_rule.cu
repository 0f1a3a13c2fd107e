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
  std::int64_t sixteens;
};

template <class T, ScaleKind kind, int per_block>
__global__ void __launch_bounds__(threads) rule_kernel(RuleTask task, const T* x, std::uint8_t* scales, uint2* packed) {
  constexpr int codes = nan_code(kind) + 1;
  __shared__ Thresholds7 table[codes];
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t last = task.sixteens - 1, stride = 32 * static_cast<std::int64_t>(gridDim.x) * (threads / 32);
  std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * (threads / 32) + threadIdx.x / 32) * 32;
  Sixteen<T> next = load_sixteen(x + min(first + lane, last) * 16);
  const float tensor_scale = task.on_device ? *task.on_device : task.tensor_scale;
  const double factor = rule_factor(task.rule, tensor_scale);
  fill_thresholds<T>(task.format, tensor_scale, codes, table);
  __syncthreads();
  for (; first <= last; first += stride) {
    const Sixteen<T> now = next;
    if (first + stride <= last) next = load_sixteen(x + min(first + stride + lane, last) * 16);
    std::uint32_t amax = amax_bits(now);
    if constexpr (per_block == 2) amax = max(amax, __shfl_xor_sync(~0u, amax, 1));
    const int code = scale_code_of<kind>(amax, factor, task.rule.least);
    const std::int64_t i = first + lane;
    if (i > last) continue;
    packed[i] = encode_sixteen(table[code], now, task.format.twos_complement);
    if (per_block == 1 || lane % 2 == 0) scales[i / per_block] = static_cast<std::uint8_t>(code);
  }
}

template <class T, ScaleKind kind, int per_block>
void launch(Stream& stream, const RuleTask& task, const T* x, std::uint8_t* scales, std::uint8_t* packed) {
  const auto kernel = rule_kernel<T, kind, per_block>;
  const unsigned grid = std::min(grid_of(task.sixteens, threads), resident_blocks(stream, kernel, threads));
  kernel<<<grid, threads, 0, handle(stream)>>>(task, x, scales, reinterpret_cast<uint2*>(packed));
}

template <class T, ScaleKind kind>
void launch(Stream& stream, int block, const RuleTask& task, const T* x, std::uint8_t* scales, std::uint8_t* packed) {
  if (block == 16) return launch<T, kind, 1>(stream, task, x, scales, packed);
  launch<T, kind, 2>(stream, task, x, scales, packed);
}

}  // namespace

bool quantize_rule(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                   std::uint8_t* packed, const float* tensor_scale) {
  if (task.method->kind != search::MethodKind::rule || !takes_sixteens(task, matrix, packed)) return false;
  const ScaleKind kind = scale_kind(task.format->scale, task.method->rule.rounding);
  if (kind == ScaleKind::other) return false;
  const RuleTask rule = {fast_format(*task.format), task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule,
                         task.tensor_scale, tensor_scale, matrix.rows * matrix.cols / 16};
  if (rule.sixteens == 0) return true;
  select(stream.device());
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
    switch (kind) {
      case ScaleKind::e4m3_nearest:
        return launch<T, ScaleKind::e4m3_nearest>(stream, task.block, rule, x, scales, packed);
      case ScaleKind::ue8m0_down: return launch<T, ScaleKind::ue8m0_down>(stream, task.block, rule, x, scales, packed);
      default: return launch<T, ScaleKind::ue8m0_up>(stream, task.block, rule, x, scales, packed);
    }
  });
  check_launch("quantize by a rule");
  return true;
}

}  // namespace fp4scope::cuda
