// Scales and codes by the plain functions of search/ and sim/, one thread a block.
#include "cuda/blocks.cuh"
#include "formats/pack.hpp"
#include "search/if4.hpp"
#include "search/window.hpp"
#include "sim/block.hpp"

namespace fp4scope::cuda {

namespace {

using search::MethodKind;

/// What a block's thread needs of the task, without pointers into the host.
struct PlainTask {
  formats::BlockFormat format;
  MethodKind kind;
  sim::ScaleRule rule;  ///< with `unbiased` in it
  search::Select select;
  bool unbiased;
};

__global__ void space_kernel(formats::BlockFormat format, sim::ScaleRule start, float tensor_scale,
                             const float* on_device, search::SelectingSpace* out) {
  *out = search::make_selecting_space(format, on_device ? *on_device : tensor_scale, start);
}

/// As search.cpp's block_code.
__device__ int block_code(const PlainTask& task, const search::SelectingSpace& spaces, const search::Block& block) {
  const search::SearchSpace& space = spaces.floating;
  if (!(block.amax < __int_as_float(0x7F800000))) return static_cast<int>(space.scale.nan_code());
  const auto t = static_cast<float>(space.tensor_scale);
  switch (task.kind) {
    case MethodKind::four_over_six: return four_over_six(space, block, task.select, nullptr, task.unbiased).code;
    case MethodKind::select_element: {
      return select_element(spaces, block, task.select, sim::scale_code(space.scale, task.rule, block.amax, t));
    }
    case MethodKind::sse: return task.format.selects() ? selecting_sse_code(spaces, block) : sse_code(space, block);
    case MethodKind::exhaustive:
      return task.format.selects() ? selecting_sse_code_ref(spaces, block) : sse_code_ref(space, block);
    case MethodKind::window: return scalesweep_code(space, block);
    default: return sim::scale_code(space.scale, task.rule, block.amax, t);
  }
}

/// The codes of a block's elements, nearest at its scale, packed in pairs along the row.
__device__ void write_codes(const PlainTask& task, const search::SelectingSpace& spaces, const Blocks& blocks,
                            std::int64_t b, const float* x, int code, std::uint8_t* packed) {
  const bool integer = task.format.selects() && (code & formats::selection_bit) != 0;
  const search::SearchSpace& space = integer ? spaces.integer : spaces.floating;
  constexpr formats::Format int4 = formats::int4;
  const formats::Format element = integer ? int4 : task.format.element;
  const int scale = task.format.selects() ? code & ~formats::selection_bit : code;
  const double step = space.tensor_scale * formats::decode_double(space.scale, static_cast<std::uint32_t>(scale));
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  const auto code_of = [&](float v) -> std::uint32_t {
    const int index = step > 0 ? sim::nearest_index(thresholds, space.magnitude(v)) : 0;
    return sim::signed_code(element, index, sim::is_negative(v));
  };
  for (int row = 0; row < blocks.rows_of(b); ++row) {
    std::uint8_t* const out = packed + ((blocks.row_of(b) + row) * blocks.padded_cols() + blocks.col_of(b)) / 2;
    const float* const in = x + row * blocks.block;
    for (int i = 0; i < blocks.block; i += 2) out[i / 2] = formats::pack_nibbles(code_of(in[i]), code_of(in[i + 1]));
  }
}

__global__ void quantize_kernel(PlainTask task, const search::SelectingSpace* spaces, Blocks blocks, std::int64_t first,
                                std::int64_t count, const float* x, std::uint8_t* scales, std::uint8_t* packed) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const std::int64_t b = first + i;
  const float* const values = x + i * blocks.full_size();
  const int n = blocks.rows_of(b) * blocks.block;
  const search::Block block = {values, n, sim::amax(values, n)};
  const int code = block_code(task, *spaces, block);
  for (int row = 0; row < blocks.rows_of(b); ++row) {
    scales[(blocks.row_of(b) + row) * blocks.per_row() + blocks.col_of(b) / blocks.block] =
        static_cast<std::uint8_t>(code);
  }
  write_codes(task, *spaces, blocks, b, values, code, packed);
}

}  // namespace

bool serves(const search::SearchTask& task) {
  switch (task.method->kind) {
    case MethodKind::rule:
    case MethodKind::four_over_six:
    case MethodKind::sse:
    case MethodKind::exhaustive:
    case MethodKind::window:
    case MethodKind::select_element: return task.format->element.bits <= 4;
    default: return false;
  }
}

void quantize_plain(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                    std::uint8_t* packed, const float* tensor_scale) {
  select(stream.device());
  const sim::ScaleRule rule = task.unbiased ? sim::unbiased(task.method->rule) : task.method->rule;
  const PlainTask plain = {*task.format, task.method->kind, rule, task.select, task.unbiased};
  const Blocks blocks = {matrix.rows, matrix.cols, task.block, task.tile_rows};
  const Scratch spaces(stream, sizeof(search::SelectingSpace));
  space_kernel<<<1, 1, 0, handle(stream)>>>(*task.format, task.method->rule, task.tensor_scale, tensor_scale,
                                            spaces.as<search::SelectingSpace>());
  check_launch("space");
  for_each_gathered(stream, blocks, matrix, [&](std::int64_t first, std::int64_t count, const float* x) {
    quantize_kernel<<<grid_of(count, 128), 128, 0, handle(stream)>>>(plain, spaces.as<search::SelectingSpace>(), blocks,
                                                                     first, count, x, scales, packed);
    check_launch("quantize");
  });
}

}  // namespace fp4scope::cuda
