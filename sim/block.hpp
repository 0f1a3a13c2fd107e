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
                                 ? (0u - static_cast<std::uint32_t>(index)) & (element.code_count() - 1)
                                 : static_cast<std::uint32_t>(index) | element.sign_bit();
  return static_cast<std::uint8_t>(code);
}

/// x[n] -> codes[n], one code a byte. `step` = tensor_scale * block_scale, exact in binary64; 0 or NaN give zeros.
FP4SCOPE_HD constexpr void quantize_block(const formats::Format& element, const Grid& grid, const float* x, int n,
                                          double step, std::uint8_t* codes) noexcept {
  const Thresholds thresholds = make_thresholds(grid, step);
  for (int i = 0; i < n; ++i) {
    const int index = step > 0 ? nearest_index(thresholds, magnitude(x[i])) : 0;
    const bool negative = (__builtin_bit_cast(std::uint32_t, x[i]) >> 31) != 0;
    codes[i] = signed_code(element, index, negative);
  }
}

/// The value of a code in real numbers: at most 3 + 5 + 24 bits, exact in binary64. Its conversion to float is the one
/// rounding of a dequantized tensor.
FP4SCOPE_HD constexpr double dequantize(const formats::Format& element, std::uint8_t code, double step) noexcept {
  return formats::decode_double(element, code) * step;
}

}  // namespace fp4scope::sim
