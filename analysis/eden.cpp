#include "analysis/eden.hpp"

#include "sim/eden.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

void correct_eden_scales(Quantized& q, const Matrix& m) {
  const int block = q.config.block;
  const std::int64_t group = std::max<std::int64_t>(sim::eden_group / block, 1);  // blocks
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    const float* const x = m.row(r);
    std::vector<double> values(static_cast<std::size_t>(q.cols));
    for_each_value(q, r, q.cols, [&](std::int64_t c, double v) { values[static_cast<std::size_t>(c)] = v; });
    for (std::int64_t first = 0; first < q.blocks_per_row(); first += group) {
      const std::int64_t last = std::min(first + group, q.blocks_per_row());
      double energy = 0, product = 0;
      for (std::int64_t c = first * block; c < last * block; ++c) {
        energy += static_cast<double>(x[c]) * x[c];
        product += x[c] * values[static_cast<std::size_t>(c)];
      }
      const double correction = sim::eden_correction(energy, product);
      for (std::int64_t b = first; b < last; ++b) {
        std::uint8_t& code = q.scales[static_cast<std::size_t>(r * q.blocks_per_row() + b)];
        std::uint32_t words[4];
        const auto position = static_cast<std::uint64_t>((q.first_row + r) * q.cols + b * block);
        sim::random_words(q.config.seed, q.config.stream, position | std::uint64_t{1} << 63, words);
        if (code <= q.config.format->scale.max_code) {
          code = static_cast<std::uint8_t>(sim::eden_scale_code(q.config.format->scale, code, correction, words[0]));
        }
      }
    }
  }
}

}  // namespace fp4scope::analysis
