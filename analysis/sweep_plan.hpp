// A sweep's plan: every (tensor, configuration) pair in a fixed order, each with its run id.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "analysis/quantize.hpp"
#include "analysis/sweep_config.hpp"
#include "analysis/tensors.hpp"
#include "analysis/transform.hpp"

namespace fp4scope::analysis {

/// A tensor of the plan, not yet read: one for each sigma, seed and rotation.
struct PlannedTensor {
  const InputSpec* input = nullptr;
  std::string input_name;  ///< the input's, and the sigma where there are several
  std::string name, dtype;
  std::shared_ptr<const io::TensorFile> file;  ///< null for a distribution
  const io::TensorInfo* info = nullptr;
  Distribution distribution;  ///< with its sigma and seed, where there is no file
  Transform transform;
  Shape2d shape{};                 ///< as it is quantized, after the rotation
  std::int64_t original_cols = 0;  ///< before it
};

struct Work {
  std::string run;  ///< "000007", the position in the plan
  std::size_t tensor = 0;
  QuantizeConfig config;
};

struct Plan {
  std::vector<PlannedTensor> tensors;
  std::vector<Work> work;         ///< by tensor
  std::set<std::string> skipped;  ///< words about what makes no sense
  Matrix activations;             ///< from a file, read once; empty without
  std::string inputs;             ///< names, sizes and times of the files read, to notice a change before resuming
};

/// Opens every input (headers only) and reads the activations that come from a file. Throws Error.
Plan make_plan(const SweepConfig& config);

/// Estimated nanoseconds on one core, for the ETA alone.
double cost(const Work& work, const PlannedTensor& tensor, std::int64_t tokens);

}  // namespace fp4scope::analysis
