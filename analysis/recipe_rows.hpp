// Every recipe and method of a format as a run, to be held against someone else's bytes: by `crosscheck --against` with
// the matrix whole, by a fingerprint (fingerprint.hpp) a few rows at a time.
//
// Their tensor scale is taken as theirs where it is known; a recipe then computes with it, and how far it lies from the
// recipe's own is a number of its own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/crosscheck.hpp"

namespace fp4scope::analysis {

/// A tensor scale as files have it: what values are multiplied by on decode, D, or its reciprocal, S.
struct TheirTensorScale {
  float value = 1;
  bool reciprocal = false;
};

/// A recipe's row on a format, with the choices that it has.
struct RecipeRow {
  RecipeRun run;
  std::string recipe, method;
  bool scaled = false;  ///< has a tensor scale
};

/// In the order of the tables. Whether one takes non-finite data is its own question: defined_on.
std::vector<RecipeRow> recipe_rows(const formats::BlockFormat& format, int block, bool tiles);

/// Puts their tensor scale in place of the row's own, and says how far from it that is, in units of the last place.
/// False: the row has none, and theirs is not 1.
bool take_tensor_scale(RecipeRow& row, const Survey& survey, const TheirTensorScale& theirs,
                       std::optional<std::int64_t>& distance);

/// Whether the row's source says what becomes of such data.
bool defined_on(const RecipeRow& row, const Survey& survey);

}  // namespace fp4scope::analysis
