#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/against.hpp"
#include "analysis/explain.hpp"
#include "analysis/names.hpp"

namespace fp4scope::analysis {

namespace {

constexpr std::size_t shown_rows = 8;

std::string percent(double part) { return fmt::format("{:.3g} %", 100 * part); }

std::string spelled(const std::string& what, const std::string& word) {
  if (what == "nibbles" && word == "halves") return "nibbles half a block apart";
  if (what == "nibbles") return "even columns in the " + word + " nibble";
  return what == "scales" ? word + " scales" : word;
}

/// How sure the reading is.
std::string choice_line(const Choice& c) {
  std::string text = fmt::format("  {}: {}, {} from the matrix", c.what, c.given ? "given" : "found", percent(c.error));
  if (!c.second.empty()) text += fmt::format(", {} {}", spelled(c.what, c.second), percent(c.second_error));
  text += fmt::format("; {} of its bytes are exact naive's", percent(c.agreement));
  return text + (c.ambiguous ? "; AMBIGUOUS, say which\n" : "\n");
}

std::string ulps_text(const RecipeCount& r) {
  if (!r.tensor_scale_ulps) return "";
  const std::int64_t ulps = *r.tensor_scale_ulps;
  if (ulps == 0) return "its bits";
  return std::llabs(ulps) < (1 << 20) ? fmt::format("{:+} ulp", ulps) : "another";
}

/// The first few, and how many more there are.
std::string some(const std::vector<std::string>& names, std::size_t most) {
  if (names.size() <= most) return join(names);
  const std::vector<std::string> first(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(most));
  return fmt::format("{} and {} more", join(first), names.size() - most);
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
  if (!same.empty()) return head + ", the bits of " + some(same, 4) + "\n";
  if (!nearest) return r.tensor_scale->value == 1 ? "" : head + "\n";
  const std::string far = ulps_text(*nearest);
  return far == "another" ? head + ", no recipe's\n" : head + fmt::format(", {} from that of {}\n", far, nearest->name);
}

/// Recipes that differ from theirs equally much, in one line.
struct Alike {
  const RecipeCount* first;
  std::vector<std::string> names;
};

std::vector<Alike> group(const std::vector<RecipeCount>& ranking) {
  std::vector<Alike> groups;
  for (const RecipeCount& c : ranking) {
    const auto alike = [&](const Alike& g) {
      return g.first->equal == c.equal && g.first->scales_differ == c.scales_differ &&
             g.first->elements_differ == c.elements_differ && g.first->tensor_scale_ulps == c.tensor_scale_ulps;
    };
    const auto found = std::find_if(groups.begin(), groups.end(), alike);
    if (found == groups.end()) groups.push_back({&c, {c.name}});
    else found->names.push_back(c.name);
  }
  return groups;
}

std::string ranking_text(const AgainstReport& r) {
  const std::vector<Alike> groups = group(r.ranking);
  const std::size_t shown = std::min(shown_rows, groups.size());
  const std::string scale = r.tensor_scale ? "  tensor scale" : "";
  std::string text =
      fmt::format("  {:>12}  {:>13}  {:>12}{}  recipe\n", "blocks agree", "scales differ", "codes differ", scale);
  for (std::size_t i = 0; i < shown; ++i) {
    const RecipeCount& c = *groups[i].first;
    text += fmt::format("  {:>12}  {:>13}  {:>12}", c.equal, c.scales_differ, c.codes_differ);
    if (!scale.empty()) text += fmt::format("  {:>12}", ulps_text(c));
    text += "  " + some(groups[i].names, 6) + "\n";
  }
  if (shown < groups.size()) text += fmt::format("  and {} with fewer\n", groups.size() - shown);
  return text;
}

/// "te", or "te and 3 alike".
std::string with_alike(const AgainstReport& r, const RecipeCount& c) {
  for (const Alike& g : group(r.ranking)) {
    if (g.first->name == c.name && g.names.size() > 1)
      return fmt::format("{} and {} alike", c.name, g.names.size() - 1);
  }
  return c.name;
}

std::string explained_text(const AgainstReport& r, const Explained& e, bool brief) {
  const RecipeCount& c = e.count;
  const std::string name = with_alike(r, c);
  if (c.equal == c.blocks) return fmt::format("{}: all {} blocks agree\n", name, c.blocks);
  std::string text =
      fmt::format("{}: {} of {} blocks agree, {} have another scale, {} the same scale and other codes\n", name,
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
  for (const Explained& e : r.explained) text += "\n" + explained_text(r, e, brief);
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
