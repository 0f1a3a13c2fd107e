#include "analysis/checkpoint_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

using Json = nlohmann::ordered_json;

const std::vector<LayoutFormat> layout_formats = {
    {"compressed-tensors", "nvfp4", 16, "_packed", "_scale", "F8_E4M3", "_global_scale", true, false},
    {"compressed-tensors", "mxfp4", 32, "_packed", "_scale", "U8", "", false, false},
    {"modelopt", "nvfp4", 16, "", "_scale", "F8_E4M3", "_scale_2", false, true},
};

std::vector<std::string> layout_names() {
  std::vector<std::string> names;
  for (const LayoutFormat& f : layout_formats) {
    if (names.empty() || names.back() != f.layout) names.emplace_back(f.layout);
  }
  return names;
}

const LayoutFormat* find_layout_format(std::string_view layout, std::string_view format, int block) {
  for (const LayoutFormat& f : layout_formats) {
    if (layout == f.layout && format == f.format && block == f.block) return &f;
  }
  return nullptr;
}

std::string layout_has(std::string_view layout) {
  std::vector<std::string> words;
  for (const LayoutFormat& f : layout_formats) {
    if (layout == f.layout) words.push_back(fmt::format("{} in blocks of {}", f.format, f.block));
  }
  return join(words);
}

std::vector<io::SafetensorsWriter::Entry> layout_entries(const LayoutFormat& layout, const std::string& weight,
                                                         std::int64_t rows, std::int64_t cols) {
  std::vector<io::SafetensorsWriter::Entry> list = {
      {weight + layout.codes_suffix, "U8", {rows, cols / 2}},
      {weight + layout.scale_suffix, layout.scale_dtype, {rows, cols / layout.block}}};
  if (*layout.tensor_suffix == '\0') return list;
  std::vector<std::int64_t> shape;
  if (!layout.tensor_scale_is_scalar) shape.push_back(1);
  list.push_back({weight + layout.tensor_suffix, "F32", shape});
  return list;
}

float decode_scale_of(float s) { return 1.0f / s; }

float encode_scale_of(float d) {
  constexpr float least = 0x1.000008p-128f;  // the reciprocal of the binary32 before it is Inf
  return std::clamp(1.0f / d, least, std::numeric_limits<float>::max());
}

std::string module_of(const std::string& tensor) {
  const std::size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

bool is_embedding(const std::string& tensor) {
  return matches("*embed*", tensor) || matches("*wte.weight", tensor) || matches("*wpe.weight", tensor);
}

namespace {

/// The formats that occur, in the table's order.
std::vector<const LayoutFormat*> formats_of(const CheckpointConfig& config) {
  std::vector<const LayoutFormat*> used;
  for (const LayoutFormat& f : layout_formats) {
    for (const QuantizedModule& m : config.quantized) {
      if (m.format != &f) continue;
      used.push_back(&f);
      break;
    }
  }
  return used;
}

/// modelopt's word for NVFP4 weights, under activations in NVFP4 or as they are.
const char* modelopt_algorithm(const CheckpointConfig& config) { return config.activations ? "NVFP4" : "W4A16_NVFP4"; }

/// Loaders know the layout by this name; the version says who wrote it.
Json modelopt_producer(const CheckpointConfig& config) { return {{"name", "modelopt"}, {"version", config.tool}}; }

std::string packed_format(const LayoutFormat& f) { return std::string(f.format) + "-pack-quantized"; }

Json weight_arguments(const LayoutFormat& f) {
  const bool tensor_scaled = *f.tensor_suffix != '\0';
  return {{"num_bits", 4},
          {"type", "float"},
          {"symmetric", true},
          {"group_size", f.block},
          {"strategy", tensor_scaled ? "tensor_group" : "group"},
          {"block_structure", nullptr},
          {"dynamic", false},
          {"actorder", nullptr},
          {"scale_dtype", tensor_scaled ? "torch.float8_e4m3fn" : "torch.uint8"},
          {"zp_dtype", nullptr}};
}

/// "local": a block's scale is computed as the activations come, under the stored global one.
Json activation_arguments(const CheckpointConfig& config, const LayoutFormat& f) {
  if (!config.activations || *f.tensor_suffix == '\0') return nullptr;
  Json j = weight_arguments(f);
  j["dynamic"] = "local";
  return j;
}

Json compressed_tensors_config(const CheckpointConfig& config) {
  const std::vector<const LayoutFormat*> used = formats_of(config);
  Json groups = Json::object();
  for (const LayoutFormat* f : used) {
    Json targets = Json::array();
    if (used.size() == 1) targets.push_back("Linear");
    for (const QuantizedModule& m : config.quantized) {
      if (used.size() > 1 && m.format == f) targets.push_back(m.name);
    }
    groups[fmt::format("group_{}", groups.size())] = {{"targets", targets},
                                                      {"weights", weight_arguments(*f)},
                                                      {"input_activations", activation_arguments(config, *f)},
                                                      {"output_activations", nullptr},
                                                      {"format", packed_format(*f)}};
  }
  return {{"config_groups", groups},
          {"quant_method", "compressed-tensors"},
          {"kv_cache_scheme", nullptr},
          {"format", used.size() == 1 ? packed_format(*used[0]) : "mixed-precision"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"ignore", config.left}};
}

Json modelopt_config(const CheckpointConfig& config) {
  Json group;
  group["weights"] = {{"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
  group["targets"] = Json::array({"Linear"});
  if (config.activations) group["input_activations"] = group["weights"];
  Json j;
  j["config_groups"]["group_0"] = group;
  j["ignore"] = config.left;
  j["quant_algo"] = modelopt_algorithm(config);
  j["producer"] = modelopt_producer(config);
  j["quant_method"] = "modelopt";
  return j;
}

/// As Python's json.dump(indent=2) lays it out, without escapes, and a line's end.
std::string pretty(const Json& j) { return j.dump(2, ' ', false) + "\n"; }

Json parse_object(const std::string& text, const std::string& where) {
  Json j;
  try {
    j = Json::parse(text);
  } catch (const nlohmann::json::exception&) {
    throw Error(where, "is not JSON");
  }
  if (!j.is_object()) throw Error(where, "is not a JSON object");
  return j;
}

constexpr const char* key = "quantization_config";

}  // namespace

std::string quantization_config(const CheckpointConfig& config) {
  return pretty(config.layout == "modelopt" ? modelopt_config(config) : compressed_tensors_config(config));
}

std::string hf_quant_config(const CheckpointConfig& config) {
  Json j;
  j["producer"] = modelopt_producer(config);
  j["quantization"] = {{"quant_algo", modelopt_algorithm(config)},
                       {"kv_cache_quant_algo", nullptr},
                       {"group_size", 16},
                       {"exclude_modules", config.left}};
  return pretty(j);
}

std::string with_quantization_config(const std::string& config_json, const std::string& object,
                                     const std::string& where, bool replace) {
  Json j = parse_object(config_json, where);
  if (j.contains(key) && !replace) {
    throw Error(where, "has a quantization_config already", "give a model that is not quantized yet");
  }
  j[key] = Json::parse(object);
  return pretty(j);
}

}  // namespace fp4scope::analysis
