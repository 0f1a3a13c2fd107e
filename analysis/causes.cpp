#include "analysis/causes.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "search/real_scale.hpp"

namespace fp4scope::analysis {

const char* const cause_names[cause_count] = {"tensor scale", "block scale", "underflow", "overflow",
                                              "saturation",   "zero",        "grid"};

namespace {

using search::MethodKind;
using search::RealSpace;

constexpr int variants = 16;
constexpr unsigned tensor_ideal = 1, block_ideal = 2, underflow_ideal = 4, overflow_ideal = 8;

enum ElementClass { saturated, zero, between };
using ClassSums = std::array<double, 3>;
using VariantSums = std::array<ClassSums, variants>;

/// A scale's format without ends: any quotient of binary32 numbers is between 2^-300 and 2^300.
formats::Format endless(const formats::Format& scale) {
  const int bits = 11 + scale.mantissa_bits;
  return {"endless", bits,  11,   scale.mantissa_bits,     700,
          false,     false, true, formats::Specials::none, (std::uint32_t{1} << bits) - 1,
          ""};
}

/// A scale as a ratio, so that quotients and levels are rounded once: a quotient stays on its tie, amax stays the
/// largest level of its real scale, and equal errors at two scales stay equal.
struct Step {
  double over = 0, under = 1;

  double value() const { return over / under; }
  bool operator==(const Step&) const = default;
};

/// What all blocks of a tensor share.
struct Chain {
  QuantizeConfig config;
  Step tensor_scale[2];  ///< as it is, ideal
  formats::Format endless;
  double least_normal, largest;         ///< block scales
  std::vector<RealSpace> spaces;        ///< of elements of at most 4 bits
  std::vector<RealSpace> ideal_spaces;  ///< the same in units of 1 / under of the ideal tensor scale

  const formats::Format& scale() const { return config.format->scale; }
  int subnormals() const { return scale().has_zero ? 1 << scale().mantissa_bits : 0; }  ///< their codes, 0 among them
  const Step& tensor(unsigned ideal) const { return tensor_scale[(ideal & tensor_ideal) != 0]; }
};

bool has_chain(const QuantizeConfig& c) {
  if (c.recipe || c.rounding != formats::Rounding::nearest_even) return false;
  switch (c.method->kind) {
    case MethodKind::rule:
    case MethodKind::four_over_six:
    case MethodKind::select_element:
    case MethodKind::sse:
    case MethodKind::exhaustive: return true;
    default: return false;
  }
}

Chain make_chain(const Quantized& q) {
  const QuantizeConfig& c = q.config;
  const formats::Format& scale = c.format->scale;
  const Step stored = {q.tensor_scale, 1};
  Chain chain = {c,
                 {stored, stored},
                 endless(scale),
                 formats::exp2_exact(scale.min_exponent()),
                 formats::decode_double(scale, scale.max_code),
                 search::real_spaces(*c.format),
                 {}};
  if (c.scaling == TensorScaling::amax && q.amax > 0) {
    const Step ideal = {q.amax, c.format->element_max() * c.scale_max};
    if (ideal.value() != stored.value()) chain.tensor_scale[1] = ideal;
  }
  chain.ideal_spaces = chain.spaces;
  for (RealSpace& space : chain.ideal_spaces) space.factor *= chain.tensor_scale[1].under;
  return chain;
}

/// One block (tile): its values one after the other, padding left out.
struct Values {
  const float* x;
  int n;
  float amax;
};

/// A scale and the element type.
struct Choice {
  Step step;
  int space = 0;
};

/// A grid's levels at a step, in the units of factor * |x|; a step of 0 has the level 0 alone.
struct Levels {
  sim::Thresholds thresholds;
  double value[8] = {};
  double top = __builtin_inf();

  Levels(const sim::Grid& grid, const Step& step) {
    for (int k = 0; k < 7; ++k) {
      thresholds.at[k] = step.over > 0 ? grid.midpoint[k] * step.over / step.under : __builtin_inf();
    }
    for (int k = 0; k < grid.levels; ++k) value[k] = grid.level[k] * step.over / step.under;
    if (step.over > 0) top = value[grid.levels - 1];
  }
};

/// The step of a rule.
Step rule_step(const Chain& c, const sim::ScaleRule& rule, float amax, unsigned ideal) {
  const Step& t = c.tensor(ideal);
  const Step real = {rule.numerator * amax, rule.divisor};
  const double quotient = real.over * t.under / (real.under * t.over);
  const formats::Encoded e = formats::encode(c.scale(), quotient, rule.rounding);
  const double value = formats::decode_double(c.scale(), e.code);
  const Step stored = {t.over * value, t.under};
  const bool over = (e.status & formats::overflow) != 0;
  const bool under =
      c.scale().has_zero ? static_cast<int>(e.code) < c.subnormals() : (e.status & formats::underflow) != 0;
  const bool stands = (over && !(ideal & overflow_ideal)) || (under && !(ideal & underflow_ideal));
  if (stands || value == quotient) return stored;
  if (ideal & block_ideal) return real;  // the same for any tensor scale
  if (!over && !(ideal & underflow_ideal)) return stored;
  const std::uint32_t code = formats::encode(c.endless, quotient, rule.rounding).code;
  return {t.over * formats::decode_double(c.endless, code), t.under};
}

/// The error of a block by --select.
double error_of(const RealSpace& space, const Values& block, const Step& step, search::Select select) {
  const Levels levels(space.grid, step);
  double sum = 0, largest = 0;
  for (int i = 0; i < block.n; ++i) {
    const double magnitude = space.factor * sim::magnitude(block.x[i]);
    const double error = std::fabs(magnitude - levels.value[sim::nearest_index(levels.thresholds, magnitude)]);
    sum += select == search::Select::mse ? error * error : error;
    largest = std::max(largest, error);
  }
  return select == search::Select::absmax ? largest : sum;
}

/// What distinguishes the choices of two variants: if it is the same for both, so are they. The steps of a rule, or
/// what a search notices.
struct Key {
  Step first, second;
  unsigned noticed = 0;
  bool operator==(const Key&) const = default;
};

search::ScaleWindow window_of(const Chain& c, const Values& block) {
  search::ScaleWindow all = search::scale_window(c.spaces[0], block.amax, block.n);
  for (const RealSpace& space : c.spaces) {
    const search::ScaleWindow w = search::scale_window(space, block.amax, block.n);
    all = {std::min(all.low, w.low), std::max(all.high, w.high), std::max(all.reach, w.reach)};
  }
  return all;
}

/// The ideal steps that a search notices: an end of the format beyond all scales of interest can't be noticed, and real
/// numbers without ends don't depend on the tensor scale.
unsigned noticed(const Chain& c, const search::ScaleWindow& window, unsigned ideal) {
  const double t = c.tensor(ideal).value();
  const bool far_from_least = window.low >= t * c.least_normal, far_from_largest = window.high <= t * c.largest;
  const unsigned free = (far_from_least ? underflow_ideal : 0) | (far_from_largest ? overflow_ideal : 0);
  constexpr unsigned real = block_ideal | underflow_ideal | overflow_ideal;
  if (((ideal | free) & real) == real) return real;
  return ideal & ~free & ~(c.tensor_scale[0] == c.tensor_scale[1] ? tensor_ideal : 0);
}

/// The best of scales offered one after the other, of equals the first: as codes are compared, with x and steps times
/// the tensor scale's `under`, so that equal values at two scales are equal here.
struct BestChoice {
  const std::vector<RealSpace>& spaces;
  const Values& block;
  Step tensor;
  double error = __builtin_inf();
  Choice choice = {};

  void offer(double value) {
    const Step step = {tensor.over * value, tensor.under};
    for (int k = 0; k < static_cast<int>(spaces.size()); ++k) {
      const double at = search::squared_error(spaces[static_cast<std::size_t>(k)], block.x, block.n, step.over);
      if (!(at < error)) continue;
      error = at;
      choice = {step, k};
    }
  }
};

/// The best scale over what is left of the format: subnormal codes, normal ones, codes beyond.
Choice search_again(const Chain& c, const Values& block, const search::ScaleWindow& window, unsigned ideal) {
  const double t = c.tensor(ideal).value();
  const bool below = (ideal & underflow_ideal) != 0, beyond = (ideal & overflow_ideal) != 0;
  BestChoice best = {(ideal & tensor_ideal) != 0 ? c.ideal_spaces : c.spaces, block, c.tensor(ideal)};
  for (int code = 1; !below && code < c.subnormals(); ++code) {
    best.offer(formats::decode_double(c.scale(), static_cast<std::uint32_t>(code)));
  }
  if (ideal & block_ideal) {
    const search::RealScale real = search::real_scale(c.spaces, block.x, block.n, below ? 0 : t * c.least_normal,
                                                      beyond ? __builtin_inf() : t * c.largest);
    if (!search::clearly_less(real.sse, best.error, block.x, block.n)) return best.choice;
    return {{real.scale, 1}, real.space};
  }

  // Codes below 2 * least_normal may have no half among the codes, and are looked at wherever the window lies.
  const double low = window.low / t, high = window.high / t;
  const double from = std::max(beyond ? low : std::min(low, c.largest / window.reach), below ? 0 : c.least_normal);
  const double to = std::min(below ? high : std::max(high, 2 * c.least_normal), beyond ? high : c.largest);
  const std::uint32_t first = formats::encode(c.endless, from, formats::Rounding::toward_zero).code;
  const std::uint32_t last = formats::encode(c.endless, to, formats::Rounding::up).code;
  for (std::uint32_t code = first; code <= last; ++code) best.offer(formats::decode_double(c.endless, code));
  return best.choice;
}

/// `window` is for searches.
Key key_of(const Chain& c, const Values& block, const search::ScaleWindow& window, unsigned ideal) {
  switch (c.config.method->kind) {
    case MethodKind::four_over_six:
      return {rule_step(c, sim::six_rule, block.amax, ideal), rule_step(c, sim::four_rule, block.amax, ideal)};
    case MethodKind::rule:
    case MethodKind::select_element: return {rule_step(c, c.config.method->rule, block.amax, ideal), {}};
    default: return {{}, {}, noticed(c, window, ideal)};
  }
}

Choice choose(const Chain& c, const Values& block, const search::ScaleWindow& window, const Key& key) {
  const search::Select select = c.config.select;
  switch (c.config.method->kind) {
    case MethodKind::rule: return {key.first, 0};
    case MethodKind::four_over_six: {
      const double six = error_of(c.spaces[0], block, key.first, select);
      return {error_of(c.spaces[0], block, key.second, select) < six ? key.second : key.first, 0};
    }
    case MethodKind::select_element: {
      const double floating = error_of(c.spaces[0], block, key.first, select);
      return {key.first, error_of(c.spaces[1], block, key.first, select) < floating};
    }
    default: return search_again(c, block, window, key.noticed);
  }
}

/// nearest_sums for elements of more than 4 bits.
ClassSums wide_sums(const Chain& c, const Step& s, const float* x, int n) {
  ClassSums sums = {};
  const formats::Format& element = c.config.format->element;
  const double step = s.value(), top = c.config.format->element_max() * s.over / s.under;
  for (int i = 0; i < n; ++i) {
    const std::uint32_t code = step > 0 ? formats::encode(element, x[i] / step).code : 0;
    const double value = formats::decode_double(element, code) * s.over / s.under, error = x[i] - value;
    sums[step > 0 && sim::magnitude(x[i]) > top ? saturated : value == 0 ? zero : between] += error * error;
  }
  return sums;
}

/// The squared errors of x [n], rounded to nearest at a scale.
ClassSums nearest_sums(const Chain& c, const Choice& choice, const float* x, int n) {
  if (c.config.format->element.bits > 4) return wide_sums(c, choice.step, x, n);
  ClassSums sums = {};
  const RealSpace& space = c.spaces[static_cast<std::size_t>(choice.space)];
  const Levels levels(space.grid, choice.step);
  for (int i = 0; i < n; ++i) {
    const double magnitude = space.factor * sim::magnitude(x[i]);
    const int index = sim::nearest_index(levels.thresholds, magnitude);
    const double error = (magnitude - levels.value[index]) / space.factor;
    sums[magnitude > levels.top ? saturated : index == 0 ? zero : between] += error * error;
  }
  return sums;
}

/// The squared errors of some elements of one block as they were stored.
ClassSums stored_sums(const Quantized& q, const float* x, std::int64_t row, std::int64_t b, int n) {
  ClassSums sums = {};
  const formats::BlockFormat& format = *q.config.format;
  const std::uint8_t* const codes = q.codes.data() + row * q.cols + b * q.config.block;
  const double step = q.step(row, b), top = format.element_max() * step;
  const bool integer = q.integer(row, b);
  for (int i = 0; i < n; ++i) {
    const double value = sim::dequantize(format, codes[i], step, integer), error = x[i] - value;
    sums[step > 0 && sim::magnitude(x[i]) > top ? saturated : value == 0 ? zero : between] += error * error;
  }
  return sums;
}

/// Per-thread room: a tile's values, and its rows' sums under each variant.
struct Room {
  std::vector<float> x;
  std::vector<VariantSums> sums;
};

/// The sums of every row of one tile, under every variant, to room.sums.
void tile_sums(const Chain& c, bool chain, const Matrix& m, const Quantized& q, std::int64_t first, std::int64_t rows,
               std::int64_t b, Room& room) {
  const std::int64_t col = b * q.config.block;
  const auto width = static_cast<int>(std::min<std::int64_t>(q.config.block, m.cols - col));
  room.x.resize(static_cast<std::size_t>(rows * width));
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(m.row(first + r) + col, width, room.x.data() + r * width);
  const auto each_row = [&](const auto& set) {
    for (std::int64_t r = 0; r < rows; ++r) set(r, room.sums[static_cast<std::size_t>(r)], room.x.data() + r * width);
  };
  each_row(
      [&](std::int64_t r, VariantSums& sums, const float* x) { sums.fill(stored_sums(q, x, first + r, b, width)); });
  const auto n = static_cast<int>(room.x.size());
  const Values block = {room.x.data(), n, sim::amax(room.x.data(), n)};
  if (!chain || block.amax == 0) return;

  const bool searches = c.config.method->kind == MethodKind::sse || c.config.method->kind == MethodKind::exhaustive;
  const search::ScaleWindow window = searches ? window_of(c, block) : search::ScaleWindow{};
  std::array<Key, variants> keys = {key_of(c, block, window, 0)};
  for (std::size_t ideal = 1; ideal < variants; ++ideal) {
    keys[ideal] = key_of(c, block, window, static_cast<unsigned>(ideal));
    const auto same =
        static_cast<std::size_t>(std::find(keys.begin(), keys.begin() + ideal, keys[ideal]) - keys.begin());
    if (same < ideal) {
      each_row([&](std::int64_t, VariantSums& sums, const float*) { sums[ideal] = sums[same]; });
      continue;
    }
    const Choice choice = choose(c, block, window, keys[ideal]);
    each_row([&](std::int64_t, VariantSums& sums, const float* x) { sums[ideal] = nearest_sums(c, choice, x, width); });
  }
}

void add(VariantSums& total, const VariantSums& part) {
  for (std::size_t v = 0; v < variants; ++v) {
    for (std::size_t k = 0; k < part[v].size(); ++k) total[v][k] += part[v][k];
  }
}

}  // namespace

void CauseSums::add(const Matrix& original, const Quantized& q) {
  chain_ = has_chain(q.config);
  const Chain chain = make_chain(q);
  const std::int64_t tile_rows = q.config.tile_rows(), tiles = (original.rows + tile_rows - 1) / tile_rows;
  std::vector<VariantSums> rows(static_cast<std::size_t>(original.rows), VariantSums{});
#pragma omp parallel
  {
    Room room;
    room.sums.resize(static_cast<std::size_t>(tile_rows));
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t first = tile * tile_rows, count = std::min(tile_rows, original.rows - first);
      for (std::int64_t b = 0; b < q.blocks_per_row(); ++b) {
        tile_sums(chain, chain_, original, q, first, count, b, room);
        for (std::int64_t r = 0; r < count; ++r) {
          analysis::add(rows[static_cast<std::size_t>(first + r)], room.sums[static_cast<std::size_t>(r)]);
        }
      }
    }
  }
  for (const VariantSums& row : rows) analysis::add(sums_, row);
}

Causes CauseSums::causes() const {
  Causes c;
  c.chain = chain_;
  for (std::size_t set = 0; set < c.remaining.size(); ++set) {
    const ClassSums& sums = sums_[set % variants];
    for (std::size_t k = 0; k < sums.size(); ++k) c.remaining[set] += (set / variants >> k & 1) != 0 ? 0 : sums[k];
  }
  return c;
}

double Causes::alone(Cause c) const { return remaining[0] - remaining[std::size_t{1} << static_cast<int>(c)]; }

std::array<double, cause_count> Causes::in_order() const {
  std::array<double, cause_count> out;
  std::size_t before = 0;
  for (int i = 0; i < cause_count; ++i) {
    const std::size_t after = before | std::size_t{1} << i;
    out[static_cast<std::size_t>(i)] = remaining[before] - remaining[after];
    before = after;
  }
  return out;
}

std::array<double, cause_count> Causes::shapley() const {
  constexpr double orders[cause_count] = {720, 120, 48, 36, 48, 120, 720};  // |S|! (6 - |S|)! of the 7! = 5040
  std::array<double, cause_count> out;
  for (int i = 0; i < cause_count; ++i) {
    double by_size[cause_count] = {}, sum = 0;
    for (std::size_t set = 0; set < remaining.size(); ++set) {
      const std::size_t with = set | std::size_t{1} << i;
      if (with != set) by_size[std::popcount(set)] += remaining[set] - remaining[with];
    }
    for (int size = 0; size < cause_count; ++size) sum += orders[size] * by_size[size];
    out[static_cast<std::size_t>(i)] = sum / 5040;
  }
  return out;
}

Causes causes_of(const Matrix& original, const Quantized& q) {
  CauseSums sums;
  sums.add(original, q);
  return sums.causes();
}

}  // namespace fp4scope::analysis
