// A matrix of any type, shape and alignment as blocks of floats that lie one after the other, so that the plain
// functions of search/ and sim/ can take them: a block's n values, columns padded with zeros; of square blocks their
// rows one after the other.
#pragma once

#include "cuda/runtime.cuh"

namespace fp4scope::cuda {

struct Blocks {
  std::int64_t rows, cols;  ///< of the matrix
  int block, tile_rows;

  __host__ __device__ std::int64_t per_row() const { return (cols + block - 1) / block; }
  __host__ __device__ std::int64_t padded_cols() const { return per_row() * block; }
  __host__ __device__ std::int64_t count() const { return (rows + tile_rows - 1) / tile_rows * per_row(); }
  __host__ __device__ int full_size() const { return block * tile_rows; }
  /// The row and the first column of a block.
  __host__ __device__ std::int64_t row_of(std::int64_t b) const { return b / per_row() * tile_rows; }
  __host__ __device__ std::int64_t col_of(std::int64_t b) const { return b % per_row() * block; }
  /// Rows of a block: fewer where the matrix ends.
  __host__ __device__ int rows_of(std::int64_t b) const {
    const std::int64_t left = rows - row_of(b);
    return static_cast<int>(left < tile_rows ? left : tile_rows);
  }
};

template <class T>
__global__ void gather_kernel(Blocks blocks, const T* x, std::int64_t first, std::int64_t count, float* out) {
  const std::int64_t n = blocks.full_size(), stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count * n; i += stride) {
    const std::int64_t b = first + i / n, within = i % n;
    const std::int64_t row = blocks.row_of(b) + within / blocks.block, col = blocks.col_of(b) + within % blocks.block;
    out[i] = row < blocks.rows && col < blocks.cols ? widened(x, row * blocks.cols + col) : 0;
  }
}

/// Blocks of one go: at most 64 MiB of floats.
inline std::int64_t blocks_at_once(const Blocks& blocks) {
  return std::max<std::int64_t>(1, (std::int64_t{1} << 24) / blocks.full_size());
}

/// work(first, count, x): blocks [first, first + count), block b's values at x + (b - first) * full_size(), in device
/// memory that the next call uses again.
template <class Work>
void for_each_gathered(Stream& stream, const Blocks& blocks, const Matrix& matrix, const Work& work) {
  if (blocks.count() == 0) return;
  const std::int64_t at_once = std::min(blocks.count(), blocks_at_once(blocks));
  const Scratch room(stream, at_once * blocks.full_size() * 4);
  for (std::int64_t first = 0; first < blocks.count(); first += at_once) {
    const std::int64_t count = std::min(at_once, blocks.count() - first);
    with_type(matrix.type, matrix.x, [&](const auto* x) {
      gather_kernel<<<grid_of(count * blocks.full_size(), 256), 256, 0, handle(stream)>>>(blocks, x, first, count,
                                                                                          room.as<float>());
    });
    check_launch("gather");
    work(first, count, static_cast<const float*>(room.as<float>()));
  }
}

}  // namespace fp4scope::cuda
