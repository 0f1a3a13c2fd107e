// What a quantized tensor's bytes say without the original: how often each code stands in it.
//
// Histograms are whole numbers and add up over rows, tensors and threads; all else follows from them. Padding that is
// stored is counted, for it is stored.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "analysis/quantize.hpp"

namespace fp4scope::analysis {

using Histogram = std::array<std::int64_t, 256>;

/// - sum p log2 p: the least mean number of bits in which independent draws of these codes can be written.
double entropy(const Histogram& counts);

std::int64_t total(const Histogram& counts);

struct CodeCounts {
  const formats::BlockFormat* format = nullptr;
  Histogram codes = {};        ///< elements by their code
  Histogram scales = {};       ///< blocks by their scale's byte
  Histogram zero_scales = {};  ///< the same of blocks whose elements are zeros, of either sign
  Histogram largest = {};      ///< the other blocks by the code of their largest magnitude, its sign cleared

  /// Of one format: the first one's.
  void add(const Quantized& piece);
  /// Of two tensors. The formats may differ: codes and scales are then bytes alone.
  void add(const CodeCounts& other);

  std::int64_t blocks() const { return total(scales); }
  std::int64_t elements() const { return total(codes); }
  std::int64_t zero_blocks() const { return total(zero_scales); }
  std::int64_t minus_zeros() const;
  std::int64_t plus_zeros() const { return codes[0]; }
  /// Elements of the largest magnitude that there is.
  std::int64_t saturated() const;
  /// Of scales: a byte is one of these at most, and a block scale of value 0 may have the sign bit too.
  std::int64_t nan_scales() const;
  std::int64_t value_zero_scales() const;
  std::int64_t subnormal_scales() const;
  std::int64_t negative_scales() const;  ///< with the sign bit, where it is no selection
  /// The least and the largest scale byte of a block that is not zeros; -1 without one.
  int least_scale() const;
  int largest_scale() const;
};

/// What the bytes are consistent with, a sentence each: properties that some recipes have and others cannot have, never
/// a proof that one of them wrote the tensor.
std::vector<std::string> evidence(const CodeCounts& counts);

}  // namespace fp4scope::analysis
