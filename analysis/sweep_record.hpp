// A finished run as a row of the table and the datasets of its group: what notebooks-data/schema.md describes.
#pragma once

#include <optional>
#include <vector>

#include "analysis/causes.hpp"
#include "analysis/layer.hpp"
#include "analysis/layer_error.hpp"
#include "analysis/places.hpp"
#include "analysis/terms.hpp"
#include "io/results.hpp"

namespace fp4scope::analysis {

/// Where the errors of a run come from, if the sweep asks for it.
struct Decomposition {
  Terms terms;
  Causes causes;
  Places places;
  std::optional<LayerError> layer;  ///< with activations
};

/// Everything a record is made of.
struct Result {
  const Work& work;
  const PlannedTensor& tensor;
  const Layer& layer;
  const Quantized& q;
  const Metrics& m;
  const Decomposition* parts = nullptr;
};

/// The columns of the table, in order.
std::vector<io::Column> sweep_columns();

/// `block_sse`: [rows, blocks per row], written with the scale codes if `per_block`.
io::Record make_record(const Result& r, const std::vector<double>& block_sse, bool per_block);

}  // namespace fp4scope::analysis
