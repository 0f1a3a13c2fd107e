#include "analysis/run_sums.hpp"

#include <utility>

namespace fp4scope::analysis {

RunSums::RunSums(std::int64_t rows, const Activations* activations, double reference_output_energy, bool per_block)
    : metrics_(activations, reference_output_energy), rows_(rows), per_block_(per_block) {}

void RunSums::add(const Matrix& original, Quantized q) {
  metrics_.add(original, q, per_block_ ? &block_sse_ : nullptr);
  q.codes = {};
  if (!per_block_) q.scales = {};
  if (std::exchange(first_, false)) {
    whole_ = std::move(q);
    whole_.rows = rows_;
    whole_.first_row = 0;
    return;
  }
  whole_.scales.insert(whole_.scales.end(), q.scales.begin(), q.scales.end());
  whole_.chose_second += q.chose_second;
  whole_.proved += q.proved;
  whole_.count.candidates += q.count.candidates;
  whole_.count.exact += q.count.exact;
  whole_.count.wide += q.count.wide;
}

}  // namespace fp4scope::analysis
