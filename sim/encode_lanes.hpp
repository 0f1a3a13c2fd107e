// Many blocks to codes at once, in vector lanes: the codes of quantize_block (sim/block.hpp) for every input.
//
// Thresholds are products midpoint * step, exact in binary64. An element is a binary32 number, and between two
// neighbours of those nothing is compared, so each threshold has a stand-in in binary32 that decides the same:
//
//   code k + 1 or above  <=>  |x| > f_k,   f_k = the largest float at most midpoint_k * step     (k even: |x| above it)
//                                          f_k = the largest float below midpoint_k * step       (k odd: on it as well)
//
// The seven stand-ins of a block are found once, rounded towards zero in exact arithmetic; then each element costs
// three comparisons of floats, a binary search. Nothing is approximated, so no element needs a second look, whether or
// not it lies on a threshold. A step that is zero or NaN has f_k = inf, which nothing exceeds.
#pragma once

#include <cstdint>

#include "formats/block_format.hpp"

namespace fp4scope::sim {

/// x [blocks * block] -> codes [blocks * block], one code a byte: `blocks` blocks that lie one after the other, each at
/// its scale's code scales[b] and the tensor's scale. Elements of at most 4 bits; a selecting format's choice is bit 7
/// of its scale. Zero and NaN scales give zeros with their signs. In lanes where a format has eight levels and selects
/// nothing, one by one otherwise.
void encode_blocks(const formats::BlockFormat& format, float tensor_scale, const float* x, std::int64_t blocks,
                   int block, const std::uint8_t* scales, std::uint8_t* codes);

/// The same to packed [blocks * block / 2], element 2i in the low nibble of byte i; `block` is even.
void encode_blocks_packed(const formats::BlockFormat& format, float tensor_scale, const float* x, std::int64_t blocks,
                          int block, const std::uint8_t* scales, std::uint8_t* packed);

/// bf16 bits in[n] to floats out[n].
void widen_bf16(const std::uint16_t* in, std::int64_t n, float* out);

}  // namespace fp4scope::sim
