// `crosscheck --recipes`: every two recipes on the same inputs: how many scales, codes and values differ, and why the
// first one does.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "analysis/distributions.hpp"
#include "analysis/quantize.hpp"
#include "analysis/tensors.hpp"
#include "io/results.hpp"

namespace fp4scope::analysis {

/// One order of operations on one format.
struct RecipeRun {
  std::string name;  ///< the recipe's, with the METHOD where that isn't naive
  QuantizeConfig config;
};

/// `exact`, and every recipe that maps amax by a rule on that format.
std::vector<RecipeRun> recipe_runs(const std::string& format);

/// Where two runs first differ.
struct Difference {
  std::string input;
  std::int64_t row = 0, block = 0, column = 0;
  std::string explanation;  ///< lines
};

/// How two runs differ over all inputs of one dtype.
struct PairCount {
  std::string first, second, dtype;
  std::int64_t blocks = 0, elements = 0;
  std::int64_t scales_differ = 0, blocks_differ = 0, codes_differ = 0;  ///< bytes; a block by its scale or any code
  std::int64_t values_differ = 0;                                       ///< exact products, as real numbers
  /// Standard error of the share of blocks that differ, over inputs: the tensor's amax decides which ties there are.
  double blocks_differ_error = 0;
  std::optional<Difference> example;
};

struct CrosscheckInput {
  std::string name;
  std::string where;  ///< in errors
  std::function<Matrix()> load;
  std::string dtype;  ///< "BF16", "F32", ...: counted apart
};

/// 200 tensors of N(0, 0.02^2), 256 x 256, as bf16 and as f32: 819,200 blocks of 16 each. How many exact ties bf16 data
/// has depends on the significand of a tensor's amax, so other deviations give other shares.
std::vector<CrosscheckInput> default_crosscheck_inputs();

struct CrosscheckOptions {
  std::string format = "nvfp4";
  std::vector<std::string> only;  ///< recipes to compare; empty: all
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

/// Every pair, in the order of the recipes, for each dtype. Stopped: what was counted so far is dropped, empty.
std::vector<PairCount> crosscheck_recipes(const CrosscheckOptions& options, const std::vector<CrosscheckInput>& inputs);

/// The counts as a results table.
io::Table crosscheck_table(const std::vector<PairCount>& pairs);

}  // namespace fp4scope::analysis
