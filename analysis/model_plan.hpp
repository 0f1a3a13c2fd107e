// Which tensors of a model are quantized, each how, which share a tensor scale, and which stay as they are and why.
//
// Quantized are matrices called *.weight, without what a loader doesn't multiply by or a model's quality hangs on:
// heads, embeddings, norms, routers. Overrides change single weights. Weights that loaders fuse to one matrix get one
// tensor scale, from their joint amax: a fused matrix has room for one (vLLM takes the largest and warns).
#pragma once

#include <string>
#include <vector>

#include "analysis/checkpoint_config.hpp"
#include "analysis/quantize.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

struct ModelWords {
  std::string in;       ///< for errors
  std::string layout;   ///< of layout_names(), or "fake"
  QuantizeWords words;  ///< for all
  Formats formats;
  std::vector<std::string> tensors;  ///< globs; empty: the default selection
  std::vector<std::string> exclude;
  std::vector<std::string> overrides;  ///< "GLOB=key:value,...", the later one wins
  bool fuse = true;
  bool pad_error = false;  ///< refuse columns that don't fit instead of leaving the weight (fake: padding it)
  std::uint64_t seed = 1;
};

/// What --tensor says by default, and what is left of it.
extern const std::vector<std::string> default_tensors;
extern const std::vector<std::string> default_left;
/// Weights that loaders fuse, by the last part of their module's name.
extern const std::vector<std::vector<std::string>> fused_names;

struct PlannedWeight {
  const io::TensorInfo* tensor = nullptr;
  Shape2d shape{};
  QuantizeConfig config;
  const LayoutFormat* layout = nullptr;  ///< null: fake
  int group = -1;                        ///< in ModelPlan::groups
};

struct ModelPlan {
  std::vector<PlannedWeight> weights;            ///< in the order of their names
  std::vector<std::vector<std::size_t>> groups;  ///< of weights that share a tensor scale, two at least
  std::vector<const io::TensorInfo*> left;
  std::vector<std::string> words;  ///< lines for the user: groups, what is left and why
};

/// Throws UsageError for a word that is wrong or has no place in the layout, Error where nothing is quantized.
ModelPlan plan_model(const ModelWords& words, const std::vector<io::TensorInfo>& tensors);

/// `ignore` of a plan: modules of left tensors with two dimensions and more, without embeddings.
std::vector<std::string> left_modules(const ModelPlan& plan);

}  // namespace fp4scope::analysis
