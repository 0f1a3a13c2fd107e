#include "analysis/layer.hpp"

#include <fmt/format.h>

namespace fp4scope::analysis {

Layer::Layer(const SweepConfig& config, const PlannedTensor& tensor, const Notice& notice)
    : weights(tensor.file ? read_matrix(*tensor.file, *tensor.info, notice) : sample(tensor.input->distribution)),
      hash(content_hash(weights)) {
  load_activations(config, tensor, notice);
  if (activations) reference_output_energy = output_energy(weights, *activations);
}

const search::Hessians* Layer::hessians(int block) {
  if (hessians_.block != block) {
    const Matrix x = pad_columns(inputs_, block);
    hessians_ = search::make_hessians(x.data.data(), x.rows, x.cols, block);
  }
  return &hessians_;
}

void Layer::load_activations(const SweepConfig& config, const PlannedTensor& tensor, const Notice& notice) {
  const ActivationsSpec& spec = config.activations;
  if (spec.kind == ActivationsSpec::Kind::none) return;
  if (spec.kind == ActivationsSpec::Kind::synthetic) {
    inputs_ = sample(spec.synthetic, weights.cols);
    activations_name = "synthetic";
  } else {
    inputs_ = read_activations(resolve_path(config, spec.file), spec.tensor, notice);
    if (inputs_.cols != weights.cols) {
      notice(fmt::format("{}: no output error, {} columns do not fit activations of {}", tensor.name, weights.cols,
                         inputs_.cols));
      inputs_ = {};
      return;
    }
    activations_name = spec.tensor.empty() ? spec.file : spec.file + ":" + spec.tensor;
  }
  activations_hash = content_hash(inputs_);
  activations = std::make_unique<Activations>(make_activations(inputs_));
}

}  // namespace fp4scope::analysis
