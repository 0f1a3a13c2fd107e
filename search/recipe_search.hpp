// recipe_choice.hpp on a CPU, with room that grows to the largest block seen.
#pragma once

#include <vector>

#include "search/recipe_choice.hpp"

namespace fp4scope::search {

/// Room for one block, so that the loop over blocks allocates nothing.
struct RecipeRoom {
  std::vector<std::uint8_t> codes;
  std::vector<float> values, second_values, errors;
};

/// The same compiled once.
RecipeBlock recipe_block(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                         RecipeRoom& room);

}  // namespace fp4scope::search
