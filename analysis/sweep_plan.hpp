// A sweep's plan: every (tensor, configuration) pair in a fixed order, each with its run id.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "analysis/quantize.hpp"
#include "analysis/sweep_config.hpp"
#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

/// A tensor of the plan, not yet read.
struct PlannedTensor {
  const InputSpec* input = nullptr;
  std::string name, dtype;
  std::shared_ptr<const io::TensorFile> file;  ///< null for a distribution
  const io::TensorInfo* info = nullptr;
  Shape2d shape{};
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
