#include "search/quantize_rows.hpp"

#include <algorithm>
#include <memory>

#include "search/lanes.hpp"
#include "sim/encode_lanes.hpp"

namespace fp4scope::search {

namespace {

/// Elements of a chunk: 8 KiB as floats, a quarter of a small first-level cache.
constexpr std::int64_t chunk_elements = 2048;

/// `n` elements from x as floats: in `room`, or where they are.
const float* as_floats(const std::uint16_t* x, std::int64_t n, float* room) {
  sim::widen_bf16(x, n, room);
  return room;
}

const float* as_floats(const float* x, std::int64_t, float*) { return x; }

/// Blocks lie one after the other, whatever their row. Those with lanes are far smaller than a chunk.
template <class T>
RowsCount quantize_in_chunks(const SearchTask& task, const T* x, std::int64_t blocks, std::uint8_t* scales,
                             std::uint8_t* packed) {
  const SearchSpace space = make_space(*task.format, task.tensor_scale, task.method->rule);
  const std::int64_t most = chunk_elements / task.block, chunks = (blocks + most - 1) / most;
  std::int64_t candidates = 0, exact = 0, second = 0;
#pragma omp parallel reduction(+ : candidates, exact, second)
  {
    alignas(64) float room[chunk_elements];
    SearchCount count;
#pragma omp for schedule(static)
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      if (task.stop && *task.stop) continue;
      const std::int64_t first = chunk * most, n = std::min(most, blocks - first);
      const float* const values = as_floats(x + first * task.block, n * task.block, room);
      lane_scales(task, space, values, n, scales + first, count, second);
      sim::encode_blocks_packed(*task.format, task.tensor_scale, values, n, task.block, scales + first,
                                packed + first * task.block / 2);
    }
    candidates += count.candidates;
    exact += count.exact;
  }
  return {{candidates, exact}, second};
}

/// Any method: all scales, then all codes.
RowsCount quantize_whole(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols,
                         std::uint8_t* scales, std::uint8_t* packed) {
  const SearchResult found = search_scales(task, x, rows, cols);
  if (task.stop && *task.stop) return {found.count, found.chose_second};
  std::copy(found.scales.begin(), found.scales.end(), scales);
  const std::int64_t blocks = cols / task.block;
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    sim::encode_blocks_packed(*task.format, task.tensor_scale, x + row * cols, blocks, task.block,
                              scales + row * blocks, packed + row * cols / 2);
  }
  return {found.count, found.chose_second};
}

/// Not zeroed first: that would be one more pass over memory.
std::unique_ptr<float[]> widened(const std::uint16_t* x, std::int64_t rows, std::int64_t cols) {
  std::unique_ptr<float[]> floats(new float[static_cast<std::size_t>(rows * cols)]);
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) sim::widen_bf16(x + row * cols, cols, floats.get() + row * cols);
  return floats;
}

}  // namespace

RowsCount quantize_rows(const SearchTask& task, const std::uint16_t* x, std::int64_t rows, std::int64_t cols,
                        std::uint8_t* scales, std::uint8_t* packed) {
  if (has_lanes(task)) return quantize_in_chunks(task, x, rows * (cols / task.block), scales, packed);
  return quantize_whole(task, widened(x, rows, cols).get(), rows, cols, scales, packed);
}

RowsCount quantize_rows(const SearchTask& task, const float* x, std::int64_t rows, std::int64_t cols,
                        std::uint8_t* scales, std::uint8_t* packed) {
  if (has_lanes(task)) return quantize_in_chunks(task, x, rows * (cols / task.block), scales, packed);
  return quantize_whole(task, x, rows, cols, scales, packed);
}

}  // namespace fp4scope::search
