// fp4scope linear: what forward, dgrad and wgrad of a quantized linear layer lose.
#include "analysis/linear.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "app/app.hpp"
#include "formats/error.hpp"

namespace fp4scope::app {
namespace {

using Json = nlohmann::ordered_json;

struct Words {
  analysis::LinearOptions options;
  std::string recipe = "nvfp4";
};

Json to_json(const analysis::LinearResult& r) {
  Json j = {{"product", r.name},       {"rows", r.rows},
            {"cols", r.cols},          {"k", r.k},
            {"a", r.a},                {"b", r.b},
            {"unit", r.unit},          {"seeds", r.seeds},
            {"relative_error", r.error}, {"cosine", r.cosine},
            {"a_error", r.a_error},    {"b_error", r.b_error},
            {"accumulation", r.accumulation}, {"shrinkage", r.shrinkage}};
  if (r.bias) j["bias"] = *r.bias;
  if (r.rounding_bias) j["rounding_bias"] = *r.rounding_bias;
  return j;
}

void print(const Words& words, const std::vector<analysis::LinearResult>& results) {
  fmt::print("{}: {}\n", printable(words.options.recipe.name), words.options.recipe.words);
  const auto percent = [](double x) { return fmt::format("{:.3f}", 100 * x); };
  const auto maybe = [&](const std::optional<double>& x) { return x ? percent(*x) : "-"; };
  std::vector<std::vector<std::string>> rows;
  for (const analysis::LinearResult& r : results) {
    rows.push_back({r.name, r.a, r.b, fmt::format("{}", r.k), percent(r.error), fmt::format("{:.6f}", r.cosine),
                    percent(r.a_error), percent(r.b_error), fmt::format("{:.2e}", 100 * r.accumulation),
                    maybe(r.bias), maybe(r.rounding_bias)});
  }
  fmt::print("{}", text_table({"product", "A", "B", "K", "error %", "cosine", "A's %", "B's %", "accumulation %",
                               "bias %", "rounding bias %"},
                              rows));
  std::vector<std::string> units;  // products of other operands may take other instructions
  for (const analysis::LinearResult& r : results) {
    if (std::find(units.begin(), units.end(), r.unit) == units.end()) units.push_back(r.unit);
  }
  fmt::print("unit: {}; seeds: {}\n", analysis::join(units), words.options.seeds);
}

int run(Words& words, bool json) {
  analysis::LinearOptions& o = words.options;
  o.recipe = analysis::find_linear_recipe(words.recipe);
  o.notice = say;
  catch_signals();
  o.stop = &stop_flag();
  std::vector<analysis::LinearResult> results;
  {
    Progress progress;
    o.progress = [&progress](double done, const std::string& what) { progress(done, what); };
    results = analysis::linear_file(o);
  }
  if (results.empty()) return interrupted();
  if (!json) {
    print(words, results);
    return 0;
  }
  Json j = {{"recipe", o.recipe.name}, {"words", o.recipe.words}, {"seed", o.seed}, {"products", Json::array()}};
  for (const analysis::LinearResult& r : results) j["products"].push_back(to_json(r));
  fmt::print("{}\n", j.dump(2, ' ', false, Json::error_handler_t::replace));
  return 0;
}

}  // namespace

void add_linear(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("linear", "what forward, dgrad and wgrad of a quantized linear layer lose");
  auto words = std::make_shared<Words>();
  analysis::LinearOptions& o = words->options;
  command->add_option("--input", o.input, "X [tokens, in]")->required()->type_name("FILE:NAME");
  command->add_option("--weight", o.weight, "W [out, in]")->required()->type_name("FILE:NAME");
  command->add_option("--grad", o.grad, "G [tokens, out], of the outputs; without it the forward product alone")
      ->type_name("FILE:NAME");
  command
      ->add_option("--recipe-config", words->recipe,
                   analysis::join(analysis::linear_recipe_names(), ", ") + ", or a TOML file (default nvfp4)")
      ->type_name("NAME");
  command->add_option("--seed", o.seed, "the first one of stochastic rounding (default 1)")
      ->check(refuse_negative)
      ->type_name("N");
  command->add_option("--seeds", o.seeds, "how many, for errors and biases over them (default 1)")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  command->add_option("--arch", o.unit.arch, analysis::join(analysis::arch_names(), ", ") + " (default exact)")
      ->type_name("ARCH");
  command->add_option("--instruction", o.unit.instruction, "as fp4scope matmul has it")->type_name("NAME");
  command->add_option("--k-order", o.unit.k_order, "as fp4scope matmul has it")->type_name("W");
  command->add_option("--promote", o.unit.promote, "as fp4scope matmul has it")->type_name("N");
  command->add_option("--alpha", o.unit.alpha, "as fp4scope matmul has it")->type_name("W");
  command->add_option("--out-dtype", o.unit.out_dtype, "f32, bf16 or f16 (default f32)")->type_name("T");
  command->callback([words, &context] { context.exit_code = run(*words, context.common.json); });
}

}  // namespace fp4scope::app
