// The block scales of least squared error for NVFP4 and NVINT4 in one pass, with the codes.
#pragma once

#include "cuda/cuda.hpp"

namespace fp4scope::cuda {

/// cuda::quantize for method `sse`, blocks of 16 and 32 with scales E4M3 and levels of E2M1 or INT4. False, and nothing
/// is queued, where it doesn't serve: tiles, columns that a block doesn't divide, elements that don't begin at a
/// multiple of 16 bytes, codes at one of a quarter of the block's size.
bool quantize_sse(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                  std::uint8_t* packed, const float* tensor_scale = nullptr);

}  // namespace fp4scope::cuda
