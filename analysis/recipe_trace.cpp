#include "analysis/recipe_trace.hpp"

#include <fmt/format.h>

namespace fp4scope::analysis {

namespace {

using sim::BlockStep;
using sim::DataStep;
using sim::TensorStep;

/// Builds the list; every method returns the number of the new step.
class Builder {
 public:
  int operand(double value) {
    trace_.operands.push_back(value);
    return ~static_cast<int>(trace_.operands.size() - 1);
  }
  int step(const std::string& name, const std::string& text, int left, char operation, int right,
           bool to_bf16 = false) {
    trace_.steps.push_back({text, name, operation, left, right, to_bf16});
    return static_cast<int>(trace_.steps.size()) - 1;
  }
  Trace take() { return std::move(trace_); }

 private:
  Trace trace_;
};

/// The numbers of S and D; D is taken only where a later step needs it.
struct Constants {
  int encode, decode;
};

Constants add_constants(Builder& b, const QuantizeConfig& c, int a, bool needs_encode, bool needs_decode) {
  const sim::Recipe& r = *c.recipe;
  const int one = b.operand(1), k = b.operand(r.divisor * c.scale_max);
  const std::string range = fmt::format("{}", r.divisor * c.scale_max), q = fmt::format("{}", r.divisor);
  if (c.scaling == TensorScaling::none || r.tensor == TensorStep::none) return {one, one};
  Constants out = {one, one};
  if (r.tensor == TensorStep::decode_gpu) {
    out.decode = b.step("D", "a * fl(1/" + range + ")", a, '*', b.step("", "fl(1/" + range + ")", one, '/', k));
    if (needs_encode) out.encode = b.step("S", "1 / D", one, '/', out.decode);
    return out;
  }
  if (r.tensor == TensorStep::decode) {
    out.decode = b.step("D", "a / " + range, a, '/', k);
    if (needs_encode) out.encode = b.step("S", "1 / D", one, '/', out.decode);
    return out;
  }
  const bool bf16 = (r.bf16 & sim::in_bf16_tensor) != 0;
  if (r.tensor == TensorStep::encode) {
    out.encode = b.step("S", range + " / a", k, '/', a, bf16);
  } else if (r.tensor == TensorStep::encode_twice) {
    out.encode = b.step("S", range + " * (1 / a)", k, '*', b.step("", "1 / a", one, '/', a));
  } else if (r.tensor == TensorStep::encode_nested_gpu) {
    const int sixth = b.step("", "fl(1/" + q + ")", one, '/', b.operand(r.divisor));
    const int inverse = b.step("", "1 / g", one, '/', b.step("g", "a * fl(1/" + q + ")", a, '*', sixth));
    out.encode = b.step("S", fmt::format("{} * (1 / g)", c.scale_max), b.operand(c.scale_max), '*', inverse);
  } else {
    const int g = b.step("g", "a / " + q, a, '/', b.operand(r.divisor));
    out.encode = b.step("S", fmt::format("{} / g", c.scale_max), b.operand(c.scale_max), '/', g);
  }
  if (needs_decode) out.decode = b.step("D", "1 / S", one, '/', out.encode);
  return out;
}

void add_block_steps(Builder& out, const QuantizeConfig& c, int a, int b, bool needs_decode) {
  const sim::Recipe& r = *c.recipe;
  const std::string q = fmt::format("{}", r.divisor), m = fmt::format("{}", c.scale_max);
  const bool needs_encode = r.value == BlockStep::times_scaled_fl_q || r.value == BlockStep::sb_times_fl_q ||
                            r.value == BlockStep::over_q_times_s || r.value == BlockStep::s_times_fl_q;
  const bool own = r.value == BlockStep::over_q_m_over_aq;
  const Constants t = own ? Constants{} : add_constants(out, c, a, needs_encode, needs_decode);
  const int divisor = out.operand(r.divisor), one = out.operand(1);
  const bool bf16 = (r.bf16 & sim::in_bf16_block) != 0;
  const auto over_q = [&] { return out.step("", "b / " + q, b, '/', divisor, bf16); };
  const auto fl_q = [&] { return out.step("", "fl(1/" + q + ")", one, '/', divisor); };
  switch (r.value) {
    case BlockStep::amax: out.step("v", "b", b, '*', one); break;
    case BlockStep::over_q: out.step("v", "b / " + q, b, '/', divisor, bf16); break;
    case BlockStep::times_fl_q: out.step("v", "b * fl(1/" + q + ")", b, '*', fl_q()); break;
    case BlockStep::times_scaled_fl_q: {
      const int factor = out.step("", "S * fl(1/" + q + ")", t.encode, '*', fl_q());
      out.step("v", "b * (S * fl(1/" + q + "))", b, '*', factor);
      break;
    }
    case BlockStep::over_q_times_s: out.step("v", "(b / " + q + ") * S", over_q(), '*', t.encode); break;
    case BlockStep::s_times_fl_q:
      out.step("v", "S * (b * fl(1/" + q + "))", t.encode, '*', out.step("", "b * fl(1/" + q + ")", b, '*', fl_q()));
      break;
    case BlockStep::sb_times_fl_q:
      out.step("v", "(b * S) * fl(1/" + q + ")", out.step("", "b * S", b, '*', t.encode), '*', fl_q());
      break;
    case BlockStep::over_q_over_d: out.step("v", "(b / " + q + ") / D", over_q(), '/', t.decode); break;
    case BlockStep::over_qd:
      out.step("v", "b / (" + q + " * D)", b, '/', out.step("", q + " * D", divisor, '*', t.decode));
      break;
    case BlockStep::over_qd_hopper:
      out.step("v", "b /~ (" + q + " * D)", b, '~', out.step("", q + " * D", divisor, '*', t.decode));
      break;
    case BlockStep::over_q_m_over_aq: {
      const int scaled = out.step("", "(b / " + q + ") * " + m, over_q(), '*', out.operand(c.scale_max));
      out.step("v", "((b / " + q + ") * " + m + ") / (a / " + q + ")", scaled, '/',
               out.step("", "a / " + q, a, '/', divisor));
      break;
    }
    case BlockStep::rational: break;
  }
}

}  // namespace

std::vector<double> Trace::evaluate(int unrounded) const {
  std::vector<double> out;
  const auto value = [&](int n) {
    return n < 0 ? operands[static_cast<std::size_t>(~n)] : out[static_cast<std::size_t>(n)];
  };
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double left = value(steps[i].left), right = value(steps[i].right);
    // Of binary32 operands the binary64 product is exact and the quotient rounds to binary32 as the real one does
    // (53 >= 2 * 24 + 2, Figueroa 1995), so rounding it once more gives the IEEE operation.
    const double wide = steps[i].operation == '*' ? left * right : left / right;
    if (static_cast<int>(i) == unrounded) out.push_back(wide);
    else if (steps[i].operation == 'r') out.push_back(sim::reciprocal_hopper(static_cast<float>(right)));
    else if (steps[i].operation == '~')
      out.push_back(sim::divide_full_hopper(static_cast<float>(left), static_cast<float>(right)));
    else out.push_back(steps[i].to_bf16 ? sim::round_bf16(static_cast<float>(wide)) : static_cast<float>(wide));
  }
  return out;
}

Trace scale_trace(const QuantizeConfig& config, float a, float b) {
  Builder out;
  const int amax = out.operand(a), block = out.operand(b);
  if (!config.recipe) {
    if (config.scaling == TensorScaling::none) return out.take();
    const double k = config.format->element_max() * config.scale_max;
    out.step("T", fmt::format("a / {}", k), amax, '/', out.operand(k));
    return out.take();
  }
  const bool needs_decode = config.recipe->value == BlockStep::over_q_over_d ||
                            config.recipe->value == BlockStep::over_qd ||
                            config.recipe->value == BlockStep::over_qd_hopper;
  add_block_steps(out, config, amax, block, needs_decode);
  return out.take();
}

Trace data_trace(const QuantizeConfig& config, float a, float s, float x) {
  Builder out;
  const int amax = out.operand(a), scale = out.operand(s), element = out.operand(x), one = out.operand(1);
  if (!config.recipe) {
    if (config.scaling == TensorScaling::none) return out.take();
    const double k = config.format->element_max() * config.scale_max;
    out.step("T", fmt::format("a / {}", k), amax, '/', out.operand(k));
    return out.take();
  }
  const sim::Recipe& r = *config.recipe;
  const bool by_decode =
      r.data == DataStep::reciprocal || r.data == DataStep::divide || r.data == DataStep::divide_hopper;
  if (r.data == DataStep::distance || r.data == DataStep::rational) return out.take();
  const Constants t = add_constants(out, config, amax, !by_decode, by_decode);
  const bool bf16_divisor = (r.bf16 & sim::in_bf16_divisor) != 0, bf16_y = (r.bf16 & sim::in_bf16_quotient) != 0;
  switch (r.data) {
    case DataStep::reciprocal: {
      const int product = out.step("", "s * D", scale, '*', t.decode);
      out.step("y", "x * (1 / (s * D))", element, '*', out.step("", "1 / (s * D)", one, '/', product), bf16_y);
      break;
    }
    case DataStep::reciprocal_hopper: {
      const int product = out.step("", "s * rcp(S)", scale, '*', out.step("", "rcp(S)", one, 'r', t.encode));
      out.step("y", "x * rcp(s * rcp(S))", element, '*', out.step("", "rcp(s * rcp(S))", one, 'r', product));
      break;
    }
    case DataStep::reciprocal_twice_hopper:
      out.step("y", "x * (S /~ s)", element, '*', out.step("", "S /~ s", t.encode, '~', scale));
      break;
    case DataStep::reciprocal_scaled_hopper: {
      const int factor = out.step("", "S * rcp(s)", t.encode, '*', out.step("", "rcp(s)", one, 'r', scale));
      out.step("y", "x * (S * rcp(s))", element, '*', factor);
      break;
    }
    case DataStep::divide_hopper:
      out.step("y", "x /~ (s * D)", element, '~', out.step("", "s * D", scale, '*', t.decode));
      break;
    case DataStep::scaled_first:
      out.step("y", "(x * S) * (1 / s)", out.step("", "x * S", element, '*', t.encode), '*',
               out.step("", "1 / s", one, '/', scale));
      break;
    case DataStep::reciprocal_twice:
      out.step("y", "x * (S / s)", element, '*', out.step("", "S / s", t.encode, '/', scale));
      break;
    case DataStep::bf16_factor:
      out.step("y", "x * bf16(S / s)", element, '*', out.step("", "bf16(S / s)", t.encode, '/', scale, true));
      break;
    case DataStep::divide:
      out.step("y", "x / (s * D)", element, '/', out.step("", "s * D", scale, '*', t.decode, bf16_divisor), bf16_y);
      break;
    case DataStep::divide_by_s:
      out.step("y", "x / (s / S)", element, '/', out.step("", "s / S", scale, '/', t.encode));
      break;
    default: break;
  }
  return out.take();
}

std::string describe(const Trace& trace) {
  const std::vector<double> values = trace.evaluate();
  std::string text;
  for (std::size_t i = 0; i < trace.steps.size(); ++i) {
    const TraceStep& s = trace.steps[i];
    text += fmt::format("{}{}{}{} = {}", i ? ", " : "", s.name, s.name.empty() ? "" : " = ", s.text,
                        static_cast<float>(values[i]));
  }
  return text;
}

}  // namespace fp4scope::analysis
