#include "analysis/explain.hpp"

#include <fmt/format.h>

#include <cmath>

#include "analysis/names.hpp"
#include "analysis/recipe_trace.hpp"

namespace fp4scope::analysis {

std::string hex(float x) { return fmt::format("{} (0x{:08x})", x, __builtin_bit_cast(std::uint32_t, x)); }

std::string place_of_scale(const formats::Format& scale, double v) {
  const auto below = formats::encode(scale, v, formats::Rounding::toward_zero).code;
  const double low = formats::decode_double(scale, below);
  if (v == low) return fmt::format("0x{:02x} itself", below);
  if (below >= scale.max_code) return "beyond the largest";
  const double high = formats::decode_double(scale, below + 1);
  const std::string between = fmt::format("between 0x{:02x} ({}) and 0x{:02x} ({})", below, low, below + 1, high);
  return v == (low + high) / 2 ? "halfway " + between : between;
}

namespace {

/// The rounding that alone makes the difference: the steps that, left unrounded, give the outcome `right`.
template <class Outcome>
std::string deciding_rounding(const Trace& trace, int right, const Outcome& outcome) {
  std::vector<std::string> deciding;
  for (std::size_t i = 0; i < trace.steps.size(); ++i) {
    if (outcome(trace.evaluate(static_cast<int>(i))) == right) deciding.push_back("'" + trace.steps[i].text + "'");
  }
  if (deciding.empty()) return "decided by several roundings together";
  return (deciding.size() == 1 ? "decided by one rounding: " : "decided by any one of these roundings: ") +
         join(deciding);
}

int nearest_scale(const QuantizeConfig& c, double v) {
  return static_cast<int>(formats::encode(c.format->scale, v).code);
}

bool same(double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); }

/// Whether the operations alone give what the run computes: rules for zero and tiny tensors are none.
bool follows(const Trace& trace, const QuantizeConfig& c, float a, float b) {
  if (trace.steps.empty()) return true;
  if (!c.recipe) {
    return same(trace.evaluate().back(), sim::tensor_scale(a, c.format->element_max(), c.scale_max));
  }
  const sim::RecipeTensor t = c.scaling == TensorScaling::none ? sim::RecipeTensor{}
                              : c.constants                    ? *c.constants
                                                               : sim::recipe_tensor(*c.recipe, a, c.scale_max);
  return same(trace.evaluate().back(), sim::block_value(*c.recipe, t, b));
}

}  // namespace

std::string scale_line(const RecipeRun& run, float a, float b, int code, int right) {
  const QuantizeConfig& c = run.config;
  const double s = formats::decode_double(c.format->scale, static_cast<std::uint32_t>(code));
  std::string text = fmt::format("  {:<24} scale 0x{:02x} ({})", run.name, code, s);
  if (b == 0) return text + ": what it gives a block of zeros";
  if (c.recipe && c.recipe->tensor == sim::TensorStep::rational) return text + ": decided in real numbers";
  if (!c.recipe && c.scaling != TensorScaling::amax) {
    return text + fmt::format(": b = {} and T = {} in real numbers", b, c.scaling_value);
  }
  const Trace trace = scale_trace(c, a, b);
  if (!follows(trace, c, a, b)) return text + ": its rule for tensors that are zero or tiny";
  const bool alone = c.scaling == TensorScaling::none && right >= 0;  // the other one has a tensor scale
  text += (alone ? ": no tensor scale, " : ": ") + describe(trace);
  if (code == right || trace.steps.empty() || alone) return text;
  if (!c.recipe) {
    return text + "\n    " + deciding_rounding(trace, right, [&](const std::vector<double>& v) {
             return nearest_scale(c, static_cast<double>(b) / (c.format->element_max() * v.back()));
           });
  }
  const bool by_rule = c.recipe->cast != sim::ScaleCast::e4m3 && c.recipe->cast != sim::ScaleCast::e4m3_nan;
  if (by_rule) return text + ", then its own rounding to a scale";
  const double v = trace.evaluate().back();
  if (nearest_scale(c, v) != code) return text + ", then its rule for small or zero scales";
  if (right < 0) return text;
  return text + "\n    " + deciding_rounding(trace, right, [&](const std::vector<double>& values) {
           return nearest_scale(c, values.back());
         });
}

namespace {

/// 448 b / a in real numbers, or b for a format without a tensor scale.
double real_scale(const QuantizeConfig& c, float a, float b) {
  if (c.scaling == TensorScaling::none) return b / c.format->element_max();
  return static_cast<double>(c.scale_max) * b / a;
}

/// The element's boundary next to a value.
std::string place_of_element(const formats::BlockFormat& format, double magnitude) {
  const sim::Grid grid = sim::make_grid(format.element);
  for (int k = 0; k + 1 < grid.levels; ++k) {
    if (magnitude > grid.level[k + 1]) continue;
    const bool tie = magnitude == grid.midpoint[k];
    return fmt::format("{}between {} and {}", tie ? "halfway " : "", grid.level[k], grid.level[k + 1]);
  }
  return "beyond the largest";
}

}  // namespace

std::string explain_scale(const RecipeRun& one, const RecipeRun& other, float a, float b, int code, int other_code) {
  std::string text = fmt::format("  a = {}, b = {}\n", hex(a), hex(b));
  int right = -1;
  if (one.config.scaling == TensorScaling::amax && a > 0) {
    const double real = real_scale(one.config, a, b);
    right = nearest_scale(one.config, real);
    text += fmt::format("  {} b / a = {} in real numbers, {}\n", one.config.scale_max, real,
                        place_of_scale(one.config.format->scale, real));
  }
  return text + scale_line(one, a, b, code, right) + "\n" + scale_line(other, a, b, other_code, right);
}

std::string code_line(const RecipeRun& run, float a, float s, float x, int code, int right) {
  const QuantizeConfig& c = run.config;
  std::string text = fmt::format("  {:<24} code 0x{:x} ({})", run.name, code,
                                 formats::element_value(*c.format, static_cast<std::uint32_t>(code)));
  if (c.recipe && c.recipe->data == sim::DataStep::rational) return text + ": decided in real numbers";
  if (c.recipe && c.recipe->data == sim::DataStep::distance) {
    return text + ": the first of the least |q * s - x|, so a tie goes toward zero and -0 is never coded";
  }
  const Trace trace = data_trace(c, a, s, x);
  text += !trace.steps.empty()                ? ": " + describe(trace)
          : c.scaling == TensorScaling::value ? fmt::format(": |x| against midpoint * s * T, T = {}", c.scaling_value)
                                              : ": |x| against midpoint * s";
  if (code == right || right < 0 || trace.steps.empty()) return text;
  const auto magnitude_code = [&](double y) {
    return static_cast<int>(formats::encode(c.format->element, std::fabs(y)).code);
  };
  const int right_magnitude = right & 7;
  if (!c.recipe) {
    return text + "\n    " + deciding_rounding(trace, right_magnitude, [&](const std::vector<double>& v) {
             return magnitude_code(static_cast<double>(x) / (v.back() * s));
           });
  }
  const double y = trace.evaluate().back();
  if (magnitude_code(y) == right_magnitude) return text + ", then its own rule for ties, signs or the largest element";
  return text + "\n    " + deciding_rounding(trace, right_magnitude, [&](const std::vector<double>& v) {
           return magnitude_code(v.back());
         });
}

std::string explain_code(const RecipeRun& one, const RecipeRun& other, float a, float s, float x, int code,
                         int other_code) {
  std::string text = fmt::format("  a = {}, s = {}, x = {}\n", hex(a), s, hex(x));
  const QuantizeConfig& c = one.config;
  int right = -1;
  if (s > 0) {
    const double k = c.format->element_max() * c.scale_max;
    const double real =
        c.scaling == TensorScaling::amax ? k * x / (static_cast<double>(a) * s) : x / static_cast<double>(s);
    right = static_cast<int>(formats::encode(c.format->element, real).code);
    text += fmt::format("  x / (s * {}) = {} in real numbers, {}\n",
                        c.scaling == TensorScaling::amax ? "a / " + fmt::format("{}", k) : "1", real,
                        place_of_element(*c.format, std::fabs(real)));
  } else {
    text += std::isnan(s) ? "  the scale is NaN\n" : "  the scale is 0\n";
  }
  const bool alike = one.config.scaling == other.config.scaling;  // else their scales mean different steps
  return text + code_line(one, a, s, x, code, right) + "\n" + code_line(other, a, s, x, other_code, alike ? right : -1);
}

}  // namespace fp4scope::analysis
