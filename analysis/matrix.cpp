#include "analysis/matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace fp4scope::analysis {

Matrix pad_columns(const Matrix& m, int block) {
  const std::int64_t cols = padded(m.cols, block);
  Matrix out = {m.rows, cols, std::vector<float>(static_cast<std::size_t>(m.rows * cols), 0.0f), m.dtype};
  for (std::int64_t r = 0; r < m.rows; ++r) std::copy_n(m.row(r), m.cols, out.data.begin() + r * cols);
  return out;
}

Matrix transpose(const Matrix& m) {
  Matrix out = {m.cols, m.rows, std::vector<float>(m.data.size()), m.dtype};
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) out.data[static_cast<std::size_t>(c * m.rows + r)] = m.row(r)[c];
  }
  return out;
}

std::string describe_nonfinite(const Matrix& m) {
  std::int64_t count = 0, first = -1;
  for (std::int64_t i = 0; i < m.size(); ++i) {
    if (std::isfinite(m.data[static_cast<std::size_t>(i)])) continue;
    if (first < 0) first = i;
    ++count;
  }
  if (count == 0) return "";
  return fmt::format("row {}, column {} is {} ({} such value{} in all)", first / m.cols, first % m.cols,
                     m.data[static_cast<std::size_t>(first)], count, count == 1 ? "" : "s");
}

std::string content_hash(const Matrix& m) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto mix = [&hash](std::uint64_t word) { hash = (hash ^ word) * 0x100000001B3u; };
  mix(static_cast<std::uint64_t>(m.rows));
  mix(static_cast<std::uint64_t>(m.cols));
  for (const float value : m.data) mix(std::bit_cast<std::uint32_t>(value));
  return fmt::format("{:016x}", hash);
}

}  // namespace fp4scope::analysis
