// What the kernels of the Hessian search share: the filter of a block of columns as a tensor core takes it, the lists
// of blocks that a stage leaves to the next, and codes at a scale that has been found.
//
// Stages: a filter on the tensor cores (hessian.cu) decides nearly all blocks; those with a few candidates left have
// these compared in binary64 and in pairs of doubles (hessian_decide.cu); blocks that the filter doesn't take go
// through all codes in the same way; what pairs of doubles can't tell apart is decided by search::hessian_code on the
// host.
#pragma once

#include "cuda/hessian.hpp"
#include "cuda/runtime.cuh"
#include "formats/pack.hpp"
#include "search/hessian_wide.hpp"
#include "sim/block.hpp"

namespace fp4scope::cuda {

/// A block and the codes that are left of it.
struct Listed {
  std::uint32_t block;
  std::uint8_t number;
  std::uint8_t code[7];
};
inline constexpr int most_listed = 7;
inline constexpr int room_of_filter = 128 << 10;  ///< bytes: its table and what goes with it

/// How many blocks each list has, in device memory.
struct ListCounts {
  unsigned long long few, all, host;
  unsigned long long candidates, wide;
};

/// What every kernel needs of a task. `few`, `all`: lists; `host`: blocks left to the host.
struct HessianTask {
  formats::Format element;
  Type type;
  const void* x;
  std::int64_t rows, cols, per_row;
  int n;
  const double* h;
  const double* envelope;
  const search::SearchSpace* space;
  std::uint8_t* scales;
  std::uint8_t* packed;
  Listed* few;
  std::uint32_t* all;
  std::uint32_t* host;
  ListCounts* counts;
  void* filter_room;

  __device__ search::BlockHessian hessian(std::int64_t b) const {
    const std::int64_t column = b % per_row;
    return {h + column * n * n, envelope + column * n};
  }
  /// Element i of a block; columns beyond the matrix are zeros.
  __device__ float value(std::int64_t b, int i) const {
    const std::int64_t row = b / per_row, col = b % per_row * n + i;
    if (i >= n || col >= cols) return 0;
    const std::int64_t at = row * cols + col;
    switch (type) {
      case Type::f32: return widened(static_cast<const float*>(x), at);
      case Type::bf16: return widened(static_cast<const __nv_bfloat16*>(x), at);
      default: return widened(static_cast<const __half*>(x), at);
    }
  }
};

/// A warp writes the scale of a block and its codes, n even. x: the block's values, read by all lanes.
__device__ inline void write_block(const HessianTask& task, std::int64_t b, const float* x, int code, int lane) {
  const search::SearchSpace& space = *task.space;
  if (lane == 0) task.scales[b] = static_cast<std::uint8_t>(code);
  const double step = space.tensor_scale * formats::decode_double(space.scale, static_cast<std::uint32_t>(code));
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  const auto code_of = [&](float v) -> std::uint32_t {
    const int index = step > 0 ? sim::nearest_index(thresholds, space.magnitude(v)) : 0;
    return sim::signed_code(task.element, index, sim::is_negative(v));
  };
  std::uint8_t* const out = task.packed + b * (task.n / 2);
  for (int i = 2 * lane; i < task.n; i += 64) out[i / 2] = formats::pack_nibbles(code_of(x[i]), code_of(x[i + 1]));
}

/// Decides the blocks of `few`, listing in `all` what intervals can't tell; and the blocks listed in `all` (null: every
/// block) going through every code.
void decide_few(Stream& stream, const HessianTask& task);
void decide_all(Stream& stream, const HessianTask& task, const std::uint32_t* all, std::int64_t blocks);

/// Whether the tensor cores' filter takes a task, and the filter itself. Writes what it decides, lists the rest.
bool has_filter_kernel(const search::SearchTask& task);
void filter_hessian(Stream& stream, const search::SearchTask& task, const DeviceHessians::Parts& parts,
                    const HessianTask& device);

}  // namespace fp4scope::cuda
