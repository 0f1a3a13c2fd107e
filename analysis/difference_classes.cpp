#include "analysis/difference_classes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <optional>

#include "analysis/explain.hpp"
#include "analysis/recipe_trace.hpp"

namespace fp4scope::analysis {

namespace {

using sim::DataStep;

/// What holds of the tensor as a whole.
struct Facts {
  const TensorPair* pair = nullptr;
  sim::Recipe recipe{};           ///< the run's; of `exact` one in binary32 that rounds elements as it does
  sim::RecipeTensor constants;    ///< of that recipe
  std::vector<double> levels[2];  ///< of elements, and of IF4's INT4
  std::vector<const std::vector<std::uint8_t>*>
      layouts;                            ///< readings of their scales that agree in most, and more than the one in use
  bool all_up = false, all_down = false;  ///< every scale that can be is one code higher, or lower
  std::vector<DataStep> steps;            ///< that an element may be scaled by, the most evident first

  const QuantizeConfig& config() const { return pair->ours->config; }
};

/// Where an element lies: numerator / denominator, in units of the levels. Both are exact wherever the recipe decides
/// in real numbers; where it rounds a y, that is the numerator.
struct Place {
  double numerator, denominator;
  bool negative;
};

/// One block, both sides.
class BlockCase {
 public:
  explicit BlockCase(const Facts& facts) : f(facts), here(static_cast<std::size_t>(facts.config().block)) {}

  void move_to(std::int64_t new_row, std::int64_t new_block);

  bool same_scale() const { return our_scale == their_scale; }
  template <class Codes>
  bool theirs_are(const Codes& codes) const {
    return std::equal(theirs, theirs + n, &codes[0]);
  }
  /// The scale's code alone, and its value.
  int scale_code(int scale) const { return f.config().format->selects() ? scale & ~formats::selection_bit : scale; }
  double scale_value(int scale) const {
    return formats::decode_double(f.config().format->scale, static_cast<std::uint32_t>(scale_code(scale)));
  }
  bool integer() const { return f.config().format->selects() && (their_scale & formats::selection_bit) != 0; }
  /// The recipe's codes at a scale, with another data step where one is given.
  void codes_at(int scale, const sim::Recipe& recipe, bool by_recipe, std::uint8_t* out) const;
  Place place(int i) const;
  const std::vector<double>& levels() const { return f.levels[integer() ? 1 : 0]; }
  int magnitude(std::uint8_t code) const;

  const Facts& f;
  std::int64_t row = 0, block = 0;
  int n = 0;  ///< columns that are compared
  const float* x = nullptr;
  float amax = 0;  ///< of the block or tile, as the recipe takes it
  bool finite = true;
  int our_scale = 0, their_scale = 0;
  const std::uint8_t *ours = nullptr, *theirs = nullptr;
  std::vector<std::uint8_t> here;  ///< the recipe's codes at their scale
};

void BlockCase::move_to(std::int64_t new_row, std::int64_t new_block) {
  row = new_row;
  block = new_block;
  const TensorPair& p = *f.pair;
  const QuantizeConfig& c = f.config();
  n = p.compared(block);
  x = p.data->row(row) + block * c.block;
  our_scale = p.ours->scales[p.at(row, block)];
  their_scale = p.scales[p.at(row, block)];
  ours = p.our_codes(row, block);
  theirs = p.their_codes(row, block);
  amax = 0;
  finite = true;
  const std::int64_t first = row / c.tile_rows() * c.tile_rows();
  for (std::int64_t r = first; r < std::min(first + c.tile_rows(), p.ours->rows); ++r) {
    const float* const part = p.data->row(r) + block * c.block;
    finite = finite && std::all_of(part, part + c.block, [](float v) { return std::isfinite(v); });
    amax = std::max(amax, sim::amax(part, c.block));
  }
  if (same_scale() || !finite) std::copy_n(ours, c.block, here.begin());
  else codes_at(their_scale, f.recipe, c.recipe != nullptr, here.data());
}

void BlockCase::codes_at(int scale, const sim::Recipe& recipe, bool by_recipe, std::uint8_t* out) const {
  const QuantizeConfig& c = f.config();
  const int code = scale_code(scale);
  if (!by_recipe) {
    const double step = static_cast<double>(f.pair->ours->tensor_scale) * scale_value(scale);
    const formats::Format& element = integer() ? formats::int4 : c.format->element;
    if (c.format->element.bits > 4) sim::quantize_wide_block(element, x, c.block, step, c.rounding, nullptr, out);
    else
      sim::quantize_block(element, sim::make_grid(*c.format, integer()), x, c.block, step, out,
                          sim::grid_factor(*c.format));
    return;
  }
  if (!integer()) {
    sim::recipe_codes(recipe, *c.format, f.constants, code, amax, x, c.block, c.rounding, out);
    return;
  }
  std::vector<float> values(static_cast<std::size_t>(c.block));
  sim::recipe_int4_codes(recipe, *c.format, f.constants, code, amax, x, c.block, out, values.data());
}

Place BlockCase::place(int i) const {
  const QuantizeConfig& c = f.config();
  const double s = scale_value(their_scale);
  const bool negative = sim::is_negative(x[i]);
  if (!c.recipe) {
    return {sim::grid_factor(*c.format) * sim::magnitude(x[i]), static_cast<double>(f.pair->ours->tensor_scale) * s,
            negative};
  }
  if (f.recipe.data == DataStep::rational) {
    return {static_cast<double>(f.constants.range) * sim::magnitude(x[i]), s * f.constants.amax, negative};
  }
  if (f.recipe.data == DataStep::distance) return {sim::magnitude(x[i]), s, negative};
  const sim::DataFactor factor = sim::data_factor(f.recipe, f.constants, static_cast<float>(s), amax);
  float y = sim::data_value(factor, x[i]);
  if (integer()) y *= 0x1.2AAAAAp0f;
  return {sim::magnitude(y), 1, negative};
}

/// The place of a code's magnitude among the levels.
int BlockCase::magnitude(std::uint8_t code) const {
  const formats::Format& element = integer() ? formats::int4 : f.config().format->element;
  if (!element.twos_complement) return code & static_cast<int>(element.sign_bit() - 1);
  return static_cast<int>(std::fabs(formats::decode_double(element, code)) / formats::decode_double(element, 1));
}

/// The index of the level at or below a place; -1 where there is no place.
int level_below(const BlockCase& k, const Place& p) {
  if (!(p.denominator > 0) || std::isnan(p.numerator)) return -1;
  const std::vector<double>& levels = k.levels();
  const auto above = std::upper_bound(levels.begin(), levels.end(), p.numerator,
                                      [&](double v, double level) { return v < level * p.denominator; });
  return static_cast<int>(above - levels.begin()) - 1;
}

/// The lower of the two levels that a place is halfway between; -1 where it is not.
int tie_of(const BlockCase& k, const Place& p) {
  const int below = level_below(k, p);
  const std::vector<double>& levels = k.levels();
  if (below < 0 || below + 1 >= static_cast<int>(levels.size())) return -1;
  const auto at = static_cast<std::size_t>(below);
  return p.numerator == (levels[at] + levels[at + 1]) / 2 * p.denominator ? below : -1;
}

enum class Ties { down, away, to_even, to_odd };

int tie_goes(Ties rule, int below) {
  const bool up =
      rule == Ties::away || (rule == Ties::to_even && below % 2 == 1) || (rule == Ties::to_odd && below % 2 == 0);
  return below + up;
}

/// The recipe's codes, but ties by a rule. A tie that goes to zero may have either sign there.
bool ties_by(const BlockCase& k, Ties rule, int i) {
  const int below = tie_of(k, k.place(i));
  if (below < 0) return k.theirs[i] == k.here[static_cast<std::size_t>(i)];
  const int wanted = tie_goes(rule, below);
  if (wanted == k.magnitude(k.here[static_cast<std::size_t>(i)]))
    return k.theirs[i] == k.here[static_cast<std::size_t>(i)];
  const formats::Format& element = k.integer() ? formats::int4 : k.f.config().format->element;
  return k.theirs[i] == sim::signed_code(element, wanted, k.place(i).negative) || (wanted == 0 && k.theirs[i] == 0);
}

template <Ties rule>
bool ties_hold(const BlockCase& k) {
  for (int i = 0; i < k.n; ++i) {
    if (!ties_by(k, rule, i)) return false;
  }
  return true;
}

constexpr DataStep all_steps[] = {DataStep::reciprocal,  DataStep::reciprocal_twice, DataStep::divide,
                                  DataStep::divide_by_s, DataStep::scaled_first,     DataStep::bf16_factor};

enum class Family { reciprocal, division, other };

bool divides(DataStep step) {
  return step != DataStep::reciprocal && step != DataStep::reciprocal_twice && step != DataStep::scaled_first &&
         step != DataStep::bf16_factor;
}

/// Which class a step makes beside the recipe's own.
Family family(DataStep own, DataStep step) {
  const bool reciprocal = step == DataStep::reciprocal || step == DataStep::reciprocal_twice;
  const bool division = step == DataStep::divide || step == DataStep::divide_by_s;
  if (divides(own) && reciprocal) return Family::reciprocal;
  if (!divides(own) && division) return Family::division;
  return Family::other;
}

/// The step of a family that gives their codes, if one does.
std::optional<DataStep> step_of(const BlockCase& k, Family wanted) {
  if (k.integer()) return std::nullopt;
  std::vector<std::uint8_t> codes(k.here.size());
  for (const DataStep step : k.f.steps) {
    if (step == k.f.recipe.data || family(k.f.recipe.data, step) != wanted) continue;
    sim::Recipe other = k.f.recipe;
    other.data = step;
    k.codes_at(k.their_scale, other, true, codes.data());
    if (k.theirs_are(codes)) return step;
  }
  return std::nullopt;
}

template <Family wanted>
bool order_holds(const BlockCase& k) {
  return step_of(k, wanted).has_value();
}

/// Whether each element that is not the recipe's at their scale has a property.
template <class Property>
bool every_difference(const BlockCase& k, const Property& property) {
  for (int i = 0; i < k.n; ++i) {
    if (k.theirs[i] != k.here[static_cast<std::size_t>(i)] && !property(i)) return false;
  }
  return true;
}

std::uint8_t minus_zero(const BlockCase& k) {
  return static_cast<std::uint8_t>(
      k.integer() || k.f.config().format->element.twos_complement ? 0 : k.f.config().format->element.sign_bit());
}

bool dropped_zero(const BlockCase& k, int i) {
  return minus_zero(k) != 0 && k.here[static_cast<std::size_t>(i)] == minus_zero(k) && k.theirs[i] == 0;
}
bool made_zero(const BlockCase& k, int i) {
  return minus_zero(k) != 0 && k.here[static_cast<std::size_t>(i)] == 0 && k.theirs[i] == minus_zero(k);
}
/// E2M1 without a largest value: from 7 on y rounds to 8 and more, and of the code only the low bits are left.
bool wraps(const BlockCase& k, int i) {
  const Place p = k.place(i);
  return k.levels().size() == 8 && k.f.config().format->element.exponent_bits == 2 && !k.integer() &&
         k.magnitude(k.theirs[i]) == 0 && 6 * p.numerator >= 7 * k.levels().back() * p.denominator;
}
bool beyond(const BlockCase& k, int i) {
  const Place p = k.place(i);
  return p.numerator > k.levels().back() * p.denominator;
}
/// A neighbour of the tie that is not the recipe's.
bool other_side_of_tie(const BlockCase& k, int i) {
  const int below = tie_of(k, k.place(i)), theirs = k.magnitude(k.theirs[i]);
  return below >= 0 && (theirs == below || theirs == below + 1) &&
         theirs != k.magnitude(k.here[static_cast<std::size_t>(i)]);
}

bool is_nan(const BlockCase& k, int scale) { return std::isnan(k.scale_value(scale)); }

bool swapped_pairs(const BlockCase& k) {
  for (int i = 0; i < k.n; ++i) {
    if (k.theirs[i] != k.ours[i ^ 1]) return false;
  }
  return !k.theirs_are(k.ours);
}

/// ggml's order, read as pairs: byte j holds elements j and j + half.
bool interleaved_halves(const BlockCase& k) {
  const int half = k.f.config().block / 2;
  for (int i = 0; i < k.n; ++i) {
    if (k.theirs[i] != k.ours[i % 2 * half + i / 2]) return false;
  }
  return !k.theirs_are(k.ours);
}

bool permuted_scale(const BlockCase& k) {
  if (k.same_scale() || !k.theirs_are(k.ours)) return false;
  return std::any_of(k.f.layouts.begin(), k.f.layouts.end(), [&](const std::vector<std::uint8_t>* scales) {
    return (*scales)[k.f.pair->at(k.row, k.block)] == k.our_scale;
  });
}

bool moved_by(const BlockCase& k, int codes) { return k.their_scale - k.our_scale == codes; }
bool right_or_kept(const BlockCase& k) { return k.theirs_are(k.here) || k.theirs_are(k.ours); }

/// The scale of the other candidate of four over six.
bool other_candidate(const BlockCase& k) {
  const QuantizeConfig& c = k.f.config();
  if (k.same_scale() || !k.theirs_are(k.here)) return false;
  if (c.format->selects()) return k.scale_code(k.our_scale) == k.scale_code(k.their_scale);
  if (!c.recipe) {
    if (c.method->kind != search::MethodKind::four_over_six) return false;
    const auto code = [&](sim::ScaleRule rule) {
      return sim::scale_code(c.format->scale, rule, k.amax, k.f.pair->ours->tensor_scale);
    };
    return k.their_scale == code(sim::six_rule) || k.their_scale == code(sim::four_rule);
  }
  if (c.recipe->candidates != sim::Candidates::four_over_six) return false;
  const float v = sim::block_value(*c.recipe, k.f.constants, k.amax);
  return k.their_scale == sim::recipe_scale_code(*c.recipe, *c.format, v) ||
         k.their_scale == sim::recipe_scale_code(*c.recipe, *c.format, v * 1.5f);
}

/// Another column's or row's codes; a block of one code alone tells nothing.
bool shifted(const BlockCase& k) {
  const TensorPair& p = *k.f.pair;
  if (k.n < 4 || std::all_of(k.theirs, k.theirs + k.n, [&](std::uint8_t c) { return c == k.theirs[0]; })) return false;
  const std::int64_t column = k.block * k.f.config().block;
  for (const auto& [rows, columns] : std::array<std::pair<int, int>, 6>{
           {{0, 1}, {0, -1}, {1, 0}, {-1, 0}, {0, k.f.config().block}, {0, -k.f.config().block}}}) {
    const std::int64_t r = k.row + rows;
    if (r < 0 || r >= p.ours->rows) continue;
    int compared = 0;
    bool same = true;
    for (int i = 0; i < k.n && same; ++i) {
      const std::int64_t c = column + i + columns;
      if (c < 0 || c >= p.cols) continue;
      ++compared;
      same = p.ours->codes[static_cast<std::size_t>(r * p.ours->cols + c)] == k.theirs[i];
    }
    if (same && compared + 1 >= k.n) return true;
  }
  return false;
}

bool several(const BlockCase& k) {
  return every_difference(k, [&](int i) {
    if (dropped_zero(k, i) || made_zero(k, i) || wraps(k, i) || beyond(k, i) || other_side_of_tie(k, i)) return true;
    if (k.integer()) return false;
    std::vector<std::uint8_t> codes(k.here.size());
    return std::any_of(std::begin(all_steps), std::end(all_steps), [&](DataStep step) {
      sim::Recipe other = k.f.recipe;
      other.data = step;
      k.codes_at(k.their_scale, other, true, codes.data());
      return codes[static_cast<std::size_t>(i)] == k.theirs[i];
    });
  });
}

struct ClassRow {
  const char* name;
  const char* sentence;
  bool (*holds)(const BlockCase&);
  bool weighed = false;  ///< a rule for elements, put in the order of the evidence; of blocks with the recipe's scale
};

using Case = const BlockCase&;
constexpr ClassRow rows[] = {
    {"nonfinite", "NaN or Inf in the block is handled in another way", [](Case k) { return !k.finite; }},
    {"nan_scale", "the scale is NaN although the block is finite",
     [](Case k) { return is_nan(k, k.our_scale) != is_nan(k, k.their_scale); }},
    {"nibbles_swapped", "codes in reverse within each pair: even columns lie in the high nibble", swapped_pairs},
    {"halves_interleaved", "codes in ggml's order: byte j holds elements j and j + half a block", interleaved_halves},
    {"scales_permuted", "codes agree and the scale is another block's: scales lie in another layout", permuted_scale},
    {"all_scales_up", "every scale is one code higher than the recipe's",
     [](Case k) { return k.f.all_up && moved_by(k, 1) && right_or_kept(k); }},
    {"all_scales_down", "every scale is one code lower than the recipe's",
     [](Case k) { return k.f.all_down && moved_by(k, -1) && right_or_kept(k); }},
    {"zero_block_scale", "a block of zeros has another scale", [](Case k) { return k.amax == 0 && !k.same_scale(); }},
    {"other_candidate", "the scale of the recipe's other candidate, with the codes that belong to it", other_candidate},
    {"zero_scale", "the block's scale underflows to 0 and is handled in another way",
     [](Case k) { return k.amax > 0 && (k.scale_value(k.our_scale) == 0 || k.scale_value(k.their_scale) == 0); }},
    {"scale_up", "the scale is one code higher, with the codes that belong to it",
     [](Case k) { return moved_by(k, 1) && k.theirs_are(k.here); }},
    {"scale_down", "the scale is one code lower, with the codes that belong to it",
     [](Case k) { return moved_by(k, -1) && k.theirs_are(k.here); }},
    {"scale_alone", "the codes are the recipe's and the scale's byte is another",
     [](Case k) { return !k.same_scale() && k.theirs_are(k.ours); }},
    {"scale_unexplained", "the codes are right for their scale, which nothing here explains",
     [](Case k) { return !k.same_scale() && k.theirs_are(k.here); }},
    {"ties_down", "ties between two codes go toward zero", ties_hold<Ties::down>, true},
    {"ties_away", "ties between two codes go away from zero", ties_hold<Ties::away>, true},
    {"ties_to_even", "ties between two codes go to the even one", ties_hold<Ties::to_even>, true},
    {"ties_to_odd", "ties between two codes go to the odd one", ties_hold<Ties::to_odd>, true},
    {"reciprocal", "a multiplication by a reciprocal where the recipe divides", order_holds<Family::reciprocal>, true},
    {"division", "a division where the recipe multiplies by a reciprocal", order_holds<Family::division>, true},
    {"data_order", "another order of operations on the element", order_holds<Family::other>, true},
    {"negative_zero_dropped", "-0 is coded as 0",
     [](Case k) { return k.same_scale() && every_difference(k, [&](int i) { return dropped_zero(k, i); }); }},
    {"negative_zero_made", "0 is coded as -0",
     [](Case k) { return k.same_scale() && every_difference(k, [&](int i) { return made_zero(k, i); }); }},
    {"unclamped", "nothing clamps values from 7 on: they round to 8, and the code wraps to a zero",
     [](Case k) { return k.same_scale() && every_difference(k, [&](int i) { return wraps(k, i); }); }},
    {"clamped_otherwise", "values above the largest element have another code",
     [](Case k) { return k.same_scale() && every_difference(k, [&](int i) { return beyond(k, i); }); }},
    {"ties_mixed", "all differences are at ties, which follow no one rule",
     [](Case k) { return k.same_scale() && every_difference(k, [&](int i) { return other_side_of_tie(k, i); }); }},
    {"shifted", "the codes are those of a neighbouring column, row or block", shifted},
    {"several", "each difference has one of these reasons, but not all the same one", several},
    {"unexplained", "none of these", [](Case) { return true; }},
};

/// A recipe that stands for `exact` in binary32, so that its data step can be varied.
sim::Recipe stand_in(const QuantizeConfig& c) {
  sim::Recipe r{};
  r.name = "exact";
  r.format = c.format->name;
  r.divisor = c.format->element_max();
  r.scale_max = c.scale_max;
  r.tensor = c.scaling == TensorScaling::none ? sim::TensorStep::none : sim::TensorStep::decode;
  r.data = DataStep::rational;  // in real numbers: none of those that are tried
  r.zero_data = sim::ZeroData::zeros;
  r.element = sim::converter_rows::saturating("", c.format->element, "");
  return r;
}

Facts gather(const TensorPair& p) {
  const QuantizeConfig& c = p.ours->config;
  Facts f;
  f.pair = &p;
  f.recipe = c.recipe ? *c.recipe : stand_in(c);
  f.constants = p.ours->constants;
  if (f.recipe.data == DataStep::distance) f.recipe.element = sim::converter_rows::qwantize;  // for steps that have a y
  if (!c.recipe) {
    f.constants.amax = p.ours->amax;
    f.constants.decode = p.ours->tensor_scale;
    f.constants.encode = 1 / p.ours->tensor_scale;
  }
  for (int integer = 0; integer < 2; ++integer) {
    const formats::Format& element = integer ? formats::int4 : c.format->element;
    const sim::Grid grid = sim::make_grid(*c.format, integer != 0);
    for (std::uint32_t code = 0; code <= element.max_code; ++code) {
      f.levels[integer].push_back(!c.recipe && grid.levels > 1 ? grid.level[code]
                                                               : formats::decode_double(element, code));
    }
  }
  const auto agreeing = [&](const std::vector<std::uint8_t>& scales) {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < scales.size(); ++i) count += scales[i] == p.ours->scales[i];
    return count;
  };
  const std::int64_t now = std::max(agreeing(p.scales), static_cast<std::int64_t>(p.scales.size() / 2));
  for (const auto& [name, scales] : p.other_scales) {
    if (agreeing(scales) > now) f.layouts.push_back(&scales);
  }
  std::int64_t up = 0, down = 0, all = 0;
  for (std::size_t i = 0; i < p.scales.size(); ++i) {
    const int ours = p.ours->scales[i], theirs = p.scales[i];
    if (ours == 0 || ours >= static_cast<int>(c.format->scale.max_code)) continue;
    ++all;
    up += theirs == ours + 1;
    down += theirs == ours - 1;
  }
  f.all_up = all > 1 && up == all;
  f.all_down = all > 1 && down == all;
  return f;
}

/// Steps by the blocks that they give the codes of, of equals in their own order.
void order_steps(Facts& f) {
  std::vector<std::int64_t> count(std::size(all_steps), 0);
  for (std::size_t i = 0; i < count.size(); ++i) {
    std::int64_t blocks = 0;
    sim::Recipe other = f.recipe;
    other.data = all_steps[i];
#pragma omp parallel reduction(+ : blocks)
    {
      BlockCase k(f);
      std::vector<std::uint8_t> codes(k.here.size());
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < f.pair->ours->rows; ++row) {
        for (std::int64_t block = 0; block < f.pair->ours->blocks_per_row(); ++block) {
          k.move_to(row, block);
          if (!k.finite || !k.same_scale() || k.amax == 0 || k.integer()) continue;
          k.codes_at(k.their_scale, other, true, codes.data());
          blocks += k.theirs_are(codes);
        }
      }
    }
    count[i] = blocks;
  }
  std::vector<std::size_t> order(count.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return count[a] > count[b]; });
  f.steps.clear();
  for (const std::size_t i : order) f.steps.push_back(all_steps[i]);
}

constexpr std::size_t row_count = std::size(rows);

/// How many blocks each weighed class gives the codes of.
std::vector<std::int64_t> evidence(const Facts& f) {
  std::vector<std::int64_t> count(row_count, 0);
  const std::int64_t height = f.pair->ours->rows, blocks = f.pair->ours->blocks_per_row();
#pragma omp parallel
  {
    std::vector<std::int64_t> own(row_count, 0);
    BlockCase k(f);
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < height; ++row) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        k.move_to(row, block);
        if (!k.finite || !k.same_scale() || k.amax == 0) continue;
        for (std::size_t i = 0; i < row_count; ++i) own[i] += rows[i].weighed && rows[i].holds(k);
      }
    }
#pragma omp critical
    for (std::size_t i = 0; i < row_count; ++i) count[i] += own[i];
  }
  return count;
}

/// The table's order, the weighed classes among themselves by evidence.
std::vector<std::size_t> priorities(const Facts& f) {
  const std::vector<std::int64_t> count = evidence(f);
  std::vector<std::size_t> order(row_count);
  for (std::size_t i = 0; i < row_count; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return rows[a].weighed && rows[b].weighed ? count[a] > count[b] : false;
  });
  return order;
}

std::size_t class_of(const BlockCase& k, const std::vector<std::size_t>& order) {
  for (const std::size_t i : order) {
    if (rows[i].weighed && !k.same_scale()) continue;
    if (rows[i].holds(k)) return i;
  }
  return row_count - 1;
}

std::string scale_example(const BlockCase& k) {
  const QuantizeConfig& c = k.f.config();
  const float a = k.f.pair->ours->amax;
  std::string text = fmt::format("    a = {}, b = {}\n", hex(a), hex(k.amax));
  int right = -1;
  if (c.format->scale.mantissa_bits == 0) {
    int exponent = 0;
    const double significand = 2 * std::frexp(static_cast<double>(k.amax), &exponent);
    text += fmt::format("    b = {} * 2^{} in real numbers\n", significand, exponent - 1);
  } else if (k.finite && k.amax > 0) {
    const bool own = c.scaling == TensorScaling::amax && !c.constants;
    const double top = c.recipe ? c.recipe->divisor : c.format->element_max();
    const double real = own ? static_cast<double>(c.scale_max) * k.amax / a
                            : k.amax / (top * static_cast<double>(k.f.pair->ours->tensor_scale));
    right = static_cast<int>(formats::encode(c.format->scale, real).code);
    text += fmt::format("    {} = {} in real numbers, {}\n",
                        own ? fmt::format("{} b / a", c.scale_max) : fmt::format("b / ({} T)", top), real,
                        place_of_scale(c.format->scale, real));
  }
  return text + "  " + scale_line(*k.f.pair->run, a, k.amax, k.scale_code(k.our_scale), right);
}

/// The midpoint of two elements that is nearest to a real number.
std::string nearest_midpoint(const BlockCase& k, double numerator, double denominator) {
  const QuantizeConfig& c = k.f.config();
  double best = 0;
  std::size_t at = 0;
  const auto level = [&](std::size_t i) { return formats::element_value(*c.format, static_cast<std::uint32_t>(i)); };
  for (std::size_t i = 0; i + 1 < k.levels().size(); ++i) {
    const double away = numerator - (level(i) + level(i + 1)) / 2 * denominator;
    if (i == 0 || std::fabs(away) < std::fabs(best)) {
      best = away;
      at = i;
    }
  }
  const std::string midpoint =
      fmt::format("{} (of {} and {})", (level(at) + level(at + 1)) / 2, level(at), level(at + 1));
  if (best == 0) return "the midpoint " + midpoint + " itself";
  return fmt::format("{:.6g} {} the midpoint {}", std::fabs(best) / denominator, best > 0 ? "above" : "below",
                     midpoint);
}

std::string code_example(const BlockCase& k, int i) {
  const QuantizeConfig& c = k.f.config();
  const float a = k.f.pair->ours->amax;
  const double s = k.scale_value(k.their_scale);
  std::string text = fmt::format("    x = {}, a = {}, s = {}\n", hex(k.x[i]), hex(a), s);
  int right = -1;
  if (s > 0 && !c.format->selects()) {
    const bool own = c.scaling == TensorScaling::amax && !c.constants;
    const double range = (c.recipe ? c.recipe->divisor : c.format->element_max()) * c.scale_max;
    const double numerator = own ? range * k.x[i] : static_cast<double>(k.x[i]);
    const double denominator = own ? s * a : s * static_cast<double>(k.f.pair->ours->tensor_scale);
    right = static_cast<int>(formats::encode(c.format->element, numerator / denominator).code);
    const std::string divisor = own ? fmt::format("(s * a / {})", range)
                                : c.scaling == TensorScaling::none
                                    ? "s"
                                    : fmt::format("(s * {})", k.f.pair->ours->tensor_scale);
    text += fmt::format("    x / {} = {} in real numbers, {}\n", divisor, numerator / denominator,
                        nearest_midpoint(k, std::fabs(numerator), denominator));
  }
  return text + "  " +
         code_line(*k.f.pair->run, a, static_cast<float>(s), k.x[i], k.here[static_cast<std::size_t>(i)], right);
}

/// What the order of operations of that class gives for an element.
std::string order_example(const BlockCase& k, Family wanted, int i) {
  sim::Recipe other = k.f.recipe;
  other.data = step_of(k, wanted).value();
  QuantizeConfig c = k.f.config();
  c.recipe = &other;
  c.constants = k.f.constants;
  const auto s = static_cast<float>(k.scale_value(k.their_scale));
  return "\n    theirs as " + describe(data_trace(c, k.f.pair->ours->amax, s, k.x[i]));
}

/// Coordinates, both sides, and the numbers that decide.
std::string example(const BlockCase& k, const ClassRow& row) {
  const QuantizeConfig& c = k.f.config();
  const std::string& name = k.f.pair->run->name;
  const std::string where = fmt::format("row {}, block {}", k.row, k.block);
  if (!k.same_scale()) {
    const std::string sides = fmt::format("{}: scale 0x{:02x} ({}), {} 0x{:02x} ({})\n", where, k.their_scale,
                                          k.scale_value(k.their_scale), name, k.our_scale, k.scale_value(k.our_scale));
    return sides + scale_example(k);
  }
  int i = 0;
  while (i + 1 < k.n && k.theirs[i] == k.ours[i]) ++i;
  const auto value = [&](std::uint8_t code) { return formats::element_value(*c.format, code, k.integer()); };
  std::string text = fmt::format("{}, column {}: code 0x{:x} ({}), {} 0x{:x} ({})\n", where, k.block * c.block + i,
                                 k.theirs[i], value(k.theirs[i]), name, k.ours[i], value(k.ours[i]));
  text += code_example(k, i);
  if (row.holds == order_holds<Family::reciprocal>) return text + order_example(k, Family::reciprocal, i);
  if (row.holds == order_holds<Family::division>) return text + order_example(k, Family::division, i);
  if (row.holds == order_holds<Family::other>) return text + order_example(k, Family::other, i);
  return text;
}

}  // namespace

int TensorPair::compared(std::int64_t block) const {
  const int width = ours->config.block;
  return static_cast<int>(std::min<std::int64_t>(width, cols - block * width));
}

bool TensorPair::agrees(std::int64_t row, std::int64_t block) const {
  const std::uint8_t* const a = our_codes(row, block);
  return ours->scales[at(row, block)] == scales[at(row, block)] &&
         std::equal(a, a + compared(block), their_codes(row, block));
}

std::vector<ClassWords> difference_classes() {
  std::vector<ClassWords> words;
  for (const ClassRow& row : rows) words.push_back({row.name, row.sentence});
  return words;
}

std::vector<ClassCount> classify(const TensorPair& pair) {
  const std::int64_t height = pair.ours->rows, blocks = pair.ours->blocks_per_row();
  Facts facts = gather(pair);
  order_steps(facts);
  const std::vector<std::size_t> order = priorities(facts);
  std::vector<std::uint8_t> found(static_cast<std::size_t>(height * blocks), 0xFF);
#pragma omp parallel
  {
    BlockCase k(facts);
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t row = 0; row < height; ++row) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        if (pair.agrees(row, block)) continue;
        k.move_to(row, block);
        found[pair.at(row, block)] = static_cast<std::uint8_t>(class_of(k, order));
      }
    }
  }
  std::vector<ClassCount> counts(row_count);
  BlockCase k(facts);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == 0xFF) continue;
    ClassCount& count = counts[found[i]];
    if (count.blocks++ > 0) continue;
    k.move_to(static_cast<std::int64_t>(i) / blocks, static_cast<std::int64_t>(i) % blocks);
    count.name = rows[found[i]].name;
    count.sentence = rows[found[i]].sentence;
    count.example = example(k, rows[found[i]]);
  }
  std::erase_if(counts, [](const ClassCount& c) { return c.blocks == 0; });
  return counts;
}

}  // namespace fp4scope::analysis
