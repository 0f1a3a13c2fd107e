// Block formats as rows of data: value = tensor_scale * block_scale * element, blocks along the columns.
//
// Sources: OCP MX v1.0, 5.1 to 5.4 (MXFP4, MXFP6, MXFP8, MXINT8); arXiv 2509.25149 (NVFP4: block 16, E4M3 scale, fp32
// tensor scale); arXiv 2510.25602 (NVINT4, MXINT4); arXiv 2603.28765 (IF4).
#pragma once

#include <string_view>

#include "formats/codec.hpp"

namespace fp4scope::formats {

/// Whether a block may choose a second element type; the choice is bit 7 of the scale's code.
enum class Selection : std::uint8_t {
  none,
  int4_six_sevenths,  ///< IF4: set, the codes are INT4 and the values 6/7 of them, so that both grids end at 6
};

inline constexpr int selection_bit = 0x80;

/// A grid of one's own: value of code k is value[k], k < count; a negative value has bit 3 set as well.
struct Levels {
  int count = 0;         ///< 0: the element's own values
  double value[8] = {};  ///< ascending from 0
};

struct BlockFormat {
  const char* name;
  Format element;
  Format scale;        ///< only its codes 0 .. max_code are used: a block scale is never negative
  int block;           ///< the default block size
  bool tensor_scaled;  ///< whether a tensor scale is the default
  int scale_max;       ///< the largest block scale that an amax tensor scale aims at; 0: it has to be given
  Selection selection = Selection::none;
  Levels levels = {};

  FP4SCOPE_HD constexpr double element_max() const noexcept {
    return levels.count > 0 ? levels.value[levels.count - 1] : decode_double(element, element.max_code);
  }
  FP4SCOPE_HD constexpr bool selects() const noexcept { return selection != Selection::none; }
};

/// The value of an element's code in real numbers, exact; `integer` says that a selecting block chose INT4, whose
/// values are given times 7/6: whole numbers.
FP4SCOPE_HD constexpr double element_value(const BlockFormat& f, std::uint32_t code, bool integer = false) noexcept {
  constexpr Format integers = int4;
  if (integer) return decode_double(integers, code);
  if (f.levels.count == 0) return decode_double(f.element, code);
  const int index = static_cast<int>(code & 7u);
  const double magnitude = f.levels.value[index < f.levels.count ? index : f.levels.count - 1];
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

// MXINT elements are integers with an implicit power of two, so that they stay below 2 (OCP MX v1.0, 5.3.4).
// clang-format off
inline constexpr Format mxint8_element = {"int8 / 64", 8, 0, 7, 0, true, true, true, Specials::none, 0x7F, "OCP MX v1.0, 5.3.4"};
inline constexpr Format mxint4_element = {"int4 / 4",  4, 0, 3, 0, true, true, true, Specials::none, 0x7,  "as MXINT8, at 4 bits (arXiv 2510.25602)"};

//                                        name          element         scale  block tensor scale max
inline constexpr BlockFormat nvfp4      = {"nvfp4",      e2m1,           e4m3,  16,  true,  448};
inline constexpr BlockFormat mxfp4      = {"mxfp4",      e2m1,           ue8m0, 32,  false, 0};
inline constexpr BlockFormat nvint4     = {"nvint4",     int4,           e4m3,  16,  true,  448};
inline constexpr BlockFormat if4        = {"if4",        e2m1,           e4m3,  16,  true,  448, Selection::int4_six_sevenths};
inline constexpr BlockFormat mxfp6_e2m3 = {"mxfp6_e2m3", e2m3,           ue8m0, 32,  false, 0};
inline constexpr BlockFormat mxfp6_e3m2 = {"mxfp6_e3m2", e3m2,           ue8m0, 32,  false, 0};
inline constexpr BlockFormat mxfp8_e4m3 = {"mxfp8_e4m3", e4m3,           ue8m0, 32,  false, 0};
inline constexpr BlockFormat mxfp8_e5m2 = {"mxfp8_e5m2", e5m2,           ue8m0, 32,  false, 0};
inline constexpr BlockFormat mxint8     = {"mxint8",     mxint8_element, ue8m0, 32,  false, 0};
inline constexpr BlockFormat mxint4     = {"mxint4",     mxint4_element, ue8m0, 32,  false, 0};
// clang-format on

inline constexpr BlockFormat all_block_formats[] = {nvfp4,      mxfp4,      nvint4,     if4,    mxfp6_e2m3,
                                                    mxfp6_e3m2, mxfp8_e4m3, mxfp8_e5m2, mxint8, mxint4};

constexpr const BlockFormat* find_block_format(std::string_view name) noexcept {
  for (const BlockFormat& f : all_block_formats) {
    if (name == f.name) return &f;
  }
  return nullptr;
}

// The bit budgets that make decisions exact in binary64. A threshold is midpoint * block scale * tensor scale.
// 4-bit elements have at most 3 significant bits and midpoints 4 (E2M1: 3), scales 4, tensor scales 24: 32 of 53 bits.
// IF4 compares 7 |x| (27 bits) with 6 * midpoint * step (2 + 4 + 28 bits). A grid of one's own is refused above 8 bits.
static_assert(e4m3.mantissa_bits + 1 == 4 && e2m1.mantissa_bits + 1 == 2);
static_assert(nvfp4.element_max() == 6 && nvint4.element_max() == 7 && mxfp4.element_max() == 6);
static_assert(mxint8.element_max() == 127.0 / 64 && mxint4.element_max() == 7.0 / 4);

}  // namespace fp4scope::formats
