#include "analysis/layer.hpp"

#include <fmt/format.h>

namespace fp4scope::analysis {

Layer::Layer(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor, const Notice& notice)
    : weights(apply(tensor.transform, {},
                    tensor.file ? read_matrix(*tensor.file, *tensor.info, notice) : sample(tensor.distribution))),
      hash(content_hash(weights)) {
  load_activations(config, plan, tensor, notice);
  if (activations) reference_output_energy = output_energy(weights, *activations);
}

const Curvature* Layer::curvature(int block, bool full) {
  const bool enough = curvature_.blocks.block == block && (!full || curvature_.full.cols > 0);
  if (!enough) curvature_ = curvature_of(*inputs_, block, full);
  return &curvature_;
}

void Layer::load_activations(const SweepConfig& config, const Plan& plan, const PlannedTensor& tensor,
                             const Notice& notice) {
  const ActivationsSpec& spec = config.activations;
  if (spec.kind == ActivationsSpec::Kind::none) return;
  if (spec.kind == ActivationsSpec::Kind::synthetic) {
    sampled_ = apply_to_inputs(tensor.transform, sample(spec.synthetic, tensor.original_cols));
    inputs_ = &sampled_;
    activations_name = "synthetic";
  } else {
    if (plan.activations.cols != tensor.original_cols) {
      notice(fmt::format("{}: no output error, {} columns do not fit activations of {}", tensor.name,
                         tensor.original_cols, plan.activations.cols));
      return;
    }
    if (tensor.transform.rotated()) sampled_ = apply_to_inputs(tensor.transform, plan.activations);
    inputs_ = tensor.transform.rotated() ? &sampled_ : &plan.activations;
    activations_name = spec.tensor.empty() ? spec.file : spec.file + ":" + spec.tensor;
  }
  activations_hash = content_hash(*inputs_);
  activations = std::make_unique<Activations>(make_activations(*inputs_));
}

}  // namespace fp4scope::analysis
