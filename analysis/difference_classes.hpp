// Why someone else's block is not the recipe's: a table of classes, each a name, a sentence and a predicate.
//
// A block that differs belongs to the first class in the table that holds for it. The classes that are rules for
// elements (how ties go, in which order an element is scaled) overlap: one difference at a tie is explained by several
// of them. Among themselves they stand in the order of the evidence: how many blocks with the recipe's scale, agreeing
// ones included, have just the codes that the rule gives; the table's order where that is equal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/crosscheck.hpp"

namespace fp4scope::analysis {

/// One tensor as the recipe has it and as they have it, read row by row.
struct TensorPair {
  const RecipeRun* run;
  const Quantized* ours;
  const Matrix* data;                ///< padded to whole blocks, as `ours` is
  std::int64_t cols;                 ///< without the padding, which is never compared
  std::vector<std::uint8_t> codes;   ///< theirs, [rows, padded cols]
  std::vector<std::uint8_t> scales;  ///< theirs, [rows, blocks]
  /// Their scales as other layouts would read the same bytes, by name.
  std::vector<std::pair<std::string, std::vector<std::uint8_t>>> other_scales;

  const std::uint8_t* their_codes(std::int64_t row, std::int64_t block) const {
    return codes.data() + row * ours->cols + block * ours->config.block;
  }
  const std::uint8_t* our_codes(std::int64_t row, std::int64_t block) const {
    return ours->codes.data() + row * ours->cols + block * ours->config.block;
  }
  std::size_t at(std::int64_t row, std::int64_t block) const {
    return static_cast<std::size_t>(row * ours->blocks_per_row() + block);
  }
  /// Columns of a block that are compared.
  int compared(std::int64_t block) const;
  bool agrees(std::int64_t row, std::int64_t block) const;
};

/// What a class is called and says; `unexplained` is the last.
struct ClassWords {
  std::string name, sentence;
};
std::vector<ClassWords> difference_classes();

struct ClassCount {
  std::string name, sentence;
  std::int64_t blocks = 0;
  std::string example;  ///< lines: the first block in the order of rows
};

/// The classes that have blocks, in the table's order. Every block that differs is in one of them.
std::vector<ClassCount> classify(const TensorPair& pair);

}  // namespace fp4scope::analysis
