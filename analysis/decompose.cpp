#include "analysis/decompose.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/curvature.hpp"
#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

/// Inputs of the layer, and what a Hessian method makes of them.
struct Inputs {
  Matrix x;
  std::optional<Curvature> curvature;
};

Inputs load_inputs(const DecomposeOptions& o) {
  const search::Method& method = *o.config.method;
  if (o.activations.empty()) {
    if (!method.needs_hessian()) return {};
    throw UsageError("--scale", std::string(method.name) + " needs the layer's inputs",
                     "--activations X.safetensors:NAME");
  }
  const auto [path, tensor] = split_name(o.activations);
  Inputs in = {apply_to_inputs(o.transform, read_activations(path, tensor, o.notice)), {}};
  if (method.needs_hessian()) in.curvature = curvature_of(in.x, o.config.block, method.needs_full_hessian());
  return in;
}

ScaleShares scale_shares(const Matrix& m, const Quantized& q) {
  const formats::Format& scale = q.config.format->scale;
  const int first_normal = first_normal_code(scale), together = q.config.tile_rows();
  ScaleShares out;
  for (std::int64_t first = 0; first < m.rows; first += together) {
    for (std::int64_t column = 0, b = 0; column < m.cols; column += q.config.block, ++b) {
      if (block_amax(m, q.config, first, b) == 0) continue;
      const int code = q.scale_code(first, b);
      ++out.blocks;
      out.zero += scale.has_zero && code == 0;
      out.subnormal += code > 0 && code < first_normal;
      out.largest += code == static_cast<int>(scale.max_code);
    }
  }
  return out;
}

double squared_error(const QuantizeWords& words, const DecomposeOptions& o, const std::string& name, const Matrix& m) {
  QuantizeConfig config = parse_config(words, o.config.formats);
  config.seed = o.config.seed;
  config.stream = name_stream(name);
  const Quantized q = quantize(config, m, o.in + ": " + name, nullptr, o.stop);
  return o.stop && *o.stop ? 0 : measure(m, q).sse;
}

bool stopped(const DecomposeOptions& o) { return o.stop && *o.stop; }

}  // namespace

std::vector<std::pair<std::string, QuantizeWords>> remedies_for(const QuantizeWords& words,
                                                                const QuantizeConfig& config) {
  const search::Method& method = *config.method;
  if (method.needs_hessian() || method.random() || config.rounding == formats::Rounding::stochastic) return {};
  const bool unscaled = config.scaling == TensorScaling::none || config.scaling == TensorScaling::value;
  const bool searches = method.kind == search::MethodKind::sse || method.kind == search::MethodKind::exhaustive;
  QuantizeWords amax = words, sse = words;
  amax.tensor_scale = "amax";
  sse.scale = "sse";
  sse.select = "";
  QuantizeWords both = sse;
  both.tensor_scale = "amax";
  std::vector<std::pair<std::string, QuantizeWords>> candidates;
  if (unscaled) candidates.emplace_back("--tensor-scale amax", amax);
  if (!searches) candidates.emplace_back("--scale sse", sse);
  if (unscaled && !searches) candidates.emplace_back("--tensor-scale amax --scale sse", both);
  std::vector<std::pair<std::string, QuantizeWords>> out;
  for (auto& candidate : candidates) {
    try {
      parse_config(candidate.second, config.formats);
      out.push_back(std::move(candidate));
    } catch (const UsageError&) {  // the format or the recipe doesn't have it
    }
  }
  return out;
}

Decomposition decompose(const DecomposeOptions& o, const std::string& name, const Matrix& m, const Matrix* x,
                        const Curvature* curvature) {
  const std::string where = o.in + ": " + name;
  QuantizeConfig config = o.config;
  config.stream = name_stream(name);
  const Quantized q = quantize(config, m, where, curvature, o.stop);
  if (stopped(o)) return Decomposition();
  Decomposition d;
  d.name = name;
  d.shape = {m.rows, m.cols};
  d.config = config;
  d.transform = o.transform;
  const Activations activations = x ? make_activations(*x) : Activations{};
  d.metrics = measure(m, q, x ? &activations : nullptr, x ? output_energy(m, activations) : 0);
  if (!std::isfinite(d.metrics.sse)) throw Error(where, "stored values are not finite, their error is none");
  d.terms = terms_of(m, q);
  d.causes = causes_of(m, q);
  d.places = places_of(m, q);
  d.scales = scale_shares(m, q);
  if (d.metrics.sse > 0) {
    for (const auto& [text, words] : remedies_for(o.words, o.config)) {
      if (stopped(o)) return Decomposition();
      d.remedies.push_back({text, squared_error(words, o, name, m)});
    }
  }
  if (x) {
    const Quantized xq = quantize_inputs(o.config, *x);
    d.layer = layer_error(m, q, *x, &xq);
  }
  return d;
}

std::vector<Decomposition> decompose_file(const DecomposeOptions& o) {
  const auto file = io::open_tensors(o.in);
  std::vector<const io::TensorInfo*> chosen;
  double total = 0, done = 0;
  for (const io::TensorInfo& t : file->tensors()) {
    if (!selected(t.name, o.tensors, o.exclude)) continue;
    const std::string obstacle = why_not(t);
    if (!obstacle.empty()) {
      o.notice(t.name + " skipped, " + obstacle);
      continue;
    }
    chosen.push_back(&t);
    total += static_cast<double>(t.elements());
  }
  if (chosen.empty()) {
    throw Error(o.in, "no tensor to decompose is matched by " + join(o.tensors),
                "see the words above, or other --tensor");
  }
  const Inputs inputs = load_inputs(o);
  std::vector<Decomposition> out;
  for (const io::TensorInfo* t : chosen) {
    const Matrix m = apply(o.transform, o.config, read_matrix(*file, *t, o.notice));
    const bool fits = m.cols == inputs.x.cols;
    const std::string mismatch = fmt::format("{} columns do not fit activations of {}", m.cols, inputs.x.cols);
    if (inputs.curvature && !fits) {
      throw Error(o.in + ": " + t->name, mismatch, "select the tensors that they belong to with --tensor");
    }
    if (inputs.x.cols > 0 && !fits) o.notice(fmt::format("{}: no output error, {}", t->name, mismatch));
    out.push_back(
        decompose(o, t->name, m, fits ? &inputs.x : nullptr, inputs.curvature ? &*inputs.curvature : nullptr));
    if (stopped(o)) return {};
    done += static_cast<double>(t->elements());
    if (o.progress) o.progress(done / total, t->name);
  }
  return out;
}

}  // namespace fp4scope::analysis
