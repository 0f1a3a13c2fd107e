// What a quantized matrix lost, as analysis/metrics.cpp sums it, bit for bit: a block's elements in order, blocks in
// order along the row; the rows are added by whoever takes them. A warp has a row: each lane sums a block's elements,
// then each of the first lanes adds one kind of sum over the 32 blocks in order. All in binary64, nothing contracted.
#include <cstddef>

#include "cuda/blocks.cuh"
#include "formats/pack.hpp"
#include "sim/block.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int warps = 4;  // of a thread block
constexpr int lanes = 32;

/// The sums of a block, in RowSums' order.
enum Sum {
  energy,
  sse,
  max_error,
  magnitude,
  stored,
  sse_sse,
  sse_energy,
  energy_energy,
  naive,
  sse_naive,
  naive_naive
};
constexpr int sum_count = naive_naive + 1;
static_assert(offsetof(RowSums, naive_sse) == naive * sizeof(double) &&
              offsetof(RowSums, naive_naive) == naive_naive * sizeof(double) &&
              offsetof(RowSums, moved_down) == offsetof(RowSums, zeros) + 5 * sizeof(std::uint32_t));

struct Counts {
  std::uint32_t zeros = 0, saturated = 0, underflowed = 0, subnormal = 0, moved_up = 0, moved_down = 0;
  std::uint64_t distance = 0;
};

/// What a thread needs of the task, without pointers into the host.
struct DeviceTask {
  formats::BlockFormat format;
  sim::ScaleRule naive;
  sim::Grid grids[2];  ///< of E2M1 and of IF4's INT4
  double tensor_scale, top, factor;
  int first_normal;
  bool nearest;
  const std::uint8_t* naive_scales;  ///< of selecting formats, else null
};

/// The values of an element's codes, [integer][code].
using Values = double[2][256];

/// A NaN stays.
__device__ double larger(double a, double b) { return isnan(a) || a >= b ? a : b; }

__device__ std::uint32_t code_at(const DeviceTask& task, const std::uint8_t* codes, std::int64_t i) {
  return task.format.element.bits <= 4 ? formats::unpack_nibble(codes, i) : codes[i];
}

__device__ double step_of(const DeviceTask& task, int code) {
  const int scale = task.format.selects() ? code & ~formats::selection_bit : code;
  return task.tensor_scale * formats::decode_double(task.format.scale, static_cast<std::uint32_t>(scale));
}

__device__ bool is_integer(const DeviceTask& task, int code) {
  return task.format.selects() && (code & formats::selection_bit) != 0;
}

/// As sim::dequantize.
__device__ double value_of(const Values& values, std::uint32_t code, double step, bool integer) {
  const double value = values[integer ? 1 : 0][code] * step;
  return integer ? 6 * value / 7 : value;
}

/// The largest magnitude of a block or tile, as bits: NaN on top, or left out.
template <class T>
__device__ float amax_of(const Blocks& blocks, const T* x, std::int64_t row, std::int64_t first, int count,
                         bool with_nan = true) {
  const std::int64_t top = row - row % blocks.tile_rows;
  const std::int64_t bottom = top + blocks.tile_rows < blocks.rows ? top + blocks.tile_rows : blocks.rows;
  std::uint32_t largest = 0;
  for (std::int64_t r = top; r < bottom; ++r) {
    for (int c = 0; c < count; ++c) {
      const std::uint32_t bits = __float_as_uint(widened(x, r * blocks.cols + first + c)) & 0x7FFFFFFF;
      largest = bits > largest && (with_nan || bits <= 0x7F800000) ? bits : largest;
    }
  }
  return __uint_as_float(largest);
}

/// The squared error of a block's nearest elements at another scale.
template <class T>
__device__ double sse_at(const DeviceTask& task, const Values& values, const T* x, std::int64_t first, int count,
                         int code) {
  const double step = step_of(task, code);
  const bool integer = is_integer(task, code);
  constexpr formats::Format int4 = formats::int4;
  const formats::Format element = integer ? int4 : task.format.element;
  const sim::Thresholds thresholds = sim::make_thresholds(task.grids[integer ? 1 : 0], step);
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    const float v = widened(x, first + i);
    std::uint8_t nearest = 0;
    if (element.bits > 4) {
      sim::quantize_wide_block(element, &v, 1, step, formats::Rounding::nearest_even, nullptr, &nearest);
    } else {
      const int index = step > 0 ? sim::nearest_index(thresholds, task.factor * sim::magnitude(v)) : 0;
      nearest = sim::signed_code(element, index, sim::is_negative(v));
    }
    const double error = fabs(v - value_of(values, nearest, step, integer));
    sum += error * error;
  }
  return sum;
}

/// One block's elements in order.
template <class T>
__device__ void sum_elements(const DeviceTask& task, const Values& values, const T* x, const std::uint8_t* codes,
                             std::int64_t x_first, std::int64_t code_first, int count, int code, double* sums,
                             Counts& counts) {
  const double step = step_of(task, code), top = task.top * step;
  const bool integer = is_integer(task, code);
  for (int i = 0; i < count; ++i) {
    const double v = widened(x, x_first + i);
    const double value = value_of(values, code_at(task, codes, code_first + i), step, integer);
    const double size = fabs(v), error = fabs(v - value);
    sums[sse] += error * error;
    sums[energy] += size * size;
    sums[magnitude] += size;
    sums[stored] += fabs(value);
    sums[max_error] = larger(sums[max_error], error);
    counts.zeros += value == 0;
    counts.saturated += size > top;
  }
}

/// Where naive's scale of the block lies from its own, and naive's squared error.
template <class T>
__device__ double look_at_naive(const DeviceTask& task, const Values& values, const T* x, std::int64_t first, int count,
                                float amax, int code, int naive_code, double own_sse, Counts& counts,
                                unsigned long long* moves) {
  if (!(amax < __int_as_float(0x7F800000))) return __longlong_as_double(0x7FF8000000000000);
  const int mask = task.format.selects() ? ~formats::selection_bit : ~0;
  const int own = code & mask, move = own - (naive_code & mask);
  counts.underflowed += amax > 0 && step_of(task, code) == 0;
  counts.subnormal += own > 0 && own < task.first_normal;
  counts.moved_up += move > 0;
  counts.moved_down += move < 0;
  counts.distance += static_cast<std::uint64_t>(move < 0 ? -move : move);
  atomicAdd(moves + (move < -sums_reach ? -sums_reach : move > sums_reach ? sums_reach : move) + sums_reach, 1ull);
  if (task.nearest && naive_code == code) return own_sse;
  return sse_at(task, values, x, first, count, naive_code);
}

/// A lane's block: its sums into a column of `out`.
template <class T>
__device__ void sum_block(const DeviceTask& task, const Values& values, const Blocks& blocks, const T* x,
                          const std::uint8_t* scales, const std::uint8_t* codes, std::int64_t row, std::int64_t b,
                          double (*out)[lanes + 1], int lane, Counts& counts, unsigned long long* moves) {
  const std::int64_t first = b * blocks.block, at = row * blocks.per_row() + b;
  const std::int64_t left = blocks.cols - first;
  const int count = static_cast<int>(left < blocks.block ? left : blocks.block), code = scales[at];
  double sums[sum_count] = {};
  sum_elements(task, values, x, codes, row * blocks.cols + first, row * blocks.padded_cols() + first, count, code, sums,
               counts);
  const float amax = amax_of(blocks, x, row, first, count);
  const int naive_code =
      task.naive_scales ? task.naive_scales[at]
                        : sim::scale_code(task.format.scale, task.naive, amax, static_cast<float>(task.tensor_scale));
  sums[naive] = look_at_naive(task, values, x, row * blocks.cols + first, count, amax, code, naive_code, sums[sse],
                              counts, moves);
  sums[sse_sse] = sums[sse] * sums[sse];
  sums[sse_energy] = sums[sse] * sums[energy];
  sums[energy_energy] = sums[energy] * sums[energy];
  sums[sse_naive] = sums[sse] * sums[naive];
  sums[naive_naive] = sums[naive] * sums[naive];
  for (int k = 0; k < sum_count; ++k) out[k][lane] = sums[k];
}

__device__ std::uint32_t all_of(std::uint32_t count) { return __reduce_add_sync(0xFFFFFFFF, count); }

__device__ void write_row(RowSums& row, double sum, int lane, const Counts& counts) {
  if (lane < sum_count) (&row.energy)[lane] = sum;
  std::uint64_t distance = counts.distance;
  for (int i = lanes / 2; i > 0; i /= 2) distance += __shfl_xor_sync(0xFFFFFFFF, distance, i);
  const std::uint32_t all[] = {all_of(counts.zeros),     all_of(counts.saturated), all_of(counts.underflowed),
                               all_of(counts.subnormal), all_of(counts.moved_up),  all_of(counts.moved_down)};
  if (lane != 0) return;
  for (int i = 0; i < 6; ++i) (&row.zeros)[i] = all[i];
  row.distance = distance;
}

template <class T>
__global__ void __launch_bounds__(warps* lanes)
    sums_kernel(DeviceTask task, Blocks blocks, const T* x, const std::uint8_t* scales, const std::uint8_t* codes,
                RowSums* sums, unsigned long long* moves) {
  __shared__ Values values;
  __shared__ double part[warps][sum_count][lanes + 1];
  __shared__ unsigned long long moved[2 * sums_reach + 1];
  for (int i = threadIdx.x; i < 512; i += blockDim.x) {
    values[i / 256][i % 256] = formats::element_value(task.format, static_cast<std::uint32_t>(i % 256), i >= 256);
  }
  for (int i = threadIdx.x; i <= 2 * sums_reach; i += blockDim.x) moved[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / lanes, lane = threadIdx.x % lanes;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * warps + warp; row < blocks.rows;
       row += static_cast<std::int64_t>(gridDim.x) * warps) {
    Counts counts;
    double sum = 0;
    for (std::int64_t b = 0; b < blocks.per_row(); b += lanes) {
      const std::int64_t left = blocks.per_row() - b;
      const int count = static_cast<int>(left < lanes ? left : lanes);
      if (lane < count) {
        sum_block(task, values, blocks, x, scales, codes, row, b + lane, part[warp], lane, counts, moved);
      }
      __syncwarp();
      if (lane < sum_count) {
        const double* const of = part[warp][lane];
        for (int i = 0; i < count; ++i) sum = lane == max_error ? larger(sum, of[i]) : sum + of[i];
      }
      __syncwarp();
    }
    write_row(sums[row], sum, lane, counts);
  }
  __syncthreads();
  for (int i = threadIdx.x; i <= 2 * sums_reach; i += blockDim.x) {
    if (moved[i] != 0) atomicAdd(moves + i, moved[i]);
  }
}

/// The code of a block that four over six maps to 6, by recipe `exact`.
struct ExactSix {
  formats::Format scale;
  sim::ScaleRule rule;
  float tensor_scale;

  __device__ bool with_nan() const { return true; }
  __device__ int code(float amax, int own) const {
    return amax < __int_as_float(0x7F800000) ? sim::scale_code(scale, rule, amax, tensor_scale) : own;
  }
};

/// The same by another recipe.
struct RecipeSix {
  sim::Recipe recipe;
  formats::BlockFormat format;
  sim::RecipeTensor tensor;

  __device__ bool with_nan() const { return recipe.nan_amax; }
  __device__ int code(float amax, int) const {
    return sim::recipe_scale_code(recipe, format, sim::block_value(recipe, tensor, amax));
  }
};

template <class T, class Six>
__global__ void second_kernel(const __grid_constant__ Six six, bool selects, Blocks blocks, const T* x,
                              const std::uint8_t* scales, unsigned long long* count) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  std::uint32_t found = 0;
  for (std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; b < blocks.count();
       b += stride) {
    const std::int64_t row = blocks.row_of(b), first = blocks.col_of(b), left = blocks.cols - first;
    const int code = scales[row * blocks.per_row() + first / blocks.block];
    if (selects) {
      found += (code & formats::selection_bit) != 0 && code != 0xFF;
      continue;
    }
    const int columns = static_cast<int>(left < blocks.block ? left : blocks.block);
    found += six.code(amax_of(blocks, x, row, first, columns, six.with_nan()), code) != code;
  }
  if (found != 0) atomicAdd(count, static_cast<unsigned long long>(found));
}

template <class Six>
void launch_second(Stream& stream, const Six& six, bool selects, const Blocks& blocks, const Matrix& matrix,
                   const std::uint8_t* scales, std::uint64_t* count) {
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    second_kernel<<<std::min(grid_of(blocks.count(), 256), 4096u), 256, 0, handle(stream)>>>(
        six, selects, blocks, x, scales, reinterpret_cast<unsigned long long*>(count));
  });
  check_launch("second");
}

}  // namespace

void sum_errors(Stream& stream, const SumTask& task, const Matrix& matrix, const std::uint8_t* scales,
                const std::uint8_t* codes, RowSums* sums, std::uint64_t* moves) {
  select(stream.device());
  const Blocks blocks = {matrix.rows, matrix.cols, task.block, task.tile_rows};
  if (blocks.count() == 0) return;
  const formats::BlockFormat& format = *task.format;
  const bool selects = format.selects();
  const Scratch naive_scales(stream, selects ? blocks.rows * blocks.per_row() : 0);
  const Scratch naive_codes(stream, selects ? blocks.rows * blocks.padded_cols() / 2 : 0);
  if (selects) {
    search::SearchTask naive = {task.format, task.naive, task.select, task.block, task.tensor_scale};
    naive.tile_rows = task.tile_rows;
    quantize(stream, naive, matrix, naive_scales.as<std::uint8_t>(), naive_codes.as<std::uint8_t>());
  }
  const DeviceTask on_device = {format,
                                task.naive->rule,
                                {sim::make_grid(format, false), sim::make_grid(format, true)},
                                task.tensor_scale,
                                format.element_max(),
                                sim::grid_factor(format),
                                task.first_normal,
                                task.nearest,
                                selects ? naive_scales.as<std::uint8_t>() : nullptr};
  static_assert(sizeof(std::uint64_t) == sizeof(unsigned long long));
  with_type(matrix.type, matrix.x, [&](const auto* x) {
    sums_kernel<<<std::min(grid_of(blocks.rows, warps), 1u << 20), warps * lanes, 0, handle(stream)>>>(
        on_device, blocks, x, scales, codes, sums, reinterpret_cast<unsigned long long*>(moves));
  });
  check_launch("sums");
}

void count_second(Stream& stream, const search::SearchTask& task, const Matrix& matrix, const std::uint8_t* scales,
                  std::uint64_t* count) {
  select(stream.device());
  const Blocks blocks = {matrix.rows, matrix.cols, task.block, task.tile_rows};
  stream.fill(count, 0, sizeof *count);
  const bool over_six = task.method->kind == search::MethodKind::four_over_six;
  if (blocks.count() == 0 || (!over_six && !task.format->selects())) return;
  sim::ScaleRule six = sim::six_rule;
  six.least = task.method->rule.least;
  if (task.unbiased) six = sim::unbiased(six);
  launch_second(stream, ExactSix{task.format->scale, six, task.tensor_scale}, task.format->selects(), blocks, matrix,
                scales, count);
}

void count_second(Stream& stream, const search::RecipeTask& task, int block, int tile_rows, const Matrix& matrix,
                  const std::uint8_t* scales, std::uint64_t* count) {
  select(stream.device());
  const Blocks blocks = {matrix.rows, matrix.cols, block, tile_rows};
  stream.fill(count, 0, sizeof *count);
  const bool over_six = task.recipe->candidates == sim::Candidates::four_over_six;
  if (blocks.count() == 0 || (!over_six && task.recipe->candidates != sim::Candidates::int4)) return;
  launch_second(stream, RecipeSix{*task.recipe, *task.format, task.tensor}, !over_six, blocks, matrix, scales, count);
}

}  // namespace fp4scope::cuda
