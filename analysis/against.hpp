// `crosscheck --against`: someone else's codes and scales of a matrix, read in whichever way they lie, held against the
// recipes: whose they are, on how many blocks, and in which classes the rest falls.
//
//   bytes -> nibble order, scale layout, format, block: given, or the reading that agrees most with recipe exact's
//   naive every recipe and method of that format, ranked by the blocks that agree whole the given recipe, or the best:
//   its differing blocks by class (difference_classes.hpp)
//
// Their tensor scale is taken as theirs where it is known; a recipe then computes with it, and how far it lies from the
// recipe's own is reported. Without one each recipe has its own, from amax.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "analysis/difference_classes.hpp"
#include "analysis/recipe_rows.hpp"

namespace fp4scope::analysis {

/// Their bytes as they lie, and what else is known of them.
struct TheirBytes {
  std::string where;                       ///< in errors
  std::span<const std::uint8_t> codes;     ///< [rows, cols / 2] packed, or one a byte; a row may be padded to the block
  std::span<const std::uint8_t> scales;    ///< row-major or swizzled, perhaps padded
  std::vector<std::int64_t> scales_shape;  ///< {} where it is not known
  std::string scales_dtype = "U8";         ///< F8_E4M3 and F8_E8M0 narrow the formats
  std::optional<TheirTensorScale> tensor_scale;
};

struct AgainstOptions {
  std::string format, recipe, method;  ///< "": found out, every one
  std::string nibbles, layout;         ///< "low", "high", "halves"; "linear", "128x4", "8x4"; "": found out
  int block = 0;
  bool tiles = false;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

/// A choice among ways to read them: the one of the least error of block scale * element against the matrix, up to one
/// factor, so that neither their recipe nor their tensor scale has a say in it.
struct Choice {
  std::string what;  ///< "format", "nibbles", "scales"
  std::string taken;
  bool given = false;
  double error = 1;      ///< relative; 0.1 is a good one, 1 no relation
  double agreement = 0;  ///< the share of bytes that are those of recipe exact's naive
  std::string second;    ///< the next best; "" where nothing else fits
  double second_error = 1;
  bool ambiguous = false;  ///< the second has the same error and reads something else
};

/// One recipe and method against theirs.
struct RecipeCount {
  std::string name, recipe, method;
  std::int64_t blocks = 0, equal = 0, scales_differ = 0, codes_differ = 0;  ///< blocks; codes_differ: with equal scales
  std::int64_t elements = 0, elements_differ = 0;
  std::optional<std::int64_t> tensor_scale_ulps;  ///< theirs less the recipe's own; empty where one has none
};

struct Explained {
  RecipeCount count;
  std::vector<ClassCount> classes;
};

struct AgainstReport {
  std::string name, dtype;
  std::int64_t rows = 0, cols = 0;
  std::string format;
  int block = 0;
  std::vector<Choice> choices;
  std::optional<TheirTensorScale> tensor_scale;
  std::vector<RecipeCount> ranking;  ///< best first
  std::vector<Explained> explained;  ///< the given recipe, and the best where more blocks agree with it
  bool agrees() const { return !explained.empty() && explained[0].count.equal == explained[0].count.blocks; }
};

/// Throws UsageError for words and Error for bytes that fit no reading. `name` is the matrix's. Stopped: no
/// explanation.
AgainstReport compare_against(const AgainstOptions& options, const std::string& name, const Matrix& matrix,
                              const TheirBytes& theirs);

/// The report in words; `brief` leaves out the examples.
std::string against_text(const AgainstReport& report, bool brief);

/// All reports as one results table: a row for each recipe of the ranking (class "") and for each class.
io::Table against_table(const std::vector<AgainstReport>& reports);

}  // namespace fp4scope::analysis
