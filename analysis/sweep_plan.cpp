#include "analysis/sweep_plan.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

/// Names, sizes and times.
std::string describe_files(const io::TensorFile& file) {
  std::string text;
  for (const std::string& name : file.files()) {
    struct stat s {};
    if (stat(name.c_str(), &s) != 0) continue;
    text += fmt::format("{} {} {}.{:09}\n", std::filesystem::weakly_canonical(name).string(), s.st_size,
                        s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  }
  return text;
}

void plan_file(const SweepConfig& config, const InputSpec& input, Plan& plan) {
  const std::string path = resolve_path(config, input.file);
  const std::shared_ptr<const io::TensorFile> file = io::open_tensors(path);
  bool any = false;
  for (const io::TensorInfo& info : file->tensors()) {
    if (!selected(info.name, input.tensors, input.exclude)) continue;
    const std::string obstacle = why_not(info);
    if (!obstacle.empty()) {
      plan.skipped.insert(input.name + ": " + info.name + " skipped, " + obstacle);
      continue;
    }
    plan.tensors.push_back({&input, input.name, info.name, info.dtype.name, file, &info, {}, {}, as_matrix(info), 0});
    any = true;
  }
  if (!any) throw Error(path, "no tensor to quantize is matched by " + join(input.tensors), "list other 'tensors'");
  plan.inputs += describe_files(*file);
}

void plan_tensors(const SweepConfig& config, Plan& plan) {
  for (const InputSpec& input : config.inputs) {
    if (!input.file.empty()) {
      plan_file(config, input, plan);
      continue;
    }
    for (const double sigma : input.sigmas) {
      Distribution d = input.distribution;
      d.sigma = sigma;
      const std::string name = input.sigmas.size() > 1 ? fmt::format("{} sigma {}", input.name, sigma) : input.name;
      const std::string dtype = d.dtype == "f32" ? "F32" : d.dtype == "bf16" ? "BF16" : "F16";
      for (const std::uint64_t seed : input.seeds) {
        d.seed = seed;
        plan.tensors.push_back({&input, name, d.kind, dtype, nullptr, nullptr, d, {}, {d.rows, d.cols}, 0});
      }
    }
  }
}

/// Every tensor once for each rotation that a grid asks of it.
void plan_rotations(const SweepConfig& config, Plan& plan) {
  std::set<int> sizes;
  for (const GridSpec& grid : config.grids) sizes.insert(grid.hadamards.begin(), grid.hadamards.end());
  std::vector<PlannedTensor> rotated;
  for (const PlannedTensor& tensor : plan.tensors) {
    for (const int size : sizes) {
      PlannedTensor t = tensor;
      t.transform = parse_transform({}, false, size != 0, size, {});
      t.original_cols = t.shape.cols;
      t.shape.cols = transformed_cols(t.transform, t.shape);
      rotated.push_back(t);
    }
  }
  plan.tensors = std::move(rotated);
}

/// One axis of the product: the listed values, or one default.
template <class T>
std::vector<T> axis(const std::vector<T>& listed, const T& fallback) {
  return listed.empty() ? std::vector<T>{fallback} : listed;
}

/// One point of a grid as words, or why there is none.
std::string refusal(const SweepConfig& config, const QuantizeWords& words) {
  const formats::BlockFormat& row = *config.formats->find(words.format);
  const search::Method* found = config.formats->find_method(words.format, words.scale);
  if (!found) return words.format + " has no method " + words.scale + ", skipped";
  if (found->needs_hessian() && config.activations.kind == ActivationsSpec::Kind::none) {
    return words.format + " " + words.scale + " skipped, it needs [activations]";
  }
  if (words.recipe.empty() && words.tensor_scale == "amax" && !found->scale_max && !words.scale_max && !row.scale_max) {
    return words.format + " with tensor_scale amax skipped, it has no default scale_max";
  }
  return "";
}

/// The axes of a grid beside format, block, method and select, which say what is done with the elements and the tensor.
struct Setting {
  std::string recipe, rounding, tensor_scale;
  bool tiles;
};

std::vector<Setting> settings_of(const GridSpec& grid) {
  std::vector<Setting> out;
  for (const std::string& recipe : grid.recipes) {
    for (const std::string& rounding : axis(grid.roundings, std::string())) {
      for (const std::string& scaling : axis(grid.tensor_scales, std::string())) {
        for (const bool tiles : grid.tiles) out.push_back({recipe == "exact" ? "" : recipe, rounding, scaling, tiles});
      }
    }
  }
  return out;
}

/// Adds the configuration that the words describe, or a word about why it makes no sense.
void add_config(const SweepConfig& config, QuantizeWords words, std::vector<QuantizeConfig>& configs,
                std::set<std::string>& skipped) {
  const std::string why = refusal(config, words);
  if (!why.empty()) {
    skipped.insert(why);
    return;
  }
  const search::Method& method = *config.formats->find_method(words.format, words.scale);
  if (!method.chooses()) words.select.clear();
  const bool scaled = config.formats->find(words.format)->tensor_scaled;
  if (words.tensor_scale != "amax" && !(words.tensor_scale.empty() && scaled)) words.scale_max = 0;
  try {
    configs.push_back(parse_config(words, config.formats));
  } catch (const UsageError& e) {
    skipped.insert(fmt::format("{} {} skipped, {}", words.format, words.scale, e.what()));
  }
}

/// The configurations of a grid, the same for every tensor. Senseless ones become words.
std::vector<QuantizeConfig> plan_configs(const SweepConfig& config, const GridSpec& grid,
                                         std::set<std::string>& skipped) {
  std::vector<QuantizeConfig> configs;
  const std::vector<Setting> settings = settings_of(grid);
  for (const std::string& format : grid.formats) {
    for (const int block : axis(grid.blocks, 0)) {
      for (const std::string& method : grid.methods) {
        const search::Method* found = config.formats->find_method(format, method);
        for (const std::string& select : grid.selects) {
          if (found && !found->chooses() && select != grid.selects.front()) continue;
          for (const Setting& s : settings) {
            add_config(config,
                       {format, method, select, s.tensor_scale, config.nonfinite, block, grid.scale_max, s.recipe,
                        s.rounding, s.tiles},
                       configs, skipped);
          }
        }
      }
    }
  }
  return configs;
}

void plan_activations(const SweepConfig& config, Plan& plan) {
  if (config.activations.kind != ActivationsSpec::Kind::file) return;
  const std::string path = resolve_path(config, config.activations.file);
  plan.inputs += describe_files(*io::open_tensors(path));
  const auto word = [&plan](const std::string& text) { plan.skipped.insert(text); };
  plan.activations = read_activations(path, config.activations.tensor, word);
}

/// Whether the grid is for that tensor.
bool takes(const GridSpec& grid, const PlannedTensor& tensor) {
  const auto holds = [](const auto& list, const auto& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  return (grid.inputs.empty() || holds(grid.inputs, tensor.input->name)) &&
         holds(grid.hadamards, tensor.transform.hadamard);
}

void plan_work(std::size_t t, const std::vector<QuantizeConfig>& configs, Plan& plan, std::uint64_t seed) {
  const PlannedTensor& tensor = plan.tensors[t];
  const std::int64_t columns = plan.activations.cols;  // 0: any
  for (QuantizeConfig c : configs) {
    if (c.method->needs_hessian() && columns != 0 && columns != tensor.original_cols) {
      plan.skipped.insert(fmt::format("{}: {} skipped, {} columns do not fit activations of {}", tensor.name,
                                      c.method->name, tensor.original_cols, columns));
      continue;
    }
    c.seed = tensor.file ? seed : tensor.distribution.seed;
    c.stream = name_stream(tensor.name);
    plan.work.push_back({"", t, c});
  }
}

}  // namespace

Plan make_plan(const SweepConfig& config) {
  Plan plan;
  plan_tensors(config, plan);
  plan_rotations(config, plan);
  plan_activations(config, plan);
  std::vector<std::vector<QuantizeConfig>> configs;
  for (const GridSpec& grid : config.grids) configs.push_back(plan_configs(config, grid, plan.skipped));
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    for (std::size_t g = 0; g < configs.size(); ++g) {
      if (takes(config.grids[g], plan.tensors[t])) plan_work(t, configs[g], plan, config.seed);
    }
  }
  for (std::size_t i = 0; i < plan.work.size(); ++i) plan.work[i].run = fmt::format("{:06}", i);
  return plan;
}

double cost(const Work& work, const PlannedTensor& tensor, std::int64_t tokens) {
  double each = 15;
  switch (work.config.method->kind) {
    case search::MethodKind::rule:
    case search::MethodKind::eden: break;
    case search::MethodKind::macro: each += 10; break;
    case search::MethodKind::residual:
    case search::MethodKind::residual_half: each += 25; break;
    case search::MethodKind::macro_search: each += 250; break;
    case search::MethodKind::four_over_six:
    case search::MethodKind::select_element: each += 25; break;
    case search::MethodKind::sse: each += 60; break;
    case search::MethodKind::exhaustive: each += 800; break;
    case search::MethodKind::window: each += 100; break;
    case search::MethodKind::hessian: each += 45.0 * (work.config.block + 16); break;
    default: each += 5e4; break;  // elements too: a guess, they differ widely
  }
  return static_cast<double>(tensor.shape.rows * tensor.shape.cols) * (each + 0.7 * static_cast<double>(tokens));
}

}  // namespace fp4scope::analysis
