// fp4scope recipes: whose orders of operation there are, one line for each.
#include "sim/recipes.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "app/app.hpp"

namespace fp4scope::app {
namespace {

constexpr const char* exact_meaning = "one rounded tensor scale, every other decision in real numbers";

void print_json() {
  nlohmann::ordered_json j;
  j["recipes"].push_back({{"name", "exact"}, {"format", "every"}, {"methods", "every"}, {"meaning", exact_meaning}});
  for (const sim::Recipe& r : sim::all_recipes) {
    j["recipes"].push_back({{"name", r.name},
                            {"format", r.format},
                            {"methods", r.methods},
                            {"selects", r.selects},
                            {"block", r.block},
                            {"scale_max", r.scale_max},
                            {"square_blocks", r.tiles},
                            {"meaning", r.meaning}});
  }
  for (const sim::ApproximateRecipe& a : sim::approximate_recipes) {
    j["refused"].push_back({{"name", a.name}, {"instruction", a.instruction}, {"hopper", a.hopper}});
  }
  fmt::print("{}\n", j.dump(2));
}

void print_text() {
  std::vector<std::vector<std::string>> rows = {{"exact", "every", "every", exact_meaning}};
  for (const sim::Recipe& r : sim::all_recipes) rows.push_back({r.name, r.format, r.methods, r.meaning});
  fmt::print("{}", text_table({"recipe", "format", "scale", "what it does"}, rows));
  fmt::print("\nrefused, since their bits rest on instructions that no document defines; Hopper's were measured:\n");
  for (const sim::ApproximateRecipe& a : sim::approximate_recipes) {
    fmt::print("  {} ({}){}{}\n", a.name, a.instruction, *a.hopper ? ": " : "", a.hopper);
  }
}

}  // namespace

void add_recipes(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("recipes", "whose orders of floating-point operations there are");
  command->callback([&context] { context.common.json ? print_json() : print_text(); });
}

}  // namespace fp4scope::app
