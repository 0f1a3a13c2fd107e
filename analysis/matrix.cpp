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

Survey Survey::of_finite(std::int64_t cols, float amax) {
  Survey survey(cols);
  survey.finite_amax_ = survey.amax_ = amax;
  return survey;
}

void Survey::add(const Matrix& piece) {
  for (std::int64_t i = 0; i < piece.size(); ++i) {
    const float value = piece.data[static_cast<std::size_t>(i)], magnitude = std::fabs(value);
    if (magnitude > amax_) amax_ = magnitude;
    if (std::isfinite(value)) continue;
    if (nonfinite_++ == 0) {
      first_nonfinite_ = seen_ + i;
      example_ = value;
    }
    has_nan_ |= std::isnan(value);
  }
  seen_ += piece.size();
  if (nonfinite_ == 0) {
    finite_amax_ = amax_;
    return;
  }
  for (const float value : piece.data) {
    if (std::isfinite(value) && std::fabs(value) > finite_amax_) finite_amax_ = std::fabs(value);
  }
}

std::string Survey::describe_nonfinite() const {
  if (nonfinite_ == 0) return "";
  return fmt::format("row {}, column {} is {} ({} such value{} in all)", first_nonfinite_ / cols_,
                     first_nonfinite_ % cols_, example_, nonfinite_, nonfinite_ == 1 ? "" : "s");
}

std::string describe_nonfinite(const Matrix& m) {
  Survey survey(m.cols);
  survey.add(m);
  return survey.describe_nonfinite();
}

ContentHash::ContentHash(std::int64_t rows, std::int64_t cols) {
  mix(static_cast<std::uint64_t>(rows));
  mix(static_cast<std::uint64_t>(cols));
}

void ContentHash::add(const Matrix& piece) {
  for (const float value : piece.data) mix(std::bit_cast<std::uint32_t>(value));
}

std::string ContentHash::text() const { return fmt::format("{:016x}", hash_); }

std::string content_hash(const Matrix& m) {
  ContentHash hash(m.rows, m.cols);
  hash.add(m);
  return hash.text();
}

}  // namespace fp4scope::analysis
