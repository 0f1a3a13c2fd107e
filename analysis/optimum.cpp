#include "analysis/optimum.hpp"

#include <cmath>

namespace fp4scope::analysis {
namespace {

/// One way to write a block: its codes and the value of its block scale.
struct Written {
  const std::uint8_t* codes;
  double scale;
};

struct TermSums {
  double value = 0, magnitude = 0;  ///< sum of the terms, and of their magnitudes
};

TermSums sum_terms(const formats::BlockFormat& f, double t, const Written& w, const float* x, int n) {
  TermSums s;
  for (int i = 0; i < n; ++i) {
    const double q = formats::element_value(f, w.codes[i]);
    const double quadratic = t * (w.scale * w.scale) * (q * q), linear = -2 * w.scale * q * x[i];
    s.value += quadratic + linear;
    s.magnitude += quadratic + std::abs(linear);
  }
  return s;
}

void add_exact_terms(search::ExactSum& sum, const formats::BlockFormat& f, double t, const Written& w, const float* x,
                     int n, double sign) {
  for (int i = 0; i < n; ++i) {
    const double q = formats::element_value(f, w.codes[i]);
    sum.add(sign * (t * (w.scale * w.scale)) * (q * q));
    sum.add(-sign * 2 * w.scale * q * x[i]);
  }
}

/// The sign of SSE(a) - SSE(b). Scales finite.
int compare(const formats::BlockFormat& f, double t, const Written& a, const Written& b, const float* x, int n) {
  const TermSums at_a = sum_terms(f, t, a, x, n), at_b = sum_terms(f, t, b, x, n);
  const double difference = at_a.value - at_b.value;
  // 2 n terms and the difference of two sums of them: at most 2 n + 2 roundings of a sum below all magnitudes.
  const double bound = (2 * n + 8) * 0x1p-52 * (at_a.magnitude + at_b.magnitude);
  if (difference > bound) return 1;
  if (difference < -bound) return -1;
  search::ExactSum sum;
  add_exact_terms(sum, f, t, a, x, n, 1);
  add_exact_terms(sum, f, t, b, x, n, -1);
  return sum.sign();
}

double block_sse(const Quantized& q, std::int64_t row, std::int64_t b, const float* x, int n) {
  const double step = q.step(row, b);
  const bool integer = q.integer(row, b);
  double sse = 0;
  for (int i = 0; i < n; ++i) {
    const double error = x[i] - q.value(row, b * q.config.block + i, step, integer);
    sse += error * error;
  }
  return sse;
}

/// The exact search at their tensor scale.
Quantized best_of(const Matrix& original, const Quantized& theirs, const Survey& survey) {
  const formats::BlockFormat& f = *theirs.config.format;
  QuantizeConfig config = parse_config({f.name, "sse", "", "none", "propagate", theirs.config.block, 0});
  if (theirs.tensor_scale != 1) {
    config.scaling = TensorScaling::value;
    config.scaling_value = theirs.tensor_scale;
  }
  const Piece piece = {survey, theirs.first_row};
  return quantize(config, original, "the original", nullptr, nullptr, &piece);
}

struct RowOptimum {
  double energy = 0, sse = 0, best_sse = 0;
  std::int64_t optimal = 0, uncomparable = 0;
};

RowOptimum row_optimum(const Matrix& original, const Quantized& theirs, const Quantized* best, std::int64_t row,
                       std::int64_t cols) {
  RowOptimum sums;
  const formats::BlockFormat& f = *theirs.config.format;
  for (std::int64_t b = 0; b < theirs.blocks_per_row(); ++b) {
    const std::int64_t first = b * theirs.config.block;
    const int n = static_cast<int>(std::min<std::int64_t>(theirs.config.block, cols - first));
    const float* const x = original.row(row) + first;
    double energy = 0;
    for (int i = 0; i < n; ++i) energy += static_cast<double>(x[i]) * x[i];
    const double sse = block_sse(theirs, row, b, x, n);
    sums.energy += energy;
    sums.sse += sse;
    if (!best) continue;
    sums.best_sse += block_sse(*best, row, b, x, n);
    if (!std::isfinite(sse) || !std::isfinite(energy)) {
      ++sums.uncomparable;
      continue;
    }
    const auto scale = [&](const Quantized& q) {
      return formats::decode_double(f.scale, static_cast<std::uint32_t>(q.scale_code(row, b)));
    };
    const auto at = static_cast<std::size_t>(row * theirs.cols + first);
    const Written a = {theirs.codes.data() + at, scale(theirs)}, c = {best->codes.data() + at, scale(*best)};
    sums.optimal += compare(f, theirs.tensor_scale, a, c, x, n) <= 0;
  }
  return sums;
}

/// Whether the format has an exact search for this tensor scale: E2M1 or another plain 4-bit grid, 0 < T < Inf.
bool has_optimum(const Quantized& q) {
  const formats::BlockFormat& f = *q.config.format;
  const bool scaled = q.tensor_scale > 0 && std::isfinite(q.tensor_scale) && (f.tensor_scaled || q.tensor_scale == 1);
  return scaled && f.element.bits <= 4 && !f.selects() && search::find_method(f.name, "sse") != nullptr;
}

}  // namespace

void add_optimum(OptimumSums& sums, const Matrix& original, const Quantized& theirs, std::int64_t cols,
                 const Survey& survey) {
  sums.searched = has_optimum(theirs);
  Quantized best;
  if (sums.searched) best = best_of(original, theirs, survey);
  std::vector<RowOptimum> rows(static_cast<std::size_t>(theirs.rows));
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < theirs.rows; ++r) {
    rows[static_cast<std::size_t>(r)] = row_optimum(original, theirs, sums.searched ? &best : nullptr, r, cols);
  }
  for (const RowOptimum& row : rows) {
    sums.energy += row.energy;
    sums.sse += row.sse;
    sums.best_sse += row.best_sse;
    sums.optimal += row.optimal;
    sums.uncomparable += row.uncomparable;
  }
  sums.blocks += theirs.rows * theirs.blocks_per_row();
}

}  // namespace fp4scope::analysis
