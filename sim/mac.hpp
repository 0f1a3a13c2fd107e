// The multiply-accumulate unit for NVFP4 and IF4 of the adaptive block scaling work (arXiv 2603.28765; the published
// RTL is mit-han-lab/fouroversix, if4_mac): 16 lanes a beat, one step of the datapath a function.
//
//   lane product = RNE32(a w * RNE32(scale_a scale_w c)),  c = 1; IF4: fl32(6/7) with one INT block, fl32(36/49), two
//   lane         = RNE32(lane + product); the first beat of a segment loads the product
//   word         = the 16 lanes added in adjacent pairs, 16 -> 8 -> 4 -> 2 -> 1, each sum RNE32
//
// Bits. Scale: significand UQ1.3, 4 bits. Scale product: UQ2.6, 8 bits, 2^-18 .. 200704, exact in binary32. Element:
// UQ3.1 (E2M1) or UQ4.1 (IF4), magnitudes in halves. Element product: UQ6.2 (8 bits) or UQ8.2, at most 9 bits, exact in
// binary16. So NVFP4's lane product has 16 bits at most and is exact, and only additions round; IF4's rounds twice.
//
// No result is subnormal: a product that isn't 0 is a multiple of 2^-20 (NVFP4) or 2^-43 (IF4: its scale product is
// above 0.734 * 2^-18, a binary32 above 2^-19, and so on; mac_test goes through all), and so is each sum.
// None overflows: a product is below 2^23, half an ulp of 2^47, so no lane leaves +-2^47.
// Flushing of subnormal numbers is thus without effect, and plain binary32 operations have the unit's bits.
#pragma once

#include <cstdint>

#include "formats/codec.hpp"

namespace fp4scope::sim {

inline constexpr int mac_lanes = 16;
/// The unit adds lanes up while it accumulates the next segment: in 5 beats or more it is done. Less loses a word.
inline constexpr int mac_least_segment = 5;

enum class MacFormat : std::uint8_t {
  nvfp4,  ///< E2M1 elements; bit 7 of a scale is ignored
  if4,    ///< bit 7 of a scale: two's complement integers instead of E2M1
};

/// What `first` does to a lane: the published RTL loads the product, its golden generator adds it to +0. They differ in
/// the sign of zero alone: a lane is -0 only where all its products are and the first was loaded.
enum class MacFirst : std::uint8_t { loads, adds };

/// A block scale, 2^(exponent - 7) * significand / 8.
struct MacScale {
  bool integer;     ///< the block's elements are integers
  int exponent;     ///< 1 .. 15
  int significand;  ///< 0 .. 15, below 8 where subnormal
};

/// Field 0 counts as exponent 1 without the hidden bit. 0x7F, E4M3's NaN, is read as 0x7E, 448.
FP4SCOPE_HD constexpr MacScale mac_scale(MacFormat format, std::uint32_t byte) noexcept {
  const std::uint32_t payload = (byte & 0x7F) == 0x7F ? 0x7E : byte & 0x7F;
  const int field = static_cast<int>(payload >> 3), fraction = static_cast<int>(payload & 7);
  const bool integer = format == MacFormat::if4 && (byte & 0x80) != 0;
  return {integer, field > 0 ? field : 1, field > 0 ? 8 + fraction : fraction};
}

/// Bits of +-integer * 2^exponent in an IEEE format, for integers that its significand holds and normal results.
FP4SCOPE_HD constexpr std::uint32_t mac_pack(int exponent_bits, int mantissa_bits, bool negative, std::uint32_t integer,
                                             int exponent) noexcept {
  const std::uint32_t sign = negative ? 1u << (exponent_bits + mantissa_bits) : 0;
  if (integer == 0) return sign;
  const int leading = formats::bit_length(integer) - 1;
  const int field = exponent + leading + (1 << (exponent_bits - 1)) - 1;
  const std::uint32_t fraction = (integer << (mantissa_bits - leading)) & ((1u << mantissa_bits) - 1);
  return sign | static_cast<std::uint32_t>(field) << mantissa_bits | fraction;
}

/// scale_a * scale_w, exact: 4 x 4 bits give 8, the last of which weighs 2^(exponents - 2 * 7 - 2 * 3).
FP4SCOPE_HD constexpr float mac_scale_product(MacScale a, MacScale w) noexcept {
  const auto product = static_cast<std::uint32_t>(a.significand * w.significand);
  return __builtin_bit_cast(float, mac_pack(8, 23, false, product, a.exponent + w.exponent - 20));
}

/// What INT blocks multiply the scale product by: 1, fl32(6/7) or fl32(36/49).
FP4SCOPE_HD constexpr float mac_integer_factor(bool a_integer, bool w_integer) noexcept {
  if (a_integer && w_integer) return __builtin_bit_cast(float, 0x3F3C14E6u);
  return a_integer || w_integer ? __builtin_bit_cast(float, 0x3F5B6DB7u) : 1.0f;
}

/// What a beat's elements share.
struct MacScaling {
  bool a_integer, w_integer;
  float factor;
};

/// One rounding where a block is integer, none (a factor of 1) elsewhere.
FP4SCOPE_HD constexpr MacScaling mac_scaling(MacFormat format, std::uint32_t a_scale, std::uint32_t w_scale) noexcept {
  const MacScale a = mac_scale(format, a_scale), w = mac_scale(format, w_scale);
  return {a.integer, w.integer, mac_scale_product(a, w) * mac_integer_factor(a.integer, w.integer)};
}

/// The unit takes no 0x8, -0 of E2M1 and -8 of the integers: its RTL asserts that there is none.
FP4SCOPE_HD constexpr bool mac_legal(std::uint32_t code) noexcept { return (code & 0xF) != 0x8; }

struct MacElement {
  bool negative;
  std::uint32_t halves;  ///< magnitude in units of 1/2: E2M1 0 .. 12, integers 0 .. 14
};

/// For 0x8 what the code says: -0, or -8.
FP4SCOPE_HD constexpr MacElement mac_element(bool integer, std::uint32_t code) noexcept {
  const bool negative = (code & 8) != 0;
  if (integer) return {negative, 2 * (negative ? 16 - (code & 0xF) : code & 7)};
  const std::uint32_t field = code >> 1 & 3, fraction = code & 1;
  return {negative, field == 0 ? fraction : (2 + fraction) << (field - 1)};
}

/// a * w as binary16, exact: quarters of at most 9 bits. A zero keeps the signs' exclusive or, so it may be -0.
FP4SCOPE_HD constexpr std::uint16_t mac_element_product(MacElement a, MacElement w) noexcept {
  return static_cast<std::uint16_t>(mac_pack(5, 10, a.negative != w.negative, a.halves * w.halves, -2));
}

/// binary16 to binary32, exact.
FP4SCOPE_HD constexpr float mac_widen(std::uint16_t half) noexcept {
  constexpr formats::Format binary16 = formats::fp16;
  return formats::decode_float(binary16, half);
}

/// A lane's product; codes of 4 bits.
FP4SCOPE_HD constexpr float mac_product(MacScaling scaling, std::uint32_t a, std::uint32_t w) noexcept {
  return mac_widen(mac_element_product(mac_element(scaling.a_integer, a), mac_element(scaling.w_integer, w))) *
         scaling.factor;
}

/// A lane after a beat.
FP4SCOPE_HD constexpr float mac_accumulate(MacFirst rule, bool first, float lane, float product) noexcept {
  if (!first) return lane + product;
  return rule == MacFirst::loads ? product : 0.0f + product;
}

/// One beat: a[16] and w[16], one code a byte, two scale bytes -> lanes[16], in place.
FP4SCOPE_HD constexpr void mac_beat(MacFormat format, MacFirst rule, bool first, const std::uint8_t* a,
                                    const std::uint8_t* w, std::uint32_t a_scale, std::uint32_t w_scale,
                                    float* lanes) noexcept {
  const MacScaling scaling = mac_scaling(format, a_scale, w_scale);
  for (int i = 0; i < mac_lanes; ++i) {
    lanes[i] = mac_accumulate(rule, first, lanes[i], mac_product(scaling, a[i], w[i]));
  }
}

/// The word of a segment: adjacent pairs, four levels.
FP4SCOPE_HD constexpr float mac_reduce(const float* lanes) noexcept {
  float sums[mac_lanes] = {};
  for (int i = 0; i < mac_lanes; ++i) sums[i] = lanes[i];
  for (int n = mac_lanes / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
  }
  return sums[0];
}

static_assert(mac_integer_factor(true, false) == static_cast<float>(6.0 / 7) &&
              mac_integer_factor(true, true) == static_cast<float>(36.0 / 49));
static_assert(mac_scale_product(mac_scale(MacFormat::nvfp4, 0x01), mac_scale(MacFormat::nvfp4, 0x81)) == 0x1p-18f &&
              mac_scale_product(mac_scale(MacFormat::nvfp4, 0x7F), mac_scale(MacFormat::nvfp4, 0x7E)) == 200704);
static_assert(8 + 8 <= 24, "a scale product times a product of two E2M1 elements is exact in binary32");
static_assert(16 * 16 < 1 << 9 && 9 <= 11, "a product of two elements, -8 included, is exact in binary16");
static_assert(mac_element_product(mac_element(false, 0x7), mac_element(true, 0x9)) == 0xD140);  // 6 * -7 = -42

}  // namespace fp4scope::sim
