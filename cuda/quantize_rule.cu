// Rules (amax -> scale -> nearest elements) at the speed of memory. A thread takes 32 bytes: a block of 16 elements of
// 16 bits, or a part of a larger one, whose other parts are its neighbours'. The thresholds of every scale code wait in
// shared memory, so that blocks of threads stay and take shares in turn; the next share is on its way while one is
// worked on.
//
// Reckoning for bfloat16 on an H200: 18 instructions an element can be issued in the time that memory takes, half of
// them on integers. A pair of elements takes 3 comparisons, 7 bitwise operations and 1 or 2 of packing, a block
// some 45.
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
  int shares;
};

template <class T, ScaleKind kind, int block, bool integers>
__global__ void __launch_bounds__(threads, 5)
    rule_kernel(const __grid_constant__ RuleTask task, const T* x, std::uint8_t* scales, std::uint8_t* packed) {
  constexpr int codes = nan_code(kind) + 1, lanes = block / share<T>;
  __shared__ Table<codes> table;
  cudaGridDependencySynchronize();
  Shares<T, threads> shares(x, task.shares);
  const float tensor_scale = task.on_device ? *task.on_device : task.tensor_scale;
  const double factor = rule_factor(task.rule, tensor_scale);
  fill_thresholds<T>(task.format, tensor_scale, table);
  __syncthreads();
#pragma unroll 1
  while (shares.more()) {
    const Share<T> now = shares.take();
    const int code = scale_code_of<kind>(largest_of<lanes>(amax_bits(now)), factor, task.rule.least);
    if (shares.at >= task.shares) continue;
    store_codes<T, integers>(table[code], now, packed, shares.at);
    if (shares.at % lanes == 0) scales[shares.at / lanes] = static_cast<std::uint8_t>(code);
  }
}

template <class T, ScaleKind kind>
void launch(Stream& stream, const search::SearchTask& task, RuleTask rule, const T* x, std::int64_t elements,
            std::uint8_t* scales, std::uint8_t* packed) {
  const bool integers = task.format->element.twos_complement;
  const auto kernel = task.block == 16 ? integers ? rule_kernel<T, kind, 16, true> : rule_kernel<T, kind, 16, false>
                      : integers ? rule_kernel<T, kind, 32, true>
                                       : rule_kernel<T, kind, 32, false>;
  rule.shares = static_cast<int>(elements / share<T>);
  const unsigned grid = filling_grid(stream, kernel, threads, rule.shares, threads);
  launch_early(stream, kernel, grid, threads, rule, x, scales, packed);
}

}  // namespace

bool quantize_rule(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                   std::uint8_t* packed, const float* tensor_scale) {
  if (task.method->kind != search::MethodKind::rule || !takes_sixteens(task, matrix, packed)) return false;
  const ScaleKind kind = scale_kind(task.format->scale, task.method->rule.rounding);
  if (kind == ScaleKind::other) return false;
  const RuleTask rule = {fast_format(*task.format),
                         task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule, task.tensor_scale,
                         tensor_scale, 0};
  const std::int64_t elements = matrix.rows * matrix.cols;
  if (elements == 0) return true;
  select(stream.device());
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
    const auto by = [&](auto of) { launch<T, of.value>(stream, task, rule, x, elements, scales, packed); };
    switch (kind) {
      case ScaleKind::e4m3_nearest: return by(std::integral_constant<ScaleKind, ScaleKind::e4m3_nearest>());
      case ScaleKind::ue8m0_down: return by(std::integral_constant<ScaleKind, ScaleKind::ue8m0_down>());
      default: return by(std::integral_constant<ScaleKind, ScaleKind::ue8m0_up>());
    }
  });
  return true;
}

}  // namespace fp4scope::cuda
