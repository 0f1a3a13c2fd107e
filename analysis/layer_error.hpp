// The error of a layer's output, Xq Wq^T - X W^T, by who made it:
//
//   weights       X (Wq - W)^T
//   activations   (Xq - X) W^T
//   both          (Xq - X) (Wq - W)^T, their cross term
//
// The three matrices add up to the error; their squared norms need the inner products too. Binary64, in a fixed order.
#pragma once

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

inline constexpr int layer_term_count = 3;
extern const char* const layer_term_names[layer_term_count];  ///< "weights", "activations", "both"

struct LayerError {
  double energy = 0;                                      ///< |X W^T|^2
  double error = 0;                                       ///< |Xq Wq^T - X W^T|^2, from the outputs themselves
  double inner[layer_term_count][layer_term_count] = {};  ///< inner products of the three, symmetric
  double dot_snr_db() const;  ///< 10 log10(energy / error): the dot-product SNR (arXiv 2605.06067)
};

/// w [rows, cols] and x [tokens, cols], unpadded, and what they became; `xq` null: X stays as it is. Padding of codes
/// is left out.
LayerError layer_error(const Matrix& w, const Quantized& wq, const Matrix& x, const Quantized* xq);

}  // namespace fp4scope::analysis
