// The device's approximate instructions, each by itself: what sim/approximate.hpp is held to.
#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

namespace {

template <Instruction instruction>
__device__ float result_of(float a, [[maybe_unused]] float b) {
  float y = 0;
  if constexpr (instruction == Instruction::reciprocal) asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
  if constexpr (instruction == Instruction::log2) asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
  if constexpr (instruction == Instruction::divide_full) asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  if constexpr (instruction == Instruction::divide_approximate) {
    asm("div.approx.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  }
  return y;
}

template <Instruction instruction>
__global__ void probe_kernel(const float* a, const float* b, std::int64_t n, float* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = result_of<instruction>(a[i], b ? b[i] : 0);
}

template <Instruction instruction>
void launch(Stream& stream, const float* a, const float* b, std::int64_t n, float* out) {
  select(stream.device());
  probe_kernel<instruction><<<grid_of(n, 256), 256, 0, handle(stream)>>>(a, b, n, out);
  check_launch("probe");
}

}  // namespace

void probe(Stream& stream, Instruction instruction, const float* a, const float* b, std::int64_t n, float* out) {
  if (n == 0) return;
  switch (instruction) {
    case Instruction::reciprocal: return launch<Instruction::reciprocal>(stream, a, b, n, out);
    case Instruction::log2: return launch<Instruction::log2>(stream, a, b, n, out);
    case Instruction::divide_full: return launch<Instruction::divide_full>(stream, a, b, n, out);
    case Instruction::divide_approximate: return launch<Instruction::divide_approximate>(stream, a, b, n, out);
  }
}

}  // namespace fp4scope::cuda
