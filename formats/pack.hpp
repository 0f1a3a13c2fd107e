// Two 4-bit codes in a byte: element 2i in the low nibble of byte i, element 2i + 1 in the high one.
// The order of PTX cvt, TransformerEngine, Model-Optimizer, compressed-tensors and CUTLASS.
#pragma once

#include <cstdint>

#include "formats/host_device.hpp"

namespace fp4scope::formats {

FP4SCOPE_HD constexpr std::uint8_t pack_nibbles(std::uint32_t even, std::uint32_t odd) noexcept {
  return static_cast<std::uint8_t>((even & 0xF) | (odd & 0xF) << 4);
}

/// Element `index` of a packed row.
FP4SCOPE_HD constexpr std::uint32_t unpack_nibble(const std::uint8_t* packed, std::int64_t index) noexcept {
  return packed[index / 2] >> (index % 2 * 4) & 0xF;
}

static_assert(pack_nibbles(0x1, 0xE) == 0xE1);

}  // namespace fp4scope::formats
