// The sweep's TOML: what is written is what runs, and what is misspelt is named with the nearest right word.
#include "analysis/sweep_config.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "analysis/names.hpp"
#include "analysis/quantize.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {
namespace {

std::string message(const std::string& toml) {
  try {
    parse_sweep(toml, "s.toml");
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code, 2);
    return e.what();
  }
  return "accepted";
}

const std::string input = "[[input]]\ndistribution = \"normal\"\n";
const std::string grid = "[[quantize]]\nformats = [\"nvfp4\"]\n";

TEST(SweepConfig, canonical_text_is_a_fixed_point) {
  const std::string toml =
      "seed = 5\nper_block = true\n" + input +
      "rows = 3\n[[input]]\nfile = \"a.safetensors\"\nexclude = [\"b*\"]\n[activations]\ntokens = 4\n" + grid +
      "blocks = 16\ntensor_scale = [\"none\", 0.5]\nselect = \"mae\"\n";
  const std::string once = canonical_toml(parse_sweep(toml, "s.toml"));
  EXPECT_EQ(canonical_toml(parse_sweep(once, "s.toml")), once);
}

TEST(SweepConfig, canonical_text_writes_every_default_out) {
  const std::string text = canonical_toml(parse_sweep(input + grid, "s.toml"));
  for (const char* word :
       {"rows = 1024", "dtype = 'bf16'", "seed = 1", "nonfinite = 'refuse'", "methods = [ 'naive' ]"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " is missing in\n" << text;
  }
}

TEST(SweepConfig, inputs_take_the_seed_of_the_sweep) {
  const SweepConfig c = parse_sweep("seed = 9\n" + input + grid, "s.toml");
  EXPECT_EQ(c.inputs[0].distribution.seed, 9u);
}

TEST(SweepConfig, canonical_text_keeps_every_axis) {
  const std::string toml = "decompose = true\n" + input + "sigma = [0.5, 2]\nseed = [3, 4]\n" + grid +
                           "recipe = [\"exact\", \"te\"]\nrounding = [\"rne\", \"stochastic\"]\nhadamard = [0, 32]\n" +
                           "block_2d = [false, true]\n";
  const SweepConfig c = parse_sweep(canonical_toml(parse_sweep(toml, "s.toml")), "s.toml");
  EXPECT_TRUE(c.decompose);
  EXPECT_EQ(c.inputs[0].sigmas, (std::vector<double>{0.5, 2}));
  EXPECT_EQ(c.inputs[0].seeds, (std::vector<std::uint64_t>{3, 4}));
  EXPECT_EQ(c.grids[0].recipes, (std::vector<std::string>{"exact", "te"}));
  EXPECT_EQ(c.grids[0].roundings, (std::vector<std::string>{"rne", "stochastic"}));
  EXPECT_EQ(c.grids[0].hadamards, (std::vector<int>{0, 32}));
  EXPECT_EQ(c.grids[0].tiles, (std::vector<bool>{false, true}));
}

TEST(SweepConfig, every_mistake_names_its_line_and_the_nearest_right_word) {
  const struct {
    std::string toml, line, words;
  } mistakes[] = {
      {input + grid + "methdos = [\"sse\"]\n", "s.toml:5", "did you mean 'methods'"},
      {input + "sgima = 2\n" + grid, "s.toml:3", "did you mean 'sigma'"},
      {input + "[[quantize]]\nformats = [\"nvpf4\"]\n", "s.toml:4", "did you mean 'nvfp4'"},
      {input + grid + "methods = [\"sze\"]\n", "s.toml:5", "did you mean 'sse'"},
      {input + grid + "blocks = [15]\n", "s.toml:5", "a block of 15"},
      {input + grid + "select = \"msee\"\n", "s.toml:5", "did you mean 'mse'"},
      {input + grid + "inputs = [\"norml\"]\n", "s.toml:5", "did you mean 'normal'"},
      {"[[input]]\ndistribution = \"gauss\"\n" + grid, "s.toml:2", "there are: normal"},
      {"[[input]]\nrows = 4\n" + grid, "s.toml:1", "needs 'file' or 'distribution'"},
      {input + "rows = 0\n" + grid, "s.toml:3", "'rows' = 0"},
      {input + "rows = \"many\"\n" + grid, "s.toml:3", "not a whole number"},
      {input + "seed = -1\n" + grid, "s.toml:3", "negative"},
      {input + "seed = [1, 2, 1]\n" + grid, "s.toml:3", "lists 1 twice"},
      {input + "sigma = [1, -1]\n" + grid, "s.toml:3", "'sigma' = -1"},
      {input + grid + "rounding = \"stochastik\"\n", "s.toml:5", "did you mean 'stochastic'"},
      {input + grid + "recipe = \"tee\"\n", "s.toml:5", "did you mean 'te'"},
      {input + grid + "hadamard = [0, 12]\n", "s.toml:5", "12 is no power of two"},
      {input + grid + "block_2d = 1\n", "s.toml:5", "not true or false"},
      {input + input + grid, "s.toml", "two inputs are called 'normal'"},
      {grid, "s.toml", "no [[input]]"},
      {input, "s.toml", "no [[quantize]]"},
      {"seed = \n", "s.toml:1", "TOML"},
      {"inptu = 1\n", "s.toml:1", "did you mean 'input'"},
  };
  for (const auto& m : mistakes) {
    const std::string said = message(m.toml);
    EXPECT_EQ(said.rfind(m.line + ":", 0), 0u) << said;
    EXPECT_NE(said.find(m.words), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
  }
}

TEST(SweepConfig, paths_start_at_the_file_and_read_the_environment) {
  setenv("FP4SCOPE_TEST_FOLDER", "/models", 1);
  SweepConfig c;
  c.folder = "reports";
  EXPECT_EQ(resolve_path(c, "a.npy"), "reports/a.npy");
  EXPECT_EQ(resolve_path(c, "/x/a.npy"), "/x/a.npy");
  EXPECT_EQ(resolve_path(c, "${FP4SCOPE_TEST_FOLDER}/a.npy"), "/models/a.npy");
  unsetenv("FP4SCOPE_TEST_FOLDER");
  EXPECT_THROW(resolve_path(c, "${FP4SCOPE_TEST_FOLDER}/a.npy"), Error);
}

TEST(Names, nearest_is_by_edits_and_swaps) {
  EXPECT_EQ(nearest_name("nvpf4", {"mxfp4", "nvfp4", "nvint4"}), "nvfp4");
  EXPECT_EQ(nearest_name("HESSIAN", {"sse", "hessian"}), "hessian");
}

TEST(QuantizeConfig, defaults_are_the_formats_and_the_methods) {
  const auto config = [](const char* format, const char* method) {
    return parse_config({format, method, "", "", "", 0, 0});
  };
  EXPECT_EQ(config("nvfp4", "").scaling, TensorScaling::amax);
  EXPECT_EQ(config("nvfp4", "naive").scale_max, 448);
  EXPECT_EQ(config("nvfp4", "4over6").scale_max, 256);
  EXPECT_EQ(config("mxfp4", "").block, 32);
  EXPECT_EQ(config("mxfp4", "sse").scaling, TensorScaling::none);
  EXPECT_THROW(config("mxfp4", "4over6"), UsageError);
  EXPECT_THROW(parse_config({"mxfp4", "", "", "amax", "", 0, 0}), UsageError);
  EXPECT_EQ(parse_config({"mxfp4", "", "", "amax", "", 0, 64}).scale_max, 64);
  EXPECT_THROW(parse_config({"nvfp4", "", "", "1e-60", "", 0, 0}), UsageError);
}

}  // namespace
}  // namespace fp4scope::analysis
