// `quantize` and `dequantize`: tensors of a file -> codes and scales of a file, and back.
//
// For each tensor T [R, C] (C padded to a multiple of the block):
//   T.codes         U8  [R, C/2] packed, low nibble = even column
//   T.scales        U8  [R, C/block] raw scale codes
//   T.tensor_scale  F32 [1] the multiplier on decode, 1 without
//   T.amax          F32 [1] where the tensor scale comes from it
//   T.dequantized   F32 [R, C] on request: the exact product rounded once
// and the configuration as JSON in the file's metadata ("fp4scope").
#pragma once

#include <atomic>

#include "analysis/metrics.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct QuantizeFileOptions {
  std::string in, out;
  QuantizeConfig config;
  std::vector<std::string> tensors = {"*"};
  std::vector<std::string> exclude;
  std::string activations;   ///< "FILE:NAME", for Hessian methods and the output error; "" for none
  bool pad_error = false;    ///< refuse a column count that the block doesn't divide
  bool keep = false;         ///< copy what isn't quantized
  bool dequantized = false;  ///< add T.dequantized
  bool fake_quant = false;   ///< instead: T itself with its dtype and shape, dequantized; all else copied
  std::string tool;          ///< "fp4scope 0.1.0"
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

/// What a line of the summary needs.
struct QuantizedTensor {
  std::string name;
  Shape2d shape{};
  double weight_error = 0, sqnr_db = 0, output_error = 0, bits_per_weight = 0;
};

/// Throws Error; `out` is whole or absent. Interrupted: no file, an empty list.
std::vector<QuantizedTensor> quantize_file(const QuantizeFileOptions& options);

/// Reads what quantize_file wrote: every tensor under its own name and shape, F32 or BF16 (the exact product rounded
/// once; beyond the type's range that is Inf), kept tensors copied. Returns how many were dequantized, 0 if
/// interrupted.
std::size_t dequantize_file(const std::string& in, const std::string& out, const std::string& dtype,
                            const std::string& tool, const std::atomic<bool>* stop = nullptr);

}  // namespace fp4scope::analysis
