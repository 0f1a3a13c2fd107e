// Where bytes and nibbles lie: index functions between an element's coordinates and its place in other layouts.
//
// 1. Block scales as tensor cores read them. An R x C matrix of one-byte scales (C = columns / block size) is padded to
//    whole atoms of A rows x 4 scale columns, A = 128 or 8. Atoms follow each other along the columns first, then along
//    the rows; an atom is 4 A consecutive bytes:
//
//      offset(r, c) = (r / A * ceil(C / 4) + c / 4) * 4 A + r % L * (4 A / L) + r % A / L * 4 + c % 4
//
//    128x4 (L = 32): (r / 128 * ceil(C / 4) + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4.
//      cuBLASLt's VEC16_UE4M3 (NVFP4) and VEC32_UE8M0 (MX), cuBLAS manual, "1D block scaling factors layout"; CUTLASS
//      Sm1xxBlockScaledConfig, the atom Shape((32, 4), (VEC, 4)) : Stride((16, 4), (0, 1)); PTX tcgen05; torchao
//      to_blocked; the same for either operand of a product.
//    8x4 (L = 8): (r / 8 * ceil(C / 4) + c / 4) * 32 + r % 8 * 4 + c % 4.
//      flashinfer and TensorRT-LLM, get_sf_out_offset_8x4, for products of few rows.
//
//    Rows are padded to A, scale columns to 4, and padding bytes are 0: in UE4M3 the value 0, so that a padded block
//    adds nothing, where a byte left over from before might be NaN. (In UE8M0 a 0 is 2^-127, finite as well.)
//
// 2. Nibbles. A block of E elements is S scale bytes, then E / 2 bytes; in a run of 2 H elements byte j holds element j
//    in the low nibble and element j + H in the high one:
//
//      byte(e) = e / E * (S + E / 2) + S + e % E / (2 H) * H + e % H,   high(e) = e / H odd
//
//    pairs: E 2, H 1, S 0, the order of pack.hpp. ggml's block_mxfp4: E 32, H 16, S 1 (17 bytes) and block_nvfp4:
//    E 64, H 8, S 4, one scale for 16 elements (36 bytes): dequantize_row_mxfp4 and _nvfp4 of ggml-quants.c.
#pragma once

#include <cstdint>

#include "formats/host_device.hpp"

namespace fp4scope::formats {

struct ScaleLayout {
  std::int64_t rows;   ///< of an atom, A above
  std::int64_t lanes;  ///< consecutive rows that lie 4 * rows / lanes bytes apart, L above
};

inline constexpr ScaleLayout scales_128x4 = {128, 32};
inline constexpr ScaleLayout scales_8x4 = {8, 8};

/// Scale columns of an atom, in every layout.
inline constexpr std::int64_t atom_cols = 4;

struct ScalePosition {
  std::int64_t row, col;
};

FP4SCOPE_HD constexpr std::int64_t padded_scale_rows(const ScaleLayout& layout, std::int64_t rows) noexcept {
  return (rows + layout.rows - 1) / layout.rows * layout.rows;
}

FP4SCOPE_HD constexpr std::int64_t padded_scale_cols(std::int64_t cols) noexcept {
  return (cols + atom_cols - 1) / atom_cols * atom_cols;
}

/// Bytes of the padded array.
FP4SCOPE_HD constexpr std::int64_t swizzled_size(const ScaleLayout& layout, std::int64_t rows,
                                                 std::int64_t cols) noexcept {
  return padded_scale_rows(layout, rows) * padded_scale_cols(cols);
}

/// The byte of (row, col) in an array of `cols` scale columns; row and col may lie in the padding.
FP4SCOPE_HD constexpr std::int64_t swizzled_offset(const ScaleLayout& layout, std::int64_t row, std::int64_t col,
                                                   std::int64_t cols) noexcept {
  const std::int64_t atoms_per_row = padded_scale_cols(cols) / atom_cols;
  const std::int64_t atom = row / layout.rows * atoms_per_row + col / atom_cols;
  const std::int64_t groups = layout.rows / layout.lanes;  // rows that share 4 * groups consecutive bytes
  return atom * layout.rows * atom_cols + row % layout.lanes * groups * atom_cols +
         row % layout.rows / layout.lanes * atom_cols + col % atom_cols;
}

/// The inverse: which (row, col), perhaps in the padding, lies at byte `offset`.
FP4SCOPE_HD constexpr ScalePosition swizzled_position(const ScaleLayout& layout, std::int64_t offset,
                                                      std::int64_t cols) noexcept {
  const std::int64_t atoms_per_row = padded_scale_cols(cols) / atom_cols;
  const std::int64_t groups = layout.rows / layout.lanes;
  const std::int64_t atom = offset / (layout.rows * atom_cols), within = offset % (layout.rows * atom_cols);
  const std::int64_t lane = within / (groups * atom_cols), group = within / atom_cols % groups;
  return {atom / atoms_per_row * layout.rows + group * layout.lanes + lane,
          atom % atoms_per_row * atom_cols + within % atom_cols};
}

/// linear[rows * cols], row-major -> swizzled[swizzled_size], padding 0. The arrays don't overlap.
FP4SCOPE_HD constexpr void swizzle_scales(const ScaleLayout& layout, const std::uint8_t* linear, std::int64_t rows,
                                          std::int64_t cols, std::uint8_t* swizzled) noexcept {
  const std::int64_t size = swizzled_size(layout, rows, cols);
  for (std::int64_t i = 0; i < size; ++i) swizzled[i] = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::uint8_t* const out = swizzled + swizzled_offset(layout, row, 0, cols);
    for (std::int64_t col = 0; col < cols; ++col) {  // an offset is one of the row plus one of the column
      out[col / atom_cols * (layout.rows * atom_cols) + col % atom_cols] = linear[row * cols + col];
    }
  }
}

/// The inverse; padding is not read.
FP4SCOPE_HD constexpr void unswizzle_scales(const ScaleLayout& layout, const std::uint8_t* swizzled, std::int64_t rows,
                                            std::int64_t cols, std::uint8_t* linear) noexcept {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint8_t* const in = swizzled + swizzled_offset(layout, row, 0, cols);
    for (std::int64_t col = 0; col < cols; ++col) {
      linear[row * cols + col] = in[col / atom_cols * (layout.rows * atom_cols) + col % atom_cols];
    }
  }
}

struct NibbleOrder {
  std::int64_t elements;     ///< of a block, E above
  std::int64_t half;         ///< elements between the low and the high nibble of a byte, H above
  std::int64_t scale_bytes;  ///< before a block's nibbles, S above
};

inline constexpr NibbleOrder pair_nibbles = {2, 1, 0};
inline constexpr NibbleOrder ggml_mxfp4_nibbles = {32, 16, 1};
inline constexpr NibbleOrder ggml_nvfp4_nibbles = {64, 8, 4};

struct NibblePosition {
  std::int64_t byte;
  bool high;
};

FP4SCOPE_HD constexpr std::int64_t nibble_block_bytes(const NibbleOrder& order) noexcept {
  return order.scale_bytes + order.elements / 2;
}

/// Where element `e` of a row lies, counted from the row's first byte.
FP4SCOPE_HD constexpr NibblePosition nibble_position(const NibbleOrder& order, std::int64_t e) noexcept {
  const std::int64_t block = e / order.elements, run = e % order.elements / (2 * order.half);
  return {block * nibble_block_bytes(order) + order.scale_bytes + run * order.half + e % order.half,
          e / order.half % 2 != 0};
}

/// Is this byte a scale, and so no pair of elements?
FP4SCOPE_HD constexpr bool is_scale_byte(const NibbleOrder& order, std::int64_t byte) noexcept {
  return byte % nibble_block_bytes(order) < order.scale_bytes;
}

/// The element at a position whose byte is no scale: the inverse of nibble_position.
FP4SCOPE_HD constexpr std::int64_t nibble_element(const NibbleOrder& order, NibblePosition at) noexcept {
  const std::int64_t block = at.byte / nibble_block_bytes(order);
  const std::int64_t j = at.byte % nibble_block_bytes(order) - order.scale_bytes;
  return block * order.elements + j / order.half * (2 * order.half) + (at.high ? order.half : 0) + j % order.half;
}

/// The byte of the scale of element `e`, in an order that has scale bytes.
FP4SCOPE_HD constexpr std::int64_t scale_byte(const NibbleOrder& order, std::int64_t e) noexcept {
  return e / order.elements * nibble_block_bytes(order) + e % order.elements * order.scale_bytes / order.elements;
}

static_assert(swizzled_offset(scales_128x4, 33, 5, 8) == 512 + 16 + 4 + 1);
static_assert(nibble_position(ggml_nvfp4_nibbles, 25).byte == 4 + 8 + 1);

}  // namespace fp4scope::formats
