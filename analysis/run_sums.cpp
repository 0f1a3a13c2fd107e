#include "analysis/run_sums.hpp"

#include <utility>

namespace fp4scope::analysis {

namespace {

/// A residual's totals without its data.
std::shared_ptr<const Quantized> without_data(const Quantized& residual) {
  Quantized q = residual;
  q.codes = {};
  q.scales = {};
  return std::make_shared<const Quantized>(std::move(q));
}

}  // namespace

RunSums::RunSums(const RunWishes& wishes)
    : wishes_(wishes), metrics_(wishes.activations, wishes.reference_output_energy) {}

void RunSums::start(const Matrix& original, const Quantized& q) {
  if (!wishes_.decompose || q.config.method->corrects()) return;
  places_.emplace(q.config, wishes_.rows, original.cols);
  if (wishes_.inputs) inputs_ = quantize_inputs(q.config, *wishes_.inputs);
}

void RunSums::add(const Matrix& original, Quantized q, const MeasuredRows* measured) {
  if (first_) start(original, q);
  if (measured && !wishes_.per_block) {
    metrics_.add(*measured);
    metrics_.add_outputs(original, q);
  } else {
    metrics_.add(original, q, wishes_.per_block ? &block_sse_ : nullptr);
  }
  if (places_) {
    terms_.add(original, q);
    causes_.add(original, q);
    places_->add(original, q);
    if (inputs_) layer_ = layer_error(original, q, *wishes_.inputs, &*inputs_, layer_);
  }
  q.codes = {};
  if (!wishes_.per_block) q.scales = {};
  if (q.residual) q.residual = without_data(*q.residual);
  if (std::exchange(first_, false)) {
    whole_ = std::move(q);
    whole_.rows = wishes_.rows;
    whole_.first_row = 0;
    return;
  }
  whole_.scales.insert(whole_.scales.end(), q.scales.begin(), q.scales.end());
  whole_.macro.insert(whole_.macro.end(), q.macro.begin(), q.macro.end());
  whole_.chose_second += q.chose_second;
  whole_.proved += q.proved;
  whole_.count.candidates += q.count.candidates;
  whole_.count.exact += q.count.exact;
  whole_.count.wide += q.count.wide;
}

std::optional<Parts> RunSums::parts() const {
  if (!places_) return {};
  Parts p = {terms_.terms(), causes_.causes(), places_->places(), {}};
  if (inputs_) p.layer = layer_;
  return p;
}

}  // namespace fp4scope::analysis
