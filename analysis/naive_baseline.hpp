// What naive would have done with the same blocks at the same tensor scale: the yardstick of moved scales and of the
// paired ratio of squared errors. Nearest elements, whatever the method's own are.
#pragma once

#include <vector>

#include "analysis/quantize.hpp"
#include "search/if4.hpp"

namespace fp4scope::analysis {

/// Whether the method's elements are the nearest ones at its scales, as naive's are.
bool has_nearest_elements(const Quantized& q);

/// Of one quantized matrix; one object a thread, for its room.
class NaiveBaseline {
 public:
  /// Both outlive this.
  NaiveBaseline(const Matrix& original, const Quantized& q);

  /// Looks at a row: naive's scales, and squared errors where they are not the method's own.
  /// `own_sse`: [blocks per row], the method's.
  void look_at(std::int64_t row, const double* own_sse);

  float amax(std::int64_t block) const { return amax_[static_cast<std::size_t>(block)]; }  ///< of the block or tile
  /// Without a selection bit. Of a block that is finite.
  int scale_code(std::int64_t block) const;
  /// NaN for a block that is not finite.
  double sse(std::int64_t block) const { return sse_[static_cast<std::size_t>(block)]; }

 private:
  int naive_code(std::int64_t row, std::int64_t block) const;
  void encode_gathered();

  const Matrix& original_;
  const Quantized& q_;
  const search::Method& naive_;
  search::SelectingSpace spaces_;
  bool nearest_;
  std::vector<float> amax_, x_;
  std::vector<int> code_;
  std::vector<double> sse_;
  std::vector<std::int64_t> gathered_;
  std::vector<std::uint8_t> scales_, elements_;
};

}  // namespace fp4scope::analysis
