#include "analysis/metrics.hpp"

#include <algorithm>
#include <cmath>

namespace fp4scope::analysis {

Activations make_activations(const Matrix& x) { return {x.rows, x.cols, transpose(x).data}; }

namespace {

constexpr int rows_at_once = 4;  // each column of X read once serves this many rows

/// sum_t (sum_c m[row][c] x[t][c])^2 for up to four rows, c in order, t side by side.
void row_output_energies(const double* const* rows, int count, const Activations& x, std::vector<double>& out,
                         double* energies) {
  const auto tokens = static_cast<std::size_t>(x.tokens);
  out.assign(tokens * rows_at_once, 0.0);
  for (std::int64_t c = 0; c < x.cols; ++c) {
    const float* column = x.by_column.data() + c * x.tokens;
    for (int k = 0; k < count; ++k) {
      const double weight = rows[k][c];
      double* sum = out.data() + static_cast<std::size_t>(k) * tokens;
      for (std::size_t t = 0; t < tokens; ++t) sum[t] += weight * column[t];
    }
  }
  for (int k = 0; k < count; ++k) {
    energies[k] = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const double y = out[static_cast<std::size_t>(k) * tokens + t];
      energies[k] += y * y;
    }
  }
}

/// Runs row_output_energies over all rows; fill(r, buffer) writes row r as doubles. Sums in the order of the rows.
template <class Fill>
double total_output_energy(std::int64_t rows, std::int64_t cols, const Activations& x, const Fill& fill) {
  std::vector<double> energy(static_cast<std::size_t>(rows));
#pragma omp parallel
  {
    std::vector<double> buffer(static_cast<std::size_t>(rows_at_once * cols)), out;
    const double* pointers[rows_at_once];
    for (int k = 0; k < rows_at_once; ++k) pointers[k] = buffer.data() + k * cols;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t group = 0; group < (rows + rows_at_once - 1) / rows_at_once; ++group) {
      const std::int64_t first = group * rows_at_once;
      const int count = static_cast<int>(std::min<std::int64_t>(rows_at_once, rows - first));
      for (int k = 0; k < count; ++k) fill(first + k, buffer.data() + k * cols);
      row_output_energies(pointers, count, x, out, energy.data() + first);
    }
  }
  double total = 0;
  for (const double e : energy) total += e;
  return total;
}

/// The sums of one row. A block's elements are taken in order, blocks in order.
Metrics measure_row(const Matrix& original, const Quantized& q, const search::Method& naive, std::int64_t row,
                    double* block_sse) {
  Metrics m;
  const float* x = original.row(row);
  const double top = q.config.format->element_max();
  for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
    const std::int64_t first = b * q.config.block, last = std::min(first + q.config.block, original.cols);
    const int code = q.scale_code(row, b);
    const double step = q.step(row, b);
    const bool integer = q.integer(row, b);
    double sse = 0;
    for (std::int64_t c = first; c < last; ++c) {
      const double value = q.value(row, c, step, integer);
      const double error = std::fabs(x[c] - value);
      sse += error * error;
      m.energy += static_cast<double>(x[c]) * x[c];
      m.max_error = std::isnan(error) ? error : std::fmax(m.max_error, error);
      m.zeros += value == 0;
      m.saturated += std::fabs(x[c]) > top * step;
    }
    m.sse += sse;
    if (block_sse) block_sse[b] = sse;
    m.elements += last - first;
    ++m.blocks;

    const float amax = sim::amax(x + first, last - first);
    if (!std::isfinite(amax)) continue;
    m.underflowed += amax > 0 && step == 0;
    const int move = code - sim::scale_code(q.config.format->scale, naive.rule, amax, q.tensor_scale);
    m.moved_up += move > 0;
    m.moved_down += move < 0;
    m.distance += std::abs(move);
    ++m.moves[static_cast<std::size_t>(std::clamp(move, -move_reach, move_reach) + move_reach)];
  }
  return m;
}

void add(Metrics& total, const Metrics& row) {
  total.energy += row.energy;
  total.sse += row.sse;
  total.max_error = std::isnan(row.max_error) ? row.max_error : std::fmax(total.max_error, row.max_error);
  total.elements += row.elements;
  total.zeros += row.zeros;
  total.saturated += row.saturated;
  total.blocks += row.blocks;
  total.underflowed += row.underflowed;
  total.moved_up += row.moved_up;
  total.moved_down += row.moved_down;
  total.distance += row.distance;
  for (std::size_t i = 0; i < total.moves.size(); ++i) total.moves[i] += row.moves[i];
}

}  // namespace

double output_energy(const Matrix& weights, const Activations& x) {
  return total_output_energy(weights.rows, weights.cols, x,
                             [&](std::int64_t row, double* out) { std::copy_n(weights.row(row), weights.cols, out); });
}

double output_error(const Matrix& weights, const Quantized& q, const search::FullHessian& hessian) {
  constexpr std::int64_t rows_in_memory = 256;
  double error = 0, energy = 0;
  for (std::int64_t first = 0; first < weights.rows; first += rows_in_memory) {
    const std::int64_t rows = std::min(rows_in_memory, weights.rows - first);
    std::vector<double> whole(static_cast<std::size_t>(rows * hessian.cols), 0.0), lost = whole;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* const x = weights.row(first + r);
      double* const out = lost.data() + r * hessian.cols;
      std::copy_n(x, weights.cols, whole.data() + r * hessian.cols);
      for_each_value(q, first + r, weights.cols, [&](std::int64_t c, double value) { out[c] = x[c] - value; });
    }
    for (const double loss : search::row_losses(hessian, lost.data(), rows)) error += loss;
    for (const double loss : search::row_losses(hessian, whole.data(), rows)) energy += loss;
  }
  return std::sqrt(error / energy);
}

Metrics measure(const Matrix& original, const Quantized& q, const Activations* activations,
                double reference_output_energy, std::vector<double>* block_sse) {
  const search::Method& naive = q.config.naive();
  if (block_sse) block_sse->assign(q.scales.size(), 0.0);
  std::vector<Metrics> rows(static_cast<std::size_t>(original.rows));
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < original.rows; ++r) {
    double* const sse = block_sse ? block_sse->data() + r * q.blocks_per_row() : nullptr;
    rows[static_cast<std::size_t>(r)] = measure_row(original, q, naive, r, sse);
  }
  Metrics total;
  for (const Metrics& row : rows) add(total, row);
  if (!activations) return total;

  const double error =
      total_output_energy(original.rows, original.cols, *activations, [&](std::int64_t row, double* out) {
        const float* const x = original.row(row);
        for_each_value(q, row, original.cols, [&](std::int64_t c, double value) { out[c] = x[c] - value; });
      });
  if (reference_output_energy > 0) total.output_error = std::sqrt(error / reference_output_energy);
  return total;
}

}  // namespace fp4scope::analysis
