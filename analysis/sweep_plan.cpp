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
    plan.tensors.push_back({&input, info.name, info.dtype.name, file, &info, as_matrix(info)});
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
    const Distribution& d = input.distribution;
    const std::string dtype = d.dtype == "f32" ? "F32" : d.dtype == "bf16" ? "BF16" : "F16";
    plan.tensors.push_back({&input, d.kind, dtype, nullptr, nullptr, {d.rows, d.cols}});
  }
}

/// One axis of the product: the listed values, or one default.
template <class T>
std::vector<T> axis(const std::vector<T>& listed, const T& fallback) {
  return listed.empty() ? std::vector<T>{fallback} : listed;
}

/// The configurations of a grid, the same for every tensor. Senseless ones become words.
std::vector<QuantizeConfig> plan_configs(const SweepConfig& config, const GridSpec& grid,
                                         std::set<std::string>& skipped) {
  std::vector<QuantizeConfig> configs;
  for (const std::string& format : grid.formats) {
    const formats::BlockFormat& row = *config.formats->find(format);
    for (const int block : axis(grid.blocks, 0)) {
      for (const std::string& method : grid.methods) {
        const search::Method* found = config.formats->find_method(format, method);
        if (!found) {
          skipped.insert(format + " has no method " + method + ", skipped");
          continue;
        }
        if (found->needs_hessian() && config.activations.kind == ActivationsSpec::Kind::none) {
          skipped.insert(format + " " + method + " skipped, it needs [activations]");
          continue;
        }
        for (const std::string& select : grid.selects) {
          if (!found->chooses() && select != grid.selects.front()) continue;
          for (const std::string& scaling : axis(grid.tensor_scales, std::string())) {
            const bool impossible = scaling == "amax" && !found->scale_max && !grid.scale_max && !row.scale_max;
            if (impossible) {
              skipped.insert(format + " with tensor_scale amax skipped, it has no default scale_max");
              continue;
            }
            const bool from_amax = scaling == "amax" || (scaling.empty() && row.tensor_scaled);
            configs.push_back(parse_config({format, method, found->chooses() ? select : "", scaling, config.nonfinite,
                                            block, from_amax ? grid.scale_max : 0},
                                           config.formats));
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

}  // namespace

Plan make_plan(const SweepConfig& config) {
  Plan plan;
  plan_tensors(config, plan);
  plan_activations(config, plan);
  const std::int64_t columns = plan.activations.cols;  // 0: any
  std::vector<std::vector<QuantizeConfig>> configs;
  for (const GridSpec& grid : config.grids) configs.push_back(plan_configs(config, grid, plan.skipped));
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    for (std::size_t g = 0; g < configs.size(); ++g) {
      const std::vector<std::string>& inputs = config.grids[g].inputs;
      const bool named = std::find(inputs.begin(), inputs.end(), plan.tensors[t].input->name) != inputs.end();
      if (!inputs.empty() && !named) continue;
      for (const QuantizeConfig& c : configs[g]) {
        const std::int64_t cols = plan.tensors[t].shape.cols;
        if (c.method->needs_hessian() && columns != 0 && columns != cols) {
          plan.skipped.insert(fmt::format("{}: {} skipped, {} columns do not fit activations of {}",
                                          plan.tensors[t].name, c.method->name, cols, columns));
          continue;
        }
        plan.work.push_back({"", t, c});
      }
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
