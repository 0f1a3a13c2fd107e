// `quantize --as`: a folder with a model -> a folder that loaders open, or (fake) the same model with the values that
// its codes stand for.
//
// Shard for shard, a piece of rows at a time: memory is that of a piece and of what a method needs whole (H, a searched
// tensor scale). A tensor scale needs the amax of its fused group, so every weight is read twice. With
// compressed-tensors the tensor scale is the D that the loader takes from the stored S (checkpoint_config.hpp), chosen
// before scales are searched: what was optimised is what is decoded.
#pragma once

#include "analysis/model_folder.hpp"
#include "analysis/model_plan.hpp"

namespace fp4scope::analysis {

struct QuantizeModelOptions : FolderWork {
  ModelWords words;     ///< words.in is `in`
  std::string hessian;  ///< a file or a folder of files with H by name of weight or module (curvature.hpp); "" for none
  std::string formats;  ///< the file of one's own formats; "" for none
};

/// One weight of the result.
struct ModelWeight {
  std::string name, shard, format, method;
  std::int64_t rows = 0, cols = 0;
  int block = 0, group = -1;
  double tensor_scale = 1;  ///< D
  double sse = 0, energy = 0;
  double bits_per_weight = 0;

  double relative_error() const;  ///< |W - Wq| / |W|; NaN for zeros
  double sqnr_db() const;         ///< -20 log10 of that
};

struct ModelSummary {
  std::vector<ModelWeight> weights;
  std::vector<std::string> left;             ///< names of tensors
  std::int64_t bytes_in = 0, bytes_out = 0;  ///< of tensors
  std::size_t shards = 0, kept = 0;          ///< `kept`: finished by an earlier run
  bool interrupted = false;
};

/// Throws Error, UsageError. Interrupted or killed: OUT is absent, OUT.partial/ has the finished shards for `resume`.
ModelSummary quantize_model(const QuantizeModelOptions& options);

}  // namespace fp4scope::analysis
