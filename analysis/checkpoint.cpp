#include "analysis/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "analysis/checkpoint_config.hpp"
#include "formats/error.hpp"
#include "formats/layout.hpp"
#include "formats/pack.hpp"
#include "io/atomic_file.hpp"

namespace fp4scope::analysis {

namespace {

using Json = nlohmann::json;
using formats::BlockFormat;

/// Which tensors a producer keeps for a weight. The codes' name ends in `codes`; the base is what stands before it, and
/// every other name is the base and a suffix.
struct Layout {
  const char* name;
  const char* codes;
  const char* weight;
  const char* scales;
  const char* tensor_scale;  ///< "" where there is none
  bool reciprocal;           ///< it is S: values are divided by it
  const char* others[4];     ///< what else belongs to it
};

// Sources. modelopt: Model-Optimizer torch/export/quant_utils.py, vLLM ModelOptNvFp4LinearMethod. compressed_tensors:
// compressors/quantized_compressors/fp4_quantized.py. gpt_oss: transformers integrations/mxfp4.py. fp_quant: transformers
// integrations/fp_quant.py (its weights are stored in the rotated basis). fouroversix: model/modules/linear.py (metadata:
// rows and columns, padded rows and columns, 1, whether scales lie as 128x4 atoms).
// clang-format off
constexpr Layout layouts[] = {
    {"compressed_tensors", ".weight_packed",           ".weight", ".weight_scale",                   ".weight_global_scale",    true,  {".input_global_scale", ".weight_shape"}},
    {"modelopt",           ".weight",                  ".weight", ".weight_scale",                   ".weight_scale_2",         false, {".input_scale", ".pre_quant_scale"}},
    {"gpt_oss",            "_blocks",                  "",        "_scales",                         "",                        false, {}},
    {"fp_quant",           ".qweight",                 ".weight", ".scales",                         ".weight_global_scale",    true,  {".act_global_scale", ".forward_hadamard_matrix", ".backward_hadamard_matrix", ".dqweight"}},
    {"fouroversix",        ".quantized_weight_values", ".weight", ".quantized_weight_scale_factors", ".quantized_weight_amax",  false, {".quantized_weight_metadata"}},
    {"fp4scope",           ".codes",                   "",        ".scales",                         ".tensor_scale",           false, {".amax", ".dequantized"}},
};
// clang-format on

constexpr std::int64_t most_elements = std::int64_t{1} << 46;

/// What the files beside the tensors say of the quantization; empty where they say nothing.
struct Declared {
  std::string where;  ///< the file
  std::string method;
  std::set<std::int64_t> groups;
  std::set<std::int64_t> bits;
  std::string scale_rule;  ///< fouroversix: which K its amax stands for
  std::string data_type;   ///< fouroversix; of a file of our own its format
  int block = 0;           ///< of a file of our own
};

/// The file's text, "" where there is none.
std::string text_beside(const std::filesystem::path& folder, const char* name) {
  const std::filesystem::path path = folder / name;
  return std::filesystem::exists(path) ? io::read_text_file(path.string(), std::size_t{1} << 26) : "";
}

Json parsed(const std::string& text, const std::string& where) {
  Json j = Json::parse(text, nullptr, false);
  if (!j.is_object()) throw Error(where, "is no JSON object", "restore it, or move it away to read the tensors alone");
  return j;
}

void take_number(const Json& j, const char* key, std::set<std::int64_t>& to) {
  if (j.contains(key) && j[key].is_number_integer()) to.insert(j[key].get<std::int64_t>());
}

std::string text_at(const Json& j, const char* key) {
  return j.contains(key) && j[key].is_string() ? j[key].get<std::string>() : "";
}

/// From config.json's quantization_config, or hf_quant_config.json's quantization.
Declared declared_by(const Json& q, const std::string& where) {
  Declared d;
  d.where = where;
  d.method = text_at(q, q.contains("quant_method") ? "quant_method" : "quant_algo");
  take_number(q, "group_size", d.groups);
  d.scale_rule = text_at(q, q.contains("weight_scale_rule") ? "weight_scale_rule" : "scale_rule");
  for (const char* key : {"forward_dtype", "weight_dtype", "dtype"}) {
    if (d.data_type.empty()) d.data_type = text_at(q, key);
  }
  if (!q.contains("config_groups") || !q["config_groups"].is_object()) return d;
  for (const auto& [name, group] : q["config_groups"].items()) {
    if (!group.is_object() || !group.contains("weights") || !group["weights"].is_object()) continue;
    take_number(group["weights"], "group_size", d.groups);
    take_number(group["weights"], "num_bits", d.bits);
  }
  return d;
}

Declared read_declared(const std::string& folder, const std::string& config, const std::string& quant_config) {
  if (!config.empty()) {
    const std::string where = (std::filesystem::path(folder) / "config.json").string();
    const Json j = parsed(config, where);
    if (j.contains("quantization_config")) {
      if (!j["quantization_config"].is_object()) throw Error(where, "its quantization_config is no object");
      return declared_by(j["quantization_config"], where);
    }
  }
  if (quant_config.empty()) return {};
  const std::string where = (std::filesystem::path(folder) / "hf_quant_config.json").string();
  const Json j = parsed(quant_config, where);
  if (!j.contains("quantization") || !j["quantization"].is_object()) throw Error(where, "has no 'quantization' object");
  return declared_by(j["quantization"], where);
}

/// "0123" -> "01" for the ending "23"; nothing for another ending.
std::optional<std::string> without(const std::string& text, std::string_view ending) {
  if (!text.ends_with(ending)) return std::nullopt;
  return text.substr(0, text.size() - ending.size());
}

/// One weight in the making: what errors need, and what is found.
struct Reading {
  const std::string& path;
  const io::TensorFile& file;
  const Layout& layout;
  const Declared& declared;
  std::string base;
  StoredWeight weight;

  [[noreturn]] void refuse(const io::TensorInfo& t, const std::string& what, const std::string& mend = "") const {
    throw Error(path + ": " + t.name, what, mend);
  }
};

void need_dtype(const Reading& r, const io::TensorInfo& t, const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), t.dtype.name) != names.end()) return;
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : " or ") + n;
  r.refuse(t, fmt::format("is {}, where {} keeps {}", t.dtype.name, r.layout.name, list));
}

/// Rows, columns and block from the shapes of codes and scales.
void take_shape(Reading& r) {
  StoredWeight& w = r.weight;
  const std::vector<std::int64_t>& codes = w.codes->shape;
  const std::vector<std::int64_t>& scales = w.scales->shape;
  const bool blocks_last = std::string_view(r.layout.name) == "gpt_oss";
  if (codes.size() < (blocks_last ? 3u : 2u) || w.codes->elements() < 1 || w.codes->elements() > most_elements) {
    r.refuse(*w.codes, "has the shape " + w.codes->shape_text() + ", which no packed matrix has");
  }
  w.shape = codes;
  if (blocks_last) w.shape.pop_back();
  w.shape.back() = 2 * codes.back() * (blocks_last ? codes[codes.size() - 2] : 1);
  w.cols = w.shape.back();
  w.rows = w.codes->elements() * 2 / w.cols;
  const bool flat = scales.size() == 1 && codes.size() == 2;  // perhaps as atoms: take_metadata tells
  const int flat_block = w.scales->dtype.name == "F8_E4M3" ? formats::nvfp4.block : formats::mxfp4.block;
  const std::int64_t per_row = flat ? w.cols / flat_block : scales.empty() ? 0 : scales.back();
  const bool alike = flat ? w.scales->elements() >= per_row * w.rows
                          : scales.size() == w.shape.size() &&
                                std::equal(scales.begin(), scales.end() - 1, w.shape.begin());
  if (!alike || per_row < 1 || w.cols % per_row != 0) {
    r.refuse(*w.scales, fmt::format("has the shape {}, which does not fit codes of {}", w.scales->shape_text(),
                                    w.codes->shape_text()),
             "the shards belong to another model, or one is stale");
  }
  w.block = static_cast<int>(std::min<std::int64_t>(w.cols / per_row, search::max_block + 1));
}

/// The format that these scales and this block are of.
void take_format(Reading& r) {
  StoredWeight& w = r.weight;
  const bool coded = w.scales->dtype.name == "F8_E4M3" || (w.scales->dtype.name == "U8" && w.block == formats::nvfp4.block);
  w.format = coded ? &formats::nvfp4 : &formats::mxfp4;
  const Declared& d = r.declared;
  const bool own = std::string_view(r.layout.name) == "fp4scope";
  if ((own || std::string_view(r.layout.name) == "fouroversix") && !d.data_type.empty()) {
    const BlockFormat* const named = formats::find_block_format(d.data_type);
    if (!named || named->element.bits > 4) r.refuse(*w.codes, "holds " + d.data_type + ", which is not read");
    w.format = named;
  }
  const int block = own ? d.block : w.format->block;
  if (w.block != block) {
    r.refuse(*w.scales, fmt::format("gives blocks of {}, where {} has {}", w.block, w.format->name, block));
  }
  if (!d.groups.empty() && !d.groups.contains(w.block)) {
    throw Error(d.where, fmt::format("says groups of {}, but '{}' has blocks of {}", *d.groups.begin(), w.name, w.block),
                "one of the two is of another checkpoint");
  }
  if (!d.bits.empty() && !d.bits.contains(w.format->element.bits)) {
    throw Error(d.where, fmt::format("says {} bits, but '{}' has {}", *d.bits.begin(), w.name, w.format->element.bits),
                "one of the two is of another checkpoint");
  }
}

/// K of a fouroversix scale rule: largest element times the largest block scale that amax aims at.
float fouroversix_k(const Reading& r) {
  const std::string& rule = r.declared.scale_rule;
  const bool fixed = rule == "static_6" || rule == "static_4";
  return static_cast<float>(r.weight.format->element_max()) * (fixed ? 448.0f : 256.0f);
}

void take_tensor_scale(Reading& r) {
  StoredWeight& w = r.weight;
  if (*r.layout.tensor_scale == '\0') return;
  const io::TensorInfo* const t = r.file.find(r.base + r.layout.tensor_scale);
  if (!t) {
    if (!w.format->tensor_scaled) return;
    throw Error(r.path, fmt::format("tensor '{}{}' is missing", r.base, r.layout.tensor_scale),
                "the checkpoint is incomplete");
  }
  w.tensor_scale = t;
  need_dtype(r, *t, {"F32"});
  if (t->elements() != 1) r.refuse(*t, "has " + t->shape_text() + " numbers, where one belongs");
  w.stored_tensor_scale = r.file.read(*t).data.at(0);
  w.reciprocal = r.layout.reciprocal;
  if (!(w.stored_tensor_scale > 0) || !std::isfinite(w.stored_tensor_scale)) {
    r.refuse(*t, fmt::format("is {}, and no tensor scale is", w.stored_tensor_scale));
  }
  const bool amax = std::string_view(r.layout.name) == "fouroversix";
  w.decode_scale = w.reciprocal ? decode_scale_of(w.stored_tensor_scale)
                   : !amax      ? w.stored_tensor_scale
                   : w.format->tensor_scaled ? w.stored_tensor_scale / fouroversix_k(r)
                                             : 1.0f;
}

/// fouroversix's swizzled scales and padding, by its metadata.
void take_metadata(Reading& r) {
  StoredWeight& w = r.weight;
  if (std::string_view(r.layout.name) != "fouroversix") return;
  const io::TensorInfo* const t = r.file.find(r.base + ".quantized_weight_metadata");
  if (!t) return;
  if ((t->dtype.name != "I32" && t->dtype.name != "I64") || t->elements() != 6) r.refuse(*t, "is not six integers");
  const auto raw = r.file.raw(*t);
  std::int64_t n[6] = {};
  for (std::size_t i = 0; i < 6; ++i) {
    std::int32_t narrow = 0;
    const bool wide = t->dtype.name == "I64";
    std::memcpy(wide ? static_cast<void*>(&n[i]) : &narrow, raw.data() + (wide ? 8 : 4) * i, wide ? 8 : 4);
    if (!wide) n[i] = narrow;
  }
  if (n[2] != w.rows || n[3] != w.cols || n[0] < 1 || n[0] > w.rows || n[1] < 1 || n[1] > w.cols) {
    r.refuse(*t, fmt::format("says [{}, {}] padded to [{}, {}], which codes of {} are not", n[0], n[1], n[2], n[3],
                             w.codes->shape_text()));
  }
  w.swizzled = n[5] == 1;
  w.rows = n[0];
  w.shape = {n[0], w.cols};
  const std::int64_t per_row = w.cols / w.block;
  const std::int64_t expected = w.swizzled ? formats::swizzled_size(formats::scales_128x4, n[2], per_row) : n[2] * per_row;
  if (w.scales->elements() != expected) {
    r.refuse(*w.scales, fmt::format("holds {} scales, where {} belong", w.scales->elements(), expected));
  }
}

/// The weight whose codes `codes` are in that layout; nothing if they aren't.
std::optional<StoredWeight> read_weight(const std::string& path, const io::TensorFile& file, const Layout& layout,
                                        const Declared& declared, const io::TensorInfo& codes) {
  const std::optional<std::string> base = without(codes.name, layout.codes);
  if (!base) return std::nullopt;
  const io::TensorInfo* const scales = file.find(*base + layout.scales);
  const bool floating = codes.readable();
  const bool own_name = std::string_view(layout.codes) == layout.weight;
  if (own_name && (floating || !scales || (codes.dtype.name != "U8" && codes.dtype.name != "F4"))) return std::nullopt;
  if (!scales) {
    if (floating) return std::nullopt;
    throw Error(path + ": " + codes.name, fmt::format("has codes but no '{}{}'", *base, layout.scales),
                "the checkpoint is incomplete");
  }
  Reading r = {path, file, layout, declared, *base, {}};
  StoredWeight& w = r.weight;
  w.name = *base + layout.weight;
  w.layout = layout.name;
  w.codes = &codes;
  w.scales = scales;
  need_dtype(r, codes, {"U8"});
  need_dtype(r, *scales, {"F8_E4M3", "F8_E8M0", "U8"});
  take_shape(r);
  take_format(r);
  take_metadata(r);
  take_tensor_scale(r);
  for (const char* suffix : layout.others) {
    const io::TensorInfo* const other = suffix ? file.find(*base + suffix) : nullptr;
    if (!other) continue;
    w.others.push_back(other);
    w.rotated = w.rotated || std::string_view(suffix) == ".forward_hadamard_matrix";
  }
  return w;
}

/// A weight of a .gguf file: one tensor holds codes and scales. D of NVFP4 lies in X.scale; without, it is 1.
std::optional<StoredWeight> read_gguf_weight(const std::string& path, const io::TensorFile& file,
                                             const Declared& declared, const io::TensorInfo& t) {
  const BlockFormat* const format = t.dtype.name == "MXFP4"   ? &formats::mxfp4
                                    : t.dtype.name == "NVFP4" ? &formats::nvfp4
                                                              : nullptr;
  if (!format) return std::nullopt;
  constexpr Layout gguf = {"gguf", "", "", "", ".scale", false, {}};
  const std::optional<std::string> base = without(t.name, ".weight");
  Reading r = {path, file, gguf, declared, base.value_or(t.name), {}};
  StoredWeight& w = r.weight;
  w.name = t.name;
  w.layout = gguf.name;
  w.format = format;
  w.block = format->block;
  w.shape = t.shape;
  w.codes = w.scales = &t;
  if (t.shape.empty() || t.elements() < 1 || t.elements() > most_elements) {
    r.refuse(t, "has the shape " + t.shape_text() + ", which no matrix has");
  }
  w.cols = t.shape.back();
  w.rows = t.elements() / w.cols;
  if (format->tensor_scaled && file.find(r.base + gguf.tensor_scale)) take_tensor_scale(r);
  return w;
}

/// Of a file of our own: format and block. Refused are codes in another basis and formats that it defines itself.
void take_record(const std::string& path, const io::TensorFile& file, Declared& declared) {
  const auto found = file.metadata().find("fp4scope");
  if (found == file.metadata().end()) return;
  const Json j = Json::parse(found->second, nullptr, false);
  if (!j.is_object() || !j.value("block", Json()).is_number_integer() || text_at(j, "format").empty()) {
    throw Error(path, "its fp4scope record has no format and block", "quantize it again");
  }
  const bool moved = j.value("transpose", Json(false)) == Json(true) || j.value("hadamard", Json(0)) != Json(0);
  if (moved) throw Error(path, "its weights are transposed or rotated", "fp4scope dequantize takes them back");
  if (j.contains("definition")) throw Error(path, "its format is one of its own", "fp4scope dequantize reads it");
  declared.data_type = text_at(j, "format");
  declared.block = static_cast<int>(std::clamp<std::int64_t>(j["block"].get<std::int64_t>(), 0, search::max_block));
}

}  // namespace

Checkpoint::Checkpoint(const std::string& path) : path_(path), file_(io::open_tensors(path)) {
  const std::filesystem::path folder =
      std::filesystem::is_directory(path) ? std::filesystem::path(path) : std::filesystem::path(path).parent_path();
  config_ = text_beside(folder, "config.json");
  quant_config_ = text_beside(folder, "hf_quant_config.json");
  Declared declared = read_declared(folder.string(), config_, quant_config_);
  take_record(path, *file_, declared);
  std::set<const io::TensorInfo*> taken;
  for (const io::TensorInfo& t : file_->tensors()) {
    if (std::optional<StoredWeight> w = read_gguf_weight(path, *file_, declared, t)) {
      taken.insert({w->codes, w->tensor_scale});
      weights_.push_back(std::move(*w));
      continue;
    }
    for (const Layout& layout : layouts) {
      std::optional<StoredWeight> w = read_weight(path, *file_, layout, declared, t);
      if (!w) continue;
      taken.insert({w->codes, w->scales, w->tensor_scale});
      taken.insert(w->others.begin(), w->others.end());
      weights_.push_back(std::move(*w));
      break;
    }
  }
  for (const io::TensorInfo& t : file_->tensors()) {
    if (!taken.contains(&t)) rest_.push_back(&t);
  }
  if (weights_.empty()) {
    throw Error(path, "holds no quantized weight of a known layout",
                "known: compressed_tensors, modelopt, gpt_oss, fp_quant, fouroversix, gguf, fp4scope quantize");
  }
}

namespace {

/// Rows of a .gguf tensor, whose blocks hold scales and then nibbles.
void read_gguf_rows(const StoredWeight& w, const std::uint8_t* bytes, Quantized& q) {
  const formats::NibbleOrder order = w.block == 32 ? formats::ggml_mxfp4_nibbles : formats::ggml_nvfp4_nibbles;
  const std::int64_t row_bytes = w.cols / order.elements * formats::nibble_block_bytes(order);
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < q.rows; ++row) {
    const std::uint8_t* const in = bytes + (q.first_row + row) * row_bytes;
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const formats::NibblePosition at = formats::nibble_position(order, c);
      q.codes[static_cast<std::size_t>(row * q.cols + c)] = at.high ? in[at.byte] >> 4 : in[at.byte] & 15;
      if (c % w.block == 0) {
        q.scales[static_cast<std::size_t>(row * q.blocks_per_row() + c / w.block)] = in[formats::scale_byte(order, c)];
      }
    }
  }
}

}  // namespace

Quantized Checkpoint::read(const StoredWeight& w, std::int64_t first, std::int64_t count) const {
  Quantized q;
  q.config = parse_config({w.format->name, "", "", "none", "propagate", w.block});
  q.rows = count;
  q.cols = w.cols;
  q.first_row = first;
  q.tensor_scale = w.decode_scale;
  const std::int64_t per_row = q.blocks_per_row();
  const auto* const scales = reinterpret_cast<const std::uint8_t*>(file_->raw(*w.scales).data());
  const auto* const packed = reinterpret_cast<const std::uint8_t*>(file_->raw(*w.codes).data()) + first * w.cols / 2;
  q.scales.resize(static_cast<std::size_t>(count * per_row));
  q.codes.resize(static_cast<std::size_t>(count * w.cols));
  if (w.layout == "gguf") {
    read_gguf_rows(w, scales, q);
    return q;
  }
  for (std::int64_t i = 0; i < count * per_row; ++i) {
    const std::int64_t at = first * per_row + i;
    q.scales[static_cast<std::size_t>(i)] =
        scales[w.swizzled ? formats::swizzled_offset(formats::scales_128x4, at / per_row, at % per_row, per_row) : at];
  }
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count * w.cols; ++i) {
    q.codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(formats::unpack_nibble(packed, i));
  }
  return q;
}

}  // namespace fp4scope::analysis
