// Recipes by the plain functions of sim/ and search/, one thread a block.
#include "cuda/blocks.cuh"
#include "formats/pack.hpp"

namespace fp4scope::cuda {

namespace {

/// A task without pointers into the host.
struct PlainRecipe {
  sim::Recipe recipe;
  formats::BlockFormat format;
  sim::RecipeTensor tensor;
  search::Select select;
  formats::Rounding rounding;
};

/// Room for all blocks of a go, one after the other: 3 n floats each, then 2 n codes each.
struct PlainRoom {
  float* floats;
  std::uint8_t* bytes;

  __device__ search::RecipeScratch scratch(std::int64_t i, int n) const {
    float* const own = floats + 3 * i * n;
    return {bytes + (2 * i + 1) * n, own, own + n, own + 2 * n};
  }
  __device__ std::uint8_t* codes(std::int64_t i, int n) const { return bytes + 2 * i * n; }
};

constexpr std::int64_t room_bytes = 3 * 4 + 2;  ///< an element

/// A block's codes [rows, block], put where they belong in the matrix's.
__device__ void write_codes(const formats::Format& element, const Blocks& blocks, std::int64_t b,
                            const std::uint8_t* from, std::uint8_t* codes) {
  for (int row = 0; row < blocks.rows_of(b); ++row, from += blocks.block) {
    const std::int64_t at = (blocks.row_of(b) + row) * blocks.padded_cols() + blocks.col_of(b);
    for (int i = 0; i < blocks.block && element.bits > 4; ++i) codes[at + i] = from[i];
    for (int i = 0; i < blocks.block && element.bits <= 4; i += 2) {
      codes[(at + i) / 2] = formats::pack_nibbles(from[i], from[i + 1]);
    }
  }
}

__global__ void recipe_kernel(const __grid_constant__ PlainRecipe plain, Blocks blocks, std::int64_t first,
                              std::int64_t count, const float* x, PlainRoom room, std::uint8_t* scales,
                              std::uint8_t* codes) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const std::int64_t b = first + i;
  const float* const values = x + i * blocks.full_size();
  const int n = blocks.rows_of(b) * blocks.block;
  const search::RecipeTask task = {&plain.recipe, &plain.format, plain.tensor, plain.select, plain.rounding};
  std::uint8_t* const own = room.codes(i, blocks.full_size());
  const search::RecipeBlock found = search::recipe_block(task, search::recipe_amax(plain.recipe, values, n), values, n,
                                                         blocks.block, own, room.scratch(i, blocks.full_size()));
  for (int row = 0; row < blocks.rows_of(b); ++row) {
    scales[(blocks.row_of(b) + row) * blocks.per_row() + blocks.col_of(b) / blocks.block] =
        static_cast<std::uint8_t>(found.scale);
  }
  write_codes(plain.format.element, blocks, b, own, codes);
}

}  // namespace

void quantize_recipe_plain(Stream& stream, const search::RecipeTask& task, int block, int tile_rows,
                           const Matrix& matrix, std::uint8_t* scales, std::uint8_t* codes) {
  select(stream.device());
  const PlainRecipe plain = {*task.recipe, *task.format, task.tensor, task.select, task.rounding};
  const Blocks blocks = {matrix.rows, matrix.cols, block, tile_rows};
  const std::int64_t at_once = std::min(blocks.count(), blocks_at_once(blocks)) * blocks.full_size();
  const Scratch memory(stream, at_once * room_bytes);
  const PlainRoom room = {memory.as<float>(), memory.as<std::uint8_t>() + at_once * 12};
  for_each_gathered(stream, blocks, matrix, [&](std::int64_t first, std::int64_t count, const float* x) {
    recipe_kernel<<<grid_of(count, 128), 128, 0, handle(stream)>>>(plain, blocks, first, count, x, room, scales, codes);
    check_launch("quantize by a recipe");
  });
}

}  // namespace fp4scope::cuda
