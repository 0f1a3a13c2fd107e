#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/against.hpp"
#include "analysis/explain.hpp"
#include "analysis/names.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::size_t shown_rows = 8;

std::string share(double part) { return part == 1 ? "all" : part == 0 ? "none" : fmt::format("{:.4g} %", 100 * part); }

std::string spelled(const std::string& what, const std::string& word) {
  if (what == "nibbles") return word == "high" ? "even columns in the high nibble" : "even columns in the low nibble";
  return what == "scales" ? word + " scales" : word;
}

/// How sure the reading is.
std::string choice_line(const Choice& c) {
  if (c.given) return fmt::format("  {}: as given, {} of it agrees with exact's naive\n", c.what, share(c.agreement));
  std::string text = fmt::format("  {}: found, {} of it agrees with exact's naive", c.what, share(c.agreement));
  if (c.second.empty()) return text + ", nothing else fits\n";
  text += fmt::format("; {} of {}", share(c.second_agreement), spelled(c.what, c.second));
  if (c.ambiguous) text += ": ambiguous, say which";
  return text + "\n";
}

std::string ulps_text(const RecipeCount& r) {
  if (!r.tensor_scale_ulps) return "";
  const std::int64_t ulps = *r.tensor_scale_ulps;
  if (ulps == 0) return "its bits";
  return std::llabs(ulps) < (1 << 20) ? fmt::format("{:+} ulp", ulps) : "another";
}

/// Whose bits their tensor scale has.
std::string tensor_scale_line(const AgainstReport& r) {
  const std::string head = fmt::format("  tensor scale: {}{}", hex(r.tensor_scale->value),
                                       r.tensor_scale->reciprocal ? ", a reciprocal" : "");
  std::vector<std::string> same;
  const RecipeCount* nearest = nullptr;
  for (const RecipeCount& c : r.ranking) {
    if (!c.tensor_scale_ulps) continue;
    const bool listed = std::find(same.begin(), same.end(), c.recipe) != same.end();
    if (*c.tensor_scale_ulps == 0 && !listed) same.push_back(c.recipe);
    if (!nearest || std::llabs(*c.tensor_scale_ulps) < std::llabs(*nearest->tensor_scale_ulps)) nearest = &c;
  }
  if (!same.empty()) return head + ", the bits of " + join(same) + "\n";
  if (!nearest) return head + "\n";
  const std::string far = ulps_text(*nearest);
  return far == "another" ? head + ", no recipe's\n" : head + fmt::format(", {} from that of {}\n", far, nearest->name);
}

std::string ranking_text(const AgainstReport& r) {
  std::size_t width = 6, shown = std::min(shown_rows, r.ranking.size());
  for (std::size_t i = 0; i < shown; ++i) width = std::max(width, r.ranking[i].name.size());
  const std::string scale = r.tensor_scale ? "  tensor scale" : "";
  std::string text = fmt::format("  {:<{}}  {:>12}  {:>13}  {:>12}{}\n", "recipe", width, "blocks agree",
                                 "scales differ", "codes differ", scale);
  for (std::size_t i = 0; i < shown; ++i) {
    const RecipeCount& c = r.ranking[i];
    text += fmt::format("  {:<{}}  {:>12}  {:>13}  {:>12}", c.name, width, c.equal, c.scales_differ, c.codes_differ);
    if (!ulps_text(c).empty()) text += fmt::format("  {:>12}", ulps_text(c));
    text += "\n";
  }
  if (shown < r.ranking.size()) text += fmt::format("  and {} more\n", r.ranking.size() - shown);
  return text;
}

std::string explained_text(const Explained& e, bool brief) {
  const RecipeCount& c = e.count;
  if (c.equal == c.blocks) return fmt::format("{}: all {} blocks agree\n", c.name, c.blocks);
  std::string text = fmt::format("{}: {} of {} blocks agree, {} have another scale, {} other codes alone\n", c.name,
                                 c.equal, c.blocks, c.scales_differ, c.codes_differ);
  for (const ClassCount& k : e.classes) {
    text += fmt::format("  {:>8}  {:<22} {}\n", k.blocks, k.name, k.sentence);
    if (!brief) text += "    " + k.example + "\n";
  }
  return text;
}

}  // namespace

std::string against_text(const AgainstReport& r, bool brief) {
  std::string text = fmt::format("{} [{}, {}] {}: {}, {}, {}\n", r.name, r.rows, r.cols, r.dtype, r.choices[0].taken,
                                 spelled("nibbles", r.choices[1].taken), spelled("scales", r.choices[2].taken));
  for (const Choice& c : r.choices) {
    if (!brief || c.ambiguous) text += choice_line(c);
  }
  if (r.tensor_scale) text += tensor_scale_line(r);
  text += "\n" + ranking_text(r);
  for (const Explained& e : r.explained) text += "\n" + explained_text(e, brief);
  return text;
}

io::Table against_table(const std::vector<AgainstReport>& reports) {
  io::Table table;
  table.columns = {{"tensor", "", "the matrix"},
                   {"format", "", "block format, as given or found"},
                   {"block", "1", "elements that share a scale"},
                   {"nibbles", "", "which nibble has the even columns"},
                   {"scales", "", "layout of the block scales"},
                   {"recipe", "", "a recipe, its METHOD and choices"},
                   {"rank", "1", "1: the most blocks agree"},
                   {"blocks", "1", "blocks compared"},
                   {"blocks_equal", "1", "blocks that agree whole"},
                   {"scales_differ", "1", "blocks whose scale bytes differ"},
                   {"codes_differ", "1", "blocks with equal scales whose codes differ"},
                   {"elements_differ", "1", "elements whose codes differ"},
                   {"tensor_scale_ulps", "1", "their tensor scale less the recipe's, NaN where one has none"},
                   {"class", "", "why blocks differ; empty: the recipe's own row"},
                   {"class_blocks", "1", "blocks in that class"},
                   {"example", "", "its first block, explained"}};
  for (const AgainstReport& r : reports) {
    const auto add = [&](const RecipeCount& c, const ClassCount& k) {
      const auto same = [&](const RecipeCount& other) { return other.name == c.name; };
      const auto rank = std::find_if(r.ranking.begin(), r.ranking.end(), same) - r.ranking.begin() + 1;
      const double ulps = c.tensor_scale_ulps ? static_cast<double>(*c.tensor_scale_ulps) : std::nan("");
      table.rows.push_back({r.name, r.format, std::int64_t{r.block}, r.choices[1].taken, r.choices[2].taken, c.name,
                            std::int64_t{rank}, c.blocks, c.equal, c.scales_differ, c.codes_differ, c.elements_differ,
                            ulps, k.name, k.blocks, k.example});
    };
    for (const RecipeCount& c : r.ranking) add(c, {});
    for (const Explained& e : r.explained) {
      for (const ClassCount& k : e.classes) add(e.count, k);
    }
  }
  return table;
}

}  // namespace fp4scope::analysis
