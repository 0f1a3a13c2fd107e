// A trace is the recipe: its last value is what sim::block_value and sim::data_value compute, bit for bit, every
// rounding of it counts, and the roundings that crosscheck names are those without which the result would be right.
#include "analysis/recipe_trace.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "analysis/crosscheck.hpp"

namespace fp4scope::analysis {
namespace {

constexpr int inputs_count = 24000;  // of each recipe

float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
std::uint32_t bits_of(double x) { return __builtin_bit_cast(std::uint32_t, static_cast<float>(x)); }

/// What one block and one of its elements hand to a recipe.
struct Input {
  float a, b, x, s;
};

/// A float of that many significand bits, about 2^exponent.
float random_float(std::mt19937& rng, int bits, int low, int high) {
  const auto mantissa = static_cast<std::uint32_t>((rng() & 0x7FFFFFu) >> (24 - bits) << (24 - bits));
  const int exponent = std::uniform_int_distribution<int>(low, high)(rng);
  return from_bits(static_cast<std::uint32_t>(exponent + 127) << 23 | mantissa);
}

/// bf16 and binary32 data, and elements on, just below and just above a midpoint of the real numbers. No tensor is so
/// small that a recipe's rule for zero tensors takes it (modelopt_fakequant's goes up to 3.6e-7).
std::vector<Input> inputs_for(const QuantizeConfig& config, int seed) {
  std::mt19937 rng(static_cast<unsigned>(seed));
  const bool power = config.format->scale.mantissa_bits == 0;
  std::vector<Input> inputs;
  const float witnesses[][2] = {{4.375f, 2.265625f},  {4.375f, 2.65625f},  {4.375f, 1.2109375f}, {4.4375f, 1.6640625f},
                                {4.8125f, 3.265625f}, {6.125f, 2.078125f}, {3.25f, 1.21875f}};
  for (int i = 0; i < inputs_count; ++i) {
    Input in = {};
    const int bits = i % 3 == 0 ? 24 : 8;
    if (i < 7) {
      in.a = witnesses[i][0];
      in.b = witnesses[i][1];
    } else {
      in.a = random_float(rng, bits, -20, 30);
      in.b = in.a * from_bits(static_cast<std::uint32_t>(127 - static_cast<int>(rng() % 8)) << 23);
      const float smaller = random_float(rng, bits, -2, 2) * in.b / 8;
      if (i % 5 != 0) in.b = bits == 8 ? sim::round_bf16(smaller) : smaller;
    }
    const int code = power ? 90 + static_cast<int>(rng() % 60) : 8 + static_cast<int>(rng() % 119);
    in.s = formats::decode_float(config.format->scale, static_cast<std::uint32_t>(code));
    const double step = in.s * (config.scaling == TensorScaling::none ? 1.0 : in.a / 2688.0);
    const double midpoints[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0};
    const auto x = static_cast<float>(midpoints[rng() % 7] * step);
    const auto near = static_cast<std::uint32_t>(bits_of(i % 2 == 0 ? sim::round_bf16(x) : x) + rng() % 3 - 1);
    in.x = rng() % 2 == 0 ? from_bits(near) : -from_bits(near);
    inputs.push_back(in);
  }
  return inputs;
}

sim::RecipeTensor constants_of(const QuantizeConfig& c, float a) {
  sim::RecipeTensor t;
  if (c.scaling == TensorScaling::amax) t = sim::recipe_tensor(*c.recipe, a, c.scale_max);
  t.amax = a;
  return t;
}

/// Every run of NVFP4 and MXFP4 but `exact`.
std::vector<RecipeRun> runs_with_a_recipe() {
  std::vector<RecipeRun> runs;
  for (const char* format : {"nvfp4", "mxfp4"}) {
    for (RecipeRun& run : recipe_runs(format)) {
      if (run.config.recipe) runs.push_back(std::move(run));
    }
  }
  return runs;
}

std::string label(const RecipeRun& run) { return run.config.format->name + (" " + run.name); }

std::string where(const RecipeRun& run, const Input& in) {
  return label(run) + testing::PrintToString(std::vector<double>{in.a, in.b, in.x, in.s});
}

TEST(Trace, a_block_value_is_the_last_value_of_its_trace) {
  int seed = 0, traced = 0;
  for (const RecipeRun& run : runs_with_a_recipe()) {
    const QuantizeConfig& c = run.config;
    if (c.recipe->value == sim::BlockStep::rational) continue;
    ++traced;
    int wrong = 0;
    for (const Input& in : inputs_for(c, ++seed)) {
      const float want = sim::block_value(*c.recipe, constants_of(c, in.a), in.b);
      const double got = scale_trace(c, in.a, in.b).evaluate().back();
      if (static_cast<double>(want) == got) continue;
      if (++wrong < 3) ADD_FAILURE() << where(run, in) << ": " << got << ", want " << want;
    }
    EXPECT_EQ(wrong, 0) << label(run);
  }
  EXPECT_EQ(traced, 35);
}

TEST(Trace, an_element_before_its_rounding_is_the_last_value_of_its_trace) {
  int seed = 100, traced = 0;
  for (const RecipeRun& run : runs_with_a_recipe()) {
    const QuantizeConfig& c = run.config;
    const bool compares = c.recipe->data == sim::DataStep::distance || c.recipe->data == sim::DataStep::rational;
    EXPECT_EQ(data_trace(c, 4, 1, 1).steps.empty(), compares) << label(run);
    if (compares) continue;
    ++traced;
    int wrong = 0;
    for (const Input& in : inputs_for(c, ++seed)) {
      const sim::DataFactor factor = sim::data_factor(*c.recipe, constants_of(c, in.a), in.s, in.b);
      const float want = sim::data_value(factor, in.x);
      const double got = data_trace(c, in.a, in.s, in.x).evaluate().back();
      if (static_cast<double>(want) == got) continue;
      if (++wrong < 3) ADD_FAILURE() << where(run, in) << ": " << got << ", want " << want;
    }
    EXPECT_EQ(wrong, 0) << label(run);
  }
  EXPECT_EQ(traced, 33);
}

TEST(Trace, the_tensor_scale_of_exact_is_the_last_value_of_its_trace) {
  const RecipeRun exact = recipe_runs("nvfp4").front();
  ASSERT_EQ(exact.name, "exact");
  for (const Input& in : inputs_for(exact.config, 200)) {
    const double want = sim::tensor_scale(in.a, 6, 448);
    ASSERT_EQ(scale_trace(exact.config, in.a, in.b).evaluate().back(), want) << in.a;
    ASSERT_EQ(data_trace(exact.config, in.a, in.s, in.x).evaluate().back(), want) << in.a;
  }
  EXPECT_TRUE(scale_trace(recipe_runs("mxfp4").front().config, 4, 1).steps.empty());
}

/// Whether a step's result is always a binary32 number: a product with 1 or with the power of two of an MX scale.
bool always_exact(const QuantizeConfig& c, const TraceStep& step) {
  const bool power = c.format->scale.mantissa_bits == 0;
  return step.text == "b" ||
         (c.scaling == TensorScaling::none &&
          (step.text == "s * D" || (power && (step.name == "y" || step.text.find("rcp(S)") != std::string::npos))));
}

TEST(Trace, every_step_left_unrounded_changes_the_last_value_of_some_input) {
  for (const RecipeRun& run : runs_with_a_recipe()) {
    const sim::Recipe& r = *run.config.recipe;
    if (r.value == sim::BlockStep::rational) continue;
    if (r.bf16 != sim::in_bf16_none || r.data == sim::DataStep::bf16_factor) continue;  // bf16 swallows most roundings
    const std::vector<Input> inputs = inputs_for(run.config, 300);
    for (const bool data : {false, true}) {
      const auto trace = [&](const Input& in) {
        return data ? data_trace(run.config, in.a, in.s, in.x) : scale_trace(run.config, in.a, in.b);
      };
      const std::vector<TraceStep> steps = trace(inputs[0]).steps;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        int changed = 0;
        for (std::size_t k = 0; k < 1000; ++k) {
          const Trace t = trace(inputs[k]);
          changed += t.evaluate().back() != t.evaluate(static_cast<int>(i)).back();
        }
        EXPECT_EQ(changed == 0, always_exact(run.config, steps[i])) << label(run) << ": " << steps[i].text;
      }
    }
  }
}

QuantizeConfig config_of(const std::string& name) {
  for (const RecipeRun& run : recipe_runs("nvfp4")) {
    if (run.name == name) return run.config;
  }
  throw std::invalid_argument(name);
}

// 448 * 2.65625 / 4.375 = 272, halfway between 256 (0x78) and 288 (0x79). In binary32, by hand: 2688 / 4.375 = 614.4
// -> 10066330 2^-14, up by 0.4 units; 1/6 -> 11184811 2^-26, up by 1/3; both push the product above 102.4.
TEST(Trace, the_steps_of_te_are_told_with_their_values) {
  const QuantizeConfig te = config_of("te");
  EXPECT_EQ(describe(scale_trace(te, 4.375f, 2.65625f)),
            "S = 2688 / a = 614.4, fl(1/6) = 0.16666667, S * fl(1/6) = 102.40001, v = b * (S * fl(1/6)) = 272.00003");
  EXPECT_EQ(formats::encode(formats::e4m3, scale_trace(te, 4.375f, 2.65625f).evaluate().back()).code, 0x79u);
  EXPECT_EQ(formats::encode(formats::e4m3, 448 * 2.65625 / 4.375).code, 0x78u);
}

TEST(Trace, a_dyn_decode_scale_is_told_with_its_values) {
  EXPECT_EQ(describe(scale_trace(config_of("modelopt_dyn"), 4.4375f, 1.6640625f)),
            "D = a / 2688 = 0.0016508556, 6 * D = 0.009905133, v = b / (6 * D) = 168.00002");
}

/// Two recipes on one tensor of the blocks {a}, {b, x}.
std::string explanation(const std::string& one, const std::string& other, float a, float b, float x = 0) {
  Matrix m = {1, 32, std::vector<float>(32, 0.0f), "BF16"};
  m.data[0] = a;
  m.data[16] = b;
  m.data[17] = x;
  CrosscheckOptions options;
  options.only = {one, other};
  const std::vector<PairCount> pairs = crosscheck_recipes(options, {{"w", "w", [m] { return m; }, "BF16"}});
  return pairs.at(0).example ? pairs[0].example->explanation : "";
}

TEST(DecidingRounding, the_worked_examples_name_theirs) {
  EXPECT_EQ(explanation("rational", "te", 4.375f, 2.65625f),
            "  a = 4.375 (0x408c0000), b = 2.65625 (0x402a0000)\n"
            "  448 b / a = 272 in real numbers, halfway between 0x78 (256) and 0x79 (288)\n"
            "  rational                 scale 0x78 (256): decided in real numbers\n"
            "  te                       scale 0x79 (288): S = 2688 / a = 614.4, fl(1/6) = 0.16666667, "
            "S * fl(1/6) = 102.40001, v = b * (S * fl(1/6)) = 272.00003\n"
            "    decided by any one of these roundings: '2688 / a', 'fl(1/6)'");
  const std::string code =
      explanation("exact", "te_fast", from_bits(0x40570000), from_bits(0x3FCD0000), from_bits(0x3EE90000));
  EXPECT_NE(code.find("= 1.7506261180679785 in real numbers, between 1.5 and 2"), std::string::npos) << code;
  EXPECT_NE(code.find("decided by one rounding: 'bf16(S / s)'"), std::string::npos) << code;
}

/// The steps in quotes after a recipe's line, and whether it has such a line at all.
struct Named {
  bool decided = false, together = false;
  std::vector<std::string> steps;
};

Named named_steps(const std::string& text, const std::string& recipe) {
  Named out;
  std::size_t at = text.find("\n  " + recipe + " ");
  if (at == std::string::npos) return out;
  at = text.find('\n', at + 1);
  if (at == std::string::npos || text.compare(at, 16, "\n    decided by ") != 0) return out;
  const std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
  out.decided = true;
  out.together = line.find("several") != std::string::npos;
  for (std::size_t i = line.find('\''); i != std::string::npos; i = line.find('\'', i + 1)) {
    const std::size_t end = line.find('\'', i + 1);
    out.steps.push_back(line.substr(i + 1, end - i - 1));
    i = end;
  }
  return out;
}

/// The number of "NAME (0x...)" in a text.
float number_of(const std::string& text, const std::string& name) {
  const std::size_t at = text.find("(0x", text.find(name + " = "));
  return from_bits(static_cast<std::uint32_t>(std::stoul(text.substr(at + 3, 8), nullptr, 16)));
}

/// Holds the named steps of a trace against the rule: unrounded, exactly those give the right code.
template <class Code>
void expect_named(const Trace& trace, const Named& named, int right, const Code& code, const std::string& text) {
  std::vector<std::string> want;
  for (std::size_t i = 0; i < trace.steps.size(); ++i) {
    if (code(trace.evaluate(static_cast<int>(i)).back()) == right) want.push_back(trace.steps[i].text);
  }
  EXPECT_EQ(named.steps, want) << text;
  EXPECT_EQ(named.together, want.empty()) << text;
}

/// Normal bf16 tensors, each counted apart by a dtype of its own; every other one has but one number a block, so that
/// its first difference is a scale.
std::vector<CrosscheckInput> normal_inputs(int count) {
  std::vector<CrosscheckInput> inputs;
  for (int i = 0; i < count; ++i) {
    inputs.push_back({"w", "w",
                      [i] {
                        std::mt19937 rng(static_cast<unsigned>(i));
                        std::normal_distribution<float> normal(0, 1);
                        Matrix m = {16, 64, std::vector<float>(16 * 64), "BF16"};
                        for (std::size_t k = 0; k < m.data.size(); ++k) {
                          const float x = sim::round_bf16(normal(rng));
                          m.data[k] = i % 2 == 0 || k % 16 == 0 ? x : 0;
                        }
                        return m;
                      },
                      std::to_string(i)});
  }
  return inputs;
}

TEST(DecidingRounding, exactly_the_named_steps_left_unrounded_give_the_right_code) {
  CrosscheckOptions options;
  options.only = {"rational",        "te",
                  "te_fast",         "fouroversix",
                  "modelopt_dyn",    "flashinfer_hopper",
                  "cutlass_hopper",  "modelopt_triton_dyn_hopper",
                  "modelopt_export", "torchao",
                  "vllm_emulation",  "compressed_tensors",
                  "fpquant"};
  std::map<std::string, QuantizeConfig> configs;
  for (const std::string& name : options.only) configs[name] = config_of(name);
  const auto scale_code = [](double v) { return static_cast<int>(formats::encode(formats::e4m3, v).code); };
  const auto element_code = [](double y) {
    return static_cast<int>(formats::encode(formats::e2m1, std::fabs(y)).code);
  };
  omp_set_num_threads(1);  // of tensors this small more threads only wait
  int scales = 0, codes = 0;
  for (const PairCount& p : crosscheck_recipes(options, normal_inputs(800))) {
    if (p.first != "rational" || !p.example) continue;
    const std::string& text = p.example->explanation;
    const Named named = named_steps(text, p.second);
    if (!named.decided) continue;
    const QuantizeConfig& c = configs.at(p.second);
    const float a = number_of(text, "a");
    if (p.example->column < 0) {
      ++scales;
      const float b = number_of(text, "b");
      expect_named(scale_trace(c, a, b), named, scale_code(448.0 * b / a), scale_code, text);
    } else {
      ++codes;
      const float x = number_of(text, "x"), s = std::stof(text.substr(text.find(", s = ") + 6));
      const double real = 2688.0 * x / (static_cast<double>(a) * s);
      expect_named(data_trace(c, a, s, x), named, element_code(real), element_code, text);
    }
  }
  EXPECT_GT(scales, 100);
  EXPECT_GT(codes, 100);
}

}  // namespace
}  // namespace fp4scope::analysis
