#include "analysis/quantize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "analysis/curvature.hpp"
#include "analysis/eden.hpp"
#include "analysis/encode.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"
#include "search/joint_search.hpp"
#include "search/macro.hpp"
#include "search/tensor_scale.hpp"
#include "sim/eden.hpp"
#include "sim/encode_lanes.hpp"
#include "sim/random.hpp"

namespace fp4scope::analysis {

const std::vector<std::string> select_names = {"mse", "mae", "absmax"};
const std::vector<std::string> element_roundings = {"rne", "rna", "rtz", "stochastic", "stochastic_unbiased"};

std::vector<std::string> format_names() { return FormatTable().names(); }

std::vector<std::string> recipe_names() {
  std::vector<std::string> names = {"exact"};
  for (const sim::Recipe& r : sim::all_recipes) {
    if (std::find(names.begin(), names.end(), r.name) == names.end()) names.push_back(r.name);
  }
  return names;
}

std::uint32_t name_stream(const std::string& name) {
  std::uint32_t hash = 0x811C9DC5u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x01000193u;
  return hash;
}

namespace {

const formats::BlockFormat& parse_format(const FormatTable& table, const std::string& name) {
  const formats::BlockFormat* format = table.find(name);
  if (!format) throw UsageError("--format", "unknown format '" + name + "'", suggestion(name, table.names()));
  return *format;
}

const search::Method& parse_method(const FormatTable& table, const std::string& format, const std::string& name) {
  const search::Method* method = table.find_method(format, name);
  if (method) return *method;
  const std::vector<std::string> names = table.method_names(format);
  for (const search::Method& m : search::all_methods) {
    if (name == m.name) {
      throw UsageError("--scale", "'" + name + "' is not a method of " + format, "there are: " + join(names));
    }
  }
  throw UsageError("--scale", "unknown method '" + name + "'", suggestion(name, names));
}

void parse_tensor_scale(const QuantizeWords& words, QuantizeConfig& c) {
  const std::vector<std::string> known = {"amax", "none", "search", "headroom", "soar", "a positive number"};
  const std::string word = !words.tensor_scale.empty() ? words.tensor_scale : c.format->tensor_scaled ? "amax" : "none";
  const int default_max = c.method->scale_max != 0 ? c.method->scale_max : c.format->scale_max;
  c.scale_max = words.scale_max != 0 ? words.scale_max : default_max;
  if (c.scale_max < 0) throw UsageError("--scale-max", "must be positive");
  if (words.scale_max != 0 && word != "amax") {
    throw UsageError("--scale-max", "has no effect without an amax tensor scale", "--tensor-scale amax");
  }
  if (word == "none") {
    c.scaling = TensorScaling::none;
  } else if (word == "search" || word == "headroom" || word == "soar") {
    if (!c.format->tensor_scaled || c.format->selects() || c.method->random()) {
      throw UsageError("--tensor-scale", fmt::format("{} {} has no search for one", c.format->name, c.method->name),
                       "nvfp4 and nvint4 have");
    }
    c.scaling = word == "search"     ? TensorScaling::search
                : word == "headroom" ? TensorScaling::headroom
                                     : TensorScaling::soar;
  } else if (word == "amax") {
    c.scaling = TensorScaling::amax;
    if (c.scale_max == 0) {
      throw UsageError("--tensor-scale", std::string(c.format->name) + " has no default for the scale max",
                       "give --scale-max N, the largest block scale to aim at");
    }
    if (c.scale_max > (1 << 20)) throw UsageError("--scale-max", "must be at most 1048576");
    // Below 1 the tensor scale of large data would leave binary32's range.
    if (c.scale_max * c.format->element_max() < 1) {
      throw UsageError("--scale-max", fmt::format("times {}'s largest level, {}, it is below 1", c.format->name,
                                                  c.format->element_max()));
    }
  } else {
    char* end = nullptr;
    c.scaling_value = std::strtof(word.c_str(), &end);
    if (end == word.c_str() || *end != '\0') {
      throw UsageError("--tensor-scale", "unknown word '" + word + "'", "there are: " + join(known));
    }
    if (!(c.scaling_value > 0) || !std::isfinite(c.scaling_value)) {
      throw UsageError("--tensor-scale", "'" + word + "' is not a positive finite binary32 number");
    }
    c.scaling = TensorScaling::value;
  }
}

/// The words of a space-separated list.
std::vector<std::string> words_of(std::string_view list) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    words.emplace_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// What a recipe has: its formats, or its methods for one format.
std::vector<std::string> recipe_has(const std::string& name, const std::string& format) {
  std::vector<std::string> out;
  for (const sim::Recipe& r : sim::all_recipes) {
    if (name != r.name) continue;
    if (format.empty() && std::find(out.begin(), out.end(), r.format) == out.end()) out.push_back(r.format);
    if (format == r.format) {
      for (const std::string& method : words_of(r.methods)) out.push_back(method);
    }
  }
  return out;
}

const sim::Recipe* parse_recipe(const std::string& name, const std::string& format, const std::string& method) {
  if (name.empty() || name == "exact") return nullptr;
  const sim::Recipe* recipe = sim::find_recipe(name, format, method);
  if (recipe) return recipe;
  for (const sim::ApproximateRecipe& a : sim::approximate_recipes) {
    if (name == a.name) {
      if (*a.hopper) {
        throw UsageError("--recipe", fmt::format("'{}' rests on {}, whose bits depend on the GPU", name, a.instruction),
                         fmt::format("{} has Hopper's", a.hopper));
      }
      throw UsageError("--recipe", fmt::format("'{}' rests on {}: its order is not built", name, a.instruction),
                       "there are: " + join(recipe_names()));
    }
  }
  const std::vector<std::string> formats = recipe_has(name, "");
  if (formats.empty()) {
    if (name == "ml_dtypes" || name == "cuda") {
      throw UsageError("--recipe", "'" + name + "' converts elements and has no block scales",
                       "fp4scope encode has it");
    }
    throw UsageError("--recipe", "unknown recipe '" + name + "'", suggestion(name, recipe_names()));
  }
  const std::vector<std::string> methods = recipe_has(name, format);
  if (methods.empty()) throw UsageError("--recipe", "'" + name + "' has no " + format, "it has: " + join(formats));
  const std::string why =
      name == "qwantize" && method == "hessian" ? ", whose sums run in an order nobody defines" : "";
  throw UsageError("--scale", fmt::format("recipe {} has no {} for {}{}", name, method, format, why),
                   "there are: " + join(methods));
}

/// A recipe's defaults, and the words that it can't take.
void apply_recipe(const QuantizeWords& words, QuantizeConfig& c) {
  const sim::Recipe& r = *c.recipe;
  const std::string name = r.name;
  if (r.block != 0 && c.block != r.block) {
    throw UsageError("--block", fmt::format("recipe {} has blocks of {} alone", name, r.block));
  }
  const bool scaled = r.tensor != sim::TensorStep::none;
  const std::string word = words.tensor_scale.empty() ? (scaled ? "amax" : "none") : words.tensor_scale;
  if (word != "amax" && !(word == "none" && (!scaled || r.tensor_optional))) {
    throw UsageError("--tensor-scale", fmt::format("recipe {} does not take '{}'", name, word),
                     scaled ? r.tensor_optional ? "amax or none" : "amax" : "none");
  }
  if (word == "amax" && !scaled) {
    throw UsageError("--tensor-scale", fmt::format("recipe {} has no tensor scale for {}", name, r.format), "none");
  }
  c.scaling = word == "none" ? TensorScaling::none : TensorScaling::amax;
  if (words.scale_max != 0 && c.scaling == TensorScaling::none) {
    throw UsageError("--scale-max", "has no effect without an amax tensor scale");
  }
  c.scale_max = words.scale_max != 0 ? words.scale_max : r.scale_max;
  if (c.scale_max < 0 || c.scale_max > 448) throw UsageError("--scale-max", "must be positive, at most 448");
  if (c.tiles && !r.tiles) throw UsageError("--block-2d", fmt::format("recipe {} has no square blocks", name));
}

void parse_select(const QuantizeWords& words, QuantizeConfig& c) {
  const std::string select = words.select.empty() ? "mse" : words.select;
  if (select == "mse") c.select = search::Select::mse;
  else if (select == "mae") c.select = search::Select::mae;
  else if (select == "absmax") c.select = search::Select::absmax;
  else throw UsageError("--select", "unknown criterion '" + select + "'", suggestion(select, select_names));
  if (words.select.empty()) return;
  if (!c.method->chooses()) {
    throw UsageError("--select", std::string("has no effect on ") + c.method->name,
                     "it chooses between the two of 4over6 or of if4");
  }
  if (c.recipe && !sim::lists(c.recipe->selects, select)) {
    throw UsageError("--select", fmt::format("recipe {} has no {}", c.recipe->name, select),
                     "there are: " + join(words_of(c.recipe->selects)));
  }
}

void parse_rounding(const QuantizeWords& words, QuantizeConfig& c) {
  using formats::Rounding;
  static const Rounding known[] = {Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero,
                                   Rounding::stochastic, Rounding::stochastic};  // as element_roundings
  const bool by_choice = c.recipe && c.recipe->element.offers(Rounding::nearest_away);
  c.rounding = by_choice ? Rounding::nearest_away : Rounding::nearest_even;
  if (words.rounding.empty()) return;
  const std::vector<std::string> offered = by_choice ? std::vector<std::string>{"rna", "rtz", "rne"}
                                           : c.recipe
                                               ? std::vector<std::string>{}
                                               : std::vector<std::string>{"rne", "stochastic", "stochastic_unbiased"};
  const std::vector<std::string>& names = element_roundings;
  const auto found = std::find(names.begin(), names.end(), words.rounding);
  if (found == names.end()) {
    throw UsageError("--rounding", "unknown rounding '" + words.rounding + "'", suggestion(words.rounding, names));
  }
  if (offered.empty()) throw UsageError("--rounding", "recipe " + c.recipe_name() + " has no choice of it");
  if (std::find(offered.begin(), offered.end(), words.rounding) == offered.end()) {
    throw UsageError("--rounding", "recipe " + c.recipe_name() + " has no " + words.rounding,
                     "there are: " + join(offered));
  }
  c.rounding = known[found - names.begin()];
  c.unbiased = words.rounding == "stochastic_unbiased";
  if (c.unbiased && c.method->kind != search::MethodKind::rule && !c.method->chooses()) {
    throw UsageError("--rounding",
                     std::string("stochastic_unbiased aims a rule at 16/17, and ") + c.method->name + " is a search",
                     "stochastic");
  }
}

/// What only methods that choose elements too take, and what they don't.
void parse_joint(const QuantizeWords& words, QuantizeConfig& c) {
  const std::string name = c.method->name;
  if (words.damping && !c.method->damps()) {
    throw UsageError("--damping", "has no effect on " + name, "it is gptq's");
  }
  if (words.node_limit && !c.method->limits_nodes()) {
    throw UsageError("--node-limit", "has no effect on " + name, "joint, hessian_row_joint and gptq_joint have one");
  }
  if (needs_whole_tensor(c) && c.nonfinite == Nonfinite::propagate) {
    throw UsageError("--nonfinite", "a tensor scale can't be searched with a NaN", "refuse");
  }
  c.damping = words.damping.value_or(c.damping);
  c.node_limit = words.node_limit.value_or(c.node_limit);
  if (!(c.damping >= 0 && c.damping <= 1e6)) throw UsageError("--damping", "must be from 0 to 1000000");
  if (c.node_limit < 1) throw UsageError("--node-limit", "must be positive");
  if (!c.method->gives_codes()) return;
  if (c.block > search::max_joint_block) {
    throw UsageError("--block", fmt::format("{} has blocks up to {}", name, search::max_joint_block));
  }
  if (c.rounding != formats::Rounding::nearest_even) {
    throw UsageError("--rounding", name + " chooses the elements itself", "leave it out");
  }
  if (c.nonfinite == Nonfinite::propagate) {
    throw UsageError("--nonfinite", "errors of a NaN can't be weighed by " + name, "refuse");
  }
}

/// What methods that correct values don't take.
void parse_correction(const QuantizeConfig& c) {
  if (!c.method->corrects()) return;
  const std::string name = c.method->name;
  if (c.tiles) throw UsageError("--block-2d", name + " has no square blocks");
  if (c.scaling != TensorScaling::none) throw UsageError("--tensor-scale", name + " has none", "none");
  if (c.method->has_macro() && search::macro_columns % c.block != 0) {
    throw UsageError("--block",
                     fmt::format("{} does not divide {}'s {} columns", c.block, name, search::macro_columns));
  }
  if (!c.method->has_macro() && c.rounding != formats::Rounding::nearest_even) {
    throw UsageError("--rounding", name + " rounds both sets of elements to nearest", "leave it out");
  }
}

}  // namespace

std::string QuantizeConfig::scaling_text() const {
  if (scaling == TensorScaling::amax) return "amax";
  if (scaling == TensorScaling::none) return "none";
  if (scaling == TensorScaling::search) return "search";
  if (scaling == TensorScaling::headroom) return "headroom";
  if (scaling == TensorScaling::soar) return "soar";
  return fmt::format("{}", scaling_value);
}

QuantizeConfig parse_config(const QuantizeWords& words, Formats formats) {
  QuantizeConfig c;
  c.formats = std::move(formats);
  c.format = &parse_format(*c.formats, words.format.empty() ? "nvfp4" : words.format);
  c.recipe = parse_recipe(words.recipe, c.format->name, words.scale.empty() ? "naive" : words.scale);
  c.method = &parse_method(*c.formats, c.format->name, words.scale.empty() ? "naive" : words.scale);
  c.tiles = words.tiles;
  c.block = words.block == 0 ? c.format->block : words.block;
  if (c.block < 2 || c.block % 2 != 0 || c.block > search::max_block) {
    throw UsageError("--block", fmt::format("{} is not an even number from 2 to {}", c.block, search::max_block));
  }
  if (c.tiles && c.block * c.block > search::max_block) {
    throw UsageError("--block-2d", fmt::format("blocks of {} x {} are too large", c.block, c.block), "at most 32 x 32");
  }
  if (c.tiles && c.format->selects() && c.block > 16) throw UsageError("--block-2d", "if4 has tiles up to 16 x 16");
  if (c.tiles && c.method->needs_hessian()) {
    throw UsageError("--block-2d", std::string(c.method->name) + " has no square blocks",
                     "a tile's rows share a scale but not a loss");
  }
  if (c.method->random() && c.tiles) throw UsageError("--block-2d", "ms_eden has no square blocks");
  if (c.method->random() && !words.rounding.empty()) {
    throw UsageError("--rounding", "ms_eden rounds elements to nearest and scales stochastically", "leave it out");
  }
  if (c.method->random() && words.scale_max != 0) throw UsageError("--scale-max", "ms_eden aims at 255.99");
  parse_select(words, c);
  parse_rounding(words, c);
  const std::string nonfinite = words.nonfinite.empty() ? "refuse" : words.nonfinite;
  if (nonfinite != "refuse" && nonfinite != "propagate") {
    throw UsageError("--nonfinite", "unknown word '" + nonfinite + "'", suggestion(nonfinite, {"refuse", "propagate"}));
  }
  c.nonfinite = nonfinite == "refuse" ? Nonfinite::refuse : Nonfinite::propagate;
  if (c.recipe) apply_recipe(words, c);
  else parse_tensor_scale(words, c);
  parse_joint(words, c);
  parse_correction(c);
  return c;
}

std::string QuantizeConfig::rounding_name() const {
  return unbiased ? "stochastic_unbiased" : rounding_names[static_cast<std::size_t>(rounding)];
}

int Quantized::scale_code(std::int64_t row, std::int64_t block_index) const {
  const int code = scales[static_cast<std::size_t>(row * blocks_per_row() + block_index)];
  return config.format->selects() ? code & ~formats::selection_bit : code;
}

bool Quantized::integer(std::int64_t row, std::int64_t block_index) const {
  const int code = scales[static_cast<std::size_t>(row * blocks_per_row() + block_index)];
  return config.format->selects() && (code & formats::selection_bit) != 0;
}

double Quantized::macro_factor(std::int64_t row, std::int64_t block_index) const {
  if (macro.empty()) return 1;
  const std::int64_t at = row * search::macro_blocks(cols) + block_index * config.block / search::macro_columns;
  return search::macro_factor(macro[static_cast<std::size_t>(at)]);
}

double Quantized::product_of_scales(std::int64_t row, std::int64_t block_index) const {
  const auto code = static_cast<std::uint32_t>(scale_code(row, block_index));
  return static_cast<double>(tensor_scale) * formats::decode_double(config.format->scale, code);
}

double Quantized::step(std::int64_t row, std::int64_t block_index) const {
  return product_of_scales(row, block_index) / macro_factor(row, block_index);
}

double Quantized::residual_value(std::int64_t row, std::int64_t column) const {
  const double step = residual->step(row, column / config.block);
  return config.method->residual_weight() * residual->value(row, column, step, false);
}

namespace {

/// Recipe `exact`: scales by the method, then codes.
void encode_row(const Quantized& q, const sim::Grid grids[2], const float* x, std::int64_t row, std::uint8_t* codes,
                std::vector<std::uint32_t>& words) {
  const formats::BlockFormat& format = *q.config.format;
  const int n = q.config.block;
  const bool stochastic = q.config.rounding == formats::Rounding::stochastic;
  if (format.element.bits <= 4 && !stochastic && q.macro.empty()) {
    const std::uint8_t* const scales = q.scales.data() + row * q.blocks_per_row();
    return sim::encode_blocks(format, q.tensor_scale, x, q.blocks_per_row(), n, scales, codes);
  }
  for (std::int64_t b = 0; b < q.blocks_per_row(); ++b, x += n, codes += n) {
    const double step = q.product_of_scales(row, b);
    const double factor = sim::grid_factor(format) * q.macro_factor(row, b);
    const bool integer = q.integer(row, b);
    const formats::Format& element = integer ? formats::int4 : format.element;
    const auto first = static_cast<std::uint64_t>((q.first_row + row) * q.cols + b * n);
    if (stochastic) sim::fill_words(q.config.seed, q.config.stream, first, n, words.data());
    const std::uint32_t* const random = stochastic ? words.data() : nullptr;
    const sim::Grid& grid = grids[integer ? 1 : 0];
    if (format.element.bits > 4) sim::quantize_wide_block(element, x, n, step, q.config.rounding, random, codes);
    else if (stochastic) sim::quantize_block_stochastic(element, grid, x, n, step, random, codes, factor);
    else sim::quantize_block(element, grid, x, n, step, codes, factor);
  }
}

void encode_rows(Quantized& q, const Matrix& m) {
  const sim::Grid grids[2] = {sim::make_grid(*q.config.format, false), sim::make_grid(*q.config.format, true)};
  q.codes.assign(static_cast<std::size_t>(q.rows * q.cols), 0);
#pragma omp parallel
  {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(q.config.block));
#pragma omp for schedule(static)
    for (std::int64_t r = 0; r < q.rows; ++r) encode_row(q, grids, m.row(r), r, q.codes.data() + r * q.cols, words);
  }
}

float least_loss(const std::vector<search::ScaledLoss>& candidates) {
  const auto less = [](const search::ScaledLoss& a, const search::ScaledLoss& b) { return a.loss < b.loss; };
  return std::min_element(candidates.begin(), candidates.end(), less)->tensor_scale;
}

/// The tensor scales that take no more than amax.
void take_tensor_scale(Quantized& q) {
  const QuantizeConfig& c = q.config;
  if (c.scaling == TensorScaling::value) q.tensor_scale = c.scaling_value;
  if (c.scaling != TensorScaling::amax) return;
  q.tensor_scale = c.method->random() ? sim::eden_tensor_scale(q.amax)
                   : c.unbiased       ? sim::tensor_scale(q.amax, 16 * c.format->element_max(), c.scale_max, 17)
                                      : sim::tensor_scale(q.amax, c.format->element_max(), c.scale_max);
}

/// The others.
void search_tensor_scale(Quantized& q, const Matrix& m) {
  const QuantizeConfig& c = q.config;
  const float* const x = m.data.data();
  constexpr int soar_iterations = 15;  // as published
  if (c.scaling == TensorScaling::search) {
    const search::TensorScaleResult found = search::search_tensor_scale(*c.format, c.block, x, m.rows, m.cols);
    q.tensor_scale = found.tensor_scale;
    q.tensor_scale_bound = found.lower_bound;
  } else if (c.scaling == TensorScaling::headroom) {
    q.tensor_scale = least_loss(search::headroom_losses(*c.format, c.block, x, m.rows, m.cols));
  } else if (c.scaling == TensorScaling::soar) {
    q.tensor_scale = least_loss(search::alternate_scales(*c.format, c.block, x, m.rows, m.cols, soar_iterations));
  }
}

/// r = x - value: a binary32 number, since no element is clipped and a value that isn't 0 is within a factor of two of
/// its x (Sterbenz 1974).
Matrix rest_of(const Quantized& q, const Matrix& m) {
  Matrix rest = {m.rows, m.cols, std::vector<float>(m.data.size())};
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < m.rows; ++row) {
    const float* const x = m.row(row);
    float* const out = rest.data.data() + row * m.cols;
    for_each_value(q, row, m.cols, [&](std::int64_t c, double v) { out[c] = static_cast<float>(x[c] - v); });
  }
  return rest;
}

/// Residual feedback: what the codes leave gets scales and codes of its own.
void add_residual(Quantized& q, const Matrix& m, const std::atomic<bool>* stop) {
  QuantizeConfig second = q.config;
  second.method = q.config.formats->find_method(q.config.format->name, "rceil");
  q.residual = std::make_shared<const Quantized>(quantize(second, rest_of(q, m), "residual", nullptr, stop));
  if (stop && *stop) q.codes.clear();
}

void quantize_exact(Quantized& q, const Matrix& m, const Curvature* curvature, const std::atomic<bool>* stop) {
  const QuantizeConfig& c = q.config;
  search_tensor_scale(q, m);
  const search::SearchTask task = search_task(q, curvature, stop);
  search::SearchResult found = c.method->gives_codes() ? search::search_joint(task, m.data.data(), m.rows, m.cols)
                                                       : search::search_scales(task, m.data.data(), m.rows, m.cols);
  q.scales = std::move(found.scales);
  q.macro = std::move(found.macro);
  q.chose_second = found.chose_second;
  q.proved = found.proved;
  if (curvature) take_curvature(q, *curvature);
  q.count = found.count;
  if (stop && *stop) return;
  if (c.method->gives_codes()) q.codes = std::move(found.codes);
  else encode_rows(q, m);
  if (c.method->random()) correct_eden_scales(q, m);
  if (c.method->residual_weight() > 0) add_residual(q, m, stop);
}

/// One tile of a recipe: gathered, scaled, encoded, put back.
search::RecipeBlock recipe_tile(const search::RecipeTask& task, Quantized& q, const Matrix& m, std::int64_t first,
                                std::int64_t last, std::int64_t b, std::vector<float>& x,
                                std::vector<std::uint8_t>& codes, search::RecipeRoom& room) {
  const int block = q.config.block;
  const auto n = static_cast<int>((last - first) * block);
  for (std::int64_t r = first; r < last; ++r) std::copy_n(m.row(r) + b * block, block, x.data() + (r - first) * block);
  const float amax = search::recipe_amax(*task.recipe, x.data(), n);
  const search::RecipeBlock found = search::recipe_block(task, amax, x.data(), n, block, codes.data(), room);
  for (std::int64_t r = first; r < last; ++r) {
    std::copy_n(codes.data() + (r - first) * block, block, q.codes.data() + r * q.cols + b * block);
    q.scales[static_cast<std::size_t>(r * q.blocks_per_row() + b)] = static_cast<std::uint8_t>(found.scale);
  }
  return found;
}

void quantize_by_recipe(Quantized& q, const Matrix& m, const std::atomic<bool>* stop) {
  const QuantizeConfig& c = q.config;
  q.scales.assign(static_cast<std::size_t>(q.rows * q.blocks_per_row()), 0);
  q.codes.assign(static_cast<std::size_t>(q.rows * q.cols), 0);
  const search::RecipeTask task = recipe_task(q);
  std::int64_t second = 0;
#pragma omp parallel reduction(+ : second)
  {
    const auto most = static_cast<std::size_t>(c.block * c.tile_rows());
    std::vector<float> x(most);
    std::vector<std::uint8_t> codes(most);
    search::RecipeRoom room;
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t tile = 0; tile < (q.rows + c.tile_rows() - 1) / c.tile_rows(); ++tile) {
      if (stop && *stop) continue;
      const std::int64_t first = tile * c.tile_rows(), last = std::min<std::int64_t>(first + c.tile_rows(), q.rows);
      for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
        second += recipe_tile(task, q, m, first, last, b, x, codes, room).chose_second;
      }
    }
  }
  q.chose_second = second;
  if (stop && *stop) q.codes.clear();
}

/// Non-finite data in recipes: those whose source says what happens take it.
void check_finite(const QuantizeConfig& config, const Survey& whole, const std::string& where) {
  const bool defined = config.recipe && config.recipe->nan_defined;
  if (defined || (!config.recipe && config.nonfinite == Nonfinite::propagate)) return;
  const std::string found = whole.describe_nonfinite();
  if (found.empty()) return;
  throw Error(where, found,
              config.recipe ? "what recipe " + config.recipe_name() + " does with it is undefined in its source"
                            : "mend the data, or --nonfinite propagate to make such blocks NaN");
}

}  // namespace

bool needs_whole_tensor(const QuantizeConfig& config) {
  return config.scaling == TensorScaling::search || config.scaling == TensorScaling::headroom ||
         config.scaling == TensorScaling::soar;
}

Quantized start_quantized(const QuantizeConfig& config, std::int64_t rows, std::int64_t cols, const Piece& piece,
                          const std::string& where) {
  check_finite(config, piece.whole, where);
  Quantized q;
  q.config = config;
  q.rows = rows;
  q.cols = padded(cols, config.block);
  q.first_row = piece.first_row;
  if (!config.recipe) {
    q.amax = piece.whole.finite_amax();
    take_tensor_scale(q);
    return q;
  }
  const float extremes[] = {piece.whole.amax(), piece.whole.has_nan() ? std::numeric_limits<float>::quiet_NaN() : 0};
  q.amax = search::recipe_amax(*config.recipe, extremes, 2);
  const bool scaled = config.scaling == TensorScaling::amax;
  if (scaled) q.constants = sim::recipe_tensor(*config.recipe, q.amax, config.scale_max);
  q.constants.amax = q.amax;
  if (scaled && config.constants) q.constants = *config.constants;
  q.tensor_scale = q.constants.decode;
  return q;
}

search::SearchTask search_task(const Quantized& q, const Curvature* curvature, const std::atomic<bool>* stop) {
  const QuantizeConfig& c = q.config;
  return {c.format,       c.method,
          c.select,       c.block,
          q.tensor_scale, curvature ? &curvature->blocks : nullptr,
          stop,           c.tile_rows(),
          c.unbiased,     curvature ? &curvature->full : nullptr,
          c.damping,      c.node_limit};
}

void take_curvature(Quantized& q, const Curvature& curvature) {
  q.hessian_hash = fmt::format("{:016x}", curvature.psd.hash);
  q.hessian_shift = curvature.psd.largest_shift;
}

search::RecipeTask recipe_task(const Quantized& q) {
  return {q.config.recipe, q.config.format, q.constants, q.config.select, q.config.rounding};
}

Quantized quantize(const QuantizeConfig& config, const Matrix& matrix, const std::string& where,
                   const Curvature* curvature, const std::atomic<bool>* stop, const Piece* piece) {
  if (!piece) {
    Survey survey(matrix.cols);
    survey.add(matrix);
    const Piece all = {survey};
    return quantize(config, matrix, where, curvature, stop, &all);
  }
  Quantized q = start_quantized(config, matrix.rows, matrix.cols, *piece, where);
  const bool whole = matrix.cols == q.cols;
  const Matrix wide = whole ? Matrix{} : pad_columns(matrix, config.block);
  const Matrix& m = whole ? matrix : wide;
  if (config.recipe) quantize_by_recipe(q, m, stop);
  else quantize_exact(q, m, curvature, stop);
  return q;
}

std::vector<float> exact_values(const Quantized& q) {
  std::vector<float> values(q.codes.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    float* const out = values.data() + r * q.cols;
    for_each_value(q, r, q.cols, [out](std::int64_t c, double value) { out[c] = static_cast<float>(value); });
  }
  return values;
}

std::vector<float> dequantize(const Quantized& q, const Matrix* source) {
  if (!q.config.recipe) return exact_values(q);
  const bool signed_zeros = source && q.config.recipe->decode == sim::DecodeStep::fake;
  std::vector<float> values(q.codes.size());
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    float* const out = values.data() + r * q.cols;
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const std::int64_t b = c / q.config.block;
      out[c] = sim::recipe_decode(*q.config.recipe, *q.config.format, q.constants, q.scale_code(r, b),
                                  q.codes[static_cast<std::size_t>(r * q.cols + c)], q.integer(r, b));
      if (signed_zeros && out[c] == 0 && c < source->cols && source->row(r)[c] < 0) out[c] = -0.0f;
    }
  }
  return values;
}

double bits_per_weight(const Quantized& q, std::int64_t original_cols) {
  const double codes = static_cast<double>(q.rows * q.cols) * q.config.format->element.bits;
  const double scales = static_cast<double>(q.block_count()) * 8;
  const double macro = static_cast<double>(q.macro.size()) * q.config.method->macro_bits();
  const double tensor = q.config.scaling == TensorScaling::none ? 0 : 32;
  const double second = q.residual ? bits_per_weight(*q.residual, original_cols) : 0;
  return (codes + scales + macro + tensor) / static_cast<double>(q.rows * original_cols) + second;
}

}  // namespace fp4scope::analysis
