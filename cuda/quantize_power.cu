// The scale of least squared error that is a power of two, for E2M1 elements in blocks of 16 or 32 and no tensor scale,
// without a search and without rounding.
//
// Let w be the least power of two with amax <= 7 w. By the theorems of search/pruning.hpp 2 w and what is above are
// out, and so are w / 4 and what is below, since amax > 3.5 w = 14 (w / 4) >= U (w / 4), U = 7 + (N - 1) / 16; and w /
// 2 is out unless amax <= U w / 2. Then it wins iff SSE(w / 2) <= SSE(w): the lower code wins a tie.
//
// With y = |x| / (w / 2) <= U < 9, the two grids are 0 .5 1 1.5 2 3 4 6 and 0 1 2 3 4 6 8 12, and an element's squared
// error at w less that at w / 2, in units of (w / 2)^2, is
//   y < 2       d^2 - min(d, 1/2 - d)^2 = max(0, d - 1/4), d the distance to the nearest whole number
//   2 <= y <= 7 0: the nearest levels, of 2 3 4 6, are the same
//   y > 7       (y - 8)^2 - (y - 6)^2 = -4 (y - 7)
// So w / 2 wins iff G >= 4 Z, G = sum max(0, d - 1/4) with d = 0 from y = 2 on, Z = sum max(0, y - 7).
//
// All of it is exact, in the elements' own type of p significant bits, and the sums in integers:
//   y: a product with a power of two (or two, where one is out of range); what underflows is far below 1/4.
//   min(y, 2) + M, M = 1.5 * 2^(p - 1), has a last place of 1: it rounds to a whole number, to nearest. d, a multiple
//     of y's last place and at most 1/2, is exact.
//   max(d, 1/4) lies in [1/4, 1/2], where neighbours are 2^-(p + 1) apart: its bits less those of 1/4 are the term of G
//     in that unit, at most 2^(p - 1).
//   max(y - 5, 2) lies in [2, 4): for y >= 7 the difference is exact, and its bits less those of 2 are the term of Z in
//     units of 2^(2 - p). Below 7 it rounds to at most 2.
//   In units of 2^-(p + 1), 4 Z is 2^5 times its bits. A thread adds 16 terms of G, at most 2^(p + 3), below 2^16 for
//     p <= 11: the two halves of a word are added at once and told apart at the end. Terms of Z are below 2^(p - 1).
#include "cuda/fast.cuh"
#include "cuda/fast.hpp"

namespace fp4scope::cuda {

namespace {

constexpr int threads = 256;

struct PowerTask {
  FastFormat format;
  float undersize;  ///< U / 2
  int shares;
};

/// What the sums need of a type. Of 16-bit types in both halves of a word.
template <class T>
struct Bits;
template <>
struct Bits<float> {
  static constexpr std::uint32_t quarter = 0x3E800000, two = 0x40000000, five = 0x40A00000, magic = 0x4B400000;
};
template <>
struct Bits<__nv_bfloat16> {
  static constexpr std::uint32_t quarter = 0x3E803E80, two = 0x40004000, five = 0x40A040A0, magic = 0x43404340;
};
template <>
struct Bits<__half> {
  static constexpr std::uint32_t quarter = 0x34003400, two = 0x40004000, five = 0x45004500, magic = 0x66006600;
};

/// Adds a word's bits of max(d, 1/4) and of max(y - 5, 2).
template <class T>
__device__ inline void add_terms(std::uint32_t word, std::uint32_t first, std::uint32_t second, std::uint32_t& g,
                                 std::uint32_t& z) {
  using B = Bits<T>;
  if constexpr (sizeof(T) == 4) {
    const float y = fabsf(__uint_as_float(word)) * __uint_as_float(first), magic = __uint_as_float(B::magic);
    const float inside = fminf(y, __uint_as_float(B::two)), d = fabsf(inside - ((inside + magic) - magic));
    g += __float_as_uint(fmaxf(d, __uint_as_float(B::quarter)));
    z += __float_as_uint(fmaxf(y - __uint_as_float(B::five), __uint_as_float(B::two)));
  } else {
    const auto magic = pair_of<T>(B::magic), two = pair_of<T>(B::two);
    auto y = __hmul2_rn(__habs2(pair_of<T>(word)), pair_of<T>(first));
    if constexpr (std::is_same_v<T, __half>) y = __hmul2_rn(y, pair_of<T>(second));
    const auto inside = __hmin2(y, two);
    const auto d = __habs2(__hsub2_rn(inside, __hsub2_rn(__hadd2_rn(inside, magic), magic)));
    g += word_of(__hmax2(d, pair_of<T>(B::quarter)));
    z += word_of(__hmax2(__hsub2_rn(y, pair_of<T>(B::five)), two));
  }
}

/// 2^e as a word of the type.
template <class T>
__device__ inline std::uint32_t power_word(int e) {
  if constexpr (sizeof(T) == 4) return static_cast<std::uint32_t>(e + 127) << 23;
  const auto bits = static_cast<std::uint32_t>(std::is_same_v<T, __half> ? (e + 15) << 10 : (e + 127) << 7);
  return bits * 0x10001u;
}

template <class T>
using SumOf = std::conditional_t<sizeof(T) == 4, long long, int>;

/// G - 4 Z of a thread's share, in units of 2^-(p + 1), at w / 2 = 2^e, -127 <= e <= 125.
template <class T>
__device__ inline SumOf<T> difference(const Share<T>& s, int e) {
  using B = Bits<T>;
  constexpr auto words = static_cast<std::uint32_t>(Share<T>::words);
  const int part = std::is_same_v<T, __half> ? min(max(-e, -14), 15) : -e;
  const std::uint32_t first = power_word<T>(part), second = power_word<T>(std::is_same_v<T, __half> ? -e - part : 0);
  std::uint32_t g = 0, z = 0;
#pragma unroll
  for (int i = 0; i < Share<T>::words; ++i) add_terms<T>(s.word[i], first, second, g, z);
  g -= words * B::quarter;
  z -= words * B::two;
  if constexpr (sizeof(T) == 4) return static_cast<SumOf<T>>(g) - 32 * static_cast<SumOf<T>>(z);
  else return static_cast<int>((g & 0xFFFF) + (g >> 16)) - 32 * static_cast<int>((z & 0xFFFF) + (z >> 16));
}

/// The sum over a block's threads.
template <int lanes, class Sum>
__device__ inline Sum sum_of(Sum sum) {
#pragma unroll
  for (int d = 1; d < lanes; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
  return sum;
}

/// The code of w: amax / 7 rounded up. amax * 2^k is exact, and so is the comparison with 7 w.
__device__ inline int least_code(std::uint32_t amax) {
  // 7 w = 1.75 * 2^(2 + code - 127). A subnormal amax has less than 2^-126 < 7 * 2^-127.
  const auto exponent = static_cast<int>(amax >> 23);
  return max(exponent - 2 + ((amax & 0x7FFFFF) > 0x600000), 0);
}

template <class T, int block>
__global__ void __launch_bounds__(threads)
    power_kernel(const __grid_constant__ PowerTask task, const T* x, std::uint8_t* scales, std::uint8_t* packed) {
  constexpr ScaleKind kind = ScaleKind::ue8m0_up;
  constexpr int codes = nan_code(kind) + 1, lanes = block / share<T>;
  __shared__ Table<codes> table;
  cudaGridDependencySynchronize();
  Shares<T, threads> shares(x, task.shares);
  fill_thresholds<T>(task.format, 1, table);
  __syncthreads();
#pragma unroll 1
  while (shares.more()) {
    const Share<T> now = shares.take();
    const std::uint32_t amax = largest_of<lanes>(amax_bits(now));
    int code = least_code(amax);
    const auto sum = sum_of<lanes>(difference<T>(now, max(min(code, 253) - 128, -127)));
    // U w / 2 is exact: U has at most 8 bits, and at most 2^127. A block of zeros has code 0.
    const bool open = code > 0 && __uint_as_float(amax) <= task.undersize * task.format.scale_value[code];
    if (open && sum >= 0) --code;
    if (amax >= 0x7F800000u) code = nan_code(kind);
    if (shares.at >= task.shares) continue;
    store_codes<T, false>(table[code], now, packed, shares.at);
    if (shares.at % lanes == 0) scales[shares.at / lanes] = static_cast<std::uint8_t>(code);
  }
}

template <class T>
void launch(Stream& stream, int block, PowerTask task, const T* x, std::int64_t elements, std::uint8_t* scales,
            std::uint8_t* packed) {
  const auto kernel = block == 16 ? power_kernel<T, 16> : power_kernel<T, 32>;
  task.shares = static_cast<int>(elements / share<T>);
  const unsigned grid = filling_grid(stream, kernel, threads, task.shares, threads);
  launch_early(stream, kernel, grid, threads, task, x, scales, packed);
}

}  // namespace

bool quantize_power(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                    std::uint8_t* packed, const float* tensor_scale) {
  if (task.method->kind != search::MethodKind::sse || !takes_sixteens(task, matrix, packed)) return false;
  if (!formats::same_format(task.format->scale, formats::ue8m0) || tensor_scale || task.tensor_scale != 1) return false;
  if (!formats::same_format(task.format->element, formats::e2m1) || task.format->levels.count > 0) return false;
  const search::Nesting nest = search::nesting(sim::make_grid(*task.format));
  const double undersize = search::undersize_constant(nest, task.block) / 2;
  const PowerTask power = {fast_format(*task.format), static_cast<float>(undersize), 0};
  const std::int64_t elements = matrix.rows * matrix.cols;
  if (elements == 0) return true;
  select(stream.device());
  with_type(matrix.type, matrix.x,
            [&](const auto* x) { launch(stream, task.block, power, x, elements, scales, packed); });
  return true;
}

}  // namespace fp4scope::cuda
