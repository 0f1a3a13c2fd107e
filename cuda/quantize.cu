// Which kernel serves a task: the first that can, in the end the plain one.
#include "cuda/fast.hpp"
#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

using Kernel = bool (*)(Stream&, const search::SearchTask&, const Matrix&, std::uint8_t*, std::uint8_t*, const float*);
constexpr Kernel fast_kernels[] = {quantize_rule};

__global__ void tensor_scale_kernel(const Extremes* extremes, double element_max, double scale_max, float* out) {
  *out = sim::tensor_scale(__uint_as_float(extremes->finite_amax), element_max, scale_max);
}

}  // namespace

void quantize(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
              std::uint8_t* packed, const float* tensor_scale) {
  for (const Kernel kernel : fast_kernels) {
    if (kernel(stream, task, matrix, scales, packed, tensor_scale)) return;
  }
  quantize_plain(stream, task, matrix, scales, packed, tensor_scale);
}

void find_tensor_scale(Stream& stream, const Extremes* extremes, double element_max, double scale_max, float* out) {
  select(stream.device());
  tensor_scale_kernel<<<1, 1, 0, handle(stream)>>>(extremes, element_max, scale_max, out);
  check_launch("find_tensor_scale");
}

}  // namespace fp4scope::cuda
