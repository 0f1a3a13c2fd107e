// The scale of a block under a recipe: its candidates, and the choice among them in the recipe's own arithmetic.
//
//   four over six  err(c) over d = ((q s) a) / K against x, for the codes of v and fl(1.5 v); the second if strictly
//   less IF4            the same for E2M1 and for INT4, d = (((q s) a) fl(6/7)) / K qwantize       every code between
//   (b - sqrt E0) / 6 and 4 y, the first of the least binary32 error scalesweep     eleven codes around v's, the first
//   of the least binary32 error
#pragma once

#include <vector>

#include "search/four_over_six.hpp"
#include "sim/recipes.hpp"

namespace fp4scope::search {

struct RecipeTask {
  const sim::Recipe* recipe;
  const formats::BlockFormat* format;
  sim::RecipeTensor tensor;
  Select select = Select::mse;
  formats::Rounding rounding = formats::Rounding::nearest_away;  ///< where the recipe has a choice
};

/// Room for one block, so that the loop over blocks allocates nothing.
struct RecipeRoom {
  std::vector<std::uint8_t> codes;
  std::vector<float> values, second_values, errors, sorted;
};

struct RecipeBlock {
  int scale = 0;              ///< the scale's code, with the selection bit
  bool chose_second = false;  ///< the 4 of four over six, or INT4
};

/// x[n], of which `row` are side by side -> codes[n] and the block's scale. `b`: the block's amax as the recipe takes
/// it.
RecipeBlock recipe_block(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                         RecipeRoom& room);

/// max |x|, NaN where the recipe's maxima propagate one.
float recipe_amax(const sim::Recipe& recipe, const float* x, std::int64_t n);

}  // namespace fp4scope::search
