// The one pipeline that `quantize` and `sweep` share: matrix -> tensor scale -> block scales -> codes, and back.
// Recipe `exact` searches scales and encodes in real numbers; every other recipe runs its own order of operations.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/format_table.hpp"
#include "analysis/matrix.hpp"
#include "search/recipe_search.hpp"
#include "search/search.hpp"
#include "sim/block.hpp"

namespace fp4scope::analysis {

/// Where the tensor scale comes from.
enum class TensorScaling {
  amax,      ///< RNE32(amax / (element max * scale max)), recipe `exact`
  none,      ///< 1
  value,     ///< given
  search,    ///< the least SSE over all binary32 numbers, to 0.1 %, proved (search/tensor_scale.hpp)
  headroom,  ///< the least SSE among amax's with the largest block scale mapped to 448, 384, .. 192
  soar,      ///< the end of SOAR's alternation (arXiv 2605.12245)
};

enum class Nonfinite {
  refuse,     ///< Error
  propagate,  ///< a block with a NaN or an Inf becomes NaN; the tensor scale is taken over the finite values
};

struct QuantizeConfig {
  const formats::BlockFormat* format = &formats::nvfp4;
  const search::Method* method = search::find_method("nvfp4", "naive");
  Formats formats = std::make_shared<const FormatTable>();  ///< what format and method point into
  int block = 16;
  search::Select select = search::Select::mse;
  TensorScaling scaling = TensorScaling::amax;
  float scaling_value = 1;  ///< for TensorScaling::value
  int scale_max = 448;      ///< for TensorScaling::amax
  Nonfinite nonfinite = Nonfinite::refuse;
  const sim::Recipe* recipe = nullptr;                           ///< null: `exact`
  std::optional<sim::RecipeTensor> constants;                    ///< of a recipe: these, not those of the data's amax
  formats::Rounding rounding = formats::Rounding::nearest_even;  ///< of elements, where there is a choice
  bool unbiased = false;                                         ///< the 16/17 style of stochastic rounding
  std::uint64_t seed = 1;                                        ///< of stochastic rounding
  std::uint32_t stream = 0;          ///< a tensor's own numbers under that seed: name_stream
  bool tiles = false;                ///< square blocks: `block` rows share a scale
  double damping = 0.01;             ///< of GPTQ: a share of H's mean diagonal
  std::int64_t node_limit = 100000;  ///< a block, of the searches for a closest vector

  /// "amax", "none", "search", "headroom", "soar" or the value.
  std::string scaling_text() const;
  std::string recipe_name() const { return recipe ? recipe->name : "exact"; }
  std::string rounding_name() const;
  int tile_rows() const { return tiles ? block : 1; }
  /// What moved scales are counted against.
  const search::Method& naive() const { return *formats->find_method(format->name, "naive"); }
};

/// A configuration from words, with the defaults of format and method filled in. Empty words and 0 mean the default.
/// Throws UsageError: an unknown name (with the nearest right one), a method that the format doesn't have, an odd
/// block, an amax tensor scale for a format that has no default scale max, a word that would have no effect, ...
struct QuantizeWords {
  std::string format, scale, select, tensor_scale, nonfinite;
  int block = 0;
  int scale_max = 0;
  std::string recipe = {}, rounding = {};
  bool tiles = false;
  std::optional<double> damping = {};
  std::optional<std::int64_t> node_limit = {};
};
QuantizeConfig parse_config(const QuantizeWords& words, Formats formats = std::make_shared<const FormatTable>());

std::vector<std::string> format_names();  ///< the built-in ones
std::vector<std::string> recipe_names();  ///< `exact` first
extern const std::vector<std::string> select_names;
extern const std::vector<std::string> element_roundings;  ///< what --rounding takes, some of it of some recipes alone

/// FNV-1a of a tensor's name: two tensors of a file don't share their random numbers.
std::uint32_t name_stream(const std::string& name);

/// A quantized matrix. Codes are one byte an element here; files pack them.
struct Quantized {
  QuantizeConfig config;
  std::int64_t rows = 0;
  std::int64_t cols = 0;       ///< as stored: padded to a multiple of the block
  std::int64_t first_row = 0;  ///< in the tensor that this is a piece of
  float amax = 0;              ///< of the finite values; of a recipe as its source takes it
  float tensor_scale = 1;
  double tensor_scale_bound = 0;     ///< TensorScaling::search: no tensor scale has a smaller SSE than this
  sim::RecipeTensor constants;       ///< of a recipe
  std::vector<std::uint8_t> scales;  ///< [rows, cols / block]
  std::vector<std::uint8_t> codes;   ///< [rows, cols]
  std::int64_t chose_second = 0;     ///< blocks (tiles) mapped to 4 by four over six, or made INT4 by IF4
  std::string hessian_hash;          ///< of the certified diagonal blocks of H, "" without
  double hessian_shift = 0;          ///< the largest shift that certifying them took
  std::int64_t proved = 0;           ///< blocks whose scale and elements together are proved best: of method joint
  std::vector<std::uint8_t> macro;   ///< [rows, macro blocks]: m of search/macro.hpp; empty without
  std::shared_ptr<const Quantized> residual;  ///< what the codes leave, quantized; null without
  search::SearchCount count;

  std::int64_t blocks_per_row() const { return cols / config.block; }
  /// Blocks, a tile counted once.
  std::int64_t block_count() const { return (rows + config.tile_rows() - 1) / config.tile_rows() * blocks_per_row(); }
  /// The scale's code without a selection bit.
  int scale_code(std::int64_t row, std::int64_t block_index) const;
  /// Whether the block's elements are IF4's INT4.
  bool integer(std::int64_t row, std::int64_t block_index) const;
  /// 1 + m / 256 of the block's macro block; 1 without.
  double macro_factor(std::int64_t row, std::int64_t block_index) const;
  /// tensor scale * block scale, exact; NaN for a NaN scale.
  double product_of_scales(std::int64_t row, std::int64_t block_index) const;
  /// The same, divided by the factor of a macro block and rounded once where there is one.
  double step(std::int64_t row, std::int64_t block_index) const;
  /// The value of an element whose block has that step, as sim::dequantize has it; in macro blocks within 2^-52 of
  /// itself.
  double value(std::int64_t row, std::int64_t column, double step, bool integer) const {
    const std::uint8_t code = codes[static_cast<std::size_t>(row * cols + column)];
    const double first = sim::dequantize(*config.format, code, step, integer);
    return residual ? first + residual_value(row, column) : first;
  }
  /// What the second codes add. The sum is exact: where both values are not zero the second's block has an element of
  /// 2^-26 of the first's step at least (data has 24 bits), so that both are multiples of 2^-32 of that step.
  double residual_value(std::int64_t row, std::int64_t column) const;
};

struct Curvature;

/// Where in a tensor a matrix of some of its rows belongs.
struct Piece {
  const Survey& whole;
  std::int64_t first_row = 0;  ///< with tiles, a multiple of their rows
};

/// Whether the tensor scale is searched, which takes the tensor whole. All else is decided by rows and the Survey: the
/// codes of a tensor's pieces are those of the tensor.
bool needs_whole_tensor(const QuantizeConfig& config);

/// What is known before the first block: the shape with padded columns, amax, a tensor scale that isn't searched, a
/// recipe's constants. Throws Error for non-finite data under Nonfinite::refuse.
Quantized start_quantized(const QuantizeConfig& config, std::int64_t rows, std::int64_t cols, const Piece& piece,
                          const std::string& where);
/// How a tensor's blocks get their scales, by recipe `exact` and by another.
search::SearchTask search_task(const Quantized& q, const Curvature* curvature = nullptr,
                               const std::atomic<bool>* stop = nullptr);
search::RecipeTask recipe_task(const Quantized& q);
/// Hash and shift of the H that a method weighs with.
void take_curvature(Quantized& q, const Curvature& curvature);

/// `where` names the tensor in errors. `curvature`: needed by a Hessian method, whole where that needs it. `piece`:
/// null for a whole tensor. Throws Error for non-finite data under Nonfinite::refuse. A search that `stop` interrupted
/// leaves codes empty.
Quantized quantize(const QuantizeConfig& config, const Matrix& matrix, const std::string& where,
                   const Curvature* curvature = nullptr, const std::atomic<bool>* stop = nullptr,
                   const Piece* piece = nullptr);

/// visit(column, value) for the first `cols` columns of a row: the exact products.
template <class Visit>
void for_each_value(const Quantized& q, std::int64_t row, std::int64_t cols, const Visit& visit) {
  for (std::int64_t first = 0; first < cols; first += q.config.block) {
    const double step = q.step(row, first / q.config.block);
    const bool integer = q.integer(row, first / q.config.block);
    for (std::int64_t c = first; c < std::min(first + q.config.block, cols); ++c) {
      visit(c, q.value(row, c, step, integer));
    }
  }
}

/// [rows, cols as stored]: the exact product rounded once to binary32.
std::vector<float> exact_values(const Quantized& q);

/// The same, or the recipe's own order where it has one.
/// `source`, the matrix that was quantized, tells the sign of zeros in recipes that have no codes.
std::vector<float> dequantize(const Quantized& q, const Matrix* source = nullptr);

/// Bits stored per element of the original matrix: codes, block scales, factors of macro blocks, codes and scales of a
/// residual, and 32 for a tensor scale, padding included.
double bits_per_weight(const Quantized& q, std::int64_t original_cols);

}  // namespace fp4scope::analysis
