// Second and third stage of the scale search: a block's candidates by a filter in binary32, which is search/lanes.hpp's
// with its proof, and what that can't separate, or isn't made for, by search::sse_code. Codes of a found scale, exact.
#pragma once

#include <cuda_bf16.h>

#include "cuda/half_pairs.cuh"
#include "search/sse.hpp"
#include "sim/block.hpp"

namespace fp4scope::cuda {

/// What the filter needs of the task and the tensor scale T. Not a number where T is unusual: then nothing passes for
/// usual.
struct FloatFilter {
  float gain;       ///< 1 / T: a = amax * gain, in units of T
  float to_least;   ///< a * this is amax / D, at most 2^-20 too large
  float undersize;  ///< a <= this * v: r <= U, perhaps a little more
  float relative;   ///< 1 + 4 lambda
  float absolute;   ///< 3 M / a^2
};

__device__ inline FloatFilter make_float_filter(const search::SearchSpace& space, int n) {
  const double t = space.tensor_scale, lambda = 0x1p-18 + (n + 8) * 0x1p-24;
  const bool in_range = t >= 0x1p-30 && t <= 0x1p30;
  return {in_range ? static_cast<float>(1 / t) : __int_as_float(0x7FC00000),
          static_cast<float>((1 + 0x1p-20) / space.dominance),
          static_cast<float>(search::undersize_constant(space.nesting, n) * (1 + 0x1p-20)),
          static_cast<float>(1 + 4 * lambda), static_cast<float>(3 * 0x1p-26 * n)};
}

/// Minus the level nearest to y = m * inverse, times `unit`. With c = 1.5 times a power of two that has the spacing of
/// the levels around y, times `unit`, as its last place, z = y + c is rounded once and c - z is exact.
struct E2m1Levels {
  static constexpr float top = 6, unit = 8;
  __device__ static constexpr float gap(int k) { return k < 4 ? 0.5f : k < 6 ? 1 : 2; }  ///< above level k
  /// 2^-126 takes the place of y = 2: the exponent field of a subnormal is 0, so that it is 0, 1, 2 for y below 2, 4,
  /// 8, and at most 7 for y below 256; it is OR'ed to c's, 1.5 * 2^25.
  __device__ static float spread(float inverse) { return inverse * 0x1p-130f; }
  __device__ static float minus_nearest(float m, float inverse, float spread) {
    const std::uint32_t field = __float_as_uint(m * spread) & 0x7F800000;
    const float c = __uint_as_float(field | 0x4C400000);
    return fmaxf(c - __fmaf_rn(m, inverse, c), -top * unit);
  }
};

struct Int4Levels {
  static constexpr float top = 7, unit = 1;
  __device__ static constexpr float gap(int) { return 1; }
  __device__ static float spread(float) { return 0; }
  __device__ static float minus_nearest(float m, float inverse, float) {
    return fmaxf(0x1.8p23f - __fmaf_rn(m, inverse, 0x1.8p23f), -top);
  }
};

/// Magnitudes are taken times this, inverses times its inverse, so that both and spread() are normal.
constexpr float magnitude_unit = 0x1p-60f;

/// Quotients amax / D for which the filter is made: y < 256 at every candidate.
__device__ inline bool in_reach(float q) { return q > 0x1p-14f && q < 0x1p13f; }

__device__ inline float e4m3_value(int code) {
  return code < 8 ? static_cast<float>(code) * 0x1p-9f : __int_as_float((code << 20) + (120 << 23));
}

/// The code of the least value with r <= D, or one more; as though there were no largest. q = amax / D in units of T.
__device__ inline int least_e4m3_code(float q) {
  if (q < 0x1p-6f) return max(static_cast<int>(ceilf(q * 0x1p9f)), 1);
  return static_cast<int>((__float_as_uint(q) + 0xFFFFF) >> 20) - 960;
}

/// Codes lowest + i for the bits i of `set`.
struct Candidates {
  int w;  ///< least_e4m3_code
  int lowest;
  std::uint32_t set;
};

/// The lowest code that may be the answer: below `from`, those with r <= U. At most three binades below w.
__device__ inline int lowest_code(const FloatFilter& filter, float a, int from, int w) {
  const int end = max(1, min(w, 126) - 24);
  while (from > end && a <= filter.undersize * e4m3_value(from - 1)) --from;
  return from;
}

/// All that lanes.hpp's two theorems leave: from w on those without a half at w or above, the largest eight, which
/// have no double, and those below with r <= U.
__device__ inline Candidates all_candidates(const FloatFilter& filter, float a, int w) {
  const int lowest = lowest_code(filter, a, min(w, 119), w), last = min(w >= 8 ? w + 7 : 15, 126);
  std::uint32_t set = 0;
  for (int code = lowest; code <= last; ++code) {
    const bool halved = code < 16 && code % 2 == 0 && code / 2 >= w;
    if (!halved) set |= 1u << (code - lowest);
  }
  return {w, lowest, set};
}

/// Those that the filter in pairs left: bit 0 for all codes below w - below, bit 1 for that code, and so on.
__device__ inline Candidates left_candidates(const FloatFilter& filter, float a, int w, int below, std::uint32_t left) {
  const int first = w - below, lowest = (left & 1) != 0 ? lowest_code(filter, a, first, w) : first;
  return {w, lowest, (left >> 1) << (first - lowest) | ((1u << (first - lowest)) - 1)};
}

/// What the filter found: the code, or two of which one is the best, or (`second` = -1) nothing.
struct Found {
  int code, second;
  bool decided;
};

/// m: magnitudes * magnitude_unit.
template <class Levels, int n>
__device__ __forceinline__ Found filtered_code(const FloatFilter& filter, const float (&m)[n], float a,
                                               Candidates candidates) {
  constexpr float infinity = __builtin_inff();
  float best = infinity, second = infinity, third = infinity, limit = infinity;
  int best_code = 0, second_code = 0;
  const float margin = a * a * filter.absolute;
  for (std::uint32_t set = candidates.set; set != 0;) {
    const int i = 31 - __clz(static_cast<int>(set));
    set ^= 1u << i;
    const int code = candidates.lowest + i;
    const float v = e4m3_value(code);
    const float clipped = fmaxf(a * (1 - 0x1p-20f) - Levels::top * v, 0);
    if (code < candidates.w && clipped * clipped * (1 - 0x1p-20f) > limit) break;  // and so for the lower ones
    const float inverse = __frcp_rn(v) * filter.gain * (Levels::unit / magnitude_unit);
    const float spread = Levels::spread(inverse);
    float even = 0, odd = 0;
#pragma unroll
    for (int k = 0; k < n; k += 2) {
      const float e = __fmaf_rn(m[k], inverse, Levels::minus_nearest(m[k], inverse, spread));
      const float f = __fmaf_rn(m[k + 1], inverse, Levels::minus_nearest(m[k + 1], inverse, spread));
      even = __fmaf_rn(e, e, even);
      odd = __fmaf_rn(f, f, odd);
    }
    const float error = (even + odd) * (v * v * (1 / (Levels::unit * Levels::unit)));
    third = fminf(third, fmaxf(error, second));
    if (error < best) {
      second = best, second_code = best_code;
      best = error, best_code = code;
    } else if (error < second) {
      second = error, second_code = code;
    }
    limit = __fmaf_rn(best, filter.relative, margin);
  }
  return {best_code, third <= limit ? -1 : second_code, !(second <= limit)};
}

/// 16 bytes of elements, widened.
__device__ inline void widen(const uint4& words, const float*, float* x) {
  x[0] = __uint_as_float(words.x);
  x[1] = __uint_as_float(words.y);
  x[2] = __uint_as_float(words.z);
  x[3] = __uint_as_float(words.w);
}
__device__ inline void widen(const uint4& words, const __nv_bfloat16*, float* x) {
  const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(w[i] << 16);
    x[2 * i + 1] = __uint_as_float(w[i] & 0xFFFF0000);
  }
}
__device__ inline void widen(const uint4& words, const __half*, float* x) {
  const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = half_value(w[i] & 0xFFFF);
    x[2 * i + 1] = half_value(w[i] >> 16);
  }
}

template <class T>
constexpr int per_load = 16 / static_cast<int>(sizeof(T));

/// A block at a multiple of 16 bytes.
template <class T, int n>
__device__ inline void load_floats(const T* from, float (&x)[n]) {
#pragma unroll
  for (int i = 0; i < n; i += per_load<T>) widen(reinterpret_cast<const uint4*>(from)[i / per_load<T>], from, x + i);
}

template <int n>
__device__ inline float amax_of(const float (&x)[n]) {
  std::uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) bits = max(bits, __float_as_uint(x[i]) & 0x7FFFFFFF);
  return __uint_as_float(bits);
}

/// The least magnitude of binary32 that passes each of a step's thresholds: it is compared in place of the threshold.
struct Passing {
  float at[7];
};

__device__ inline Passing make_passing(const search::SearchSpace& space, int code) {
  const double step = space.step(code);
  const sim::Thresholds thresholds = sim::make_thresholds(space.grid, step);
  Passing p;
#pragma unroll
  for (int k = 0; k < 7; ++k) {
    const float up = __double2float_ru(thresholds.at[k]);
    const bool beyond = k % 2 == 1 || static_cast<double>(up) > thresholds.at[k];
    const float at = beyond ? up : __uint_as_float(__float_as_uint(up) + 1);
    p.at[k] = step > 0 ? at : __int_as_float(0x7FC00000);
  }
  return p;
}

/// search::sums_at of a block of n. The additions' order is another: where X is exact that is the same number,
/// elsewhere compare_sse's bound holds for any order. A level (3 bits) times a float (24) is exact in double, so a fused
/// multiply-add is a sum, rounded once.
template <class Levels, int n>
__device__ inline search::Sums sums_at(const search::SearchSpace& space, const float (&x)[n], int code) {
  const Passing passing = make_passing(space, code);
  double sums[4] = {};
  float squares = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float magnitude = fabsf(x[i]);
    float level = 0;
#pragma unroll
    for (int k = 0; k < 7; ++k) level += magnitude >= passing.at[k] ? Levels::gap(k) : 0;
    sums[i % 4] = __fma_rn(static_cast<double>(level), static_cast<double>(magnitude), sums[i % 4]);
    squares += level * level;
  }
  return {(sums[0] + sums[1]) + (sums[2] + sums[3]), squares};
}

/// What the filter left open: the best of the candidates by search::compare_sse, of two where it left two. Where there
/// is no filter (blocks of zeros, with NaN or Inf, far from the tensor scale), by search::sse_code.
template <class Levels, class T, int n>
__device__ __noinline__ int exact_code(const search::SearchSpace& space, const T* from, Found found,
                                       Candidates candidates) {
  float x[n];
  load_floats(from, x);
  const search::Block block = {x, n, amax_of(x)};
  if (!(block.amax < __int_as_float(0x7F800000))) return static_cast<int>(space.scale.nan_code());
  if (candidates.set == 0) return search::sse_code(space, block);
  if (found.second >= 0) {
    const int lower = min(found.code, found.second);
    candidates = {candidates.w, lower, 1u | 1u << (max(found.code, found.second) - lower)};
  }
  search::Best best = {-1, {}};
  for (std::uint32_t set = candidates.set; set != 0; set &= set - 1) {
    const int code = candidates.lowest + __ffs(static_cast<int>(set)) - 1;
    const search::Sums sums = sums_at<Levels>(space, x, code);
    if (best.code < 0 || search::compare_sse(space, block, code, sums, best.code, best.sums) < 0) best = {code, sums};
  }
  return best.code;
}

/// Eight elements' codes, the first in the lowest nibble.
template <class Levels>
__device__ inline std::uint32_t pack_eight(const Passing& passing, const float* x) {
  std::uint32_t packed = 0;
#pragma unroll
  for (int i = 7; i >= 0; --i) {
    const float magnitude = fabsf(x[i]);
    std::uint32_t code = 0;
#pragma unroll
    for (int k = 0; k < 7; ++k) code += magnitude >= passing.at[k];
    const bool negative = __float_as_int(x[i]) < 0;
    if constexpr (Levels::top == 6) {
      code |= negative ? 8 : 0;
    } else {
      code = negative ? (0 - code) & 15 : code;
    }
    packed = packed << 4 | code;
  }
  return packed;
}

/// A block's codes at a scale, packed[n / 2] at a multiple of 8 bytes.
template <class Levels, int n>
__device__ inline void store_codes(const search::SearchSpace& space, const float (&x)[n], int code,
                                   std::uint8_t* packed) {
  const Passing passing = make_passing(space, code);
#pragma unroll
  for (int i = 0; i < n; i += 16) {
    *reinterpret_cast<uint2*>(packed + i / 2) = {pack_eight<Levels>(passing, x + i),
                                                 pack_eight<Levels>(passing, x + i + 8)};
  }
}

}  // namespace fp4scope::cuda
