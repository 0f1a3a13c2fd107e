// What a plan holds: every tensor once for each sigma, seed and rotation, and every combination that makes sense.
#include "analysis/sweep_plan.hpp"

#include <gtest/gtest.h>

namespace fp4scope::analysis {
namespace {

const std::string input = "[[input]]\ndistribution = \"normal\"\nrows = 4\ncols = 24\n";

std::vector<std::string> described(const Plan& plan) {
  std::vector<std::string> out;
  for (const Work& w : plan.work) {
    const PlannedTensor& t = plan.tensors[w.tensor];
    out.push_back(t.input_name + " " + std::to_string(t.distribution.seed) + " " +
                  std::to_string(t.transform.hadamard) + " " + w.config.method->name + " " + w.config.recipe_name() +
                  " " + w.config.rounding_name() + (w.config.tiles ? " 2d" : ""));
  }
  return out;
}

TEST(SweepPlan, one_tensor_for_each_sigma_seed_and_rotation) {
  const SweepConfig c =
      parse_sweep(input + "sigma = [1, 2]\nseed = [5, 6]\n[[quantize]]\nhadamard = [0, 16]\n", "s.toml");
  const Plan plan = make_plan(c);
  ASSERT_EQ(plan.tensors.size(), 8u);
  ASSERT_EQ(plan.work.size(), 8u);
  EXPECT_EQ(described(plan)[0], "normal sigma 1 5 0 naive exact rne");
  EXPECT_EQ(described(plan)[1], "normal sigma 1 5 16 naive exact rne");
  EXPECT_EQ(described(plan)[7], "normal sigma 2 6 16 naive exact rne");
  EXPECT_EQ(plan.tensors[1].distribution.sigma, 1);
  EXPECT_EQ(plan.tensors[4].distribution.sigma, 2);
}

TEST(SweepPlan, a_rotation_pads_the_columns_to_whole_rotations) {
  const SweepConfig c = parse_sweep(input + "[[quantize]]\nhadamard = 16\n", "s.toml");
  const Plan plan = make_plan(c);
  ASSERT_EQ(plan.work.size(), 1u);
  EXPECT_EQ(plan.tensors[plan.work[0].tensor].shape.cols, 32);
  EXPECT_EQ(plan.tensors[plan.work[0].tensor].original_cols, 24);
}

TEST(SweepPlan, grids_keep_to_their_own_rotations) {
  const SweepConfig c = parse_sweep(
      input + "[[quantize]]\nmethods = \"naive\"\n[[quantize]]\nmethods = \"sse\"\nhadamard = 16\n", "s.toml");
  EXPECT_EQ(described(make_plan(c)),
            (std::vector<std::string>{"normal 1 0 naive exact rne", "normal 1 16 sse exact rne"}));
}

TEST(SweepPlan, combinations_without_sense_become_words) {
  const SweepConfig c = parse_sweep(input +
                                        "[[quantize]]\nmethods = [\"naive\", \"sse\"]\nrecipe = [\"exact\", "
                                        "\"te\"]\nrounding = [\"rne\", \"stochastic\"]\nblock_2d = [false, true]\n",
                                    "s.toml");
  const Plan plan = make_plan(c);
  const std::vector<std::string> found = described(plan);
  EXPECT_EQ(found,
            (std::vector<std::string>{"normal 1 0 naive exact rne", "normal 1 0 naive exact rne 2d",
                                      "normal 1 0 naive exact stochastic", "normal 1 0 naive exact stochastic 2d",
                                      "normal 1 0 sse exact rne", "normal 1 0 sse exact rne 2d",
                                      "normal 1 0 sse exact stochastic", "normal 1 0 sse exact stochastic 2d"}))
      << plan.skipped.size();
  bool told = false;
  for (const std::string& word : plan.skipped) told = told || word.find("recipe te") != std::string::npos;
  EXPECT_TRUE(told);
}

TEST(SweepPlan, stochastic_rounding_takes_the_seed_of_its_data) {
  const SweepConfig c =
      parse_sweep("seed = 9\n" + input + "seed = [5, 6]\n[[quantize]]\nrounding = \"stochastic\"\n", "s.toml");
  const Plan plan = make_plan(c);
  ASSERT_EQ(plan.work.size(), 2u);
  EXPECT_EQ(plan.work[0].config.seed, 5u);
  EXPECT_EQ(plan.work[1].config.seed, 6u);
  EXPECT_EQ(plan.work[0].config.stream, name_stream("normal"));
}

}  // namespace
}  // namespace fp4scope::analysis
