// What the three products of a linear layer in training lose, each operand quantized as a named configuration says:
//
//   forward   Y  = X W^T          [tokens, out] = [tokens, in]  [out, in]^T
//   dgrad     dX = G (W^T)^T      [tokens, in]  = [tokens, out] [in, out]^T
//   wgrad     dW = G^T (X^T)^T    [out, in]     = [out, tokens] [in, tokens]^T
//
// so that K always lies along the rows of both operands and blocks along K. An operand is transposed first, then
// rotated, then quantized; both operands of a product are rotated alike, which leaves the product as it is.
//
// With stochastic rounding a product is a random matrix R. Over N seeds, e_s = R_s - exact:
//
//   error   sqrt(mean |e_s|^2)                                               of one product
//   bias    sqrt((N |mean e_s|^2 - mean |e_s|^2) / (N - 1)), 0 below 0       of their mean for N without end: what
//           N |mean e|^2 has of the noise is taken off, so the square is an unbiased estimate
//   rounding_bias   the same with the exact product replaced by the one whose stochastic operands are not rounded:
//           0 but for noise where the stochastic rounding is unbiased
//
// all divided by |exact|.
#pragma once

#include "analysis/matmul.hpp"
#include "analysis/tensors.hpp"
#include "analysis/transform.hpp"

namespace fp4scope::analysis {

/// How an operand is quantized. `format` none: as it is, bf16: rounded to it.
struct LinearOperand {
  std::string tensor;  ///< "X", "W" or "G"
  bool transposed = false;
  QuantizeWords words;
  int hadamard = 0;  ///< points of the rotation, 0 for none; 16 have the fixed signs

  std::string text() const;  ///< "G^T nvfp4 naive hadamard 16 stochastic"
};

struct LinearProduct {
  std::string name;  ///< "forward", "dgrad", "wgrad"
  LinearOperand a, b;
};

struct LinearRecipe {
  std::string name, words;
  std::vector<LinearProduct> products;  ///< the three
};

std::vector<std::string> linear_recipe_names();
/// A named one, or one of a TOML file with tables [forward.X], [forward.W], [dgrad.G], [dgrad.W], [wgrad.G] and
/// [wgrad.X] of format, scale, tensor_scale, scale_max, block, rounding, recipe, block_2d and hadamard. Throws
/// UsageError.
LinearRecipe find_linear_recipe(const std::string& name);

struct LinearOptions {
  std::string input, weight, grad;  ///< "FILE:NAME"; without `grad` the forward product alone
  LinearRecipe recipe;
  MatmulWords unit;
  std::uint64_t seed = 1;
  int seeds = 1;
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

struct LinearResult {
  std::string name, a, b, unit;         ///< the product, its operands' and the unit's texts
  std::int64_t rows = 0, cols = 0, k = 0;
  int seeds = 1;                        ///< 1 where nothing is random
  double error = 0, cosine = 0;         ///< error over all seeds, cosine of the first
  double a_error = 0, b_error = 0;      ///< of the operands, first seed
  double accumulation = 0, shrinkage = 0;  ///< the part `accumulation`, and what it takes off every output
  std::optional<double> bias, rounding_bias;  ///< of more than one seed
};

/// Throws Error and UsageError; nothing if interrupted.
std::vector<LinearResult> linear_file(const LinearOptions& options);

}  // namespace fp4scope::analysis
