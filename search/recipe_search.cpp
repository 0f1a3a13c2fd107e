#include "search/recipe_search.hpp"

namespace fp4scope::search {

RecipeBlock recipe_block(const RecipeTask& task, float b, const float* x, int n, int row, std::uint8_t* codes,
                         RecipeRoom& room) {
  const auto size = static_cast<std::size_t>(n);
  for (std::vector<float>* values : {&room.values, &room.second_values, &room.errors}) {
    if (values->size() < size) values->resize(size);
  }
  if (room.codes.size() < size) room.codes.resize(size);
  const RecipeScratch scratch = {room.codes.data(), room.values.data(), room.second_values.data(), room.errors.data()};
  return recipe_block(task, b, x, n, row, codes, scratch);
}

}  // namespace fp4scope::search
