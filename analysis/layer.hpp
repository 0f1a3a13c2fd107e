// What the runs of one tensor share: its data, the layer's inputs X, and their H for one block size at a time.
#pragma once

#include <memory>
#include <string>

#include "analysis/curvature.hpp"
#include "analysis/metrics.hpp"
#include "analysis/sweep_plan.hpp"

namespace fp4scope::analysis {

class Layer {
 public:
  /// Reads or samples the tensor; X is sampled or the plan's. Throws Error.
  Layer(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor, const Notice& notice);

  /// H for blocks of that size, whole where asked for; valid until the next call.
  const Curvature* curvature(int block, bool full);

  const Matrix weights;
  const std::string hash;
  std::unique_ptr<Activations> activations;  ///< null without
  std::string activations_name;              ///< "" without
  std::string activations_hash;
  double reference_output_energy = 0;

 private:
  void load_activations(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor, const Notice& notice);

  Matrix sampled_;
  const Matrix* inputs_ = nullptr;  // sampled_, or the plan's
  Curvature curvature_;
};

}  // namespace fp4scope::analysis
