// Block formats as rows of data: value = tensor_scale * block_scale * element, blocks along the columns.
//
// Sources: OCP MX v1.0, 5.1 (MXFP4); arXiv 2509.25149 (NVFP4: block 16, E4M3 scale, fp32 tensor scale);
// arXiv 2510.25602 (NVINT4).
#pragma once

#include <string_view>

#include "formats/codec.hpp"

namespace fp4scope::formats {

struct BlockFormat {
  const char* name;
  Format element;
  Format scale;        ///< only its codes 0 .. max_code are used: a block scale is never negative
  int block;           ///< the default block size
  bool tensor_scaled;  ///< whether a tensor scale is the default
  int scale_max;       ///< the largest block scale that an amax tensor scale aims at; 0: it has to be given

  FP4SCOPE_HD constexpr double element_max() const noexcept { return decode_double(element, element.max_code); }
};

inline constexpr BlockFormat nvfp4 = {"nvfp4", e2m1, e4m3, 16, true, 448};
inline constexpr BlockFormat mxfp4 = {"mxfp4", e2m1, ue8m0, 32, false, 0};
inline constexpr BlockFormat nvint4 = {"nvint4", int4, e4m3, 16, true, 448};

inline constexpr BlockFormat all_block_formats[] = {nvfp4, mxfp4, nvint4};

constexpr const BlockFormat* find_block_format(std::string_view name) noexcept {
  for (const BlockFormat& f : all_block_formats) {
    if (name == f.name) return &f;
  }
  return nullptr;
}

// The bit budgets that make decisions exact in binary64. A threshold is midpoint * block scale * tensor scale.
// Elements have at most 3 significant bits and midpoints 4 (E2M1: 3), scales 4, tensor scales 24: 32 of 53 bits.
static_assert(e4m3.mantissa_bits + 1 == 4 && e2m1.mantissa_bits + 1 == 2);
static_assert(nvfp4.element_max() == 6 && nvint4.element_max() == 7 && mxfp4.element_max() == 6);

}  // namespace fp4scope::formats
