// What one instruction of a matrix unit makes of K products and an addend, to the last bit. An instruction is a row of
// data (instructions.hpp); this file is the arithmetic that reads it. Integers only.
//
//   product    p_k = a_k * b_k, exact; its significand sa * sb is not renormalised, its exponent is ea + eb
//   steps      the k's are dealt to K / group steps; the running value enters each, C the first (or comes after all)
//   a step     max = the greatest exponent of its terms; every term is cut to F fraction bits below 2^max, toward zero;
//              the cut terms are added exactly; the sum is rounded to the row's result
//   scales     UE8M0: their exponents are added to every product's. exact_group > 0: the products of that many k are
//              added exactly first, the term is that sum times both scales' significands, its exponent theirs alone
//
// A zero operand has an exponent of its own (zero_exponent), a subnormal that of the least normal number: its format's,
// or binary16's where elements are converted to that first (as_f16). The result 0 is +0, NaN the row's own; what is too
// large is Inf.
//
// Sources: MMA-Sim (arXiv 2511.10909); Khattak and Mikaitis (arXiv 2512.07004); measurements (reports/tensor_cores).
//
// Bit budgets. A product's significand is below 2^2, so an aligned product is below 2^(F + 2): 27 bits at F = 25, which
// 32-bit words hold. 64 of them and an addend stay below 2^(F + 9). A term of exact_group = 16 e2m1 products is below
// 16 * 36 * 2 * 2 < 2^12, at F = 35 below 2^47; four of them and an addend take 50 bits of 63.
#pragma once

#include <cstdint>

#include "formats/codec.hpp"
#include "sim/wide_accumulator.hpp"

namespace fp4scope::sim {

enum class Opcode : std::uint8_t { mma, wgmma, tcgen05, mfma };

enum class Architecture : std::uint8_t {
  volta, turing, ampere, ada, hopper, blackwell, rtx_blackwell, cdna1, cdna2, cdna3,
};

/// How the products of a step become a sum.
enum class Sum : std::uint8_t {
  aligned,     ///< aligned to the greatest exponent and truncated to fraction_bits
  two_stage,   ///< the products so; their sum then cut to 31 bits and the running value to 24, downward, and added
  exact,       ///< in real numbers, rounded once per step
  sequential,  ///< fma after fma in binary32, to nearest even
  pairwise,    ///< each product rounded to binary32, added in a balanced tree, the tree's root to the running value
};

/// Where C comes in.
enum class Addend : std::uint8_t {
  first_step,  ///< in the first step's sum
  last,        ///< added to the result of all steps, rounded to nearest even
};

/// What a step's sum is rounded to.
enum class Result : std::uint8_t {
  f32_truncated,     ///< binary32, toward zero
  f32_nearest,       ///< binary32, to nearest even
  e8m13_truncated,   ///< toward zero to 13 mantissa bits; a binary32 whose low ten bits are 0
  f16_nearest,       ///< binary16, to nearest even
};

/// Why a row is believed. Empty and 0: not there.
struct Evidence {
  const char* model = "";    ///< a published model and where
  const char* vectors = "";  ///< published inputs and outputs of the hardware, and how many the row reproduces
  std::int64_t measured = 0;  ///< outputs of the hardware compared with the row
  std::int64_t differ = 0;    ///< so many of them differ
  const char* device = "";    ///< on which device
};

/// An exponent that never is the greatest.
inline constexpr int no_exponent = -4096;

struct Instruction {
  Opcode opcode;
  Architecture architecture;
  formats::Format a, b;  ///< element formats
  int m, n, k;           ///< D [m, n] = A [m, k] B [k, n] + C
  bool f16_addend;       ///< whether C is binary16; else binary32
  Sum sum;
  int group;           ///< products a step
  int run;             ///< of every run * (k / group) consecutive k, each step takes `run` consecutive ones
  int fraction_bits;   ///< F
  Addend addend;
  Result result;
  int zero_exponent = no_exponent;   ///< a zero operand's
  int zero_addend = no_exponent;     ///< the exponent of C = 0
  int least_exponent = no_exponent;  ///< the greatest exponent counts as at least this
  bool scaled = false;
  formats::Format scale = formats::ue8m0;  ///< where scaled; a sign bit is ignored
  int block = 0;                           ///< k's that share a scale
  int exact_group = 0;
  bool flushes = false;  ///< subnormal operands, C and sums become zeros
  bool as_f16 = false;   ///< elements are converted to binary16 first: what is subnormal in e4m3 no longer is
  const char* variant = "";  ///< tells apart rows for one instruction that publications disagree on
  Evidence evidence = {};
  char name[64] = {};

  FP4SCOPE_HD constexpr int steps() const noexcept { return k / group; }
  /// The least exponent that an element is aligned by.
  FP4SCOPE_HD constexpr int least_normal(const formats::Format& f) const noexcept {
    constexpr int of_f16 = -14;
    return as_f16 && of_f16 < f.min_exponent() ? of_f16 : f.min_exponent();
  }
  FP4SCOPE_HD constexpr bool f16_result() const noexcept { return result == Result::f16_nearest; }
  /// The canonical NaN.
  FP4SCOPE_HD constexpr std::uint32_t nan_bits() const noexcept {
    return opcode == Opcode::mfma ? 0x7FC00000u : f16_result() ? 0x7FFFu : 0x7FFFFFFFu;
  }
  /// The place of k in the order of summation: steps one after the other.
  FP4SCOPE_HD constexpr int place(int at) const noexcept {
    const int period = run * steps();
    return at % period / run * group + at / period * run + at % run;
  }
};

/// A decoded operand, scale or addend: significand * 2^(exponent - its fraction bits); a zero's exponent is the row's.
struct Operand {
  std::int32_t significand = 0;
  std::int32_t exponent = 0;
};

/// Inf is +-1 and NaN is 1 at these exponents, which no sum of four finite ones reaches.
inline constexpr int inf_exponent = 1 << 20, nan_exponent = 1 << 22, special_exponent = 1 << 19;

FP4SCOPE_HD constexpr Operand decode_operand(const formats::Format& f, std::uint32_t code, int zero_exponent,
                                             bool flushes = false) noexcept {
  const formats::Decoded d = formats::decode(f, code);
  if (d.cls == formats::CodeClass::nan) return {1, nan_exponent};
  if (d.cls == formats::CodeClass::infinite) return {d.negative ? -1 : 1, inf_exponent};
  if (d.cls == formats::CodeClass::zero || (flushes && d.cls == formats::CodeClass::subnormal)) {
    return {0, zero_exponent};
  }
  return {static_cast<std::int32_t>(d.value.significand), d.value.exponent + f.mantissa_bits};
}

/// Element k of A or B. Where products are summed exactly first, the significand is the value in units of 1/2.
FP4SCOPE_HD constexpr Operand decode_element(const Instruction& r, const formats::Format& f,
                                             std::uint32_t code) noexcept {
  Operand x = decode_operand(f, code, r.zero_exponent, r.flushes);
  if (r.exact_group == 0) {
    const std::int32_t leading = std::int32_t{1} << f.mantissa_bits;
    while (x.significand != 0 && x.exponent > r.least_normal(f) && x.exponent < special_exponent &&
           x.significand < leading && x.significand > -leading) {
      x.significand *= 2;
      --x.exponent;
    }
    return x;
  }
  return {x.significand == 0 ? 0 : x.significand * (1 << x.exponent), 0};
}

/// The k operands of one row of A or column of B in the order of summation, ready for accumulate(). Codes as the format
/// has them; for tf32 binary32's bits shifted right by 13.
FP4SCOPE_HD constexpr void decode_elements(const Instruction& r, const formats::Format& f, const std::uint32_t* codes,
                                           std::int64_t stride, std::int32_t* significand,
                                           std::int32_t* exponent) noexcept {
  for (int at = 0; at < r.k; ++at) {
    const Operand x = decode_element(r, f, codes[at * stride]);
    significand[r.place(at)] = x.significand;
    exponent[r.place(at)] = x.exponent;
  }
}

FP4SCOPE_HD constexpr Operand decode_scale(const Instruction& r, std::uint32_t code) noexcept {
  const std::uint32_t unsigned_code = r.scale.bits == 7 ? code & 0x7Fu : code;
  return decode_operand(r.scale, unsigned_code, r.zero_exponent);
}

/// tf32: 8 exponent and 10 mantissa bits, the upper 19 bits of binary32.
inline constexpr formats::Format tf32 = {"tf32", 19, 8, 10, 127, true, false, true, formats::Specials::ieee, 0x3FBFF,
                                         "the upper 19 bits of binary32 (PTX ISA 9.0, 5.2.3)"};
inline constexpr formats::Format binary32 = {"f32", 32, 8, 23, 127, true, false, true, formats::Specials::ieee,
                                             0x7F7FFFFF, "IEEE 754-2019, binary32"};

/// C's bits, or a running value's.
FP4SCOPE_HD constexpr Operand decode_addend(const Instruction& r, std::uint32_t bits, bool f16) noexcept {
  if (f16) {
    constexpr formats::Format half = formats::fp16;
    Operand c = decode_operand(half, bits, r.zero_addend, r.flushes);
    if (c.exponent < special_exponent) c.significand *= 1 << 13;  // 23 fraction bits, as binary32
    return c;
  }
  const std::uint32_t field = bits >> 23 & 0xFF, fraction = bits & 0x7FFFFF;
  const bool negative = bits >> 31 != 0;
  if (field == 0xFF) return fraction != 0 ? Operand{1, nan_exponent} : Operand{negative ? -1 : 1, inf_exponent};
  if (field == 0 && (fraction == 0 || r.flushes)) return {0, r.zero_addend};
  const auto significand = static_cast<std::int32_t>(field == 0 ? fraction : fraction | 0x800000);
  return {negative ? -significand : significand, static_cast<std::int32_t>(field == 0 ? 1 : field) - 127};
}

/// A number rounded once to the result's format; its bits. Zero is +0, too large is Inf.
FP4SCOPE_HD constexpr std::uint32_t round_result(Result result, const LeadingBits& x) noexcept {
  const bool half = result == Result::f16_nearest;
  const int mantissa = half ? 10 : result == Result::e8m13_truncated ? 13 : 23;
  const int least = half ? -14 : -126, container = half ? 10 : 23;
  const std::uint32_t infinity = half ? 0x7C00u : 0x7F800000u;
  if (x.magnitude == 0) return 0;
  const int binade = x.exponent + formats::bit_length(x.magnitude) - 1;
  const int last = (binade < least ? least : binade) - mantissa;  // exponent of the last place
  const int shift = last - x.exponent;
  std::uint64_t kept = shift > 63 ? 0 : shift > 0 ? x.magnitude >> shift : x.magnitude << -shift;
  if (shift > 0 && (half || result == Result::f32_nearest)) {
    const std::uint64_t lost = shift > 63 ? x.magnitude : x.magnitude & ((std::uint64_t{1} << shift) - 1);
    const std::uint64_t middle = shift > 64 ? ~std::uint64_t{0} : std::uint64_t{1} << (shift - 1);
    const bool up = lost > middle || (lost == middle && shift <= 64 && (x.sticky || (kept & 1) != 0));
    kept += up;
  }
  const std::uint32_t sign = x.negative && kept != 0 ? infinity == 0x7C00u ? 0x8000u : 0x80000000u : 0;
  // The exponent field is added to the significand, whose leading bit carries into it.
  const auto field = static_cast<std::uint64_t>(last + mantissa - least);
  const std::uint64_t bits = (kept << (container - mantissa)) + (field << container);
  return sign | (bits >= infinity ? infinity : static_cast<std::uint32_t>(bits));
}

/// significand * 2^exponent as what round_result takes.
FP4SCOPE_HD constexpr LeadingBits leading_bits(std::int64_t significand, int exponent) noexcept {
  const bool negative = significand < 0;
  const auto n = static_cast<std::uint64_t>(significand);
  return {negative ? 0 - n : n, exponent, negative, false};
}

/// x cut toward zero after `shift` places.
FP4SCOPE_HD constexpr std::int64_t cut(std::int64_t x, int shift) noexcept {
  if (shift <= 0) return x * (std::int64_t{1} << -shift);
  if (shift > 62) return 0;
  return x < 0 ? -(-x >> shift) : x >> shift;
}

/// The same downward.
FP4SCOPE_HD constexpr std::int64_t cut_down(std::int64_t x, int shift) noexcept {
  if (shift <= 0) return x * (std::int64_t{1} << -shift);
  return x >> (shift > 62 ? 62 : shift);
}

/// Operands in the order of summation.
struct Operands {
  const std::int32_t* significand;
  const std::int32_t* exponent;
};

/// The greatest a.exponent[i] + b.exponent[i] of i < n, or `greatest`.
FP4SCOPE_HD constexpr int greatest_exponent(const Operands& a, const Operands& b, int n, int greatest) noexcept {
  for (int i = 0; i < n; ++i) {
    const int e = a.exponent[i] + b.exponent[i];
    greatest = e > greatest ? e : greatest;
  }
  return greatest;
}

/// The sum of products aligned to 2^greatest, in units of 2^(greatest - F). `spare`: F less the products' own fraction
/// bits; both significands and the shift left fit 32 bits together.
FP4SCOPE_HD constexpr std::int64_t aligned_products(const Operands& a, const Operands& b, int n, int greatest,
                                                    int spare) noexcept {
  std::int64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    const std::int32_t p = a.significand[i] * b.significand[i];
    const int distance = greatest - a.exponent[i] - b.exponent[i];
    const std::int32_t magnitude = ((p < 0 ? -p : p) << spare) >> (distance < 31 ? distance : 31);
    sum += p < 0 ? -magnitude : magnitude;
  }
  return sum;
}

FP4SCOPE_HD constexpr Operands advance(const Operands& x, int n) noexcept {
  return {x.significand + n, x.exponent + n};
}

/// A sum in units of 2^exponent.
struct AlignedSum {
  std::int64_t units;
  int exponent;
};

/// One aligned step; `scale` is the exponent of both scales together.
FP4SCOPE_HD constexpr AlignedSum aligned_step(const Instruction& r, const Operands& a, const Operands& b,
                                              const Operand& addend, int scale) noexcept {
  const int f = r.fraction_bits;
  const int least = addend.exponent > r.least_exponent ? addend.exponent : r.least_exponent;
  const int greatest = greatest_exponent(a, b, r.group, least - scale) + scale;
  const int spare = f - r.a.mantissa_bits - r.b.mantissa_bits;
  const std::int64_t products = aligned_products(a, b, r.group, greatest - scale, spare);
  return {products + cut(addend.significand, 23 - f + greatest - addend.exponent), greatest - f};
}

/// A step whose products are summed exactly in groups first. A term's significand is the groups' sum in quarters times
/// both scales'; scales[i] belongs to group i.
FP4SCOPE_HD constexpr AlignedSum exact_group_step(const Instruction& r, const Operands& a, const Operands& b,
                                                  const Operand& addend, const Operand* scale_a,
                                                  const Operand* scale_b) noexcept {
  const int f = r.fraction_bits, groups = r.group / r.exact_group;
  int greatest = addend.exponent > r.least_exponent ? addend.exponent : r.least_exponent;
  for (int g = 0; g < groups; ++g) {
    const int block = g * r.exact_group / r.block;
    const int e = scale_a[block].exponent + scale_b[block].exponent;
    greatest = e > greatest ? e : greatest;
  }
  std::int64_t sum = cut(addend.significand, 23 - f + greatest - addend.exponent);
  for (int g = 0; g < groups; ++g) {
    std::int32_t quarters = 0;
    for (int i = g * r.exact_group; i < (g + 1) * r.exact_group; ++i) quarters += a.significand[i] * b.significand[i];
    const int block = g * r.exact_group / r.block;
    const Operand sa = scale_a[block], sb = scale_b[block];
    const std::int64_t term = std::int64_t{quarters} * sa.significand * sb.significand;
    sum += cut(term, 2 + 2 * r.scale.mantissa_bits - f + greatest - sa.exponent - sb.exponent);
  }
  return {sum, greatest - f};
}

/// One step of CDNA3: the products in a sum of their own, then it and the addend to the greater one's exponent, at
/// least r.least_exponent.
FP4SCOPE_HD constexpr AlignedSum two_stage_step(const Instruction& r, const Operands& a, const Operands& b,
                                                const Operand& addend) noexcept {
  constexpr int of_products = 31, of_addend = 24;
  const int spare = r.fraction_bits - r.a.mantissa_bits - r.b.mantissa_bits;
  const int greatest = greatest_exponent(a, b, r.group, 2 * no_exponent);
  const std::int64_t products = aligned_products(a, b, r.group, greatest, spare);
  int top = addend.exponent > r.least_exponent ? addend.exponent : r.least_exponent;
  top = greatest > top ? greatest : top;
  const std::int64_t sum = cut_down(products, top - of_products - (greatest - r.fraction_bits));
  const std::int64_t c = cut_down(addend.significand, top - of_addend - (addend.exponent - 23));
  return {sum + c * (1 << (of_products - of_addend)), top - of_products};
}

/// Inf with its sign, or NaN where there are both, if a product is 2^128 or more; 0 if none is. CDNA3 keeps no more.
FP4SCOPE_HD constexpr std::uint32_t product_overflow(const Instruction& r, const Operands& a,
                                                     const Operands& b) noexcept {
  bool positive = false, negative = false;
  for (int i = 0; i < r.group; ++i) {
    const std::int64_t p = std::int64_t{a.significand[i]} * b.significand[i];
    const int leading = formats::bit_length(static_cast<std::uint64_t>(p < 0 ? -p : p)) - 1;
    if (p == 0 || a.exponent[i] + b.exponent[i] + leading - r.a.mantissa_bits - r.b.mantissa_bits < 128) continue;
    (p < 0 ? negative : positive) = true;
  }
  if (positive && negative) return r.nan_bits();
  return positive ? 0x7F800000u : negative ? 0xFF800000u : 0;
}

/// significand * 2^exponent.
struct Number {
  std::int64_t significand = 0;
  int exponent = 0;
};

/// The same number with a significand of 41 bits; it had no more and isn't 0.
FP4SCOPE_HD constexpr Number widened(Number x) noexcept {
  const int up = 41 - formats::bit_length(leading_bits(x.significand, 0).magnitude);
  return {x.significand * (std::int64_t{1} << up), x.exponent - up};
}

/// x + y rounded to binary32 or binary16, to nearest even. One is a running value or an addend, both are, or one is a
/// product; each has at most 24 bits. They are widened to 41 bits and added 21 places below the greater one's last,
/// where the smaller is cut. Nothing that decides is lost. What is cut has places more than 61 below the top of
/// the greater, so it is below 2^-37 of it. And the greater is a number of the result's format: had it places below
/// the format's last it would be a subnormal product, and a running value beside it has no places so low.
FP4SCOPE_HD constexpr std::uint32_t add_nearest(Result result, Number x, Number y) noexcept {
  if (x.significand == 0) return round_result(result, leading_bits(y.significand, y.exponent));
  if (y.significand == 0) return round_result(result, leading_bits(x.significand, x.exponent));
  const Number p = widened(x), q = widened(y);
  const Number& high = p.exponent >= q.exponent ? p : q;
  const Number& low = p.exponent >= q.exponent ? q : p;
  // Two significands below 2^41, 21 places up: their sum stays below 2^63.
  const std::int64_t small = cut(low.significand, high.exponent - 21 - low.exponent);
  return round_result(result, leading_bits(high.significand * (std::int64_t{1} << 21) + small, high.exponent - 21));
}

/// A running value or an addend as a number.
FP4SCOPE_HD constexpr Number addend_number(const Operand& c) noexcept { return {c.significand, c.exponent - 23}; }

/// Product i in real numbers, scales included. Bits: 22 of two fp16 or tf32; 8 of two fp8 and 8 of two UE4M3.
FP4SCOPE_HD constexpr Number product_number(const Instruction& r, const Operands& a, const Operands& b,
                                            const Operand* scale_a, const Operand* scale_b, int i) noexcept {
  const int fraction = r.exact_group > 0 ? 2 : r.a.mantissa_bits + r.b.mantissa_bits;
  const std::int64_t p = std::int64_t{a.significand[i]} * b.significand[i];
  const int e = a.exponent[i] + b.exponent[i] - fraction;
  if (!r.scaled) return {p, e};
  const Operand sa = scale_a[i / r.block], sb = scale_b[i / r.block];
  return {p * sa.significand * sb.significand, e + sa.exponent + sb.exponent - 2 * r.scale.mantissa_bits};
}

/// NaN, or an Inf with its sign, where an operand of this step, a scale or the addend is not finite.
FP4SCOPE_HD constexpr std::uint32_t special_result(const Instruction& r, const Operands& a, const Operands& b,
                                                   const Operand& addend, const Operand* scale_a,
                                                   const Operand* scale_b, int first) noexcept {
  bool positive = addend.exponent == inf_exponent && addend.significand > 0;
  bool negative = addend.exponent == inf_exponent && addend.significand < 0;
  bool nan = addend.exponent == nan_exponent;
  for (int i = 0; r.scaled && i < r.k / r.block; ++i) {
    nan = nan || scale_a[i].exponent == nan_exponent || scale_b[i].exponent == nan_exponent;
  }
  for (int i = first; i < first + r.group; ++i) {
    if (a.exponent[i] < special_exponent && b.exponent[i] < special_exponent) continue;
    const std::int64_t p = std::int64_t{a.significand[i]} * b.significand[i];
    nan = nan || a.exponent[i] == nan_exponent || b.exponent[i] == nan_exponent || p == 0;
    positive = positive || p > 0;
    negative = negative || p < 0;
  }
  if (nan || (positive && negative)) return r.nan_bits();
  const std::uint32_t infinity = r.f16_result() ? 0x7C00u : 0x7F800000u;
  return negative ? infinity | (r.f16_result() ? 0x8000u : 0x80000000u) : infinity;
}

FP4SCOPE_HD constexpr bool has_special(const Instruction& r, const Operands& a, const Operands& b,
                                       const Operand& addend, const Operand* scale_a, const Operand* scale_b,
                                       int first) noexcept {
  bool special = addend.exponent >= special_exponent;
  for (int i = 0; r.scaled && i < r.k / r.block; ++i) {
    special = special || scale_a[i].exponent >= special_exponent || scale_b[i].exponent >= special_exponent;
  }
  for (int i = first; r.exact_group == 0 && i < first + r.group; ++i) {
    special = special || a.exponent[i] >= special_exponent || b.exponent[i] >= special_exponent;
  }
  return special;
}

/// A subnormal binary32 becomes zero where the row flushes.
FP4SCOPE_HD constexpr std::uint32_t flushed(const Instruction& r, std::uint32_t bits) noexcept {
  return r.flushes && (bits & 0x7F800000u) == 0 ? 0 : bits;
}

/// x + y where one of them is not finite.
FP4SCOPE_HD constexpr std::uint32_t special_sum(const Instruction& r, const Operand& x, const Operand& y) noexcept {
  const Operand& greater = x.exponent >= y.exponent ? x : y;
  if (greater.exponent == nan_exponent) return r.nan_bits();
  if (x.exponent == y.exponent && x.significand != y.significand) return r.nan_bits();
  const std::uint32_t infinity = r.f16_result() ? 0x7C00u : 0x7F800000u;
  return greater.significand < 0 ? infinity | (r.f16_result() ? 0x8000u : 0x80000000u) : infinity;
}

/// x + y, rounded to nearest even.
FP4SCOPE_HD constexpr std::uint32_t plus(const Instruction& r, const Operand& x, const Operand& y) noexcept {
  if (x.exponent >= special_exponent || y.exponent >= special_exponent) return special_sum(r, x, y);
  return add_nearest(r.f16_result() ? Result::f16_nearest : Result::f32_nearest, addend_number(x), addend_number(y));
}

/// The running value and a step's products in real numbers, rounded once.
FP4SCOPE_HD constexpr std::uint32_t exact_step(const Instruction& r, const Operands& a, const Operands& b,
                                               const Operand& running, const Operand* scale_a, const Operand* scale_b,
                                               int first) noexcept {
  WideAccumulator sum;
  if (running.significand != 0) sum.add(running.significand, running.exponent - 23);
  for (int i = first; i < first + r.group; ++i) {
    const Number p = product_number(r, a, b, scale_a, scale_b, i);
    if (p.significand != 0) sum.add(p.significand, p.exponent);
  }
  return round_result(r.result, sum.leading());
}

/// Whether product i, with its scales, is Inf or NaN.
FP4SCOPE_HD constexpr bool special_product(const Instruction& r, const Operands& a, const Operands& b,
                                           const Operand* scale_a, const Operand* scale_b, int i) noexcept {
  const bool special = a.exponent[i] >= special_exponent || b.exponent[i] >= special_exponent;
  return special || (r.scaled && (scale_a[i / r.block].exponent >= special_exponent ||
                                  scale_b[i / r.block].exponent >= special_exponent));
}

/// What a product that special_product() names is: Inf or NaN.
FP4SCOPE_HD constexpr Operand special_value(const Instruction& r, const Operands& a, const Operands& b,
                                            const Operand* scale_a, const Operand* scale_b, int i) noexcept {
  std::int64_t sign = std::int64_t{a.significand[i]} * b.significand[i];
  bool nan = a.exponent[i] >= nan_exponent || b.exponent[i] >= nan_exponent;
  if (r.scaled) {
    const Operand sa = scale_a[i / r.block], sb = scale_b[i / r.block];
    nan = nan || sa.exponent >= nan_exponent || sb.exponent >= nan_exponent;
    sign *= std::int64_t{sa.significand} * sb.significand;
  }
  if (nan || sign == 0) return {1, nan_exponent};
  return {sign < 0 ? -1 : 1, inf_exponent};
}

/// fma after fma in binary32.
FP4SCOPE_HD constexpr std::uint32_t sequential_step(const Instruction& r, const Operands& a, const Operands& b,
                                                    Operand running, const Operand* scale_a, const Operand* scale_b,
                                                    int first) noexcept {
  std::uint32_t bits = 0;
  for (int i = first; i < first + r.group; ++i) {
    if (special_product(r, a, b, scale_a, scale_b, i)) {
      bits = special_sum(r, running, special_value(r, a, b, scale_a, scale_b, i));
    } else if (running.exponent >= special_exponent) {
      bits = special_sum(r, running, {0, r.zero_exponent});
    } else {
      bits = add_nearest(r.result, product_number(r, a, b, scale_a, scale_b, i), addend_number(running));
    }
    running = decode_addend(r, bits, r.f16_result());
  }
  return bits;
}

/// A balanced tree of binary32 additions over the rounded products, its root to the running value. r.group is a power
/// of two up to 64.
FP4SCOPE_HD constexpr std::uint32_t pairwise_step(const Instruction& r, const Operands& a, const Operands& b,
                                                  const Operand& running, const Operand* scale_a,
                                                  const Operand* scale_b, int first) noexcept {
  constexpr int most = 64;
  Operand partial[most] = {};
  for (int i = 0; i < r.group; ++i) {
    const int at = first + i;
    const Number p = product_number(r, a, b, scale_a, scale_b, at);
    partial[i] = special_product(r, a, b, scale_a, scale_b, at)
                     ? special_value(r, a, b, scale_a, scale_b, at)
                     : decode_addend(r, round_result(r.result, leading_bits(p.significand, p.exponent)), false);
  }
  for (int n = r.group / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) partial[i] = decode_addend(r, plus(r, partial[2 * i], partial[2 * i + 1]), false);
  }
  return flushed(r, plus(r, running, partial[0]));
}

/// One step's result: `running` and the r.group products from `first` on.
FP4SCOPE_HD constexpr std::uint32_t step(const Instruction& r, const Operands& a, const Operands& b,
                                         const Operand& running, const Operand* scale_a, const Operand* scale_b,
                                         int first) noexcept {
  if (r.sum == Sum::sequential) return sequential_step(r, a, b, running, scale_a, scale_b, first);
  if (r.sum == Sum::pairwise) return pairwise_step(r, a, b, running, scale_a, scale_b, first);
  if (r.sum == Sum::exact || r.sum == Sum::two_stage || r.exact_group > 0) {
    if (has_special(r, a, b, running, scale_a, scale_b, first)) {
      return special_result(r, a, b, running, scale_a, scale_b, first);
    }
    if (r.sum == Sum::two_stage) {
      const Operands x = advance(a, first), y = advance(b, first);
      if (const std::uint32_t bits = product_overflow(r, x, y)) return bits;
      const AlignedSum sum = two_stage_step(r, x, y, running);
      return round_result(r.result, leading_bits(sum.units, sum.exponent));
    }
    if (r.sum == Sum::exact) return exact_step(r, a, b, running, scale_a, scale_b, first);
    const AlignedSum sum = exact_group_step(r, advance(a, first), advance(b, first), running, scale_a, scale_b);
    return round_result(r.result, leading_bits(sum.units, sum.exponent));
  }
  const int scale = r.scaled ? scale_a[0].exponent + scale_b[0].exponent : 0;
  const AlignedSum sum = aligned_step(r, advance(a, first), advance(b, first), running, scale);
  if (sum.exponent + r.fraction_bits >= special_exponent) {
    return special_result(r, a, b, running, scale_a, scale_b, first);
  }
  return round_result(r.result, leading_bits(sum.units, sum.exponent));
}

/// D's bits of one (m, n): a and b are r.k operands each as decode_elements() leaves them, c_bits is C, binary32 or
/// binary16 as the row says, scale_a and scale_b are r.k / r.block decoded scales each, or nullptr.
FP4SCOPE_HD constexpr std::uint32_t accumulate(const Instruction& r, const Operands& a, const Operands& b,
                                               std::uint32_t c_bits, const Operand* scale_a = nullptr,
                                               const Operand* scale_b = nullptr) noexcept {
  const Operand c = decode_addend(r, c_bits, r.f16_addend);
  Operand running = r.addend == Addend::first_step ? c : Operand{0, r.zero_addend};
  std::uint32_t bits = 0;
  for (int first = 0; first < r.k; first += r.group) {
    bits = step(r, a, b, running, scale_a, scale_b, first);
    running = decode_addend(r, bits, r.f16_result());
  }
  return r.addend == Addend::first_step ? bits : plus(r, running, c);
}

/// The same from codes: a_codes[i * a_stride] is element i of the row of A, and so on; a tf32 code is binary32's bits
/// shifted right by 13. The most of K is 64.
FP4SCOPE_HD constexpr std::uint32_t multiply_accumulate(const Instruction& r, const std::uint32_t* a_codes,
                                                        std::int64_t a_stride, const std::uint32_t* b_codes,
                                                        std::int64_t b_stride, std::uint32_t c_bits,
                                                        const std::uint32_t* a_scales = nullptr,
                                                        std::int64_t a_scale_stride = 1,
                                                        const std::uint32_t* b_scales = nullptr,
                                                        std::int64_t b_scale_stride = 1) noexcept {
  constexpr int most = 64, most_scales = 4;
  std::int32_t words[4][most] = {};
  Operand scale_a[most_scales] = {}, scale_b[most_scales] = {};
  decode_elements(r, r.a, a_codes, a_stride, words[0], words[1]);
  decode_elements(r, r.b, b_codes, b_stride, words[2], words[3]);
  for (int i = 0; r.scaled && i < r.k / r.block; ++i) {
    scale_a[i] = decode_scale(r, a_scales[i * a_scale_stride]);
    scale_b[i] = decode_scale(r, b_scales[i * b_scale_stride]);
  }
  return accumulate(r, {words[0], words[1]}, {words[2], words[3]}, c_bits, scale_a, scale_b);
}

}  // namespace fp4scope::sim
