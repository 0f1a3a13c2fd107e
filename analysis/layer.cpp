#include "analysis/layer.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace fp4scope::analysis {

Layer::Layer(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor, std::int64_t rows_at_once,
             const Notice& notice)
    : tensor_(tensor), survey_(tensor.shape.cols) {
  ContentHash content(tensor.shape.rows, tensor.shape.cols);
  load_activations(config, plan, notice);
  for (std::int64_t first = 0; first < tensor.shape.rows; first += rows_at_once) {
    const Matrix& piece = rows(first, std::min(rows_at_once, tensor.shape.rows - first));
    survey_.add(piece);
    content.add(piece);
    if (activations) reference_output_energy = output_energy(piece, *activations, reference_output_energy);
  }
  hash = content.text();
  if (tensor.info) notice_rounded(*tensor.info, rounded_, notice);
}

const Matrix& Layer::rows(std::int64_t first, std::int64_t count) {
  if (piece_.rows == count && piece_first_ == first) return piece_;
  piece_ = {};  // the old piece goes before the new one comes
  piece_ = read(first, count);
  piece_first_ = first;
  return piece_;
}

Matrix Layer::read(std::int64_t first, std::int64_t count) {
  if (!tensor_.file) return apply(tensor_.transform, {}, sample_rows(tensor_.distribution, first, count));
  return apply(tensor_.transform, {}, read_matrix_rows(*tensor_.file, *tensor_.info, first, count, rounded_));
}

const Curvature* Layer::curvature(int block, bool full) {
  const bool enough = curvature_.blocks.block == block && (!full || curvature_.full.cols > 0);
  if (!enough) curvature_ = curvature_of(*inputs_, block, full);
  return &curvature_;
}

void Layer::load_activations(const SweepConfig& config, const Plan& plan, const Notice& notice) {
  const ActivationsSpec& spec = config.activations;
  if (spec.kind == ActivationsSpec::Kind::none) return;
  if (spec.kind == ActivationsSpec::Kind::synthetic) {
    sampled_ = apply_to_inputs(tensor_.transform, sample(spec.synthetic, tensor_.original_cols));
    inputs_ = &sampled_;
    activations_name = "synthetic";
  } else {
    if (plan.activations.cols != tensor_.original_cols) {
      notice(fmt::format("{}: no output error, {} columns do not fit activations of {}", tensor_.name,
                         tensor_.original_cols, plan.activations.cols));
      return;
    }
    if (tensor_.transform.rotated()) sampled_ = apply_to_inputs(tensor_.transform, plan.activations);
    inputs_ = tensor_.transform.rotated() ? &sampled_ : &plan.activations;
    activations_name = spec.tensor.empty() ? spec.file : spec.file + ":" + spec.tensor;
  }
  activations_hash = content_hash(*inputs_);
  activations = std::make_unique<Activations>(make_activations(*inputs_));
}

}  // namespace fp4scope::analysis
