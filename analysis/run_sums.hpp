// What one run, a tensor under a configuration, adds up while the tensor passes by in pieces.
#pragma once

#include <optional>
#include <vector>

#include "analysis/causes.hpp"
#include "analysis/layer_error.hpp"
#include "analysis/metrics.hpp"
#include "analysis/places.hpp"
#include "analysis/terms.hpp"

namespace fp4scope::analysis {

/// Where the errors of a run come from.
struct Parts {
  Terms terms;
  Causes causes;
  Places places;
  std::optional<LayerError> layer;  ///< with layer inputs, these quantized too
};

/// What a run adds up, and of which tensor.
struct RunWishes {
  std::int64_t rows = 0;                     ///< of the whole tensor
  const Activations* activations = nullptr;  ///< of output errors; null without
  double reference_output_energy = 0;        ///< of the whole original
  bool per_block = false;                    ///< scales and squared errors of all blocks are kept
  bool decompose = false;                    ///< Parts; none of corrections, whose values are not codes times scales
  const Matrix* inputs = nullptr;            ///< X [tokens, cols] for Parts::layer; null without
};

class RunSums {
 public:
  explicit RunSums(const RunWishes& wishes);

  /// The next rows, unpadded, and what they became: the first piece to the last. Where a GPU has measured them, q has
  /// codes only if needs_codes().
  void add(const Matrix& original, Quantized q, const MeasuredRows* measured = nullptr);
  /// Whether there is more to add up than a GPU measures.
  bool needs_codes() const { return wishes_.activations || wishes_.per_block || wishes_.decompose; }

  /// Of the whole tensor, without codes; its scales if `per_block`.
  const Quantized& quantized() const { return whole_; }
  Metrics metrics() const { return metrics_.metrics(); }
  const std::vector<double>& block_sse() const { return block_sse_; }
  std::optional<Parts> parts() const;

 private:
  void start(const Matrix& original, const Quantized& q);

  RunWishes wishes_;
  MetricSums metrics_;
  Quantized whole_;
  std::vector<double> block_sse_;
  TermSums terms_;
  CauseSums causes_;
  std::optional<PlaceSums> places_;  ///< there from the first piece on, if Parts are wished for
  std::optional<Quantized> inputs_;
  LayerError layer_;
  bool first_ = true;
};

}  // namespace fp4scope::analysis
