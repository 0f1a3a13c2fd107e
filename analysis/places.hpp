// Where in the tensor the squared error sits: by code, by magnitude within the block, by position in the block, by
// column, by row, by the block scale's code. Binary64, summed along a row (blocks and rows out of the sums of their
// blocks), then over the rows in order: the same bits on any thread count and in whatever pieces the rows come.
#pragma once

#include <vector>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

inline constexpr int ratio_bins = 48;    ///< of |x| / block amax, equal widths over [0, 1], the last one closed
inline constexpr int scale_codes = 256;  ///< of any scale format

/// Elements (or blocks), their squared error and their energy, by bin.
struct Profile {
  std::vector<std::int64_t> count;
  std::vector<double> sse, energy, bias;  ///< bias: sum of |xq| - |x|, negative where magnitudes shrink
  explicit Profile(std::size_t bins = 0) : count(bins), sse(bins), energy(bins), bias(bins) {}
};

/// Padding is in no bin. A block is a tile where blocks are square: its amax is the tile's, and it counts once.
struct Places {
  Profile by_code;        ///< [2^element bits], the stored code (of IF4, either element's)
  Profile by_ratio;       ///< [ratio_bins]; a block of zeros counts in the first
  Profile by_position;    ///< [block], along the row
  Profile by_column;      ///< [unpadded columns]
  Profile by_row;         ///< [rows]
  Profile by_scale_code;  ///< [scale_codes], without the selection bit; count is of blocks, the sums of their elements
  double magnitude = 0, stored_magnitude = 0;  ///< sum |x|, sum |xq|

  /// E|xq| / E|x|; NaN for zeros.
  double shrinkage() const;
};

class PlaceSums {
 public:
  PlaceSums(const QuantizeConfig& config, std::int64_t rows, std::int64_t cols);  ///< of the whole tensor, unpadded
  /// The next rows of it, in whole tiles. `original` [rows, unpadded columns] and what it became, finite.
  void add(const Matrix& original, const Quantized& q);
  const Places& places() const { return places_; }

 private:
  Places places_;
  std::int64_t next_row_ = 0;
};

Places places_of(const Matrix& original, const Quantized& q);

/// The largest magnitude of a block, or of the tile that this row is part of, padding left out; NaN if there is one.
float block_amax(const Matrix& original, const QuantizeConfig& config, std::int64_t row, std::int64_t block);

/// Scale codes below this one are subnormal (or zero): 2^mantissa bits where the format has a zero, else 0.
int first_normal_code(const formats::Format& scale);

}  // namespace fp4scope::analysis
