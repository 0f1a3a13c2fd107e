#include "analysis/naive_baseline.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/places.hpp"
#include "sim/encode_lanes.hpp"

namespace fp4scope::analysis {

bool has_nearest_elements(const Quantized& q) {
  return !q.config.recipe && q.config.rounding == formats::Rounding::nearest_even && !q.config.method->gives_codes() &&
         !q.config.method->random() && q.macro.empty() && !q.residual;
}

NaiveBaseline::NaiveBaseline(const Matrix& original, const Quantized& q)
    : original_(original),
      q_(q),
      naive_(q.config.naive()),
      spaces_(search::make_selecting_space(*q.config.format, q.tensor_scale, naive_.rule)),
      nearest_(has_nearest_elements(q)) {
  const auto blocks = static_cast<std::size_t>(q.blocks_per_row());
  amax_.resize(blocks);
  code_.resize(blocks);
  sse_.resize(blocks);
}

int NaiveBaseline::scale_code(std::int64_t block) const {
  const int code = code_[static_cast<std::size_t>(block)];
  return q_.config.format->selects() ? code & ~formats::selection_bit : code;
}

int NaiveBaseline::naive_code(std::int64_t row, std::int64_t block) const {
  const float amax = amax_[static_cast<std::size_t>(block)];
  const int code = sim::scale_code(q_.config.format->scale, naive_.rule, amax, q_.tensor_scale);
  if (naive_.kind != search::MethodKind::select_element) return code;
  const int tile = q_.config.tile_rows();
  const std::int64_t begin = row / tile * tile, end = std::min(begin + tile, original_.rows);
  const std::int64_t first = block * q_.config.block, last = std::min(first + q_.config.block, original_.cols);
  std::vector<float> x;
  for (std::int64_t r = begin; r < end; ++r) x.insert(x.end(), original_.row(r) + first, original_.row(r) + last);
  return search::select_element(spaces_, {x.data(), static_cast<int>(x.size()), amax}, q_.config.select, code);
}

void NaiveBaseline::look_at(std::int64_t row, const double* own_sse) {
  gathered_.clear();
  x_.clear();
  scales_.clear();
  for (std::int64_t b = 0; b < q_.blocks_per_row(); ++b) {
    const auto i = static_cast<std::size_t>(b);
    amax_[i] = block_amax(original_, q_.config, row, b);
    if (!std::isfinite(amax_[i])) {
      sse_[i] = std::numeric_limits<double>::quiet_NaN();
      continue;
    }
    code_[i] = naive_code(row, b);
    if (nearest_ && code_[i] == q_.scales[static_cast<std::size_t>(row * q_.blocks_per_row() + b)]) {
      sse_[i] = own_sse[b];
      continue;
    }
    const float* const x = original_.row(row) + b * q_.config.block;
    gathered_.push_back(b);
    scales_.push_back(static_cast<std::uint8_t>(code_[i]));
    x_.insert(x_.end(), x, x + std::min<std::int64_t>(q_.config.block, original_.cols - b * q_.config.block));
    x_.resize(gathered_.size() * static_cast<std::size_t>(q_.config.block), 0.0f);
  }
  if (!gathered_.empty()) encode_gathered();
}

void NaiveBaseline::encode_gathered() {
  const formats::BlockFormat& format = *q_.config.format;
  const int n = q_.config.block;
  const auto count = static_cast<std::int64_t>(gathered_.size());
  elements_.resize(x_.size());
  if (format.element.bits <= 4) {
    sim::encode_blocks(format, q_.tensor_scale, x_.data(), count, n, scales_.data(), elements_.data());
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const int code = scales_[static_cast<std::size_t>(k)];
    const bool integer = format.selects() && (code & formats::selection_bit) != 0;
    const auto magnitude = static_cast<std::uint32_t>(integer ? code & ~formats::selection_bit : code);
    const double step = static_cast<double>(q_.tensor_scale) * formats::decode_double(format.scale, magnitude);
    std::uint8_t* const elements = elements_.data() + k * n;
    const float* const x = x_.data() + k * n;
    if (format.element.bits > 4) {
      sim::quantize_wide_block(format.element, x, n, step, formats::Rounding::nearest_even, nullptr, elements);
    }
    const std::int64_t b = gathered_[static_cast<std::size_t>(k)];
    const std::int64_t own = std::min<std::int64_t>(n, original_.cols - b * n);
    double sse = 0;
    for (std::int64_t i = 0; i < own; ++i) {
      const double error = std::fabs(x[i] - sim::dequantize(format, elements[i], step, integer));
      sse += error * error;
    }
    sse_[static_cast<std::size_t>(b)] = sse;
  }
}

}  // namespace fp4scope::analysis
