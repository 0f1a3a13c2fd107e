// First stage of the scale search for E2M1: nine or ten candidates of a block in half precision, two elements at a
// time, by a filter with a proven error bound. It settles some nine blocks of ten and leaves a few candidates of the
// others.
//
// Notation of search/lanes.hpp, with units: T = t 2^k, 1 <= t < 2; w the code of the least block scale with r <= D = 7,
// E = w div 8; block scales v and a = amax are in units of 2^(E - 7) and T 2^(E - 7). Codes with 9 <= w <= 119 alone.
//
// The candidates.  From w on the eight codes w .. w + 7: from w + 8 on each has its half at w or above. Below, w - 1 and
//   for blocks of 32 w - 2; of lower ones the clipping bound says whether they are left. So r < 9 always.
//
// Elements.  x' = |x| / T times t / 4 and a power of two: exactly |x| times a power of two, 1.5 < max x' < 7. In half
//   precision it is exact for significands of bfloat16 or binary16 down to 2^-14; below, it is wrong by less than
//   2^-14, or y by less than 2^-11.8.
//
// Rounding to E2M1 in four operations for each candidate, and two for three candidates together:
//   u = x' g 2^-15 has the exponent field 0 for y_g < 2, 1 for y_g < 4 and 2 for y_g < 8, because below 2^-14 a half
//   is subnormal: there the field is 0 for whatever is small. c = 1.5 * 2^(9 + field) is that field with some bits
//   around it: its last place is 1/2, 1, 2, the spacing of E2M1 around y. z = x' / v + c is rounded once, q = z - c is
//   exact and e = x' / v - q is rounded once. A spacing too coarse or too fine is harmless near a change of spacing:
//   from 7/8 to 9/8 of 2 or of 4 the two round to the same level. Three codes one after the other span a factor of at
//   most 10/8, so one g serves them: y_g / y lies in [1/1.11, 10/8/1.11] = [.9009, 1.1262], and with y_g = 2 at the
//   change y in [1.776, 2.22]. g's and u's roundings are below 2^-8 together.
//   Beyond 7 y is rounded to 8 (or, from 8 on, to 8 or 10), which is nearer than 6 is: then the sum is a lower bound of
//   the right one. Only candidates below w have r > 7. For the largest element the difference (y - 6)^2 - (y - 8)^2 =
//   4 (y - 7) is added.
//
// The filter's error.  F = v^2 sum e'^2, e' = e(y'), y' = y (1 + d), |d| <= delta, the largest error of the rounded
//   inverses (worked out for the T at hand: below 2^-11). As in lanes.hpp |e(y') - e(y)| <= delta y, so for any kappa
//   |sum e(y')^2 - A| <= 2 delta sum e y + delta^2 Y <= delta kappa A + delta Y / kappa + delta^2 Y,
//   Y = sum y^2 = E / v^2. e' is rounded once, its square and the sum at each addition of eight: (1 + 2^-11)^10, one
//   more where two such sums are added. Squares below 2^-14 are rounded to multiples of 2^-24, N 2^-25 together;
//   elements below 2^-14 add at most N 2^-23.6. With v^2 < 16 that is below N 2^-19. Since E >= 34 and delta is taken
//   as at least 2^-12, that and delta^2 Y are less than a fifth of delta E / kappa. So
//     |F - S| <= lambda S + M,  lambda = kappa delta + 11.2 * 2^-11,  M = 1.25 delta E / kappa,
//   and what exceeds (1 + rho) M + rho F_best, rho = (1 + lambda) / (1 - lambda), has S > S_best. kappa = 12 is about
//   the square root of Y / A.
#pragma once

#include "cuda/sse_decide.cuh"

namespace fp4scope::cuda {

inline constexpr int pair_least = 9, pair_last = 119;  ///< w

/// By w's mantissa, for one T. Rows are read as 16 bytes at a time; their stride keeps eight rows in different banks.
template <int below>
struct PairTables {
  static constexpr int candidates = 8 + below, groups = (candidates + 2) / 3;
  static constexpr int stride = candidates + groups <= 12 ? 12 : 20;
  alignas(16) HalfPair inverse[8][stride];  ///< of each candidate, then g 2^-15
  alignas(16) float square[8][stride];      ///< v^2; 6 v and U v of the code below all candidates; v of those below w
  HalfPair threshold[8][8];                 ///< the least x' that passes, at code mantissas
  HalfPair encode[8];                       ///< an inverse that rounds each element of 8 bits right; 0: there is none
  std::uint32_t delta_bits;  ///< of the largest error of an inverse, a float
  float relative;   ///< rho, a little more
  float per_power;  ///< of sum x'^2: (1 + rho) M
  int exponent;     ///< k
};

/// m's block scale in its unit: m = 8 .. 15 is mantissa m, lower and higher ones the binades beside it.
__device__ inline double scale_of(int m) {
  const int binade = m < 8 ? -1 : m >= 16 ? 1 : 0;
  return ((m & 7) + 8) / 8.0 * (binade < 0 ? 0.5 : binade > 0 ? 2 : 1);
}

__device__ inline std::uint32_t half_bits(double x) { return __half_as_ushort(__double2half(x)); }

/// Whether x' * inverse + c rounds x' = X 2^j right for every X of 8 bits. Thresholds are odd multiples p / 4, p = 1, 3,
/// 5, 7, of powers of two, in x' theta = p t v / 16 of those; p = 3 and 7 pass on the threshold, as ties to even do.
__device__ inline bool rounds_right(double inverse, double tv) {
  for (int p = 1; p <= 7; p += 2) {
    double theta = p * tv, middle = 4 * p;
    while (theta < 128) theta *= 2, middle *= 2;
    const bool passes_on = p == 3 || p == 7;
    double under = passes_on ? ceil(theta) - 1 : floor(theta);
    const double over = under + 1;
    if (under < 128) under = 127.5;
    const double low = under * inverse, high = over * inverse;
    if (passes_on ? low >= middle || high < middle : low > middle || high <= middle) return false;
  }
  return true;
}

/// One entry of each kind: candidate i of a row.
template <int below>
__device__ void make_candidate(PairTables<below>& tables, int row, int i, double t, double undersize) {
  using Tables = PairTables<below>;
  const double v = scale_of(8 + row - below + i), inverse = 4 / (t * v);
  const std::uint32_t bits = half_bits(inverse);
  const auto delta = static_cast<float>(fabs(static_cast<double>(half_value(bits)) / inverse - 1) * (1 + 0x1p-20));
  atomicMax(&tables.delta_bits, __float_as_uint(delta));
  tables.inverse[row][i] = twice(bits);
  tables.square[row][i] = static_cast<float>(v * v);
  if (i % 3 == 0) tables.inverse[row][Tables::candidates + i / 3] = twice(half_bits(inverse / 1.11 * 0x1p-15));
  if (i < below) tables.square[row][Tables::candidates + 2 + i] = static_cast<float>(v);
  if (i > 0) return;
  const double lower = scale_of(8 + row - below - 1);
  tables.square[row][Tables::candidates] = static_cast<float>(6 * lower);
  tables.square[row][Tables::candidates + 1] = static_cast<float>(undersize * lower);
}

/// Threshold k of a code mantissa.
template <int below>
__device__ void make_threshold(PairTables<below>& tables, int row, int k, double t) {
  const double midpoint = k < 4 ? 0.25 + 0.5 * k : k < 6 ? k - 1.5 : 5;
  const double theta = midpoint * t * (1 + row / 8.0) / 4;
  std::uint32_t bits = half_bits(theta);
  const double value = static_cast<double>(half_value(bits));
  if (k % 2 == 1 ? value < theta : value <= theta) ++bits;
  tables.threshold[row][k] = twice(bits);
}

/// The rounded inverse, or else one of its neighbours.
template <int below>
__device__ void make_encoding(PairTables<below>& tables, int row, double t) {
  const double tv = t * (1 + row / 8.0);
  const std::uint32_t bits = half_bits(4 / tv);
  HalfPair found = 0;
  for (std::uint32_t b = bits - 1; b <= bits + 1; ++b) {
    if (rounds_right(static_cast<double>(half_value(b)), tv)) found = twice(b);
  }
  tables.encode[row] = found;
}

/// By all threads of a block of 256.
template <int below>
__device__ void make_tables(PairTables<below>& tables, double tensor_scale, double undersize) {
  const std::uint64_t bits = static_cast<std::uint64_t>(__double_as_longlong(tensor_scale));
  const double t = __longlong_as_double(static_cast<long long>((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000));
  const int thread = static_cast<int>(threadIdx.x), row = thread / 16 % 8, i = thread % 16;
  if (thread == 0) tables.delta_bits = __float_as_uint(0x1p-12f);
  __syncthreads();
  if (thread < 128) {
    if (i < PairTables<below>::candidates) make_candidate(tables, row, i, t, undersize);
  } else {
    if (i < 7) make_threshold(tables, row, i, t);
    if (i == 8) make_encoding(tables, row, t);
  }
  __syncthreads();
  if (thread == 0) {
    constexpr double kappa = 12;
    const auto delta = static_cast<double>(__uint_as_float(tables.delta_bits));
    const double lambda = kappa * delta + 11.2 * 0x1p-11, rho = (1 + lambda) / (1 - lambda);
    tables.relative = static_cast<float>(rho * (1 + 0x1p-18));
    // a = 4 x' / t; the sum of squares in half precision is at most 1 % too small.
    tables.per_power = static_cast<float>(1.02 * (1 + rho) * 1.25 * delta / kappa * 16 / (t * t));
    tables.exponent = static_cast<int>(bits >> 52) - 1023;
  }
  __syncthreads();
}

/// The absolute values of a block's pairs, and the largest of them all.
template <int pairs>
__device__ inline std::uint32_t magnitudes(const uint4 (&words)[pairs / 4], std::uint32_t (&out)[pairs]) {
#pragma unroll
  for (int i = 0; i < pairs / 4; ++i) {
    out[4 * i] = words[i].x & 0x7FFF7FFF;
    out[4 * i + 1] = words[i].y & 0x7FFF7FFF;
    out[4 * i + 2] = words[i].z & 0x7FFF7FFF;
    out[4 * i + 3] = words[i].w & 0x7FFF7FFF;
  }
  std::uint32_t most = out[0];
#pragma unroll
  for (int i = 1; i < pairs; ++i) most = larger2(most, out[i]);
  return max(most & 0xFFFF, most >> 16);
}

__device__ inline float float_of(std::uint32_t bits, const __nv_bfloat16*) { return __uint_as_float(bits << 16); }
__device__ inline float float_of(std::uint32_t bits, const __half*) { return half_value(bits); }

/// x' of magnitudes in place: their exponents less E + k - 5. Of bfloat16 the fields change place; what would have
/// none becomes 0. Factors of binary16 are 2^-24 to 2^15.
template <int pairs>
__device__ inline void scale(std::uint32_t (&x)[pairs], int exponent, const __nv_bfloat16*) {
  const std::uint32_t base = static_cast<std::uint32_t>(107 + exponent) << 7;
  const std::uint32_t least = twice(base), offset = 0 - 8 * least;
#pragma unroll
  for (int i = 0; i < pairs; ++i) x[i] = larger2(x[i], least) * 8 + offset;
}
template <int pairs>
__device__ inline void scale(std::uint32_t (&x)[pairs], int exponent, const __half*) {
  const std::uint32_t bits = exponent <= 19 ? static_cast<std::uint32_t>(20 - exponent) << 10 : 0x400u >> (exponent - 19);
  const HalfPair factor = twice(bits);
#pragma unroll
  for (int i = 0; i < pairs; ++i) x[i] = mul2(x[i], factor);
}
__device__ inline bool can_scale(int, const __nv_bfloat16*) { return true; }
__device__ inline bool can_scale(int exponent, const __half*) { return exponent >= -10 && exponent <= 29; }

/// Rows of a table into registers.
template <int n, class T, int stride>
__device__ inline void load_row(const T (&row)[stride], T (&out)[n]) {
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(&row[i]);
    const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (i + k < n) out[i + k] = __builtin_bit_cast(T, words[k]);
    }
  }
}

inline constexpr std::uint32_t field_bits = 0x7C007C00, magic_bits = 0x62006200;  // 768 and what field is OR'ed to it

/// Which candidates are left, bit 0: some below them all, bit 1 + i: code w - below + i. a in its unit.
template <int pairs, int below>
__device__ inline std::uint32_t candidates_left(const PairTables<below>& tables, int row, float a,
                                                const HalfPair (&x)[pairs]) {
  using Tables = PairTables<below>;
  constexpr int n = Tables::candidates, groups = Tables::groups;
  HalfPair inverse[n + groups];
  load_row(tables.inverse[row], inverse);
  float error[n];
  HalfPair power = 0;
  HalfPair sum[n];
  HalfPair first_sum[n];
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
    const bool starts = p % 8 == 0;
    power = p == 0 ? mul2(x[p], x[p]) : fma2(x[p], x[p], power);
    if (p == 8) {
#pragma unroll
      for (int i = 0; i < n; ++i) first_sum[i] = sum[i];
    }
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const HalfPair magic = (mul2(x[p], inverse[n + g]) & field_bits) | magic_bits;
#pragma unroll
      for (int i = 3 * g; i < n && i < 3 * g + 3; ++i) {
        const HalfPair minus = sub2(magic, fma2(x[p], inverse[i], magic)), e = fma2(x[p], inverse[i], minus);
        sum[i] = starts ? mul2(e, e) : fma2(e, e, sum[i]);
      }
    }
  }
  float square[n + 2 + below];
  load_row(tables.square[row], square);
  float best = __int_as_float(0x7F800000);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const HalfPair all = pairs > 8 ? add2(sum[i], first_sum[i]) : sum[i];
    error[i] = sum_of(all) * square[i];
    if (i < below) continue;
    best = fminf(best, error[i]);
  }
#pragma unroll
  for (int i = 0; i < below; ++i) {  // (y - 6)^2 - (y - 8)^2 of the largest element
    const float v = square[n + 2 + i];
    error[i] += fmaxf(4 * v * (a - 7 * v), 0);
  }
  const float limit = __fmaf_rn(best, tables.relative, sum_of(power) * tables.per_power);
  std::uint32_t left = 0;
#pragma unroll
  for (int i = n - 1; i >= 0; --i) left = __funnelshift_l(__float_as_uint(error[i] - limit), left, 1);
  const float clipped = fmaxf(a - square[n], 0);
  return left << 1 | (a <= square[n + 1] && clipped * clipped <= limit ? 1u : 0u);
}

/// The signs of 8 elements at the top of nibbles, in the order of codes_of.
__device__ inline std::uint32_t signs_of(const uint4& words) {
  constexpr std::uint32_t signs = 0x80008000;
  std::uint32_t s = words.x & signs;
  s = s >> 4 | (words.y & signs);
  s = s >> 4 | (words.z & signs);
  return s >> 4 | (words.w & signs);
}

/// The indices of four pairs, the first of each pair in the lower four nibbles: from z's bits, the multiple n of the
/// spacing in the lowest and its field f in 10 and 11. The level's index is n + 2 f.
__device__ inline std::uint32_t indices_of(const HalfPair (&z)[4]) {
  const std::uint32_t a = z[0] - magic_bits + ((z[1] - magic_bits) << 4);
  const std::uint32_t b = z[2] - magic_bits + ((z[3] - magic_bits) << 4);
  const std::uint32_t first = (a & 0x00770077) + (a >> 9 & 0x00660066);
  const std::uint32_t second = (b & 0x00770077) + (b >> 9 & 0x00660066);
  const std::uint32_t all = first + (second << 8);
  return all - (all >> 3 & 0x11111111);  // 8, beyond the largest level, is 7
}

/// Nibbles 0 4 1 5 2 6 3 7.
__device__ inline std::uint32_t interleaved(std::uint32_t nibbles) {
  const std::uint32_t bytes = __byte_perm(nibbles, 0, 0x3120), change = (bytes ^ bytes >> 4) & 0x00F000F0;
  return bytes ^ change ^ change << 4;
}

/// z of a pair, or the same bits made of comparisons with the seven thresholds.
struct Rounding {
  HalfPair inverse, group;
  __device__ HalfPair operator()(HalfPair x) const {
    return fma2(x, inverse, (mul2(x, group) & field_bits) | magic_bits);
  }
};

template <int pairs, class Z>
__device__ inline void pack(const HalfPair (&x)[pairs], const uint4 (&words)[pairs / 4], const Z& z, uint2* out) {
#pragma unroll
  for (int i = 0; i < pairs; i += 8) {
    const HalfPair first[4] = {z(x[i]), z(x[i + 1]), z(x[i + 2]), z(x[i + 3])};
    const HalfPair second[4] = {z(x[i + 4]), z(x[i + 5]), z(x[i + 6]), z(x[i + 7])};
    out[i / 8] = {interleaved(indices_of(first) | signs_of(words[i / 4])),
                  interleaved(indices_of(second) | signs_of(words[i / 4 + 1]))};
  }
}

/// A block's codes at a scale near w, whose E the x' have.
template <class T, int pairs, int below>
__device__ inline void encode(const PairTables<below>& tables, int w, int code, const HalfPair (&x)[pairs],
                              const uint4 (&words)[pairs / 4], uint2* out, const T*) {
  const std::uint32_t binades = static_cast<std::uint32_t>((code >> 3) - (w >> 3)) * 0x04000400u;
  const HalfPair inverse = tables.encode[code & 7];
  if (std::is_same_v<T, __nv_bfloat16> && inverse != 0) {
    const HalfPair own = inverse - binades;
    pack(x, words, Rounding{own, mul2(own, 0x02000200)}, out);
    return;
  }
  HalfPair threshold[7];
#pragma unroll
  for (int k = 0; k < 7; ++k) threshold[k] = tables.threshold[code & 7][k] + binades;
  const auto counted = [&](HalfPair v) {
    HalfPair index = at_least2(v, threshold[0]);
#pragma unroll
    for (int k = 1; k < 7; ++k) index = add2(index, at_least2(v, threshold[k]));
    return add2(index, twice(0x6400)) - twice(0x0200);  // 1024 + index: the index in the lowest bits
  };
  pack(x, words, counted, out);
}

}  // namespace fp4scope::cuda
