#include "analysis/certificate.hpp"

#include <algorithm>

#include "formats/error.hpp"
#include "search/block_certificate.hpp"
#include "search/psd.hpp"

namespace fp4scope::analysis {

namespace {

struct Scratch {
  std::vector<float> tile;
  std::vector<double> room;
  std::vector<search::LossInterval> loss;
};

search::BlockCertificate certify_block(const Quantized& q, const search::SelectingSpace& spaces,
                                       const search::Hessians* hessians, const std::vector<double>& minorant,
                                       const search::Block& block, std::int64_t b, int code, Scratch& scratch) {
  if (!q.config.method->needs_hessian()) {
    return search::certify_sse(spaces, q.config.format->selects(), block, code);
  }
  const std::int64_t first = b * q.config.block;
  const search::BlockHessian h = {hessians->of(static_cast<std::size_t>(b)), hessians->envelope.data() + first};
  return search::certify_hessian(spaces.floating, block, h, minorant.data() + first, code, scratch.room.data(),
                                 scratch.loss.data());
}

}  // namespace

void require_certifiable(const QuantizeConfig& config) {
  using search::MethodKind;
  if (config.recipe) {
    throw UsageError("--certificate", "recipe " + config.recipe_name() + " chooses in its own arithmetic",
                     "recipe exact has certificates");
  }
  const MethodKind kind = config.method->kind;
  if (kind != MethodKind::sse && kind != MethodKind::exhaustive && kind != MethodKind::hessian) {
    throw UsageError("--certificate", std::string(config.method->name) + " is no search and claims no optimum",
                     "sse, exhaustive and hessian have certificates");
  }
  if (config.rounding != formats::Rounding::nearest_even) {
    throw UsageError("--certificate", "a search is optimal for nearest elements", "--rounding rne");
  }
}

std::vector<double> minorants(const search::Hessians& hessians) {
  std::vector<double> out(hessians.envelope.size(), 0.0);
  if (hessians.block > search::max_exact_psd) return out;
#pragma omp parallel for schedule(dynamic)
  for (std::size_t b = 0; b < hessians.count(); ++b) {
    search::diagonal_minorant(hessians.of(b), hessians.block, out.data() + b * hessians.block);
  }
  return out;
}

Certificates certify(const Quantized& q, const Matrix& m, const search::Hessians* hessians,
                     const std::vector<double>& minorant, const std::atomic<bool>* stop) {
  const search::SelectingSpace spaces =
      search::make_selecting_space(*q.config.format, q.tensor_scale, q.config.method->rule);
  const bool whole = m.cols == q.cols;
  const Matrix wide = whole ? Matrix{} : pad_columns(m, q.config.block);
  const Matrix& x = whole ? m : wide;
  const int block = q.config.block, tile_rows = q.config.tile_rows();
  const std::int64_t blocks = q.blocks_per_row();
  Certificates c = {q.scales, q.scales, std::vector<double>(q.scales.size()), std::vector<double>(q.scales.size())};
#pragma omp parallel
  {
    Scratch scratch = {std::vector<float>(static_cast<std::size_t>(block * tile_rows)),
                       std::vector<double>(2 * static_cast<std::size_t>(block)),
                       std::vector<search::LossInterval>(256)};
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t tile = 0; tile < (q.rows + tile_rows - 1) / tile_rows; ++tile) {
      if (stop && *stop) continue;
      const std::int64_t first = tile * tile_rows, last = std::min<std::int64_t>(first + tile_rows, q.rows);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const auto n = static_cast<int>((last - first) * block);
        for (std::int64_t r = first; r < last; ++r) {
          std::copy_n(x.row(r) + b * block, block, scratch.tile.data() + (r - first) * block);
        }
        const search::Block values = {scratch.tile.data(), n, sim::amax(scratch.tile.data(), n)};
        const int code = q.scales[static_cast<std::size_t>(first * blocks + b)];
        const search::BlockCertificate found = certify_block(q, spaces, hessians, minorant, values, b, code, scratch);
        for (std::int64_t r = first; r < last; ++r) {
          const auto at = static_cast<std::size_t>(r * blocks + b);
          c.lo[at] = static_cast<std::uint8_t>(found.lo);
          c.hi[at] = static_cast<std::uint8_t>(found.hi);
          c.loss[at] = found.loss;
          c.gap[at] = found.gap;
        }
      }
    }
  }
  return c;
}

}  // namespace fp4scope::analysis
