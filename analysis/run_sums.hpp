// What one run, a tensor under a configuration, adds up while the tensor passes by in pieces.
#pragma once

#include <vector>

#include "analysis/metrics.hpp"

namespace fp4scope::analysis {

class RunSums {
 public:
  /// `rows`: of the whole tensor. `activations` and `reference_output_energy` may be absent. `per_block`: scales and
  /// squared errors of all blocks are kept.
  RunSums(std::int64_t rows, const Activations* activations, double reference_output_energy, bool per_block);

  /// The next rows, unpadded, and what they became: the first piece to the last.
  void add(const Matrix& original, Quantized q);

  /// Of the whole tensor, without codes; its scales if `per_block`.
  const Quantized& quantized() const { return whole_; }
  Metrics metrics() const { return metrics_.metrics(); }
  const std::vector<double>& block_sse() const { return block_sse_; }

 private:
  MetricSums metrics_;
  Quantized whole_;
  std::vector<double> block_sse_;
  std::int64_t rows_;
  bool per_block_, first_ = true;
};

}  // namespace fp4scope::analysis
