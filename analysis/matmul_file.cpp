#include "analysis/matmul_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "analysis/metrics.hpp"
#include "formats/error.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {

namespace {

using Json = nlohmann::ordered_json;

struct Loaded {
  Matrix given;
  std::optional<Quantized> q;
  double error = 0;

  Operand operand() const { return {&given, q ? &*q : nullptr}; }
};

Loaded load(const MatmulOperand& o, const MatmulFileOptions& options) {
  const auto [path, tensor] = split_name(o.source);
  Loaded l;
  l.given = read_activations(path, tensor, options.notice);
  if (!o.config) return l;
  QuantizeConfig config = *o.config;
  config.stream = name_stream(tensor);
  l.q = quantize(config, l.given, o.source, nullptr, options.stop);
  if (!l.q->codes.empty()) l.error = std::sqrt(measure(l.given, *l.q).relative_mse());
  return l;
}

Json to_json(const MatmulOperand& o) {
  Json j = {{"source", o.source}};
  if (!o.config) return j;
  const QuantizeConfig& c = *o.config;
  j["format"] = c.format->name;
  j["block"] = c.block;
  j["scale"] = c.method->name;
  j["recipe"] = c.recipe_name();
  j["tensor_scale"] = c.scaling_text();
  if (c.scaling == TensorScaling::amax) j["scale_max"] = c.scale_max;
  j["rounding"] = c.rounding_name();
  if (c.rounding == formats::Rounding::stochastic) j["seed"] = c.seed;
  j["block_2d"] = c.tiles;
  return j;
}

/// The values' bytes; each is one of the dtype's.
std::vector<std::byte> bytes_as(const std::string& dtype, const std::vector<float>& values) {
  const std::size_t width = dtype == "F32" ? 4 : 2;
  std::vector<std::byte> bytes(values.size() * width);
  const formats::Format& f = dtype == "BF16" ? formats::bf16 : formats::fp16;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (width == 4) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      continue;
    }
    const double value = values[i];
    const auto code = static_cast<std::uint16_t>(
        formats::encode(f, value, formats::Rounding::nearest_even, formats::Overflow::nan).code);
    std::memcpy(bytes.data() + 2 * i, &code, 2);
  }
  return bytes;
}

void write(const MatmulFileOptions& o, const Product& p) {
  const MatmulConfig& c = o.config;
  const Json record = {{"tool", o.tool},
                       {"a", to_json(o.a)},
                       {"b", to_json(o.b)},
                       {"arch", c.unit.arch},
                       {"instruction", c.unit.name},
                       {"alpha", alpha_rows[static_cast<std::size_t>(c.alpha)].name},
                       {"reversed", c.order.reversed},
                       {"split", c.order.split},
                       {"promote", c.promote}};
  io::SafetensorsWriter writer(o.out, {{"out", c.out_dtype, {p.rows, p.cols}}}, {{"fp4scope_matmul", record.dump()}});
  const std::vector<std::byte> bytes = bytes_as(c.out_dtype, p.out);
  writer.write("out", bytes);
  writer.commit();
}

void notice_overflow(const std::vector<float>& out, const Notice& notice) {
  const auto beyond = std::count_if(out.begin(), out.end(), [](float x) { return !std::isfinite(x); });
  if (beyond == 0) return;
  notice(fmt::format("{} of {} outputs are Inf or NaN, so the errors over all outputs are too", beyond, out.size()));
}

}  // namespace

std::optional<MatmulResult> matmul_file(const MatmulFileOptions& o) {
  const Loaded a = load(o.a, o), b = load(o.b, o);
  if (o.stop && *o.stop) return {};
  if (a.given.cols != b.given.cols) {
    throw Error(o.b.source, fmt::format("{} columns do not fit A of {}", b.given.cols, a.given.cols),
                "A [M, K] and B [N, K] have K along their rows");
  }
  MatmulResult r = {multiply(a.operand(), b.operand(), o.config, o.stop, o.progress), a.given.cols, a.error, b.error};
  if (r.product.rows == 0) return {};
  notice_overflow(r.product.out, o.notice);
  if (!o.out.empty()) write(o, r.product);
  return r;
}

}  // namespace fp4scope::analysis
