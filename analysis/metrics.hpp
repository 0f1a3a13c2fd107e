// What a quantized matrix lost. Errors are taken between binary32 data and exact values in binary64, summed along a
// row, then over the rows in order: the same number on any thread count. Padding is outside every metric.
#pragma once

#include <array>
#include <limits>
#include <memory>

#include "analysis/quantize.hpp"
#include "search/full_hessian.hpp"

namespace fp4scope::analysis {

/// Layer inputs, [tokens, cols], kept transposed so that a product runs over tokens side by side.
struct Activations {
  std::int64_t tokens = 0;
  std::int64_t cols = 0;
  std::vector<float> by_column;  ///< [cols, tokens]
};

Activations make_activations(const Matrix& x);

/// |M X^T|_F^2 for M [rows, cols] given as a row producer: the squared norm of the output that M contributes.
/// X W^T and (X Wq^T - X W^T) are the two uses. Sums over columns in order, binary64.
double output_energy(const Matrix& weights, const Activations& x);

/// The relative output error from H of the whole row: sqrt(sum r^T H r / sum w^T H w), what inputs with X^T X = H give.
double output_error(const Matrix& weights, const Quantized& q, const search::FullHessian& hessian);

/// Offsets -16 .. 16 in codes; the ends hold everything beyond.
inline constexpr int move_reach = 16;
using MoveHistogram = std::array<std::int64_t, 2 * move_reach + 1>;

struct Metrics {
  double energy = 0;                                               ///< sum w^2
  double sse = 0;                                                  ///< sum (w - wq)^2
  double max_error = 0;                                            ///< max |w - wq|
  double output_error = std::numeric_limits<double>::quiet_NaN();  ///< |X Wq^T - X W^T|_F / |X W^T|_F
  std::int64_t elements = 0;
  std::int64_t zeros = 0;      ///< elements quantized to zero
  std::int64_t saturated = 0;  ///< elements above the largest representable value of their block
  std::int64_t blocks = 0;
  std::int64_t underflowed = 0;  ///< blocks with a non-zero value whose scale is zero
  std::int64_t moved_up = 0;     ///< blocks whose scale code is above naive's at the same tensor scale
  std::int64_t moved_down = 0;
  std::int64_t distance = 0;  ///< sum of |code - naive code|
  MoveHistogram moves = {};

  double relative_mse() const {
    return energy > 0 ? sse / energy : sse > 0 ? std::numeric_limits<double>::infinity() : 0;
  }
};

/// `original` is the unpadded matrix. `activations` and `reference_output_energy` (output_energy of the original) may
/// be absent. `block_sse`, if given, receives [rows, blocks per row].
Metrics measure(const Matrix& original, const Quantized& q, const Activations* activations = nullptr,
                double reference_output_energy = 0, std::vector<double>* block_sse = nullptr);

}  // namespace fp4scope::analysis
