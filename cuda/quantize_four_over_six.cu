// Four over six by squared errors at the speed of memory, recipe `exact`: the bytes of search::four_over_six.
//
// Both squared errors are taken in binary32, whose error bound search/lanes.hpp proves: with F = v^2 sum e'^2,
//   e' = y' - q', y' = |x| times a rounded 1 / (T v), q' nearest to y', a = amax / T, of two codes the one with the
//   larger F has the larger error if F > (1 + 4 lambda) F_other + 3 M, lambda = 2^-18 + (N + 8) 2^-24, M = 2^-26 N a^2.
// It needs normal scales (codes of 8 and more), a tensor scale far from the ends of binary32, and y' < 7, so that the
// nearest level needs no limit: t = max(2^floor(log2 y'), 1) has 1.5 * 2^22 t + y' rounded to a whole number of t / 2.
// What is outside, and what the bound leaves open, a few blocks in 10^5, waits in a list until a block of threads has
// been through all of its shares, and is then decided by search::four_over_six itself: a call among the rest would cost
// it registers, and one block of 16 at a time would leave most threads idle.
#include "cuda/fast.cuh"
#include "cuda/fast.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256, most_open = 1024;
constexpr ScaleKind kind = ScaleKind::e4m3_nearest;

struct ChoiceTask {
  FastFormat format;
  sim::ScaleRule to_six, to_four;
  bool unbiased;
  float tensor_scale;
  const float* on_device;  ///< the tensor scale, unless null
  float relative;          ///< 1 + 4 lambda
  float absolute;          ///< 3 M / a^2
  int shares;
};

template <class T>
__device__ inline float value_of(const Share<T>& s, int i) {
  if constexpr (sizeof(T) == 4) return __uint_as_float(s.word[i]);
  const std::uint32_t word = s.word[i / 2];
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
  const auto half = static_cast<unsigned short>(i % 2 == 0 ? word : word >> 16);
  return __half2float(__ushort_as_half(half));
}

__device__ inline void add_square(float x, float inverse, float& sum) {
  constexpr float magic = 0x1.8p22f;
  const float y = fabsf(x) * inverse;
  const float t = fmaxf(__uint_as_float(__float_as_uint(y) & 0x7F800000u), 1.0f);
  const float e = y - fmaf(-magic, t, fmaf(magic, t, y));
  sum = fmaf(e, e, sum);
}

struct Pair {
  float six, four;
};

/// sum e'^2 at both scales over the threads of a block.
template <class T, int lanes>
__device__ inline Pair sums_of_squares(const Share<T>& s, Pair inverse) {
  Pair a = {0, 0}, b = {0, 0};
#pragma unroll
  for (int i = 0; i < share<T>; i += 2) {
    const float even = value_of<T>(s, i), odd = value_of<T>(s, i + 1);
    add_square(even, inverse.six, a.six);
    add_square(even, inverse.four, a.four);
    add_square(odd, inverse.six, b.six);
    add_square(odd, inverse.four, b.four);
  }
  Pair sum = {a.six + b.six, a.four + b.four};
#pragma unroll
  for (int d = 1; d < lanes; d *= 2) {
    sum.six += __shfl_xor_sync(~0u, sum.six, d);
    sum.four += __shfl_xor_sync(~0u, sum.four, d);
  }
  return sum;
}

/// E4M3 from code 8 on.
__device__ inline float normal_value(int code) {
  return __uint_as_float(static_cast<std::uint32_t>((code << 20) + ((127 - 7) << 23)));
}

/// Block b once more, by the plain function.
template <class T, int block>
__device__ __noinline__ void decide_exactly(const search::SearchSpace& space, bool unbiased,
                                            const Table<nan_code(kind) + 1>& table, const T* x, int b,
                                            std::uint8_t* scales, std::uint8_t* packed) {
  constexpr int lanes = block / share<T>;
  const T* const own = x + static_cast<std::int64_t>(b) * block;
  float values[block];
  for (int i = 0; i < block; ++i) values[i] = widened(own, i);
  const search::Block whole = {values, block, sim::amax(values, block)};
  const int code = search::four_over_six(space, whole, search::Select::mse, nullptr, unbiased).code;
  scales[b] = static_cast<std::uint8_t>(code);
  for (int l = 0; l < lanes; ++l) {
    store_codes<T, false>(table[code], load_elements<T, share<T>>(own + l * share<T>), packed, b * lanes + l);
  }
}

/// The blocks that wait; beyond most_open, the count alone.
struct Open {
  int count;
  int block[most_open];

  __device__ void add(int b) {
    const int at = atomicAdd(&count, 1);
    if (at < most_open) block[at] = b;
  }
};

/// The space of the plain function in shared memory: `base` with this tensor scale; then __syncthreads().
__device__ inline const search::SearchSpace& fill_space(const search::SearchSpace& base, float tensor_scale,
                                                        unsigned char* room) {
  constexpr int words = sizeof(search::SearchSpace) / 4;
  const auto* from = reinterpret_cast<const std::uint32_t*>(&base);
  auto* to = reinterpret_cast<std::uint32_t*>(room);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += threads) to[i] = from[i];
  __syncthreads();
  auto& space = *reinterpret_cast<search::SearchSpace*>(room);
  if (threadIdx.x == 0) space.tensor_scale = static_cast<double>(tensor_scale);
  return space;
}

template <class T, int block>
__global__ void __launch_bounds__(threads, 4)
    choice_kernel(const __grid_constant__ ChoiceTask task, const __grid_constant__ search::SearchSpace base, const T* x,
                  std::uint8_t* scales, std::uint8_t* packed) {
  constexpr int codes = nan_code(kind) + 1, lanes = block / share<T>;
  __shared__ Table<codes> table;
  __shared__ alignas(search::SearchSpace) unsigned char room[sizeof(search::SearchSpace)];
  __shared__ Open open;
  cudaGridDependencySynchronize();
  Shares<T, threads> shares(x, task.shares);
  const float tensor_scale = task.on_device ? *task.on_device : task.tensor_scale;
  const double to_six = rule_factor(task.to_six, tensor_scale), to_four = rule_factor(task.to_four, tensor_scale);
  const auto per_scale = static_cast<float>(1 / static_cast<double>(tensor_scale));
  const bool in_range = tensor_scale >= 0x1p-30f && tensor_scale <= 0x1p30f;
  if (threadIdx.x == 0) open.count = 0;
  const search::SearchSpace& space = fill_space(base, tensor_scale, room);
  fill_thresholds<T>(task.format, tensor_scale, table);
  __syncthreads();
#pragma unroll 1
  while (shares.more()) {
    const Share<T> now = shares.take();
    const std::uint32_t amax = largest_of<lanes>(amax_bits(now));
    const int six = scale_code_of<kind>(amax, to_six, task.to_six.least);
    const int four = scale_code_of<kind>(amax, to_four, task.to_four.least);
    const Pair inverse = {table.inverse(six), table.inverse(four)};
    const Pair sums = sums_of_squares<T, lanes>(now, inverse);
    const float v_six = normal_value(six), v_four = normal_value(four), a = __uint_as_float(amax) * per_scale;
    const float at_six = sums.six * (v_six * v_six), at_four = sums.four * (v_four * v_four);
    const float unclear = fmaf(fminf(at_six, at_four), task.relative, a * a * task.absolute);
    const bool sure =
        in_range && six >= 8 && __uint_as_float(amax) * inverse.six < 7 && fmaxf(at_six, at_four) > unclear;
    const int code = six != four && at_four < at_six ? four : six;
    if (shares.at >= task.shares) continue;
    store_codes<T, false>(table[code], now, packed, shares.at);
    if (shares.at % lanes != 0) continue;
    scales[shares.at / lanes] = static_cast<std::uint8_t>(code);
    if (!sure && six != four) open.add(shares.at / lanes);
  }
  __syncthreads();
  const auto again = [&](int b) { decide_exactly<T, block>(space, task.unbiased, table, x, b, scales, packed); };
  if (open.count <= most_open) {
    for (int k = static_cast<int>(threadIdx.x); k < open.count; k += threads) again(open.block[k]);
    return;
  }
  for (int i = shares.first(); i >= 0; i -= static_cast<int>(gridDim.x) * threads) {
    if (i % lanes == 0 && i < task.shares) again(i / lanes);
  }
}

template <class T>
void launch(Stream& stream, const search::SearchTask& task, ChoiceTask choice, const search::SearchSpace& space,
            const T* x, std::int64_t elements, std::uint8_t* scales, std::uint8_t* packed) {
  const auto kernel = task.block == 16 ? choice_kernel<T, 16> : choice_kernel<T, 32>;
  choice.shares = static_cast<int>(elements / share<T>);
  const unsigned grid = filling_grid(stream, kernel, threads, choice.shares, threads);
  launch_early(stream, kernel, grid, threads, choice, space, x, scales, packed);
}

}  // namespace

bool quantize_four_over_six(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                            std::uint8_t* packed, const float* tensor_scale) {
  const formats::BlockFormat& format = *task.format;
  if (task.method->kind != search::MethodKind::four_over_six || task.select != search::Select::mse) return false;
  if (!takes_sixteens(task, matrix, packed) || scale_kind(format.scale, formats::Rounding::nearest_even) != kind)
    return false;
  if (!formats::same_format(format.element, formats::e2m1) || format.levels.count > 0) return false;
  sim::ScaleRule to_six = sim::six_rule, to_four = sim::four_rule;
  to_six.least = to_four.least = task.method->rule.least;
  if (task.unbiased) to_six = sim::unbiased(to_six), to_four = sim::unbiased(to_four);
  const double lambda = 0x1p-18 + (task.block + 8) * 0x1p-24;
  const ChoiceTask choice = {fast_format(format),
                             to_six,
                             to_four,
                             task.unbiased,
                             task.tensor_scale,
                             tensor_scale,
                             static_cast<float>(1 + 4 * lambda),
                             static_cast<float>(3 * 0x1p-26 * task.block),
                             0};
  const search::SearchSpace space = search::make_space(format, 1, task.method->rule);
  const std::int64_t elements = matrix.rows * matrix.cols;
  if (elements == 0) return true;
  select(stream.device());
  with_type(matrix.type, matrix.x,
            [&](const auto* x) { launch(stream, task, choice, space, x, elements, scales, packed); });
  return true;
}

}  // namespace fp4scope::cuda
