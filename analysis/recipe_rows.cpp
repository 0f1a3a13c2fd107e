#include "analysis/recipe_rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace fp4scope::analysis {
namespace {

/// One way to take a format.
struct Way {
  const formats::BlockFormat* format;
  int block;
};

std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    words.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// Rows of one method with each criterion, scale max and rounding that it knows.
void add_rows(std::vector<RecipeRow>& rows, QuantizeWords words, const std::vector<std::string>& selects,
              const std::vector<int>& scale_maxes, const std::vector<std::string>& roundings) {
  for (const std::string& select : selects) {
    for (const int scale_max : scale_maxes) {
      for (const std::string& rounding : roundings) {
        words.select = select;
        words.scale_max = scale_max;
        words.rounding = rounding;
        const QuantizeConfig c = parse_config(words);
        std::string name = c.recipe_name();
        if (words.scale != "naive") name += " " + words.scale;
        if (!select.empty() && selects.size() > 1) name += " " + select;
        if (scale_max != 0) name += fmt::format(" {}", scale_max);
        if (!rounding.empty()) name += " " + rounding;
        const bool scaled = c.scaling != TensorScaling::none;
        const bool plain = c.format->tensor_scaled && !scaled && (!c.recipe || c.recipe->tensor_optional);
        rows.push_back({{plain ? name + ", no tensor scale" : name, c}, c.recipe_name(), words.scale, scaled});
      }
    }
  }
}

void add_exact(std::vector<RecipeRow>& rows, const Way& way, bool tiles) {
  std::vector<sim::ScaleRule> rules;
  for (const search::Method& m : search::all_methods) {
    using search::MethodKind;
    if (m.format != std::string_view(way.format->name)) continue;
    QuantizeWords words = {way.format->name, m.name, "", "", "propagate", way.block, 0};
    words.tiles = tiles;
    if (m.kind == MethodKind::rule) {
      const auto same = [&](const sim::ScaleRule& r) {
        return r.divisor == m.rule.divisor && r.rounding == m.rule.rounding && r.least == m.rule.least;
      };
      if (std::any_of(rules.begin(), rules.end(), same)) continue;
      rules.push_back(m.rule);
      add_rows(rows, words, {""}, {0}, {""});
      if (!way.format->tensor_scaled || m.name != std::string_view("naive")) continue;
      words.tensor_scale = "none";
      add_rows(rows, words, {""}, {0}, {""});
    }
    const bool searched = m.kind == MethodKind::sse && (!tiles || way.format->element.bits <= 4);
    if (searched) add_rows(rows, words, {""}, {0}, {""});
    if (m.chooses() && m.name != std::string_view("4over6_prevent_zero")) {
      const bool two = m.kind == MethodKind::four_over_six;
      add_rows(rows, words, {"mse", "mae", "absmax"}, two ? std::vector<int>{256, 448} : std::vector<int>{0}, {""});
    }
  }
}

void add_recipe(std::vector<RecipeRow>& rows, const sim::Recipe& r, const Way& way, bool tiles) {
  if (r.format != std::string_view(way.format->name) || (r.block != 0 && r.block != way.block)) return;
  if (tiles && !r.tiles) return;
  QuantizeWords words = {way.format->name, words_of(r.methods).front(), "", "", "", way.block, 0};
  words.recipe = r.name;
  words.tiles = tiles;
  const bool choice = r.element.offers(formats::Rounding::nearest_away);
  const std::vector<std::string> selects =
      words_of(r.selects).empty() ? std::vector<std::string>{""} : words_of(r.selects);
  const bool two = r.candidates == sim::Candidates::four_over_six;
  add_rows(rows, words, selects, two ? std::vector<int>{256, 448} : std::vector<int>{0},
           choice ? std::vector<std::string>{"rna", "rne", "rtz"} : std::vector<std::string>{""});
  if (!r.tensor_optional) return;
  words.tensor_scale = "none";
  add_rows(rows, words, selects, {0}, {""});
}

std::int64_t ulps(float theirs, float ours) {
  return static_cast<std::int64_t>(__builtin_bit_cast(std::int32_t, theirs)) - __builtin_bit_cast(std::int32_t, ours);
}

/// The amax that a run takes of the data.
float amax_of(const QuantizeConfig& c, const Survey& survey) {
  if (!c.recipe) return survey.finite_amax();
  const float extremes[] = {survey.amax(), survey.has_nan() ? std::numeric_limits<float>::quiet_NaN() : 0};
  return search::recipe_amax(*c.recipe, extremes, 2);
}

float stored(const sim::RecipeTensor& constants, const TheirTensorScale& theirs) {
  return theirs.reciprocal ? constants.encode : constants.decode;
}

/// The constants of an amax that gives their tensor scale: layers that are fused share the largest one's. Of the few
/// that do, the one with the fewest bits, for weights are often bf16. Nothing where no amax does.
std::optional<sim::RecipeTensor> implied_constants(const QuantizeConfig& c, const TheirTensorScale& theirs) {
  const float decode = theirs.reciprocal ? 1 / theirs.value : theirs.value;
  const float guess = decode * sim::recipe_tensor(*c.recipe, 1, c.scale_max).range;
  if (!(guess > 0) || !std::isfinite(guess)) return std::nullopt;
  std::optional<sim::RecipeTensor> found;
  int found_zeros = -1;
  constexpr std::int32_t reach = 8;
  for (std::int32_t k = -reach; k <= reach; ++k) {
    const std::int32_t bits = __builtin_bit_cast(std::int32_t, guess) + k;
    if (bits <= 0) continue;
    const auto amax = __builtin_bit_cast(float, bits);
    const sim::RecipeTensor constants = sim::recipe_tensor(*c.recipe, amax, c.scale_max);
    if (stored(constants, theirs) != theirs.value || __builtin_ctz(bits) <= found_zeros) continue;
    found = constants;
    found_zeros = __builtin_ctz(bits);
  }
  return found;
}

}  // namespace

std::vector<RecipeRow> recipe_rows(const formats::BlockFormat& format, int block, bool tiles) {
  const Way way = {&format, block};
  std::vector<RecipeRow> rows;
  add_exact(rows, way, tiles);
  for (const sim::Recipe& r : sim::all_recipes) add_recipe(rows, r, way, tiles);
  return rows;
}

bool take_tensor_scale(RecipeRow& row, const Survey& survey, const TheirTensorScale& theirs,
                       std::optional<std::int64_t>& distance) {
  QuantizeConfig& c = row.run.config;
  if (!row.scaled) return theirs.value == 1;
  const float a = amax_of(c, survey), inverse = 1 / theirs.value;
  if (!c.recipe) {
    const float own = sim::tensor_scale(a, c.format->element_max(), c.scale_max);
    const bool same = theirs.reciprocal ? 1 / own == theirs.value : own == theirs.value;
    distance = theirs.reciprocal ? ulps(theirs.value, 1 / own) : ulps(theirs.value, own);
    if (same) return true;
    c.scaling = TensorScaling::value;
    c.scaling_value = theirs.reciprocal ? inverse : theirs.value;
    return true;
  }
  sim::RecipeTensor own = sim::recipe_tensor(*c.recipe, a, c.scale_max);
  distance = ulps(theirs.value, stored(own, theirs));
  if (*distance == 0) return true;
  if (const auto implied = implied_constants(c, theirs)) {
    c.constants = implied;
    return true;
  }
  own.decode = theirs.reciprocal ? inverse : theirs.value;
  own.encode = theirs.reciprocal ? theirs.value : inverse;
  own.amax = a;
  c.constants = own;
  return true;
}

bool defined_on(const RecipeRow& row, const Survey& survey) {
  const sim::Recipe* const recipe = row.run.config.recipe;
  return !recipe || recipe->nan_defined || survey.describe_nonfinite().empty();
}

}  // namespace fp4scope::analysis
