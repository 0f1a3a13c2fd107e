// The kernels that cuda::quantize tries, one after the other, before the plain one. Each says whether it served.
#pragma once

#include "cuda/cuda.hpp"

namespace fp4scope::cuda {

/// MethodKind::rule.
bool quantize_rule(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                   std::uint8_t* packed, const float* tensor_scale);

/// MethodKind::four_over_six with Select::mse.
bool quantize_four_over_six(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                            std::uint8_t* packed, const float* tensor_scale);

/// MethodKind::sse with scales that are powers of two.
bool quantize_power(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                    std::uint8_t* packed, const float* tensor_scale);

/// MethodKind::sse, blocks of 16 and 32 with scales E4M3 and levels of E2M1 or INT4.
bool quantize_sse(Stream& stream, const search::SearchTask& task, const Matrix& matrix, std::uint8_t* scales,
                  std::uint8_t* packed, const float* tensor_scale);

}  // namespace fp4scope::cuda
