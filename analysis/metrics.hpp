// What a quantized matrix lost. Errors are taken between binary32 data and exact values in binary64. A block's elements
// are summed in order, blocks in order along a row, then the rows in order: the same number on any thread count and on
// a GPU (cuda::sum_errors). A NaN is the positive quiet one. Padding is outside every metric.
#pragma once

#include <array>
#include <limits>
#include <memory>

#include "analysis/quantize.hpp"
#include "cuda/cuda.hpp"
#include "search/full_hessian.hpp"

namespace fp4scope::analysis {

/// Layer inputs, [tokens, cols], kept transposed so that a product runs over tokens side by side.
struct Activations {
  std::int64_t tokens = 0;
  std::int64_t cols = 0;
  std::vector<float> by_column;  ///< [cols, tokens]
};

Activations make_activations(const Matrix& x);

/// |X W^T|_F^2. Sums over columns in order, then tokens, then rows, binary64. `before`: of the rows before these, so
/// that a matrix may be summed in pieces.
double output_energy(const Matrix& weights, const Activations& x, double before = 0);

/// The relative output error from H of the whole row: sqrt(sum r^T H r / sum w^T H w), what inputs with X^T X = H give.
double output_error(const Matrix& weights, const Quantized& q, const search::FullHessian& hessian);

/// Offsets -16 .. 16 in codes; the ends hold everything beyond.
inline constexpr int move_reach = cuda::sums_reach;
using MoveHistogram = std::array<std::int64_t, 2 * move_reach + 1>;

/// Sums over blocks of pairs (x, y): the ratio sum x / sum y with a standard error from its linearisation,
///
///   se^2 = n / (n - 1) sum (x_i - R y_i)^2 / (sum y)^2      (Cochran, Sampling Techniques, 1977, 2.11 and 6.4)
///
/// for a tensor's blocks as a sample of those that its distribution gives. Where x and y are of the same blocks this is
/// the paired comparison. A tile counts as one block for each of its rows.
struct RatioSums {
  double x = 0, y = 0, xx = 0, xy = 0, yy = 0;
  std::int64_t n = 0;

  void add(double of_x, double of_y);
  void add(const RatioSums& others);
  double ratio() const;           ///< NaN where y is 0
  double standard_error() const;  ///< NaN for fewer than two blocks too
  double low() const;             ///< the 95 % interval of a normal distribution, not below 0
  double high() const;
};

struct Metrics {
  double energy = 0;                                               ///< sum w^2
  double sse = 0;                                                  ///< sum (w - wq)^2
  double max_error = 0;                                            ///< max |w - wq|
  double output_error = std::numeric_limits<double>::quiet_NaN();  ///< |X Wq^T - X W^T|_F / |X W^T|_F
  /// The same as if blocks did not interact: sqrt(sum over blocks b of |X_b (Wq - W)_b^T|_F^2) / |X W^T|_F.
  double block_output_error = std::numeric_limits<double>::quiet_NaN();
  double magnitude = 0;         ///< sum |w|
  double stored_magnitude = 0;  ///< sum |wq|
  std::int64_t elements = 0;
  std::int64_t zeros = 0;      ///< elements quantized to zero
  std::int64_t saturated = 0;  ///< elements above the largest representable value of their block
  std::int64_t blocks = 0;
  std::int64_t underflowed = 0;  ///< blocks with a non-zero value whose scale is zero
  std::int64_t subnormal = 0;    ///< blocks whose scale code is subnormal and not zero
  std::int64_t moved_up = 0;     ///< blocks whose scale code is above naive's at the same tensor scale
  std::int64_t moved_down = 0;
  std::int64_t distance = 0;  ///< sum of |code - naive code|
  MoveHistogram moves = {};
  RatioSums against_data;   ///< squared error of a block, its energy
  RatioSums against_naive;  ///< squared error of a block, that of naive at the same tensor scale

  double relative_mse() const {
    return energy > 0 ? sse / energy : sse > 0 ? std::numeric_limits<double>::infinity() : 0;
  }
  double relative_mse_error() const { return against_data.standard_error(); }
  double relative_mse_low() const { return against_data.low(); }
  double relative_mse_high() const { return against_data.high(); }
  double naive_sse() const { return against_naive.y; }
  double naive_ratio() const { return against_naive.ratio(); }
  double naive_ratio_low() const { return against_naive.low(); }
  double naive_ratio_high() const { return against_naive.high(); }
  /// sum |wq| / sum |w|; NaN for zeros.
  double shrinkage() const;
};

/// Some rows of a tensor as a GPU has summed them.
struct MeasuredRows {
  std::int64_t cols = 0, blocks_per_row = 0;
  std::vector<cuda::RowSums> rows;
  MoveHistogram moves = {};
};

/// Sums of one tensor, fed in pieces from its first row to its last: the same bits whatever the pieces. With tiles, a
/// piece is whole tiles.
class MetricSums {
 public:
  /// `activations` and `reference_output_energy` (output_energy of the whole original) may be absent.
  explicit MetricSums(const Activations* activations = nullptr, double reference_output_energy = 0)
      : activations_(activations), reference_(reference_output_energy) {}

  /// `original` [rows, unpadded columns] and what it became. `block_sse`, if given, is extended by [rows, blocks per
  /// row].
  void add(const Matrix& original, const Quantized& q, std::vector<double>* block_sse = nullptr);
  /// The same without the outputs' errors.
  void add(const MeasuredRows& measured);
  /// What is left of the first.
  void add_outputs(const Matrix& original, const Quantized& q);
  Metrics metrics() const;

 private:
  const Activations* activations_;
  double reference_;
  Metrics total_;
  double output_ = 0, block_output_ = 0;  // |X (Wq - W)^T|^2, whole and by blocks
};

/// All of a tensor at once. `block_sse`, if given, receives [rows, blocks per row].
Metrics measure(const Matrix& original, const Quantized& q, const Activations* activations = nullptr,
                double reference_output_energy = 0, std::vector<double>* block_sse = nullptr);

}  // namespace fp4scope::analysis
