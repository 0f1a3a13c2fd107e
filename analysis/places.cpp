#include "analysis/places.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fp4scope::analysis {

namespace {

constexpr std::int64_t rows_in_memory = 64;    // rows whose sums wait to be added: 64 x some 15 KiB
constexpr std::int64_t columns_at_once = 128;  // of one task, of at least one block

/// What an element, a block or a row holds.
struct Sums {
  std::int64_t count = 0;
  double sse = 0, energy = 0, magnitude = 0, stored = 0;

  void add(const Sums& other) {
    count += other.count;
    sse += other.sse;
    energy += other.energy;
    magnitude += other.magnitude;
    stored += other.stored;
  }
};

Sums of_element(float x, double value) {
  const double error = value - x;
  return {1, error * error, static_cast<double>(x) * x, std::fabs(static_cast<double>(x)), std::fabs(value)};
}

void add(Profile& p, std::size_t bin, const Sums& s) {
  p.count[bin] += s.count;
  p.sse[bin] += s.sse;
  p.energy[bin] += s.energy;
  p.bias[bin] += s.stored - s.magnitude;
}

void add(Profile& total, const std::vector<Sums>& row) {
  for (std::size_t bin = 0; bin < row.size(); ++bin) add(total, bin, row[bin]);
}

/// One row in the bins that rows share.
struct RowPlaces {
  std::vector<Sums> by_code, by_ratio, by_position, by_scale_code;
  Sums total;

  void clear() {
    for (std::vector<Sums>* bins : {&by_code, &by_ratio, &by_position, &by_scale_code}) {
      std::fill(bins->begin(), bins->end(), Sums{});
    }
    total = {};
  }
};

/// floor(48 |x| / amax), the last bin closed. 48 |x| is exact in binary64. With |x| = X 2^f and amax = A 2^e, X and A
/// of 24 bits, the quotient comes near 1 or more only for e - f <= 6: if no whole number, it is then 1 / (A 2^6) >
/// 2^-31 or more below the next one, and rounding to 53 bits can't reach that.
std::size_t ratio_bin(float x, float amax) {
  if (amax == 0) return 0;
  const int bin = static_cast<int>(ratio_bins * std::fabs(static_cast<double>(x)) / amax);
  return static_cast<std::size_t>(std::min(bin, ratio_bins - 1));
}

void measure_row(const Matrix& original, const Quantized& q, std::int64_t row, RowPlaces& out) {
  out.clear();
  const float* const x = original.row(row);
  const std::uint8_t* const codes = q.codes.data() + row * q.cols;
  for (std::int64_t first = 0; first < original.cols; first += q.config.block) {
    const std::int64_t b = first / q.config.block, last = std::min(first + q.config.block, original.cols);
    const float amax = block_amax(original, q.config, row, b);
    const double step = q.step(row, b);
    const bool integer = q.integer(row, b);
    Sums block;
    for (std::int64_t c = first; c < last; ++c) {
      const Sums element = of_element(x[c], q.value(row, c, step, integer));
      out.by_code[codes[c]].add(element);
      out.by_ratio[ratio_bin(x[c], amax)].add(element);
      out.by_position[static_cast<std::size_t>(c - first)].add(element);
      block.add(element);
    }
    out.total.add(block);
    block.count = row % q.config.tile_rows() == 0;
    out.by_scale_code[static_cast<std::size_t>(q.scale_code(row, b))].add(block);
  }
}

/// Columns side by side, down the rows in order.
void add_columns(const Matrix& original, const Quantized& q, Profile& by_column) {
  const std::int64_t blocks_at_once = std::max<std::int64_t>(1, columns_at_once / q.config.block);
#pragma omp parallel for schedule(static)
  for (std::int64_t group = 0; group < q.blocks_per_row(); group += blocks_at_once) {
    const std::int64_t end = std::min(group + blocks_at_once, q.blocks_per_row());
    for (std::int64_t r = 0; r < original.rows; ++r) {
      for (std::int64_t b = group; b < end; ++b) {
        const std::int64_t first = b * q.config.block, last = std::min(first + q.config.block, original.cols);
        const double step = q.step(r, b);
        const bool integer = q.integer(r, b);
        for (std::int64_t c = first; c < last; ++c) {
          const double value = q.value(r, c, step, integer);
          add(by_column, static_cast<std::size_t>(c), of_element(original.row(r)[c], value));
        }
      }
    }
  }
}

}  // namespace

double Places::shrinkage() const {
  return magnitude > 0 ? stored_magnitude / magnitude : std::numeric_limits<double>::quiet_NaN();
}

PlaceSums::PlaceSums(const QuantizeConfig& config, std::int64_t rows, std::int64_t cols)
    : places_{Profile(config.format->element.code_count()),    Profile(ratio_bins),
              Profile(static_cast<std::size_t>(config.block)), Profile(static_cast<std::size_t>(cols)),
              Profile(static_cast<std::size_t>(rows)),         Profile(scale_codes)} {}

void PlaceSums::add(const Matrix& original, const Quantized& q) {
  const auto bins = [](std::size_t count) { return std::vector<Sums>(count); };
  const RowPlaces empty = {bins(places_.by_code.count.size()), bins(ratio_bins), bins(places_.by_position.count.size()),
                           bins(scale_codes), Sums{}};
  std::vector<RowPlaces> rows(static_cast<std::size_t>(std::min(rows_in_memory, original.rows)), empty);
  for (std::int64_t first = 0; first < original.rows; first += rows_in_memory) {
    const std::int64_t count = std::min(rows_in_memory, original.rows - first);
#pragma omp parallel for schedule(static)
    for (std::int64_t r = 0; r < count; ++r) measure_row(original, q, first + r, rows[static_cast<std::size_t>(r)]);
    for (std::int64_t r = 0; r < count; ++r) {
      const RowPlaces& row = rows[static_cast<std::size_t>(r)];
      analysis::add(places_.by_code, row.by_code);
      analysis::add(places_.by_ratio, row.by_ratio);
      analysis::add(places_.by_position, row.by_position);
      analysis::add(places_.by_scale_code, row.by_scale_code);
      analysis::add(places_.by_row, static_cast<std::size_t>(next_row_ + first + r), row.total);
      places_.magnitude += row.total.magnitude;
      places_.stored_magnitude += row.total.stored;
    }
  }
  add_columns(original, q, places_.by_column);
  next_row_ += original.rows;
}

Places places_of(const Matrix& original, const Quantized& q) {
  PlaceSums sums(q.config, original.rows, original.cols);
  sums.add(original, q);
  return sums.places();
}

float block_amax(const Matrix& original, const QuantizeConfig& config, std::int64_t row, std::int64_t block) {
  const std::int64_t first = block * config.block, last = std::min(first + config.block, original.cols);
  const std::int64_t top = row - row % config.tile_rows(), bottom = std::min(top + config.tile_rows(), original.rows);
  float largest[2] = {0, 0};
  for (std::int64_t r = top; r < bottom; ++r) {
    largest[1] = sim::amax(original.row(r) + first, last - first);
    largest[0] = sim::amax(largest, 2);  // orders NaN on top, as within a row
  }
  return largest[0];
}

int first_normal_code(const formats::Format& scale) { return scale.has_zero ? 1 << scale.mantissa_bits : 0; }

}  // namespace fp4scope::analysis
