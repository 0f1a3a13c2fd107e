// A finished run as a row of the table and the datasets of its group: what notebooks-data/schema.md describes.
#pragma once

#include <vector>

#include "analysis/layer.hpp"
#include "analysis/run_sums.hpp"
#include "io/results.hpp"

namespace fp4scope::analysis {

/// Everything a record is made of.
struct Result {
  const Work& work;
  const PlannedTensor& tensor;
  const Layer& layer;
  const Quantized& q;
  const Metrics& m;
  const Parts* parts = nullptr;
};

/// The columns of the table, in order.
std::vector<io::Column> sweep_columns();

/// `block_sse`: [rows, blocks per row], written with the scale codes if `per_block`.
io::Record make_record(const Result& r, const std::vector<double>& block_sse, bool per_block);

}  // namespace fp4scope::analysis
