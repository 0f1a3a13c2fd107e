#include "analysis/model_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

const std::vector<std::string> default_tensors = {"*.weight"};
const std::vector<std::string> default_left = {
    "lm_head*", "*.lm_head*",    "*embed*", "*wte.weight",         "*wpe.weight",
    "*norm*",   "*.gate.weight", "*router*", "*.shared_expert_gate.weight"};
const std::vector<std::vector<std::string>> fused_names = {
    {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"w1", "w3"}, {"q_a_proj", "kv_a_proj_with_mqa"}};

namespace {

constexpr int loader_columns = 32;  ///< GEMMs want rows of 16 bytes, 32 elements

/// One --override.
struct Override {
  std::string text, glob;
  bool keep = false;
  std::vector<std::pair<std::string, std::string>> changes;
};

const std::vector<std::string> override_keys = {"format", "block", "scale", "select", "tensor-scale", "recipe", "keep"};

[[noreturn]] void refuse(const Override& o, const std::string& what, const std::string& mend) {
  throw UsageError("--override " + o.text, what, mend);
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Override parse_override(const std::string& text) {
  Override o;
  o.text = text;
  const std::string form = "GLOB=KEY:VALUE,... with keys " + join(override_keys);
  const std::size_t equal = text.rfind('=');
  if (equal == std::string::npos || equal == 0) refuse(o, "names no tensors", form);
  o.glob = text.substr(0, equal);
  for (const std::string& part : split(text.substr(equal + 1), ',')) {
    if (part == "keep") {
      o.keep = true;
      continue;
    }
    const std::size_t colon = part.find(':');
    const std::string key = part.substr(0, colon);
    if (std::find(override_keys.begin(), override_keys.end(), key) == override_keys.end()) {
      refuse(o, "unknown key '" + key + "'", suggestion(key, override_keys));
    }
    if (colon == std::string::npos || colon + 1 == part.size() || key == "keep") {
      refuse(o, "'" + part + "' is no KEY:VALUE", form);
    }
    o.changes.emplace_back(key, part.substr(colon + 1));
  }
  if (o.keep && !o.changes.empty()) refuse(o, "keeps what it also changes", "keep alone");
  return o;
}

int parse_block(const Override& o, const std::string& value) {
  if (value.empty() || value.size() > 6 || value.find_first_not_of("0123456789") != std::string::npos) {
    refuse(o, "'" + value + "' is no block size", "block:16");
  }
  return std::stoi(value);
}

/// A format begins anew: what was said for another one need not exist in it.
void apply(const Override& o, QuantizeWords& words) {
  const auto is_format = [](const auto& change) { return change.first == "format"; };
  if (std::any_of(o.changes.begin(), o.changes.end(), is_format)) words = {};
  for (const auto& [key, value] : o.changes) {
    if (key == "format") words.format = value;
    else if (key == "block") words.block = parse_block(o, value);
    else if (key == "scale") words.scale = value;
    else if (key == "select") words.select = value;
    else if (key == "tensor-scale") words.tensor_scale = value;
    else words.recipe = value;
  }
}

/// What a layout holds of a configuration.
const LayoutFormat* fit_layout(const ModelWords& w, const QuantizeConfig& c) {
  if (w.layout == "fake") return nullptr;
  const LayoutFormat* const layout = find_layout_format(w.layout, c.format->name, c.block);
  if (!layout) {
    throw UsageError("--as " + w.layout, fmt::format("holds no {} in blocks of {}", c.format->name, c.block),
                     "there are: " + layout_has(w.layout) + "; --as fake takes all");
  }
  if (c.method->corrects()) {
    throw UsageError("--scale", fmt::format("{}'s codes have no place in a checkpoint", c.method->name), "--as fake");
  }
  if (*layout->tensor_suffix == '\0' && c.scaling != TensorScaling::none) {
    throw UsageError("--tensor-scale", fmt::format("{} has none in {}", c.format->name, w.layout), "none");
  }
  return layout;
}

/// Configurations by the overrides that they come from, so that each is parsed once.
class Configs {
 public:
  explicit Configs(const ModelWords& w) : words_(w) {
    for (const std::string& text : w.overrides) overrides_.push_back(parse_override(text));
    used_.assign(overrides_.size(), false);
  }

  bool keeps(const std::string& name) {
    bool kept = false;
    for (std::size_t i = 0; i < overrides_.size(); ++i) {
      if (!matches(overrides_[i].glob, name)) continue;
      kept = overrides_[i].keep;
      if (kept) used_[i] = true;
    }
    return kept;
  }

  const std::pair<QuantizeConfig, const LayoutFormat*>& of(const std::string& name) {
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < overrides_.size(); ++i) {
      if (!overrides_[i].keep && matches(overrides_[i].glob, name)) which.push_back(i);
    }
    for (const std::size_t i : which) used_[i] = true;
    const auto found = parsed_.find(which);
    return found != parsed_.end() ? found->second : parsed_.emplace(which, parse(which)).first->second;
  }

  void check_used() const {
    for (std::size_t i = 0; i < overrides_.size(); ++i) {
      if (!used_[i]) throw Error(words_.in, "no weight that is quantized matches --override " + overrides_[i].text);
    }
  }

 private:
  std::pair<QuantizeConfig, const LayoutFormat*> parse(const std::vector<std::size_t>& which) const {
    QuantizeWords words = words_.words;
    for (const std::size_t i : which) apply(overrides_[i], words);
    try {
      QuantizeConfig config = parse_config(words, words_.formats);
      config.seed = words_.seed;
      return {config, fit_layout(words_, config)};
    } catch (const Error& e) {
      if (which.empty()) throw;
      throw UsageError("--override " + overrides_[which.back()].text, e.what());
    }
  }

  const ModelWords& words_;
  std::vector<Override> overrides_;
  std::vector<bool> used_;
  std::map<std::vector<std::size_t>, std::pair<QuantizeConfig, const LayoutFormat*>> parsed_;
};

/// Why a tensor is left; "" if it isn't.
std::string why_left(const ModelWords& w, const io::TensorInfo& t, Configs& configs) {
  if (!t.readable()) return "of dtype " + t.dtype.name;
  if (t.shape.size() < 2) return "of fewer than two dimensions";
  if (t.shape.size() > 2) return "of more than two dimensions";
  if (t.elements() == 0) return "without elements";
  if (w.tensors.empty() && !selected(t.name, default_tensors, {})) return "not called *.weight";
  if (w.tensors.empty() && selected(t.name, default_left, {})) return "heads, embeddings, norms or routers";
  if (!w.tensors.empty() && !selected(t.name, w.tensors, {})) return "not named by --tensor";
  if (selected(t.name, w.exclude, {})) return "excluded";
  if (configs.keeps(t.name)) return "kept by --override";
  return "";
}

/// Why its columns don't fit; "" if they do.
std::string misfit(const ModelWords& w, const PlannedWeight& p) {
  const int unit = p.layout ? loader_columns : p.config.block;
  if (p.shape.cols % unit == 0) return "";
  const std::string what = p.layout ? "columns that loaders take" : "block";
  if (w.pad_error) {
    throw Error(w.in + ": " + p.tensor->name,
                fmt::format("{} columns are no multiple of {} {}", p.shape.cols, unit, what),
                "--exclude it, or leave --pad error out");
  }
  return fmt::format("of columns that are no multiple of {}", unit);
}

std::string leaf_of(const std::string& module) { return module.substr(module.rfind('.') + 1); }

/// "model.layers.0.self_attn.|0" of a name that is in row 0 of fused_names; "" of another.
std::string fused_key(const std::string& name) {
  const std::string module = module_of(name), leaf = leaf_of(module);
  for (std::size_t i = 0; i < fused_names.size(); ++i) {
    if (std::find(fused_names[i].begin(), fused_names[i].end(), leaf) == fused_names[i].end()) continue;
    return fmt::format("{}|{}", module.substr(0, module.size() - leaf.size()), i);
  }
  return "";
}

/// Whether the two may have one tensor scale.
bool alike(const QuantizeConfig& a, const QuantizeConfig& b) {
  return a.format == b.format && a.block == b.block && a.scaling == b.scaling && a.scale_max == b.scale_max &&
         a.recipe == b.recipe && a.unbiased == b.unbiased && a.method->random() == b.method->random();
}

bool has_own_scale(const QuantizeConfig& c) {
  return c.scaling != TensorScaling::none && c.scaling != TensorScaling::value;
}

/// "32 of q_proj, k_proj, v_proj"
std::string group_line(const ModelPlan& plan) {
  std::map<std::string, int> kinds;
  for (const std::vector<std::size_t>& group : plan.groups) {
    std::vector<std::string> leaves;
    for (const std::size_t i : group) leaves.push_back(leaf_of(module_of(plan.weights[i].tensor->name)));
    ++kinds[join(leaves, "+")];
  }
  std::vector<std::string> parts;
  for (const auto& [leaves, count] : kinds) parts.push_back(fmt::format("{} of {}", count, leaves));
  return "one tensor scale for each fused group: " + join(parts);
}

void make_groups(ModelPlan& plan) {
  std::map<std::string, std::vector<std::size_t>> found;
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const std::string key = fused_key(plan.weights[i].tensor->name);
    if (!key.empty() && has_own_scale(plan.weights[i].config)) found[key].push_back(i);
  }
  for (const auto& [key, members] : found) {
    const QuantizeConfig& first = plan.weights[members[0]].config;
    const bool same = std::all_of(members.begin(), members.end(),
                                  [&](std::size_t i) { return alike(first, plan.weights[i].config); });
    if (members.size() < 2 || !same) continue;
    for (const std::size_t i : members) plan.weights[i].group = static_cast<int>(plan.groups.size());
    plan.groups.push_back(members);
  }
  if (!plan.groups.empty()) plan.words.push_back(group_line(plan));
}

/// A word about weights that loaders fuse and that became different things.
void check_fused(const ModelWords& w, ModelPlan& plan) {
  if (w.layout == "fake") return;
  std::map<std::string, std::set<const LayoutFormat*>> kinds;
  std::map<std::string, std::string> example;
  const auto add = [&](const io::TensorInfo& t, const LayoutFormat* layout) {
    const std::string key = fused_key(t.name);
    if (key.empty() || !t.name.ends_with(".weight") || t.shape.size() != 2) return;
    kinds[key].insert(layout);
    example[key] = t.name;
  };
  for (const PlannedWeight& p : plan.weights) add(*p.tensor, p.layout);
  for (const io::TensorInfo* t : plan.left) add(*t, nullptr);
  int mixed = 0;
  std::string first;
  for (const auto& [key, layouts] : kinds) {
    if (layouts.size() < 2) continue;
    if (mixed++ == 0) first = example[key];
  }
  if (mixed == 0) return;
  plan.words.push_back(
      fmt::format("{} {} not quantized alike, such as that of {}: loaders that fuse it refuse the model", mixed,
                  mixed == 1 ? "fused group is" : "fused groups are", first));
}

/// "left as they are: 2 heads, embeddings, norms or routers (lm_head.weight, ...), 65 of fewer than two dimensions"
std::string left_line(const std::map<std::string, std::vector<std::string>>& reasons) {
  constexpr std::size_t most_named = 3;
  std::vector<std::string> parts;
  for (const auto& [reason, names] : reasons) {
    std::vector<std::string> shown = names;
    if (names.size() > most_named) {
      shown.resize(most_named);
      shown.emplace_back("...");
    }
    parts.push_back(fmt::format("{} {} ({})", names.size(), reason, join(shown)));
  }
  return "left as they are: " + join(parts, "; ");
}

}  // namespace

ModelPlan plan_model(const ModelWords& w, const std::vector<io::TensorInfo>& tensors) {
  ModelPlan plan;
  Configs configs(w);
  std::map<std::string, std::vector<std::string>> reasons;
  for (const io::TensorInfo& t : tensors) {
    std::string reason = why_left(w, t, configs);
    PlannedWeight p;
    if (reason.empty()) {
      const auto& [config, layout] = configs.of(t.name);
      p = {&t, as_matrix(t), config, layout, -1};
      p.config.stream = name_stream(t.name);
      const std::string columns = misfit(w, p);
      if (p.layout) reason = columns;
      else if (!columns.empty()) plan.words.push_back(t.name + ": padded with zeros, " + columns.substr(3));
    }
    if (reason.empty()) {
      plan.weights.push_back(std::move(p));
      continue;
    }
    plan.left.push_back(&t);
    reasons[reason].push_back(t.name);
  }
  if (plan.weights.empty()) {
    throw Error(w.in, "no tensor to quantize is matched by " + join(w.tensors.empty() ? default_tensors : w.tensors),
                "other --tensor; " + (reasons.empty() ? "there are none" : left_line(reasons)));
  }
  configs.check_used();
  if (w.fuse) make_groups(plan);
  check_fused(w, plan);
  if (!reasons.empty()) plan.words.push_back(left_line(reasons));
  return plan;
}

std::vector<std::string> left_modules(const ModelPlan& plan) {
  std::set<std::string> quantized, left;
  for (const PlannedWeight& p : plan.weights) quantized.insert(module_of(p.tensor->name));
  for (const io::TensorInfo* t : plan.left) {
    const std::string module = module_of(t->name);
    if (t->shape.size() >= 2 && !is_embedding(t->name) && !quantized.contains(module)) left.insert(module);
  }
  return {left.begin(), left.end()};
}

}  // namespace fp4scope::analysis
