// Conversions from binary32 by a GPU's own instructions, two numbers each, wherever the target that is being compiled
// has them; elsewhere the same codes by formats/encode_float.hpp.
//
//   instruction                            targets                       unlike formats::encode
//   cvt.rn.satfinite.{e4m3,e5m2}x2.f32     sm_89 and later               e5m2: a NaN is 0x7F, not 0x7E
//   cvt.rn.satfinite.e2m1x2.f32, and
//     {e2m3,e3m2}x2                        sm_100a, sm_120a, .. (a, f)   -
//   cvt.{rp,rz}.satfinite.ue8m0x2.f32      the same                      the sign is dropped, not clamped to 0
//
// All round once, saturate, Inf too, and keep the sign of zero; a NaN loses its sign and is NaN where the format has
// one, else the largest value. The first source operand goes into the high half of the result.
//
// Sources: PTX ISA 9.0, 9.7.9.21 (cvt); cuda_fp8.h, cuda_fp6.h and cuda_fp4.h of CUDA 13.0, which choose by the same
// architecture macros.
#pragma once

#include <cstdint>

#include "formats/encode_float.hpp"

namespace fp4scope::cuda {

enum class Conversion : std::uint8_t { none, e4m3, e5m2, e2m1, e2m3, e3m2, ue8m0_up, ue8m0_toward_zero };

/// The instruction that serves a conversion, on targets that have it. Rows of data are told by their names.
inline Conversion instruction_of(const formats::Format& format, formats::Rounding rounding,
                                  formats::Overflow overflow) {
  using formats::Rounding;
  if (overflow != formats::Overflow::saturate) return Conversion::none;
  if (formats::same_format(format, formats::ue8m0)) {
    if (rounding == Rounding::up) return Conversion::ue8m0_up;
    return rounding == Rounding::toward_zero ? Conversion::ue8m0_toward_zero : Conversion::none;
  }
  if (rounding != Rounding::nearest_even) return Conversion::none;
  if (formats::same_format(format, formats::e4m3)) return Conversion::e4m3;
  if (formats::same_format(format, formats::e5m2)) return Conversion::e5m2;
  if (formats::same_format(format, formats::e2m1)) return Conversion::e2m1;
  if (formats::same_format(format, formats::e2m3)) return Conversion::e2m3;
  return formats::same_format(format, formats::e3m2) ? Conversion::e3m2 : Conversion::none;
}

/// Whether the target that is being compiled has it.
template <Conversion instruction>
__device__ constexpr bool has_instruction() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  if (instruction == Conversion::e4m3 || instruction == Conversion::e5m2) return true;
#endif
#if defined(__CUDA_ARCH_SPECIFIC__) || defined(__CUDA_ARCH_FAMILY_SPECIFIC__)
#if __CUDA_ARCH__ >= 1000
  return instruction != Conversion::none;
#endif
#endif
  return false;
}

namespace detail {

/// The encoder's constants for what an instruction does.
template <Conversion instruction>
__device__ constexpr formats::FloatEncoder encoder_of() {
  using formats::Overflow, formats::Rounding;
  constexpr formats::Format e4m3 = formats::e4m3, e5m2 = formats::e5m2, e2m1 = formats::e2m1, e2m3 = formats::e2m3,
                            e3m2 = formats::e3m2, ue8m0 = formats::ue8m0;
  switch (instruction) {
    case Conversion::e5m2: return formats::float_encoder(e5m2, Rounding::nearest_even, Overflow::saturate);
    case Conversion::e2m1: return formats::float_encoder(e2m1, Rounding::nearest_even, Overflow::saturate);
    case Conversion::e2m3: return formats::float_encoder(e2m3, Rounding::nearest_even, Overflow::saturate);
    case Conversion::e3m2: return formats::float_encoder(e3m2, Rounding::nearest_even, Overflow::saturate);
    case Conversion::ue8m0_up: return formats::float_encoder(ue8m0, Rounding::up, Overflow::saturate);
    case Conversion::ue8m0_toward_zero:
      return formats::float_encoder(ue8m0, Rounding::toward_zero, Overflow::saturate);
    default: return formats::float_encoder(e4m3, Rounding::nearest_even, Overflow::saturate);
  }
}

/// +0 for a negative number, Inf included; a NaN stays.
__device__ inline float without_negatives(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  return bits >= 0x80000000u && bits <= 0xFF800000u ? 0.0f : x;
}

}  // namespace detail

/// The codes of two numbers, `even`'s in bits 0 to 7 and `odd`'s in bits 8 to 15.
template <Conversion instruction>
__device__ inline std::uint32_t convert_pair(float even, float odd) {
  if constexpr (has_instruction<instruction>()) {
    std::uint16_t pair = 0;
    if constexpr (instruction == Conversion::e4m3) {
      asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(odd), "f"(even));
    } else if constexpr (instruction == Conversion::e5m2) {
      asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(odd), "f"(even));
      const std::uint32_t nan = ((pair & 0x7F7Fu) + 0x0101u) >> 7 & 0x0101u;  // 1 where a byte is 0x7F
      return pair - nan;
    } else if constexpr (instruction == Conversion::e2m1) {
      std::uint32_t nibbles = 0;
      asm("{ .reg .b8 t; cvt.rn.satfinite.e2m1x2.f32 t, %1, %2; cvt.u32.u8 %0, t; }"
          : "=r"(nibbles)
          : "f"(odd), "f"(even));
      return (nibbles | nibbles << 4) & 0x0F0Fu;
    } else if constexpr (instruction == Conversion::e2m3) {
      asm("cvt.rn.satfinite.e2m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(odd), "f"(even));
    } else if constexpr (instruction == Conversion::e3m2) {
      asm("cvt.rn.satfinite.e3m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(odd), "f"(even));
    } else if constexpr (instruction == Conversion::ue8m0_up) {
      asm("cvt.rp.satfinite.ue8m0x2.f32 %0, %1, %2;"
          : "=h"(pair)
          : "f"(detail::without_negatives(odd)), "f"(detail::without_negatives(even)));
    } else {
      asm("cvt.rz.satfinite.ue8m0x2.f32 %0, %1, %2;"
          : "=h"(pair)
          : "f"(detail::without_negatives(odd)), "f"(detail::without_negatives(even)));
    }
    return pair;
  } else {
    constexpr formats::FloatEncoder encoder = detail::encoder_of<instruction>();
    return encoder(__float_as_uint(even)) | encoder(__float_as_uint(odd)) << 8;
  }
}

}  // namespace fp4scope::cuda
