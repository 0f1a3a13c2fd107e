// The one pipeline that `quantize` and `sweep` share: matrix -> tensor scale -> block scales -> codes, and back.
#pragma once

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "analysis/matrix.hpp"
#include "search/search.hpp"
#include "sim/block.hpp"

namespace fp4scope::analysis {

/// Where the tensor scale comes from.
enum class TensorScaling {
  amax,   ///< RNE32(amax / (element max * scale max)), recipe `exact`
  none,   ///< 1
  value,  ///< given
};

enum class Nonfinite {
  refuse,     ///< Error
  propagate,  ///< a block with a NaN or an Inf becomes NaN; the tensor scale is taken over the finite values
};

struct QuantizeConfig {
  const formats::BlockFormat* format = &formats::nvfp4;
  const search::Method* method = search::find_method("nvfp4", "naive");
  int block = 16;
  search::Select select = search::Select::mse;
  TensorScaling scaling = TensorScaling::amax;
  float scaling_value = 1;  ///< for TensorScaling::value
  int scale_max = 448;      ///< for TensorScaling::amax
  Nonfinite nonfinite = Nonfinite::refuse;

  /// "amax", "none" or the value.
  std::string scaling_text() const;
};

/// A configuration from words, with the defaults of format and method filled in. Empty words and 0 mean the default.
/// Throws UsageError: an unknown name (with the nearest right one), a method that the format doesn't have, an odd
/// block, an amax tensor scale for a format that has no default scale max, a word that would have no effect, ...
struct QuantizeWords {
  std::string format, scale, select, tensor_scale, nonfinite;
  int block = 0;
  int scale_max = 0;
};
QuantizeConfig parse_config(const QuantizeWords& words);

std::vector<std::string> format_names();
extern const std::vector<std::string> planned_format_names;  ///< designed, not built
std::vector<std::string> method_names(const std::string& format);
extern const std::vector<std::string> select_names;

/// A quantized matrix. Codes are one byte an element here; files pack them.
struct Quantized {
  QuantizeConfig config;
  std::int64_t rows = 0;
  std::int64_t cols = 0;  ///< as stored: padded to a multiple of the block
  float amax = 0;         ///< of the finite values
  float tensor_scale = 1;
  std::vector<std::uint8_t> scales;  ///< [rows, cols / block]
  std::vector<std::uint8_t> codes;   ///< [rows, cols]
  std::int64_t chose_four = 0;
  search::SearchCount count;

  std::int64_t blocks_per_row() const { return cols / config.block; }
  /// tensor scale * block scale, exact; NaN for a NaN scale.
  double step(std::int64_t row, std::int64_t block_index) const;
};

/// `where` names the tensor in errors. `hessians`: needed by a Hessian method, over the padded columns.
/// Throws Error for non-finite data under Nonfinite::refuse. A search that `stop` interrupted leaves codes empty.
Quantized quantize(const QuantizeConfig& config, const Matrix& matrix, const std::string& where,
                   const search::Hessians* hessians = nullptr, const std::atomic<bool>* stop = nullptr);

/// visit(column, value) for the first `cols` columns of a row: the exact products.
template <class Visit>
void for_each_value(const Quantized& q, std::int64_t row, std::int64_t cols, const Visit& visit) {
  const std::uint8_t* const codes = q.codes.data() + row * q.cols;
  for (std::int64_t first = 0; first < cols; first += q.config.block) {
    const double step = q.step(row, first / q.config.block);
    for (std::int64_t c = first; c < std::min(first + q.config.block, cols); ++c) {
      visit(c, sim::dequantize(q.config.format->element, codes[c], step));
    }
  }
}

/// [rows, cols as stored]: the exact product rounded once to binary32.
std::vector<float> dequantize(const Quantized& q);

/// Bits stored per element of the original matrix: codes, block scales, and 32 for a tensor scale, padding included.
double bits_per_weight(const Quantized& q, std::int64_t original_cols);

}  // namespace fp4scope::analysis
