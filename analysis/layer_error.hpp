// The error of a layer's output, Xq Wq^T - X W^T, by who made it:
//
//   weights       X (Wq - W)^T
//   activations   (Xq - X) W^T
//   both          (Xq - X) (Wq - W)^T, their cross term
//
// The three matrices add up to the error; their squared norms need the inner products too:
// |e|^2 = sum_i |e_i|^2 + 2 sum_{i<j} <e_i, e_j>. Binary64: an output sums over the columns in order, a row's outputs
// are taken in the order of the tokens, then the rows of W in order: the same bits on any thread count.
#pragma once

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

inline constexpr int layer_term_count = 3;
extern const char* const layer_term_names[layer_term_count];  ///< "weights", "activations", "both"

struct LayerError {
  double energy = 0;                                      ///< |X W^T|^2
  double error = 0;                                       ///< |Xq Wq^T - X W^T|^2, from the outputs themselves
  double inner[layer_term_count][layer_term_count] = {};  ///< inner products of the three, symmetric
  /// 10 log10(energy / error): the dot-product SNR (arXiv 2605.06067). Infinite without an error, NaN if both are 0.
  double dot_snr_db() const;
};

/// Inputs as a layer would have them beside these weights: the same format and block, naive; a tensor scale where the
/// weights have one.
Quantized quantize_inputs(const QuantizeConfig& weights, const Matrix& x);

/// w [rows, cols] and x [tokens, cols], unpadded, finite, and what they became; `xq` null: X stays as it is. Padding of
/// codes is left out. Values are the stored ones, tensor scale * block scale * element. `before`: of the rows above.
LayerError layer_error(const Matrix& w, const Quantized& wq, const Matrix& x, const Quantized* xq,
                       const LayerError& before = {});

}  // namespace fp4scope::analysis
