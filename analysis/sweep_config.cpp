#include "analysis/sweep_config.hpp"

#define TOML_EXCEPTIONS 1
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "analysis/names.hpp"
#include "analysis/quantize.hpp"
#include "formats/error.hpp"
#include "sim/hadamard.hpp"

namespace fp4scope::analysis {

namespace {

bool matches_any(const std::string& name, const std::vector<std::string>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// A TOML table that knows which of its keys were asked for, so that a misspelt one is found.
class Section {
 public:
  Section(const toml::table& table, std::string where, std::string name)
      : table_(table), where_(std::move(where)), name_(std::move(name)) {}

  bool has(const std::string& key) {
    if (!matches_any(key, known_)) known_.push_back(key);
    return table_.contains(key);
  }

  template <class T>
  T get(const std::string& key, T fallback) {
    if (!has(key)) return fallback;
    return value<T>(*table_.get(key), key);
  }

  /// A list, or a single value as a list of one.
  template <class T>
  std::vector<T> list(const std::string& key, std::vector<T> fallback) {
    if (!has(key)) return fallback;
    const toml::node& node = *table_.get(key);
    if (!node.is_array()) return {value<T>(node, key)};
    std::vector<T> values;
    for (const toml::node& element : *node.as_array()) values.push_back(value<T>(element, key));
    if (values.empty()) fail(node, "'" + key + "' is an empty list", "leave it out for the default");
    return values;
  }

  /// The tables of [[key]], or the one of [key].
  std::vector<Section> sections(const std::string& key) {
    std::vector<Section> out;
    if (!has(key)) return out;
    const toml::node& node = *table_.get(key);
    if (node.is_table()) out.emplace_back(*node.as_table(), where_, key);
    else if (node.is_array_of_tables()) {
      for (const toml::node& element : *node.as_array()) out.emplace_back(*element.as_table(), where_, key);
    } else {
      fail(node, "'" + key + "' is not a table", "write [[" + key + "]]");
    }
    return out;
  }

  /// Every key must have been asked for.
  void finish() const {
    for (const auto& [key, node] : table_) {
      const std::string name(key.str());
      if (matches_any(name, known_)) continue;
      fail(node, "unknown key '" + name + "'" + (name_.empty() ? "" : " in [" + name_ + "]"), suggestion(name, known_));
    }
  }

  /// `name` must be among `names`.
  std::string choose(const std::string& key, const std::string& name, const std::vector<std::string>& names) const {
    if (matches_any(name, names)) return name;
    const std::string one = key.back() == 's' ? key.substr(0, key.size() - 1) : key;
    fail(key, "unknown " + one + " '" + name + "'", suggestion(name, names));
  }

  [[noreturn]] void fail(const std::string& key, const std::string& what, const std::string& mend = "") const {
    if (const toml::node* node = table_.get(key)) fail(*node, what, mend);
    fail(static_cast<const toml::node&>(table_), what, mend);
  }

 private:
  [[noreturn]] void fail(const toml::node& node, const std::string& what, const std::string& mend) const {
    const auto line = node.source().begin.line;
    throw UsageError(line > 0 ? fmt::format("{}:{}", where_, line) : where_, what, mend);
  }

  template <class T>
  T value(const toml::node& node, const std::string& key) const {
    if constexpr (std::is_same_v<T, std::string>) {
      // A tensor scale may be written as a number, or as a word.
      if (node.is_floating_point()) return fmt::format("{}", *node.value<double>());
      if (node.is_integer()) return fmt::format("{}", *node.value<std::int64_t>());
      if (node.is_string()) return *node.value<std::string>();
      fail(node, "'" + key + "' is not a text", "write \"...\"");
    } else if constexpr (std::is_same_v<T, bool>) {
      if (node.is_boolean()) return *node.value<bool>();
      fail(node, "'" + key + "' is not true or false", "");
    } else if constexpr (std::is_same_v<T, double>) {
      if (node.is_number()) return *node.value<double>();
      fail(node, "'" + key + "' is not a number", "");
    } else {
      if (node.is_integer()) return static_cast<T>(*node.value<std::int64_t>());
      fail(node, "'" + key + "' is not a whole number", "");
    }
  }

  const toml::table& table_;
  std::string where_, name_;
  std::vector<std::string> known_;
};

std::int64_t positive(Section& s, const std::string& key, std::int64_t fallback, std::int64_t most) {
  const auto n = s.get<std::int64_t>(key, fallback);
  if (n < 1 || n > most) s.fail(key, fmt::format("'{}' = {} is not from 1 to {}", key, n, most));
  return n;
}

void check_range(const Section& s, const std::string& key, double x, double least, double most) {
  if (!(x >= least && x <= most)) s.fail(key, fmt::format("'{}' = {} is not from {} to {}", key, x, least, most));
}

double in_range(Section& s, const std::string& key, double fallback, double least, double most) {
  const auto x = s.get<double>(key, fallback);
  check_range(s, key, x, least, most);
  return x;
}

/// A list without repetitions: two rows of the same work would have the same id in everything but the run.
template <class T>
void check_unique(const Section& s, const std::string& key, const std::vector<T>& values) {
  for (std::size_t i = 1; i < values.size(); ++i) {
    if (std::find(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(i), values[i]) !=
        values.begin() + static_cast<std::ptrdiff_t>(i)) {
      s.fail(key, fmt::format("'{}' lists {} twice", key, values[i]));
    }
  }
}

std::uint64_t seed(Section& s, std::uint64_t fallback) {
  const auto n = s.get<std::int64_t>("seed", static_cast<std::int64_t>(fallback));
  if (n < 0) s.fail("seed", "'seed' is negative");
  return static_cast<std::uint64_t>(n);
}

std::vector<std::uint64_t> seeds(Section& s, std::uint64_t fallback) {
  std::vector<std::uint64_t> out;
  for (const std::int64_t n : s.list<std::int64_t>("seed", {static_cast<std::int64_t>(fallback)})) {
    if (n < 0) s.fail("seed", "'seed' is negative");
    out.push_back(static_cast<std::uint64_t>(n));
  }
  check_unique(s, "seed", out);
  return out;
}

std::vector<int> hadamards(Section& s) {
  std::vector<int> out;
  for (const std::int64_t n : s.list<std::int64_t>("hadamard", {0})) {
    if (n != 0 && !sim::is_hadamard_size(n)) {
      s.fail("hadamard", fmt::format("{} is no power of two from 2 to 1024, nor 0 for no rotation", n));
    }
    out.push_back(static_cast<int>(n));
  }
  check_unique(s, "hadamard", out);
  return out;
}

InputSpec parse_input(Section s, std::uint64_t default_seed) {
  InputSpec in;
  in.file = s.get<std::string>("file", "");
  if (!in.file.empty()) {
    in.tensors = s.list<std::string>("tensors", {"*"});
    in.exclude = s.list<std::string>("exclude", {});
    in.name = s.get<std::string>("name", std::filesystem::path(in.file).filename().string());
    if (s.has("distribution")) s.fail("distribution", "an [[input]] has either 'file' or 'distribution'");
    s.finish();
    return in;
  }
  if (!s.has("distribution")) s.fail("", "an [[input]] needs 'file' or 'distribution'");
  Distribution& d = in.distribution;
  d.kind = s.choose("distribution", s.get<std::string>("distribution", ""), distribution_names);
  d.rows = positive(s, "rows", d.rows, std::int64_t{1} << 40);
  d.cols = positive(s, "cols", d.cols, std::int64_t{1} << 40);
  if (d.rows > (std::int64_t{1} << 40) / d.cols) s.fail("rows", "the tensor has more than 2^40 elements");
  in.sigmas = s.list<double>("sigma", {d.sigma});
  for (const double sigma : in.sigmas) check_range(s, "sigma", sigma, 0, 1e30);
  check_unique(s, "sigma", in.sigmas);
  d.sigma = in.sigmas.front();
  d.dof = in_range(s, "dof", d.dof, 0.1, 1e6);
  in.seeds = seeds(s, default_seed);
  d.seed = in.seeds.front();
  const auto dtype = s.get<std::string>("dtype", d.dtype);
  d.dtype = s.has("dtype") ? s.choose("dtype", dtype, sample_dtypes) : dtype;
  in.name = s.get<std::string>("name", d.kind);
  s.finish();
  return in;
}

ActivationsSpec parse_activations(Section s, std::uint64_t default_seed) {
  ActivationsSpec a;
  a.file = s.get<std::string>("file", "");
  if (!a.file.empty()) {
    a.kind = ActivationsSpec::Kind::file;
    a.tensor = s.get<std::string>("tensor", "");
    s.finish();
    return a;
  }
  a.kind = ActivationsSpec::Kind::synthetic;
  a.synthetic.tokens = positive(s, "tokens", a.synthetic.tokens, 1 << 24);
  a.synthetic.correlation = in_range(s, "correlation", a.synthetic.correlation, -1, 1);
  a.synthetic.outlier_share = in_range(s, "outlier_share", a.synthetic.outlier_share, 0, 1);
  a.synthetic.outlier_gain = in_range(s, "outlier_gain", a.synthetic.outlier_gain, 0, 1e15);
  a.synthetic.seed = seed(s, default_seed);
  s.finish();
  return a;
}

/// A method belongs to at least one of the formats; which pairs make sense is the product's business.
void check_methods(const Section& s, const GridSpec& grid, const FormatTable& table) {
  std::vector<std::string> names;
  for (const std::string& format : grid.formats) {
    for (const std::string& name : table.method_names(format)) {
      if (!matches_any(name, names)) names.push_back(name);
    }
  }
  for (const std::string& method : grid.methods) s.choose("methods", method, names);
}

void check_tensor_scale(const Section& s, const std::string& word) {
  try {
    parse_config({"nvfp4", "naive", "", word, "", 0, 0});
  } catch (const UsageError& e) {
    s.fail("tensor_scale", "tensor_scale: " + e.problem);
  }
}

GridSpec parse_grid(Section s, const std::vector<InputSpec>& inputs, const FormatTable& table) {
  GridSpec g;
  std::vector<std::string> input_names;
  for (const InputSpec& in : inputs) input_names.push_back(in.name);
  g.inputs = s.list<std::string>("inputs", {});
  for (const std::string& name : g.inputs) s.choose("inputs", name, input_names);
  g.formats = s.list<std::string>("formats", {"nvfp4"});
  for (const std::string& name : g.formats) {
    if (name != "nvfp4" || s.has("formats")) s.choose("formats", name, table.names());
  }
  for (const std::int64_t block : s.list<std::int64_t>("blocks", {})) {
    if (block < 2 || block % 2 != 0 || block > search::max_block) {
      s.fail("blocks", fmt::format("a block of {} is not an even number from 2 to {}", block, search::max_block));
    }
    g.blocks.push_back(static_cast<int>(block));
  }
  g.methods = s.list<std::string>("methods", {"naive"});
  check_methods(s, g, table);
  g.selects = s.list<std::string>("select", {"mse"});
  for (const std::string& name : g.selects) {
    if (name != "mse") s.choose("select", name, select_names);
  }
  g.tensor_scales = s.list<std::string>("tensor_scale", {});
  for (const std::string& word : g.tensor_scales) check_tensor_scale(s, word);
  if (s.has("scale_max")) g.scale_max = static_cast<int>(positive(s, "scale_max", 0, 1 << 20));
  g.recipes = s.list<std::string>("recipe", g.recipes);
  for (const std::string& name : g.recipes) s.choose("recipe", name, recipe_names());
  g.roundings = s.list<std::string>("rounding", {});
  for (const std::string& name : g.roundings) s.choose("rounding", name, element_roundings);
  g.hadamards = hadamards(s);
  g.tiles = s.list<bool>("block_2d", g.tiles);
  s.finish();
  return g;
}

}  // namespace

SweepConfig parse_sweep(const std::string& text, const std::string& where) {
  toml::table root;
  try {
    root = toml::parse(text, where);
  } catch (const toml::parse_error& e) {
    throw UsageError(fmt::format("{}:{}", where, e.source().begin.line), std::string(e.description()), "TOML 1.0");
  }
  Section s(root, where, "");
  SweepConfig c;
  c.folder = std::filesystem::path(where).parent_path().string();
  c.seed = seed(s, 1);
  c.per_block = s.get<bool>("per_block", false);
  c.decompose = s.get<bool>("decompose", false);
  const auto nonfinite = s.get<std::string>("nonfinite", "refuse");
  c.nonfinite = s.has("nonfinite") ? s.choose("nonfinite", nonfinite, {"refuse", "propagate"}) : nonfinite;
  for (Section& section : s.sections("input")) c.inputs.push_back(parse_input(section, c.seed));
  const std::vector<Section> activations = s.sections("activations");
  if (activations.size() > 1) s.fail("activations", "more than one [activations]");
  if (!activations.empty()) c.activations = parse_activations(activations.front(), c.seed);
  if (s.has("format")) c.formats = parse_formats(text, where);
  for (Section& section : s.sections("quantize")) c.grids.push_back(parse_grid(section, c.inputs, *c.formats));
  s.finish();
  if (c.inputs.empty()) throw UsageError(where, "no [[input]]", "name a file or a distribution");
  if (c.grids.empty()) throw UsageError(where, "no [[quantize]]", "name formats and methods");
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (c.inputs[i].name == c.inputs[j].name) {
        throw UsageError(where, "two inputs are called '" + c.inputs[i].name + "'", "give them a name = \"...\" each");
      }
    }
  }
  return c;
}

namespace {

toml::array to_array(const auto& values) {
  toml::array array;
  for (const auto& value : values) array.push_back(value);
  return array;
}

toml::table to_toml(const InputSpec& in) {
  if (!in.file.empty()) {
    toml::table t{{"name", in.name}, {"file", in.file}, {"tensors", to_array(in.tensors)}};
    if (!in.exclude.empty()) t.insert("exclude", to_array(in.exclude));
    return t;
  }
  const Distribution& d = in.distribution;
  toml::table t{{"name", in.name}, {"distribution", d.kind}, {"rows", d.rows},
                {"cols", d.cols},  {"dof", d.dof},           {"dtype", d.dtype}};
  const std::vector<std::int64_t> seeds(in.seeds.begin(), in.seeds.end());
  if (in.sigmas.size() == 1) t.insert("sigma", in.sigmas.front());
  else t.insert("sigma", to_array(in.sigmas));
  if (seeds.size() == 1) t.insert("seed", seeds.front());
  else t.insert("seed", to_array(seeds));
  return t;
}

toml::table to_toml(const ActivationsSpec& a) {
  if (a.kind == ActivationsSpec::Kind::file) return toml::table{{"file", a.file}, {"tensor", a.tensor}};
  return toml::table{{"tokens", a.synthetic.tokens},
                     {"correlation", a.synthetic.correlation},
                     {"outlier_share", a.synthetic.outlier_share},
                     {"outlier_gain", a.synthetic.outlier_gain},
                     {"seed", static_cast<std::int64_t>(a.synthetic.seed)}};
}

toml::table to_toml(const GridSpec& g) {
  toml::table t{{"formats", to_array(g.formats)}, {"methods", to_array(g.methods)}, {"select", to_array(g.selects)}};
  if (!g.inputs.empty()) t.insert("inputs", to_array(g.inputs));
  if (!g.blocks.empty()) t.insert("blocks", to_array(g.blocks));
  if (!g.tensor_scales.empty()) t.insert("tensor_scale", to_array(g.tensor_scales));
  if (g.scale_max != 0) t.insert("scale_max", g.scale_max);
  const GridSpec defaults;
  if (g.recipes != defaults.recipes) t.insert("recipe", to_array(g.recipes));
  if (!g.roundings.empty()) t.insert("rounding", to_array(g.roundings));
  if (g.hadamards != defaults.hadamards) t.insert("hadamard", to_array(g.hadamards));
  if (g.tiles != defaults.tiles) t.insert("block_2d", to_array(g.tiles));
  return t;
}

toml::table to_toml(const FormatDefinition& d) {
  toml::table t{{"scale", d.scale}, {"block", *d.block}, {"tensor_scale", d.tensor_scale}};
  if (d.levels.empty()) t.insert("element", d.element);
  else t.insert("levels", to_array(d.levels));
  if (d.scale_max) t.insert("scale_max", *d.scale_max);
  return t;
}

}  // namespace

std::string canonical_toml(const SweepConfig& c) {
  toml::table root{{"seed", static_cast<std::int64_t>(c.seed)},
                   {"per_block", c.per_block},
                   {"decompose", c.decompose},
                   {"nonfinite", c.nonfinite}};
  toml::array inputs, grids;
  for (const InputSpec& in : c.inputs) inputs.push_back(to_toml(in));
  for (const GridSpec& g : c.grids) grids.push_back(to_toml(g));
  root.insert("input", inputs);
  toml::table definitions;
  for (const std::string& name : c.formats->names()) {
    if (const FormatDefinition* d = c.formats->definition(name)) definitions.insert(name, to_toml(*d));
  }
  if (!definitions.empty()) root.insert("format", definitions);
  if (c.activations.kind != ActivationsSpec::Kind::none) root.insert("activations", to_toml(c.activations));
  root.insert("quantize", grids);
  std::ostringstream out;
  out << root << "\n";
  return out.str();
}

std::string resolve_path(const SweepConfig& config, const std::string& file) {
  std::string path = file;
  for (std::size_t at = path.find("${"); at != std::string::npos; at = path.find("${", at)) {
    const std::size_t end = path.find('}', at);
    if (end == std::string::npos) throw Error(file, "'${' without '}'");
    const std::string variable = path.substr(at + 2, end - at - 2);
    const char* value = std::getenv(variable.c_str());
    if (!value) throw Error(file, "the environment variable " + variable + " is not set", "set it, or write the path");
    path.replace(at, end + 1 - at, value);
    at += std::string(value).size();
  }
  const std::filesystem::path p(path);
  return p.is_absolute() || config.folder.empty() ? path : (std::filesystem::path(config.folder) / p).string();
}

}  // namespace fp4scope::analysis
