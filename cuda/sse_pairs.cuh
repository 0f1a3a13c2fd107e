// First stage of the scale search for E2M1: nine or ten candidates of a block in half precision, two elements at a
// time, by a filter with a proven error bound. It settles some nine blocks of ten and leaves a few candidates of the
// others.
//
// Notation of search/lanes.hpp, with units: T = t 2^k, 1 <= t < 2; w the code of the least block scale with r <= D = 7,
// E = w div 8; block scales v and a = amax are in units of 2^(E - 7) and T 2^(E - 7). Codes with 9 <= w <= 119 alone.
//
// The candidates.  From w on the eight codes w .. w + 7: from w + 8 on each has its half at w or above. Below,
//   w - 1 and for blocks of 32 w - 2; of lower ones the clipping bound says whether they are left. So r < 9 always.
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
// The filter's error, of each candidate.  F = v^2 sum e'^2, e' = e(y'), y' = y (1 + d), |d| = delta the error of its
//   rounded inverse (worked out for the T at hand: below 2^-11). As in lanes.hpp |e(y') - e(y)| <= delta y, so for any
//   kappa
//   |sum e(y')^2 - A| <= 2 delta sum e y + delta^2 Y <= delta kappa A + delta Y / kappa + delta^2 Y,
//   Y = sum y^2 = E / v^2. e' is rounded once, which its square doubles, the sum of N / 4 squares N / 4 times, and the
//   sum of two such sums once: (1 + 2^-11)^(N / 4 + 3). Squares below 2^-14 are rounded to multiples of 2^-24, N 2^-25
//   together; elements below 2^-14 add at most N 2^-23.6. With v^2 < 16 that is below N 2^-19. Since E >= 34, that and
//   delta^2 E are less than half of 2^-12 E / (5 kappa). So
//     |F - S| <= lambda S + M,  lambda = kappa delta + (N / 4 + 3.2) 2^-11,  M = (delta + 2^-12 / 5) E / kappa,
//     (F - M) / (1 + lambda) <= S <= (F + M) / (1 - lambda),
//   and a candidate whose lower bound is above another's upper bound is not the best. kappa = 12 is about the square
//   root of Y / A.
#pragma once

#include "cuda/sse_decide.cuh"

namespace fp4scope::cuda {

inline constexpr int pair_least = 9, pair_last = 119;  ///< w

inline constexpr std::uint32_t field_bits = 0x7C007C00, magic_bits = 0x62006200;  // 768, to which the field is OR'ed

/// c of a pair u. magic: magic_bits, out of memory, because two constants would be two instructions.
__device__ inline HalfPair magic_of(HalfPair u, HalfPair magic) { return (u & field_bits) | magic; }

/// By w's mantissa, for one T. Rows are read as 16 bytes at a time; their stride keeps eight rows in different banks.
template <int below>
struct PairTables {
  static constexpr int candidates = 8 + below, groups = (candidates + 2) / 3;
  static constexpr int stride = candidates + groups <= 12 ? 12 : 20;
  alignas(16) HalfPair inverse[8][stride];  ///< of each candidate, then g 2^-15
  alignas(16) float lower[8][12];           ///< v^2 / (1 + lambda) of each candidate
  alignas(16) float upper[8][12];           ///< v^2 / (1 - lambda)
  alignas(16) float margin[8][12];          ///< M / (1 - lambda) of sum x'^2
  alignas(16) float others[8][4];           ///< 6 v and U v of the code below all candidates; v of those below w
  HalfPair threshold[8][8];                 ///< the least x' that passes, at code mantissas
  HalfPair encode[8];                       ///< an inverse that rounds each element of 8 bits right; 0: there is none
  HalfPair magic;                           ///< magic_bits
  int exponent;                             ///< k
};

/// m's block scale in its unit: m = 8 .. 15 is mantissa m, lower and higher ones the binades beside it.
__device__ inline double scale_of(int m) {
  const int binade = m < 8 ? -1 : m >= 16 ? 1 : 0;
  return ((m & 7) + 8) / 8.0 * (binade < 0 ? 0.5 : binade > 0 ? 2 : 1);
}

__device__ inline std::uint32_t half_bits(double x) { return __half_as_ushort(__double2half(x)); }

/// Whether x' * inverse + c rounds x' = X 2^j right for every X of 8 bits, as far as one threshold decides. Thresholds
/// are odd multiples p / 4, p = 1, 3, 5, 7, of powers of two, in x' theta = p t v / 16 of those; p = 3 and 7 pass on
/// the threshold, as ties to even do.
__device__ inline bool rounds_right(double inverse, double tv, int p) {
  const double lowest = p * tv;  // below 27; theta is in [128, 256)
  const int binade = (__double2hiint(lowest) >> 20) - 1023;
  const double up = __hiloint2double((1023 + 7 - binade) << 20, 0), theta = lowest * up, middle = 4 * p * up;
  const bool passes_on = p == 3 || p == 7;
  double under = passes_on ? ceil(theta) - 1 : floor(theta);
  const double over = under + 1;
  if (under < 128) under = 127.5;
  const double low = under * inverse, high = over * inverse;
  return passes_on ? low < middle && high >= middle : low <= middle && high > middle;
}

/// One entry of each kind: candidate i of a row.
template <int below>
__device__ void make_candidate(PairTables<below>& tables, int row, int i, double t, double undersize) {
  constexpr double kappa = 12;
  const double v = scale_of(8 + row - below + i), inverse = 4 / (t * v);
  const std::uint32_t bits = half_bits(inverse);
  const double delta = fabs(static_cast<double>(half_value(bits)) * (t * v / 4) - 1) * (1 + 0x1p-20);
  const double lambda = kappa * delta + (4 * below + 3.2) * 0x1p-11, upper = (1 + 0x1p-18) / (1 - lambda);
  tables.inverse[row][i] = twice(bits);
  tables.lower[row][i] = static_cast<float>(v * v * (1 - 0x1p-18) / (1 + lambda));
  tables.upper[row][i] = static_cast<float>(v * v * upper);
  // a = 4 x' / t; the sum of squares in half precision is at most 1 % too small.
  tables.margin[row][i] = static_cast<float>(1.02 * (delta + 0x1p-12 / 5) / kappa * 16 / (t * t) * upper);
  if (i % 3 == 0) tables.inverse[row][tables.candidates + i / 3] = twice(half_bits(inverse * (0x1p-15 / 1.11)));
  if (i < below) tables.others[row][2 + i] = static_cast<float>(v);
  if (i > 0) return;
  const double next = scale_of(8 + row - below - 1);
  tables.others[row][0] = static_cast<float>(6 * next);
  tables.others[row][1] = static_cast<float>(undersize * next);
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

/// The rounded inverse or one of its neighbours, the last that serves, by the sixteen lanes of a row: lane 4 b + k
/// tries the b-th at p = 2 k + 1.
template <int below>
__device__ void make_encoding(PairTables<below>& tables, int row, int i, double t) {
  const double tv = t * (1 + row / 8.0);
  const std::uint32_t least = half_bits(4 / tv) - 1;
  const bool right = rounds_right(static_cast<double>(half_value(least + i / 4)), tv, i % 4 * 2 + 1);
  const std::uint32_t all_right = __ballot_sync(0xFFFFFFFF, right) >> (row % 2 * 16);
  HalfPair found = 0;
#pragma unroll
  for (int b = 0; b < 3; ++b) {
    if ((all_right >> (4 * b) & 15) == 15) found = twice(least + b);
  }
  if (i == 0) tables.encode[row] = found;
}

/// By all threads of a block of 256.
template <int below>
__device__ void make_tables(PairTables<below>& tables, double tensor_scale, double undersize) {
  const std::uint64_t bits = static_cast<std::uint64_t>(__double_as_longlong(tensor_scale));
  const double t = __longlong_as_double(static_cast<long long>((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000));
  const int thread = static_cast<int>(threadIdx.x), row = thread / 16 % 8, i = thread % 16;
  if (thread == 0) tables.magic = magic_bits, tables.exponent = static_cast<int>(bits >> 52) - 1023;
  if (thread < 128) {
    if (i < tables.candidates) make_candidate(tables, row, i, t, undersize);
  } else {
    if (i < 7) make_threshold(tables, row, i, t);
    make_encoding(tables, row, i, t);
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
  for (int i = 0; i < pairs; ++i) {
    asm("mad.lo.u32 %0, %1, 8, %2;" : "=r"(x[i]) : "r"(larger2(x[i], least)), "r"(offset));
  }
}
template <int pairs>
__device__ inline void scale(std::uint32_t (&x)[pairs], int exponent, const __half*) {
  const std::uint32_t bits =
      exponent <= 19 ? static_cast<std::uint32_t>(20 - exponent) << 10 : 0x400u >> (exponent - 19);
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

/// Which candidates are left, bit 0: some below them all, bit 1 + i: code w - below + i. a in its unit.
template <int pairs, int below>
__device__ inline std::uint32_t candidates_left(const PairTables<below>& tables, int row, float a,
                                                const HalfPair (&x)[pairs]) {
  using Tables = PairTables<below>;
  constexpr int n = Tables::candidates, groups = Tables::groups;
  HalfPair inverse[n + groups];
  load_row(tables.inverse[row], inverse);
  HalfPair power = 0;
  HalfPair sum[n], first_sum[n];  // of the two halves
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
    const bool starts = p % (pairs / 2) == 0;
    power = p == 0 ? mul2(x[p], x[p]) : fma2(x[p], x[p], power);
    if (p == pairs / 2) {
#pragma unroll
      for (int i = 0; i < n; ++i) first_sum[i] = sum[i];
    }
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const HalfPair magic = magic_of(mul2(x[p], inverse[n + g]), tables.magic);
#pragma unroll
      for (int i = 3 * g; i < n && i < 3 * g + 3; ++i) {
        const HalfPair minus = sub2(magic, fma2(x[p], inverse[i], magic)), e = fma2(x[p], inverse[i], minus);
        sum[i] = starts ? mul2(e, e) : fma2(e, e, sum[i]);
      }
    }
  }
  float lower[n], upper[n], margin[n], others[4];
  load_row(tables.lower[row], lower);
  load_row(tables.upper[row], upper);
  load_row(tables.margin[row], margin);
  load_row(tables.others[row], others);
  const float all_squares = sum_of(power);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float f = sum_of(add2(sum[i], first_sum[i])), m = all_squares * margin[i];
    lower[i] = __fmaf_rn(f, lower[i], -m);
    upper[i] = __fmaf_rn(f, upper[i], m);
  }
  const auto bits = [&](int i) { return __float_as_int(upper[below + i]); };  // no sign: in the order of the values
  const float limit = __int_as_float(__vimin3_s32(__vimin3_s32(bits(0), bits(1), bits(2)),
                                                  __vimin3_s32(bits(3), bits(4), bits(5)), min(bits(6), bits(7))));
#pragma unroll
  for (int i = 0; i < below; ++i) {  // (y - 6)^2 - (y - 8)^2 of the largest element
    const float v = others[2 + i];
    lower[i] += fmaxf(4 * v * (a - 7 * v), 0);
  }
  std::uint32_t left = 0;
#pragma unroll
  for (int i = n - 1; i >= 0; --i) left = __funnelshift_l(__float_as_uint(lower[i] - limit), left, 1);
  const float clipped = fmaxf(a - others[0], 0);
  return left << 1 | (a <= others[1] && clipped * clipped <= limit ? 1u : 0u);
}

/// The signs of two pairs, a byte of ones or zeros each.
__device__ inline std::uint32_t signs_of(std::uint32_t first, std::uint32_t second) {
  std::uint32_t d;
  asm("prmt.b32 %0, %1, %2, 0xFDB9;" : "=r"(d) : "r"(first), "r"(second));
  return d;
}

/// A byte of each element of two pairs: z has the multiple n of the spacing in its lowest bits and the spacing's field
/// f in bits 10 and 11, and the level's index is n + 2 f. Its sign goes beside it, into bit 3.
template <bool saturates>
__device__ inline std::uint32_t four_codes(HalfPair z0, HalfPair z1, std::uint32_t word0, std::uint32_t word1) {
  const std::uint32_t multiples = __byte_perm(z0, z1, 0x6420), fields = __byte_perm(z0, z1, 0x7531);
  std::uint32_t indices = multiples + ((fields & 0x0C0C0C0C) >> 1);
  if (saturates) indices -= indices >> 3 & 0x01010101;  // 8, beyond the largest level, is 7
  return indices | (signs_of(word0, word1) & 0x08080808);
}

/// Two words of four bytes below 16 as nibbles.
__device__ inline std::uint32_t nibbles_of(std::uint32_t first, std::uint32_t second) {
  return __byte_perm(first + (first >> 4), second + (second >> 4), 0x6420);
}

/// z of a pair, or the same bits made of comparisons with the seven thresholds.
struct Rounding {
  HalfPair inverse, group, magic;
  __device__ HalfPair operator()(HalfPair x) const { return fma2(x, inverse, magic_of(mul2(x, group), magic)); }
};

template <bool saturates, int pairs, class Z>
__device__ inline void pack(const HalfPair (&x)[pairs], const uint4 (&words)[pairs / 4], const Z& z, uint2* out) {
  std::uint32_t eight[pairs / 4];
#pragma unroll
  for (int i = 0; i < pairs / 4; ++i) {
    const HalfPair* const four = x + 4 * i;
    eight[i] = nibbles_of(four_codes<saturates>(z(four[0]), z(four[1]), words[i].x, words[i].y),
                          four_codes<saturates>(z(four[2]), z(four[3]), words[i].z, words[i].w));
  }
#pragma unroll
  for (int i = 0; i < pairs / 8; ++i) out[i] = {eight[2 * i], eight[2 * i + 1]};
}

/// A block's codes at a scale near w, whose E the x' have. Only codes below w saturate: at w itself r < 7, because
/// FloatFilter::to_least is larger than 1 / 7 by more than its roundings.
template <bool saturates, class T, int pairs, int below>
__device__ inline void encode(const PairTables<below>& tables, int w, int code, const HalfPair (&x)[pairs],
                              const uint4 (&words)[pairs / 4], uint2* out, const T*) {
  const std::uint32_t binades = static_cast<std::uint32_t>((code >> 3) - (w >> 3)) * 0x04000400u;
  const HalfPair inverse = tables.encode[code & 7];
  if (std::is_same_v<T, __nv_bfloat16> && inverse != 0) {
    const HalfPair own = inverse - binades;
    pack<saturates>(x, words, Rounding{own, mul2(own, 0x02000200), tables.magic}, out);
    return;
  }
  HalfPair threshold[7];
#pragma unroll
  for (int k = 0; k < 7; ++k) threshold[k] = tables.threshold[code & 7][k] + binades;
  const auto counted = [&](HalfPair v) {
    HalfPair index = at_least2(v, threshold[0]);
#pragma unroll
    for (int k = 1; k < 7; ++k) index = add2(index, at_least2(v, threshold[k]));
    return add2(index, twice(0x6400)) - twice(0x0400);  // 1024 + index: the index in the lowest bits
  };
  pack<false>(x, words, counted, out);
}

}  // namespace fp4scope::cuda
