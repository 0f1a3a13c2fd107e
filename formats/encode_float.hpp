// encode for binary32, branch-free: what codec.hpp's encode does to a double, in 32-bit integers that a compiler turns
// into vector code. The codes are the same ones, for every row, direction and policy; encode remains the plain twin.
//
// With |x| = significand * 2^(max(field, 1) - 150), a row keeps the significand's bits from the place `shift` up:
//
//   code = (place - origin) * 2^M + floor(significand / 2^shift) + [lost > bound]
//   lost = floor(2^32 * frac(significand / 2^shift))
//
// Every direction is a bound on lost, even the stochastic one ("up iff word < lost"), and every special case is a
// constant and a comparison that folds away where it cannot happen. So all that depends on the format, the direction
// and the policy is worked out once, a FloatEncoder, and a float meets no branch:
//
//                   nearest_even        nearest_away   toward_zero   up, down          stochastic
//   bound           2^31 - (kept & 1)   2^31 - 1       2^32 - 1      0 or 2^32 - 1     word
//
// Bits: a significand has 24, so from shift 25 on nothing is kept and lost is below one half. A deterministic direction
// asks no more of it than that it isn't zero, so its shift may stop at 31, where lost = 2 * significand still says so.
// The stochastic one has to know all 32 bits of lost, which are 0 from shift 56 on.
#pragma once

#include <cstdint>

#include "formats/codec.hpp"
#include "formats/format.hpp"

namespace fp4scope::formats {

/// The constants of one conversion; float_encoder makes them.
struct FloatEncoder {
  // Where the last place is. A place is the binary32 exponent field of a number whose leading bit is kept as bit M.
  std::uint32_t least_place;  ///< of the subnormals
  std::uint32_t last_place;   ///< least_place for integers: their last place doesn't move
  std::uint32_t origin;       ///< the place of code 0
  std::uint32_t mantissa_bits;
  std::uint32_t farthest;    ///< the largest shift
  std::uint32_t least_kept;  ///< 1 in a format without zero
  // Rounding. A negative number's bound is bound ^ bound_flip.
  std::uint32_t bound, bound_flip;
  std::uint32_t odd_mask;   ///< 1: ties go to even
  std::uint32_t word_mask;  ///< all ones: the bound is the word
  // Codes and what leads to them. A negative number's is ((the magnitude's ^ flip) + plus) & mask.
  std::uint32_t max_code;
  std::uint32_t overflow, overflow_flip;  ///< of a finite number, without the sign; of a negative one, both xored
  std::uint32_t infinite;                 ///< of an infinite one, without the sign
  std::uint32_t flip, plus, mask;
  std::uint32_t least_magnitude;  ///< below it: outside
  std::uint32_t last_bits;        ///< above it: outside
  std::uint32_t outside;          ///< zero, or a negative number, in a format that has none
  std::uint32_t nan;

  /// The code of the binary32 with these bits; `word` is for Rounding::stochastic alone. Inlined by force, as all here,
  /// because a loop around a call is no vector code, and clang's limit lies just below this.
  [[gnu::always_inline]] FP4SCOPE_HD constexpr std::uint32_t operator()(std::uint32_t bits,
                                                                        std::uint32_t word = 0) const noexcept {
    constexpr std::uint32_t infinity = 0x7F800000;
    const std::uint32_t sign = 0u - (bits >> 31);
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;

    // 1. The significand, and how many of its bits fall off: 13 .. 56. The cap on the field is for integers: what is
    //    beyond their last place overflows as well from there, and the shift must not wrap.
    const std::uint32_t field = least(magnitude >> 23, last_place);
    const std::uint32_t significand = (magnitude & 0x7FFFFF) | least(field, 1) << 23;
    const std::uint32_t place = most(field, least_place);
    const std::uint32_t shift = least(place - most(field, 1) + 23 - mantissa_bits, farthest);

    // 2. Round once.
    const std::uint32_t kept = significand >> least(shift, 31);
    const std::uint32_t lost = significand >> (most(shift, 32) - 32) << (32 - least(shift, 32));
    const std::uint32_t limit = (bound ^ (bound_flip & sign)) + (word & word_mask) - (kept & odd_mask);
    const std::uint32_t rounded = most(kept + (lost > limit ? 1 : 0), least_kept);

    // 3. Pack, a carry moving into the next binade by itself; then the special cases, the strongest last.
    std::uint32_t code = ((place - origin) << mantissa_bits) + rounded;
    const std::uint32_t over = magnitude == infinity ? infinite : overflow ^ (overflow_flip & sign);
    code = code > max_code ? over : code;
    code = ((code ^ (flip & sign)) + (plus & sign)) & mask;
    code = magnitude < least_magnitude || bits > last_bits ? outside : code;
    return magnitude > infinity ? nan : code;
  }

 private:
  [[gnu::always_inline]] FP4SCOPE_HD static constexpr std::uint32_t least(std::uint32_t a, std::uint32_t b) noexcept {
    return a < b ? a : b;
  }
  [[gnu::always_inline]] FP4SCOPE_HD static constexpr std::uint32_t most(std::uint32_t a, std::uint32_t b) noexcept {
    return a > b ? a : b;
  }
};

/// The constants for a row, a direction and a policy; they mean what encode in codec.hpp says.
[[gnu::always_inline]] FP4SCOPE_HD constexpr FloatEncoder float_encoder(const Format& f, Rounding mode,
                                                                        Overflow policy) noexcept {
  constexpr std::uint32_t never = 0xFFFFFFFF, half = 0x80000000;
  const bool integer = f.exponent_bits == 0;
  const bool to_nan = policy == Overflow::nan && f.has_nan();
  const std::uint32_t beyond = !to_nan ? f.max_code : f.has_inf() ? f.inf_code() : f.nan_code();

  FloatEncoder e = {};
  e.least_place = static_cast<std::uint32_t>(f.min_exponent() + 127);
  e.last_place = integer ? e.least_place : 255;
  e.origin = static_cast<std::uint32_t>(128 - f.bias);
  e.mantissa_bits = static_cast<std::uint32_t>(f.mantissa_bits);
  e.farthest = mode == Rounding::stochastic ? 56 : 31;
  e.least_kept = f.has_zero ? 0 : 1;

  // At M = 0 every significand kept is odd, so that ties go up (codec.hpp says why).
  const bool directed = mode == Rounding::up || mode == Rounding::down;
  const bool truncates = mode == Rounding::toward_zero || mode == Rounding::down;  // a positive number
  e.bound = truncates ? never : mode == Rounding::nearest_even ? half : mode == Rounding::nearest_away ? half - 1 : 0;
  e.bound_flip = directed ? never : 0;
  e.odd_mask = mode == Rounding::nearest_even ? 1 : 0;
  e.word_mask = mode == Rounding::stochastic ? never : 0;

  e.max_code = f.max_code;
  e.overflow = truncates ? f.max_code : beyond;
  e.overflow_flip = directed ? f.max_code ^ beyond : 0;
  e.infinite = beyond;
  e.flip = f.twos_complement ? never : 0;
  e.plus = f.twos_complement ? 1 : f.sign_bit();
  e.mask = f.twos_complement ? f.code_mask() : never;
  e.least_magnitude = !f.has_zero && to_nan ? 1 : 0;
  e.last_bits = f.is_signed ? never : half;  // -0 is a zero
  e.outside = to_nan ? f.nan_code() : 0;
  e.nan = f.has_nan() ? f.nan_code() : f.max_code;
  return e;
}

/// The code that encode(f, x, mode, policy, word) gives. In a loop, let f, mode and policy be constants or make the
/// encoder once: `constexpr FloatEncoder e = float_encoder(e4m3, Rounding::nearest_even, Overflow::saturate);`.
[[gnu::always_inline]] FP4SCOPE_HD constexpr std::uint32_t encode_float(const Format& f, float x,
                                                                        Rounding mode = Rounding::nearest_even,
                                                                        Overflow policy = Overflow::saturate,
                                                                        std::uint32_t word = 0) noexcept {
  return float_encoder(f, mode, policy)(__builtin_bit_cast(std::uint32_t, x), word);
}

static_assert(encode_float(e2m1, 5.0f) == 0x6 && encode_float(e2m1, -0.0f) == 0x8 && encode_float(int4, -9.0f) == 0x9);
static_assert(encode_float(e4m3, -500.0f, Rounding::nearest_even, Overflow::nan) == 0xFF);
static_assert(encode_float(ue8m0, 0x1p-127f) == 0 && encode_float(ue8m0, 0x1.8p-127f) == 1);

}  // namespace fp4scope::formats
