// What the kernels at the speed of memory share: sixteen elements a thread, their largest magnitude, the exact code of
// a rule's scale, and the exact codes of elements at any scale code by comparison with thresholds of the elements' own
// type, which a block of threads works out once and keeps in shared memory.
//
// Why comparing in the elements' own type is exact. Element code k + 1 or above is right for a magnitude |x| iff
// |x| > t_k for even k, |x| >= t_k for odd k (sim/grid.hpp), t_k = midpoint_k * step, exact in binary64. With b_k the
// largest number of the type that is <= t_k, or < t_k for odd k, that is |x| > b_k, since |x| is a number of the type.
//
// Two 16-bit elements lie in a word, the earlier in the lower half, and are compared at once.
#pragma once

#include "cuda/launch.cuh"
#include "search/search.hpp"
#include "sim/grid.hpp"
#include "sim/scale.hpp"

namespace fp4scope::cuda {

// ---- where it applies ----

/// Whether sixteen elements at a time cover the matrix: blocks of 16 or 32 that start at multiples of 16 bytes, no
/// tiles, elements of 4 bits of one grid, and counts that fit 31 bits.
inline bool takes_sixteens(const search::SearchTask& task, const Matrix& matrix, const void* packed) {
  return (task.block == 16 || task.block == 32) && task.tile_rows == 1 && matrix.cols % task.block == 0 &&
         aligned(matrix.x, 16) && aligned(packed, 8) && !task.format->selects() && task.format->element.bits == 4 &&
         matrix.rows * matrix.cols < std::int64_t{1} << 33;
}

// ---- sixteen elements ----

/// Two 16-bit floats, or one binary32, a word.
template <class T>
inline constexpr int elements_per_word = 4 / static_cast<int>(sizeof(T));

template <class T, int n>
struct Elements {
  static constexpr int words = n / elements_per_word<T>;
  std::uint32_t word[words];
};

template <class T>
using Sixteen = Elements<T, 16>;

/// n elements from an address that is a multiple of 16 bytes.
template <class T, int n>
__device__ inline Elements<T, n> load_elements(const T* x) {
  Elements<T, n> e;
#pragma unroll
  for (int i = 0; i < Elements<T, n>::words / 4; ++i) {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(x) + i);
    e.word[4 * i] = v.x, e.word[4 * i + 1] = v.y, e.word[4 * i + 2] = v.z, e.word[4 * i + 3] = v.w;
  }
  return e;
}

template <class T>
struct PairOf;
template <>
struct PairOf<__nv_bfloat16> {
  using Type = __nv_bfloat162;
};
template <>
struct PairOf<__half> {
  using Type = __half2;
};

/// A word as a pair and back: memcpy, because CUDA's pairs are not what std::bit_cast takes.
template <class T>
__device__ inline typename PairOf<T>::Type pair_of(std::uint32_t word) {
  typename PairOf<T>::Type pair;
  memcpy(&pair, &word, 4);
  return pair;
}
template <class Pair>
__device__ inline std::uint32_t word_of(Pair pair) {
  std::uint32_t word;
  memcpy(&word, &pair, 4);
  return word;
}

/// max |x| as binary32 bits; a NaN or an Inf gives at least 0x7F800000.
template <class T, int n>
__device__ inline std::uint32_t amax_bits(const Elements<T, n>& s) {
  if constexpr (sizeof(T) == 4) {
    std::uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) largest = max(largest, s.word[i] & 0x7FFFFFFFu);
    return largest;
  } else {
    auto largest = __habs2(pair_of<T>(s.word[0]));
#pragma unroll
    for (int i = 1; i < n / 2; ++i) largest = __hmax2_nan(largest, __habs2(pair_of<T>(s.word[i])));
    const std::uint32_t both = word_of(largest), most = max(both << 16, both & 0xFFFF0000u);  // no sign, so as integers
    if constexpr (std::is_same_v<T, __nv_bfloat16>) return most;
    return __float_as_uint(__half2float(__ushort_as_half(static_cast<unsigned short>(most >> 16))));
  }
}

// ---- scale codes of rules ----

/// The formats and rounding directions that scale_code_of knows.
enum class ScaleKind : std::uint8_t { e4m3_nearest, ue8m0_down, ue8m0_up, other };

inline ScaleKind scale_kind(const formats::Format& scale, formats::Rounding rounding) {
  using formats::Rounding;
  if (formats::same_format(scale, formats::e4m3) && rounding == Rounding::nearest_even) return ScaleKind::e4m3_nearest;
  if (!formats::same_format(scale, formats::ue8m0)) return ScaleKind::other;
  return rounding == Rounding::toward_zero ? ScaleKind::ue8m0_down
         : rounding == Rounding::up        ? ScaleKind::ue8m0_up
                                           : ScaleKind::other;
}

FP4SCOPE_HD constexpr int nan_code(ScaleKind kind) { return kind == ScaleKind::e4m3_nearest ? 0x7F : 0xFF; }

/// amax times this is the quotient of sim::scale_code.
__device__ inline double rule_factor(sim::ScaleRule rule, float tensor_scale) {
  return rule.numerator / (rule.divisor * static_cast<double>(tensor_scale));
}

/// As sim::scale_code, from max |x| as binary32 bits; NaN's code where they are not finite. Tensor scales are positive
/// and finite.
///
/// A product takes the place of the division of sim/scale.hpp. By the proof there, the real quotient is a boundary
/// between codes, of at most 6 bits, or differs from all of them by more than 2^-38 of itself. The product with the
/// rounded factor (two roundings, and one in the product) is within 2^-51, so that rounding it to 41 bits, 2^-41,
/// brings it to the boundary in the first case and leaves it on its side in the second.
template <ScaleKind kind>
__device__ inline int scale_code_of(std::uint32_t amax, double factor, int least) {
  if (amax >= 0x7F800000u) return nan_code(kind);
  const double product = static_cast<double>(__uint_as_float(amax)) * factor;
  const std::uint64_t bits = (static_cast<std::uint64_t>(__double_as_longlong(product)) + 0x800) & ~0xFFFull;
  const auto low = static_cast<std::uint32_t>(bits);
  const auto high = static_cast<int>(bits >> 32);  // 1 + 11 + 20 bits of a double, never negative
  int code;
  if constexpr (kind == ScaleKind::e4m3_nearest) {
    // To nearest even at 3 bits of mantissa: add just under half of the last place, and 1 more if that is odd.
    // The carry out of the lower word is that of low + (2^32 - 1) + odd.
    code = ((high + 0xFFFF + ((high >> 17 & 1) | (low != 0))) >> 17) - ((1023 - 7) << 3);
    if (high < (1023 - 6) << 20) code = __double2int_rn(__longlong_as_double(static_cast<long long>(bits)) * 0x1p9);
    code = min(code, 0x7E);
  } else {
    const int up = kind == ScaleKind::ue8m0_up && ((high & 0xFFFFF) != 0 || low != 0);
    code = min(max((high >> 20) - (1023 - 127) + up, 0), 0xFE);
  }
  return amax == 0 ? 0 : max(code, least);
}

// ---- element codes ----

/// What the kernels need of a format, by value.
struct FastFormat {
  float midpoint[7];
  float scale_value[256];  ///< NaN from the NaN code on
};

inline FastFormat fast_format(const formats::BlockFormat& format) {
  FastFormat f = {};
  const sim::Grid grid = sim::make_grid(format);
  for (int k = 0; k < 7; ++k) f.midpoint[k] = static_cast<float>(grid.midpoint[k]);  // at most 9 bits
  for (std::uint32_t code = 0; code < 256; ++code) {
    f.scale_value[code] = code > format.scale.max_code ? __builtin_nanf("") : formats::decode_float(format.scale, code);
  }
  return f;
}

/// The largest number of the type that is <= t, or < t, as bits; t > 0.
template <class T>
__device__ inline std::uint32_t bits_below(double t, bool strictly) {
  const float below = __double2float_rd(t);
  const std::uint32_t bits = __float_as_uint(below) - (strictly && static_cast<double>(below) == t);
  if constexpr (sizeof(T) == 4) return bits;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return bits >> 16;
  return __half_as_ushort(__float2half_rd(__uint_as_float(bits)));
}

/// The seven thresholds of a scale code, in the order in which halving looks at them: b3; b1, b5; b0, b4, b2, b6. Of
/// 16-bit types each stands in both halves of its word, and a pair is given as its first and the exclusive or of both:
/// b3; b1, b1^b5; b0, b0^b4, b0^b2, b0^b2^b4^b6. The last word is 1 / step, rounded.
struct Thresholds7 {
  uint4 first, second;

  __device__ float inverse() const { return __uint_as_float(second.w); }
};

/// The thresholds of all scale codes up to NaN's. Halves apart, so that threads that look up different codes seldom
/// wait for one another's banks.
template <int codes>
struct Table {
  uint4 first[codes], second[codes];

  __device__ Thresholds7 operator[](int code) const { return {first[code], second[code]}; }
  __device__ float inverse(int code) const { return __uint_as_float(second[code].w); }
};

/// Of a step that is not positive (a scale of 0, NaN): NaN, which nothing is above.
template <class T>
__device__ inline Thresholds7 make_thresholds7(const FastFormat& format, float tensor_scale, int code) {
  const double step = static_cast<double>(tensor_scale) * static_cast<double>(format.scale_value[code]);
  const std::uint32_t inverse = __float_as_uint(static_cast<float>(1 / step));
  std::uint32_t b[7];
  for (int k = 0; k < 7; ++k) {
    b[k] = step > 0 ? bits_below<T>(static_cast<double>(format.midpoint[k]) * step, k % 2 == 1)
                    : 0x7FFFFFFFu >> (32 - 8 * sizeof(T));
    if constexpr (sizeof(T) == 2) b[k] = (b[k] & 0xFFFFu) * 0x10001u;
  }
  if constexpr (sizeof(T) == 4) return {{b[3], b[1], b[5], b[0]}, {b[4], b[2], b[6], inverse}};
  return {{b[3], b[1], b[1] ^ b[5], b[0]}, {b[0] ^ b[4], b[0] ^ b[2], b[0] ^ b[2] ^ b[4] ^ b[6], inverse}};
}

/// Fills a table by all threads of a block; then __syncthreads().
template <class T, int codes>
__device__ inline void fill_thresholds(const FastFormat& format, float tensor_scale, Table<codes>& table) {
  for (int code = static_cast<int>(threadIdx.x); code < codes; code += static_cast<int>(blockDim.x)) {
    const Thresholds7 t = make_thresholds7<T>(format, tensor_scale, code);
    table.first[code] = t.first;
    table.second[code] = t.second;
  }
}

/// (if_set & mask) | (if_clear & ~mask), as the one instruction that it is: nested, nvcc makes four of three.
__device__ inline std::uint32_t select_bits(std::uint32_t mask, std::uint32_t if_set, std::uint32_t if_clear) {
  std::uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(out) : "r"(mask), "r"(if_set), "r"(if_clear));
  return out;
}

/// sign, then the three bits of the index, in the upper four bits of each half; what is below them is anything.
template <class T>
__device__ inline std::uint32_t nibbles_of_pair(const Thresholds7& t, std::uint32_t word) {
  const auto x = __habs2(pair_of<T>(word));
  const std::uint32_t high = __hgt2_mask(x, pair_of<T>(t.first.x));
  const std::uint32_t second = t.first.y ^ (high & t.first.z);
  const std::uint32_t middle = __hgt2_mask(x, pair_of<T>(second));
  const std::uint32_t third = (t.first.w ^ (high & t.second.x)) ^ (middle & (t.second.y ^ (high & t.second.z)));
  const std::uint32_t low = __hgt2_mask(x, pair_of<T>(third));
  return select_bits(0x80008000u, word, select_bits(0x40004000u, high, select_bits(0x20002000u, middle, low)));
}

/// packed * 16 + the nibble of one binary32 number. |x| > b iff b - |x| is negative, which a subtraction, correctly
/// rounded, gives without fail; b = NaN has its sign clear and |x| = NaN is not met (a block with one has such b, and
/// the sum of NaNs is positive). Subtractions go beside the bitwise operations, which are the narrow place. Bit 2 of
/// the index is set above b3; bit 1 above b5, or b1 but not b3; bit 0 above an odd number of thresholds.
__device__ inline std::uint32_t append_nibble(std::uint32_t packed, const Thresholds7& t, std::uint32_t word) {
  const float x = fabsf(__uint_as_float(word));
  const auto above = [&](std::uint32_t b) { return __float_as_uint(__uint_as_float(b) - x); };
  const std::uint32_t a3 = above(t.first.x), a1 = above(t.first.y), a5 = above(t.first.z);
  const std::uint32_t a0 = above(t.first.w), a4 = above(t.second.x), a2 = above(t.second.y), a6 = above(t.second.z);
  const std::uint32_t middle = a1 ^ a3 ^ a5, low = middle ^ (a0 ^ a2 ^ a4) ^ a6;
  packed = __funnelshift_l(word, packed, 1);
  packed = __funnelshift_l(a3, packed, 1);
  packed = __funnelshift_l(middle, packed, 1);
  return __funnelshift_l(low, packed, 1);
}

/// Eight elements packed, the first in the lowest four bits; sign and magnitude.
template <class T>
__device__ inline std::uint32_t encode_eight(const Thresholds7& t, const std::uint32_t* word) {
  if constexpr (sizeof(T) == 4) {
    std::uint32_t packed = 0;
#pragma unroll
    for (int i = 7; i >= 0; --i) packed = append_nibble(packed, t, word[i]);
    return packed;
  } else {
    std::uint32_t n[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) n[i] = nibbles_of_pair<T>(t, word[i]);
    // The upper bytes of the halves: even elements, then odd ones.
    const std::uint32_t a = __byte_perm(n[0], n[1], 0x7351), b = __byte_perm(n[2], n[3], 0x7351);
    const std::uint32_t even = __byte_perm(a, b, 0x5410), odd = __byte_perm(a, b, 0x7632);
    return select_bits(0xF0F0F0F0u, odd, even >> 4);
  }
}

/// Eight nibbles of sign and magnitude to two's complement: -m is (8 - m) ^ 8 in four bits, 8 - m = (m ^ 7) + 1.
__device__ inline std::uint32_t to_twos_complement(std::uint32_t nibbles) {
  const std::uint32_t sign = nibbles & 0x88888888u, one = sign >> 3, seven = sign - one;
  return (((nibbles & 0x77777777u) ^ seven) + one) ^ sign;
}

/// Eight packed codes in the format's own kind.
template <class T, bool twos_complement>
__device__ inline std::uint32_t eight_codes(const Thresholds7& t, const std::uint32_t* word) {
  const std::uint32_t packed = encode_eight<T>(t, word);
  return twos_complement ? to_twos_complement(packed) : packed;
}

/// The packed codes of sixteen elements at the scale code that the thresholds are of.
template <class T, bool twos_complement>
__device__ inline uint2 encode_sixteen(const Thresholds7& t, const Sixteen<T>& s) {
  return {eight_codes<T, twos_complement>(t, s.word),
          eight_codes<T, twos_complement>(t, s.word + Sixteen<T>::words / 2)};
}

// ---- a block's threads ----

/// Elements of a thread: 32 bytes, so that two loads of a warp take whole sectors one after the other. A block's
/// threads are neighbours.
template <class T>
inline constexpr int share = 32 / static_cast<int>(sizeof(T));

template <class T>
using Share = Elements<T, share<T>>;

/// The largest of the values that `lanes` neighbours have, a power of two.
template <int lanes>
__device__ inline std::uint32_t largest_of(std::uint32_t bits) {
#pragma unroll
  for (int d = 1; d < lanes; d *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, d));
  return bits;
}

/// Stores the codes of a thread's share number i.
template <class T, bool twos_complement>
__device__ inline void store_codes(const Thresholds7& t, const Share<T>& s, std::uint8_t* packed, int i) {
  if constexpr (sizeof(T) == 4) {
    reinterpret_cast<std::uint32_t*>(packed)[i] = eight_codes<T, twos_complement>(t, s.word);
  } else {
    reinterpret_cast<uint2*>(packed)[i] = encode_sixteen<T, twos_complement>(t, s);
  }
}

/// A thread's shares, one after the other, from the matrix's end to its beginning: a pass that went forward before has
/// left the end in the second-level cache. All threads of a warp go round together; `count` shares, of which those at
/// `count` and beyond are read as the last.
template <class T, int threads>
struct Shares {
  const T* x;
  int count, chunk, at;
  Share<T> next;

  __device__ Shares(const T* x, int count) : x(x), count(count), chunk(first() / threads) { next = load(); }
  /// The number of a thread's first share, where it has one; each of the others is gridDim.x * threads lower.
  __device__ int first() const {
    return ((count + threads - 1) / threads - 1 - static_cast<int>(blockIdx.x)) * threads +
           static_cast<int>(threadIdx.x);
  }
  __device__ bool more() const { return chunk >= 0; }
  /// This turn's share, its number in `at`; the next is on its way.
  __device__ Share<T> take() {
    const Share<T> now = next;
    at = chunk * threads + static_cast<int>(threadIdx.x);
    chunk -= static_cast<int>(gridDim.x);
    if (more()) next = load();
    return now;
  }

 private:
  __device__ Share<T> load() const {
    const int i = min(max(chunk, 0) * threads + static_cast<int>(threadIdx.x), count - 1);
    return load_elements<T, share<T>>(x + static_cast<std::int64_t>(i) * share<T>);
  }
};

}  // namespace fp4scope::cuda
