// Quantize and dequantize one block at a given scale, recipe `exact`.
//
//   code_i  = nearest level to |x_i| at step = tensor_scale * block_scale, with x_i's sign
//   value_i = tensor_scale * block_scale * element(code_i), in real numbers
//
// A block whose scale is zero has value 0 everywhere; its codes are zeros with their signs.
// A block whose scale is NaN (non-finite data, on request) has NaN everywhere; its codes are zeros.
#pragma once

#include "formats/block_format.hpp"
#include "sim/grid.hpp"

namespace fp4scope::sim {

/// A code with a sign: sign and magnitude, or two's complement.
FP4SCOPE_HD constexpr std::uint8_t signed_code(const formats::Format& element, int index, bool negative) noexcept {
  if (!negative) return static_cast<std::uint8_t>(index);
  const std::uint32_t code = element.twos_complement
                                 ? (0u - static_cast<std::uint32_t>(index)) & element.code_mask()
                                 : static_cast<std::uint32_t>(index) | element.sign_bit();
  return static_cast<std::uint8_t>(code);
}

FP4SCOPE_HD constexpr bool is_negative(float x) noexcept { return __builtin_bit_cast(std::uint32_t, x) >> 31 != 0; }

/// x[n] -> codes[n], one code a byte. `step` = tensor_scale * block_scale, exact in binary64; 0 or NaN give zeros.
/// `factor` multiplies the magnitudes: grid_factor of the format, or of a rational tensor scale's numerator.
FP4SCOPE_HD constexpr void quantize_block(const formats::Format& element, const Grid& grid, const float* x, int n,
                                          double step, std::uint8_t* codes, double factor = 1) noexcept {
  const Thresholds thresholds = make_thresholds(grid, step);
  for (int i = 0; i < n; ++i) {
    const int index = step > 0 ? nearest_index(thresholds, factor * magnitude(x[i])) : 0;
    codes[i] = signed_code(element, index, is_negative(x[i]));
  }
}

/// Stochastic rounding: the level below |x_i|, or with a probability of lost = (|x_i| / step - below) / gap the one
/// above: up iff word < floor(2^32 * lost), lost as binary64 division gives it. So E[value] = x within 2^-32 of a gap,
/// and a code is a function of (x, step, word) alone. Level 0 for a NaN.
FP4SCOPE_HD constexpr int stochastic_index(const Grid& grid, double position, std::uint32_t word) noexcept {
  int below = 0;
  while (below + 1 < grid.levels && position >= grid.level[below + 1]) ++below;
  if (below + 1 == grid.levels) return below;
  const double lost = (position - grid.level[below]) / (grid.level[below + 1] - grid.level[below]);
  return lost > 0 && word < static_cast<std::uint32_t>(lost * 0x1p32) ? below + 1 : below;
}

/// The same with one random word an element, for elements of at most 4 bits.
FP4SCOPE_HD constexpr void quantize_block_stochastic(const formats::Format& element, const Grid& grid, const float* x,
                                                     int n, double step, const std::uint32_t* words,
                                                     std::uint8_t* codes, double factor = 1) noexcept {
  for (int i = 0; i < n; ++i) {
    const int index = step > 0 ? stochastic_index(grid, factor * magnitude(x[i]) / step, words[i]) : 0;
    codes[i] = signed_code(element, index, is_negative(x[i]));
  }
}

/// Elements of more than 4 bits: their block scales are powers of two and have no tensor scale, so x / step is exact
/// in binary64 and rounded once.
FP4SCOPE_HD constexpr void quantize_wide_block(const formats::Format& element, const float* x, int n, double step,
                                               formats::Rounding rounding, const std::uint32_t* words,
                                               std::uint8_t* codes) noexcept {
  for (int i = 0; i < n; ++i) {
    const std::uint32_t word = words ? words[i] : 0;
    const double y = step > 0 ? x[i] / step : 0 * x[i];
    codes[i] = static_cast<std::uint8_t>(formats::encode(element, y, rounding, formats::Overflow::saturate, word).code);
  }
}

/// The value of a code in real numbers: at most 8 + 5 + 24 bits, exact in binary64. Its conversion to float is the one
/// rounding of a dequantized tensor.
FP4SCOPE_HD constexpr double dequantize(const formats::Format& element, std::uint8_t code, double step) noexcept {
  return formats::decode_double(element, code) * step;
}

/// The same for a block format. The INT4 of IF4 is 6/7 of a whole number: 6 k step has at most 34 bits, the division
/// rounds to 53, and no such quotient lies within 2^-53 of itself of a boundary between binary32 numbers without being
/// one, since 7 times the distance is a whole number of units of 6 k step's last place: the second rounding is
/// harmless.
FP4SCOPE_HD constexpr double dequantize(const formats::BlockFormat& format, std::uint8_t code, double step,
                                        bool integer = false) noexcept {
  const double value = formats::element_value(format, code, integer) * step;
  return integer ? 6 * value / 7 : value;
}

}  // namespace fp4scope::sim
