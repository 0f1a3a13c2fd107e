// What the runs of one tensor share: its data, whole or in pieces of rows, the layer's inputs X, and their H for one
// block size at a time.
#pragma once

#include <memory>
#include <string>

#include "analysis/curvature.hpp"
#include "analysis/metrics.hpp"
#include "analysis/sweep_plan.hpp"

namespace fp4scope::analysis {

class Layer {
 public:
  /// Reads or samples the tensor once, `rows_at_once` rows at a time, and keeps it if that is all of them. X is sampled
  /// or the plan's. Throws Error.
  Layer(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor, std::int64_t rows_at_once,
        const Notice& notice);

  /// Rows [first, first + count), read or sampled again unless they are kept; valid until the next call.
  const Matrix& rows(std::int64_t first, std::int64_t count);

  /// H for blocks of that size, whole where asked for; valid until the next call.
  const Curvature* curvature(int block, bool full);

  const Survey& survey() const { return survey_; }
  /// X [tokens, cols] in the tensor's basis; null without.
  const Matrix* inputs() const { return activations ? inputs_ : nullptr; }

  std::string hash;
  std::unique_ptr<Activations> activations;  ///< null without
  std::string activations_name;              ///< "" without
  std::string activations_hash;
  double reference_output_energy = 0;

 private:
  void load_activations(const SweepConfig& config, const Plan& plan, const Notice& notice);
  Matrix read(std::int64_t first, std::int64_t count);

  const PlannedTensor& tensor_;
  Survey survey_;
  Matrix piece_;
  std::int64_t piece_first_ = 0, rounded_ = 0;
  Matrix sampled_;
  const Matrix* inputs_ = nullptr;  // sampled_, or the plan's
  Curvature curvature_;
};

}  // namespace fp4scope::analysis
