// `matmul`: two tensors of files, quantized and multiplied, with the product as a file and its error by part.
//
//   out   F32, BF16 or F16 [M, N], and the configuration as JSON in the metadata ("fp4scope_matmul")
#pragma once

#include "analysis/matmul.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

/// One operand: "FILE:NAME" [rows, K], of more dimensions the last is K; no configuration: it stays as it is.
struct MatmulOperand {
  std::string source;
  std::optional<QuantizeConfig> config;
};

struct MatmulFileOptions {
  MatmulOperand a, b;
  MatmulConfig config;
  std::string out;  ///< "" for none
  std::string tool;
  Notice notice;
  std::function<void(double done)> progress;
  const std::atomic<bool>* stop = nullptr;
};

struct MatmulResult {
  Product product;
  std::int64_t k = 0;
  double a_error = 0, b_error = 0;  ///< |Aq - A| / |A|
};

/// Throws Error; the file is whole or absent. Nothing if interrupted.
std::optional<MatmulResult> matmul_file(const MatmulFileOptions& options);

}  // namespace fp4scope::analysis
