#include "analysis/fingerprint.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace fp4scope::analysis {
namespace {

using Mask = std::vector<std::uint8_t>;  // [rows * blocks per row], 1: reproduced

Quantized run_row(const RecipeRow& row, const RowsPair& pair, const Survey& survey, const std::atomic<bool>* stop) {
  const Piece piece = {survey, pair.theirs.first_row};
  return quantize(row.run.config, pair.original, "the original", nullptr, stop, &piece);
}

/// Blocks whose scale byte and compared codes are all equal.
Mask equal_blocks(const RowsPair& pair, const Quantized& ours) {
  const Quantized& theirs = pair.theirs;
  const std::int64_t blocks = theirs.blocks_per_row();
  Mask mask(theirs.scales.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < theirs.rows; ++r) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      const auto at = static_cast<std::size_t>(r * blocks + b);
      const std::int64_t first = r * theirs.cols + b * theirs.config.block;
      const std::int64_t count = std::min<std::int64_t>(theirs.config.block, pair.cols - b * theirs.config.block);
      const std::uint8_t *a = ours.codes.data() + first, *c = theirs.codes.data() + first;
      mask[at] = ours.scales[at] == theirs.scales[at] && std::equal(a, a + count, c);
    }
  }
  return mask;
}

std::int64_t count(const Mask& mask) { return std::count(mask.begin(), mask.end(), 1); }

/// What the second mask adds to the first.
Mask besides(const Mask& first, Mask second) {
  for (std::size_t i = 0; i < second.size(); ++i) second[i] = second[i] & !first[i];
  return second;
}

struct Candidate {
  RecipeRow row;
  Mask mask;
  std::optional<std::int64_t> ulps;
  std::int64_t equal = 0;
};

/// The most blocks, then the nearest tensor scale, then the tables' order.
const Candidate* best_of(const std::vector<Candidate>& candidates) {
  const Candidate* best = nullptr;
  for (const Candidate& c : candidates) {
    if (c.equal == 0) continue;
    const bool nearer = best && std::llabs(c.ulps.value_or(0)) < std::llabs(best->ulps.value_or(0));
    if (!best || c.equal > best->equal || (c.equal == best->equal && nearer)) best = &c;
  }
  return best;
}

RecipeShare share_of(const Candidate& c) {
  return {c.row.run.name, c.row.recipe, c.row.method, c.equal, 0, c.ulps};
}

}  // namespace

RecipeMatch::RecipeMatch(const RowsPair& sample, const Survey& survey, const TheirTensorScale& tensor_scale,
                         const std::atomic<bool>* stop)
    : survey_(survey) {
  const QuantizeConfig& config = sample.theirs.config;
  found_.sample_blocks = static_cast<std::int64_t>(sample.theirs.scales.size());
  if (!(tensor_scale.value > 0) || !std::isfinite(tensor_scale.value)) return;
  std::vector<Candidate> candidates;
  for (RecipeRow& row : recipe_rows(*config.format, config.block, false)) {
    if (stop && *stop) return;
    std::optional<std::int64_t> ulps;
    if (!defined_on(row, survey) || !take_tensor_scale(row, survey, tensor_scale, ulps)) continue;
    const Quantized ours = run_row(row, sample, survey, stop);
    if (ours.codes.empty()) return;  // stopped
    Mask mask = equal_blocks(sample, ours);
    const std::int64_t equal = count(mask);
    candidates.push_back({row, std::move(mask), ulps, equal});
  }
  const Candidate* const first = best_of(candidates);
  if (!first) return;
  first_ = first->row;
  found_.first = share_of(*first);
  const Mask explained = first->mask;
  for (const Candidate& c : candidates) {
    if (&c != first && c.mask == explained) found_.same.push_back(c.row.run.name);
  }
  for (Candidate& c : candidates) {
    c.mask = besides(explained, std::move(c.mask));
    c.equal = count(c.mask);
  }
  if (const Candidate* const second = best_of(candidates)) {
    second_ = second->row;
    found_.second = share_of(*second);
  }
}

void RecipeMatch::add(const RowsPair& rows) {
  found_.blocks += static_cast<std::int64_t>(rows.theirs.scales.size());
  if (!first_) return;
  const Mask first = equal_blocks(rows, run_row(*first_, rows, survey_, nullptr));
  const std::int64_t equal = count(first);
  found_.first.blocks += equal;
  if (!second_ || equal == static_cast<std::int64_t>(first.size())) return;
  found_.second.blocks += count(besides(first, equal_blocks(rows, run_row(*second_, rows, survey_, nullptr))));
}

Fingerprint RecipeMatch::result() const {
  Fingerprint f = found_;
  const bool enough = f.share(f.first.blocks + f.second.blocks) > fingerprint_share;
  if (enough && f.share(f.second.blocks) >= mixture_share) f.verdict = "mixture";
  else if (f.share(f.first.blocks) > fingerprint_share) f.verdict = "recipe";
  return f;
}

}  // namespace fp4scope::analysis
