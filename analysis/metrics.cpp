#include "analysis/metrics.hpp"

#include <algorithm>
#include <cmath>

#include "analysis/naive_baseline.hpp"
#include "analysis/places.hpp"

namespace fp4scope::analysis {

Activations make_activations(const Matrix& x) { return {x.rows, x.cols, transpose(x).data}; }

namespace {

constexpr int rows_at_once = 4;  // each column of X read once serves this many rows

struct OutputEnergy {
  double whole = 0;   ///< sum_t (sum_b y_b[t])^2, y_b[t] = sum over the columns c of block b of m[c] x[t][c]
  double blocks = 0;  ///< sum_t sum_b y_b[t]^2
};

/// Per-thread room: [rows_at_once, tokens] each.
struct OutputRoom {
  std::vector<double> part, sum, squares;
};

/// Up to four rows, columns in order, tokens side by side.
void row_output_energies(const double* const* rows, int count, int block, const Activations& x, OutputRoom& room,
                         OutputEnergy* energies) {
  const auto tokens = static_cast<std::size_t>(x.tokens);
  room.sum.assign(tokens * rows_at_once, 0.0);
  room.squares.assign(tokens * rows_at_once, 0.0);
  for (std::int64_t first = 0; first < x.cols; first += block) {
    room.part.assign(tokens * rows_at_once, 0.0);
    for (std::int64_t c = first; c < std::min(first + block, x.cols); ++c) {
      const float* column = x.by_column.data() + c * x.tokens;
      for (int k = 0; k < count; ++k) {
        const double weight = rows[k][c];
        double* part = room.part.data() + static_cast<std::size_t>(k) * tokens;
        for (std::size_t t = 0; t < tokens; ++t) part[t] += weight * column[t];
      }
    }
    for (std::size_t i = 0; i < tokens * static_cast<std::size_t>(count); ++i) {
      room.sum[i] += room.part[i];
      room.squares[i] += room.part[i] * room.part[i];
    }
  }
  for (int k = 0; k < count; ++k) {
    energies[k] = {};
    for (std::size_t t = static_cast<std::size_t>(k) * tokens; t < static_cast<std::size_t>(k + 1) * tokens; ++t) {
      energies[k].whole += room.sum[t] * room.sum[t];
      energies[k].blocks += room.squares[t];
    }
  }
}

/// Of each row; fill(r, buffer) writes row r as doubles.
template <class Fill>
std::vector<OutputEnergy> output_energies(std::int64_t rows, std::int64_t cols, int block, const Activations& x,
                                          const Fill& fill) {
  std::vector<OutputEnergy> energies(static_cast<std::size_t>(rows));
#pragma omp parallel
  {
    std::vector<double> buffer(static_cast<std::size_t>(rows_at_once * cols));
    OutputRoom room;
    const double* pointers[rows_at_once];
    for (int k = 0; k < rows_at_once; ++k) pointers[k] = buffer.data() + k * cols;
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t group = 0; group < (rows + rows_at_once - 1) / rows_at_once; ++group) {
      const std::int64_t first = group * rows_at_once;
      const int count = static_cast<int>(std::min<std::int64_t>(rows_at_once, rows - first));
      for (int k = 0; k < count; ++k) fill(first + k, buffer.data() + k * cols);
      row_output_energies(pointers, count, block, x, room, energies.data() + first);
    }
  }
  return energies;
}

/// A NaN stays.
double larger(double a, double b) { return std::isnan(a) || a >= b ? a : b; }

/// One block's elements, in order; returns its squared error.
double measure_block(const Quantized& q, std::int64_t row, std::int64_t b, const float* x, std::int64_t count,
                     Metrics& m) {
  const double step = q.step(row, b), top = q.config.format->element_max() * step;
  const bool integer = q.integer(row, b);
  double sse = 0, energy = 0, all = 0, stored = 0;
  for (std::int64_t c = 0; c < count; ++c) {
    const double value = q.value(row, b * q.config.block + c, step, integer);
    const double magnitude = std::fabs(x[c]), error = std::fabs(x[c] - value);
    sse += error * error;
    energy += magnitude * magnitude;
    all += magnitude;
    stored += std::fabs(value);
    m.max_error = larger(m.max_error, error);
    m.zeros += value == 0;
    m.saturated += magnitude > top;
  }
  m.energy += energy;
  m.sse += sse;
  m.magnitude += all;
  m.stored_magnitude += stored;
  m.elements += count;
  ++m.blocks;
  m.against_data.add(sse, energy);
  return sse;
}

/// The sums of one row. A block's elements are taken in order, blocks in order.
Metrics measure_row(const Matrix& original, const Quantized& q, std::int64_t row, NaiveBaseline& naive,
                    double* block_sse) {
  Metrics m;
  const int normal = first_normal_code(q.config.format->scale);
  for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
    const std::int64_t first = b * q.config.block, last = std::min(first + q.config.block, original.cols);
    block_sse[b] = measure_block(q, row, b, original.row(row) + first, last - first, m);
  }
  naive.look_at(row, block_sse);
  for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
    m.against_naive.add(block_sse[b], naive.sse(b));
    const float amax = naive.amax(b);
    if (!std::isfinite(amax)) continue;
    const int code = q.scale_code(row, b), move = code - naive.scale_code(b);
    m.underflowed += amax > 0 && q.step(row, b) == 0;
    m.subnormal += code > 0 && code < normal;
    m.moved_up += move > 0;
    m.moved_down += move < 0;
    m.distance += std::abs(move);
    ++m.moves[static_cast<std::size_t>(std::clamp(move, -move_reach, move_reach) + move_reach)];
  }
  return m;
}

/// The same as a GPU has it.
Metrics row_of(const MeasuredRows& measured, const cuda::RowSums& row) {
  Metrics m;
  m.energy = row.energy;
  m.sse = row.sse;
  m.max_error = row.max_error;
  m.magnitude = row.magnitude;
  m.stored_magnitude = row.stored_magnitude;
  m.elements = measured.cols;
  m.zeros = row.zeros;
  m.saturated = row.saturated;
  m.blocks = measured.blocks_per_row;
  m.underflowed = row.underflowed;
  m.subnormal = row.subnormal;
  m.moved_up = row.moved_up;
  m.moved_down = row.moved_down;
  m.distance = static_cast<std::int64_t>(row.distance);
  m.against_data = {row.sse, row.energy, row.sse_sse, row.sse_energy, row.energy_energy, m.blocks};
  m.against_naive = {row.sse, row.naive_sse, row.sse_sse, row.sse_naive, row.naive_naive, m.blocks};
  return m;
}

void add(Metrics& total, const Metrics& row) {
  total.energy += row.energy;
  total.sse += row.sse;
  total.max_error = larger(total.max_error, row.max_error);
  total.magnitude += row.magnitude;
  total.stored_magnitude += row.stored_magnitude;
  total.elements += row.elements;
  total.zeros += row.zeros;
  total.saturated += row.saturated;
  total.blocks += row.blocks;
  total.underflowed += row.underflowed;
  total.subnormal += row.subnormal;
  total.moved_up += row.moved_up;
  total.moved_down += row.moved_down;
  total.distance += row.distance;
  for (std::size_t i = 0; i < total.moves.size(); ++i) total.moves[i] += row.moves[i];
  total.against_data.add(row.against_data);
  total.against_naive.add(row.against_naive);
}

}  // namespace

void RatioSums::add(double of_x, double of_y) {
  x += of_x;
  y += of_y;
  xx += of_x * of_x;
  xy += of_x * of_y;
  yy += of_y * of_y;
  ++n;
}

void RatioSums::add(const RatioSums& others) {
  x += others.x;
  y += others.y;
  xx += others.xx;
  xy += others.xy;
  yy += others.yy;
  n += others.n;
}

double RatioSums::ratio() const { return y > 0 ? x / y : std::numeric_limits<double>::quiet_NaN(); }

double RatioSums::standard_error() const {
  if (n < 2 || !(y > 0)) return std::numeric_limits<double>::quiet_NaN();
  const double r = ratio(), residual = xx - 2 * r * xy + r * r * yy;
  if (std::isnan(residual)) return residual;
  const auto blocks = static_cast<double>(n);
  return std::sqrt(blocks / (blocks - 1) * std::max(residual, 0.0)) / y;
}

namespace {
constexpr double two_sided_95 = 1.959964;  // standard errors
}

double RatioSums::low() const {
  const double low = ratio() - two_sided_95 * standard_error();
  return low < 0 ? 0 : low;  // NaN stays
}

double RatioSums::high() const { return ratio() + two_sided_95 * standard_error(); }

double Metrics::shrinkage() const {
  return magnitude > 0 ? stored_magnitude / magnitude : std::numeric_limits<double>::quiet_NaN();
}

double output_energy(const Matrix& weights, const Activations& x, double before) {
  const auto all = static_cast<int>(std::min<std::int64_t>(weights.cols, std::numeric_limits<int>::max()));
  const std::vector<OutputEnergy> energies =
      output_energies(weights.rows, weights.cols, all, x,
                      [&](std::int64_t row, double* out) { std::copy_n(weights.row(row), weights.cols, out); });
  for (const OutputEnergy& e : energies) before += e.whole;
  return before;
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

void MetricSums::add(const Matrix& original, const Quantized& q, std::vector<double>* block_sse) {
  const auto blocks = static_cast<std::size_t>(q.blocks_per_row());
  const std::size_t before = block_sse ? block_sse->size() : 0;
  if (block_sse) block_sse->resize(before + q.scales.size());
  constexpr std::int64_t at_once = 4096;  // a matrix may have far more rows than columns
  std::vector<Metrics> rows(static_cast<std::size_t>(std::min(at_once, original.rows)));
#pragma omp parallel
  {
    NaiveBaseline naive(original, q);
    std::vector<double> own(blocks);
    for (std::int64_t first = 0; first < original.rows; first += at_once) {
      const std::int64_t last = std::min(first + at_once, original.rows);
#pragma omp for schedule(static)
      for (std::int64_t r = first; r < last; ++r) {
        double* const sse = block_sse ? block_sse->data() + before + static_cast<std::size_t>(r) * blocks : own.data();
        rows[static_cast<std::size_t>(r - first)] = measure_row(original, q, r, naive, sse);
      }
#pragma omp single
      for (std::int64_t r = first; r < last; ++r) analysis::add(total_, rows[static_cast<std::size_t>(r - first)]);
    }
  }
  add_outputs(original, q);
}

void MetricSums::add(const MeasuredRows& measured) {
  for (const cuda::RowSums& row : measured.rows) analysis::add(total_, row_of(measured, row));
  for (std::size_t i = 0; i < measured.moves.size(); ++i) total_.moves[i] += measured.moves[i];
}

void MetricSums::add_outputs(const Matrix& original, const Quantized& q) {
  if (!activations_) return;
  const auto lost = [&](std::int64_t row, double* out) {
    const float* const x = original.row(row);
    for_each_value(q, row, original.cols, [&](std::int64_t c, double value) { out[c] = x[c] - value; });
  };
  for (const OutputEnergy& e : output_energies(original.rows, original.cols, q.config.block, *activations_, lost)) {
    output_ += e.whole;
    block_output_ += e.blocks;
  }
}

namespace {

/// Which NaN a sum ends with depends on the machine.
void make_plain(double& x) {
  if (std::isnan(x)) x = std::numeric_limits<double>::quiet_NaN();
}

void make_plain(RatioSums& sums) {
  for (double* x : {&sums.x, &sums.y, &sums.xx, &sums.xy, &sums.yy}) make_plain(*x);
}

}  // namespace

Metrics MetricSums::metrics() const {
  Metrics m = total_;
  for (double* x : {&m.energy, &m.sse, &m.max_error, &m.magnitude, &m.stored_magnitude}) make_plain(*x);
  make_plain(m.against_data);
  make_plain(m.against_naive);
  if (!activations_ || !(reference_ > 0)) return m;
  m.output_error = std::sqrt(output_ / reference_);
  m.block_output_error = std::sqrt(block_output_ / reference_);
  return m;
}

Metrics measure(const Matrix& original, const Quantized& q, const Activations* activations,
                double reference_output_energy, std::vector<double>* block_sse) {
  if (block_sse) block_sse->clear();
  MetricSums sums(activations, reference_output_energy);
  sums.add(original, q, block_sse);
  return sums.metrics();
}

}  // namespace fp4scope::analysis
