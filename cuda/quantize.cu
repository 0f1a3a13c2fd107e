// Which kernel serves a task: the first that can, in the end the plain one.
#include "cuda/fast.hpp"
#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

using Kernel = bool (*)(Stream&, const search::SearchTask&, const Matrix&, std::uint8_t*, std::uint8_t*, const float*);
constexpr Kernel fast_kernels[] = {quantize_rule, quantize_four_over_six, quantize_power, quantize_sse};

}  // namespace

void quantize(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
              std::uint8_t* packed, const float* tensor_scale) {
  for (const Kernel kernel : fast_kernels) {
    if (kernel(stream, task, matrix, scales, packed, tensor_scale)) return;
  }
  quantize_plain(stream, task, matrix, scales, packed, tensor_scale);
}

}  // namespace fp4scope::cuda
