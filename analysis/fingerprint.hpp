// Whose recipe made these bytes of this original: found on a sample of rows, then counted on every block.
//
//   sample      whole rows, spread evenly; every recipe and method of the format (recipe_rows.hpp) quantizes them with
//               the checkpoint's tensor scale
//   first       the one whose scale byte and codes are the checkpoint's in the most blocks of the sample
//   second      the one that has the most of the blocks that the first hasn't
//   everywhere  blocks by the first; by the second only; by neither. The verdict rests on these counts
//
// Rows are independent once amax is known, so rows of a sample are quantized as they would be within the tensor. A
// recipe of square blocks, a rotated one and one that needs activations are not among those tried.
#pragma once

#include <atomic>

#include "analysis/recipe_rows.hpp"

namespace fp4scope::analysis {

/// A verdict other than "none" explains more than this share of a tensor's blocks.
inline constexpr double fingerprint_share = 0.9;
/// The second recipe of a "mixture" has at least this share of them that the first hasn't.
inline constexpr double mixture_share = 0.001;

/// One recipe and what it reproduces.
struct RecipeShare {
  std::string name;  ///< the recipe's, with METHOD and choices; "" where there is none
  std::string recipe, method;
  std::int64_t sample_blocks = 0;                 ///< of the sample: reproduced; of the second: besides the first
  std::int64_t blocks = 0;                        ///< of everything, likewise
  std::optional<std::int64_t> tensor_scale_ulps;  ///< theirs less the recipe's own
};

struct Fingerprint {
  std::string verdict = "none";  ///< "recipe", "mixture", "none"
  std::int64_t blocks = 0, sample_blocks = 0;
  RecipeShare first, second;
  std::vector<std::string> same;  ///< other recipes that reproduce the same blocks of the sample as the first

  std::int64_t unexplained() const { return blocks - first.blocks - second.blocks; }
  /// The share of the blocks that n of them are.
  double share(std::int64_t n) const { return blocks > 0 ? static_cast<double>(n) / static_cast<double>(blocks) : 0; }
};

/// Some rows of the original beside the checkpoint's; columns padded to whole blocks, of which `cols` are compared.
struct RowsPair {
  const Matrix& original;
  const Quantized& theirs;
  std::int64_t cols;
};

class RecipeMatch {
 public:
  /// `sample`: rows of the tensor that `survey` saw whole.
  RecipeMatch(const RowsPair& sample, const Survey& survey, const TheirTensorScale& tensor_scale,
              const std::atomic<bool>* stop = nullptr);

  /// Rows of the tensor, each once. Their blocks by first and second.
  void add(const RowsPair& rows);
  Fingerprint result() const;

 private:
  Survey survey_;
  std::optional<RecipeRow> first_, second_;
  Fingerprint found_;
};

}  // namespace fp4scope::analysis
