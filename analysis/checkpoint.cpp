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
#include "analysis/model_folder.hpp"
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
  const char* method;  ///< quant_method in config.json; "" where it has none
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
    // name, method
    // codes                     weight     scales                             tensor scale              reciprocal
    // others
    {"compressed_tensors", "compressed-tensors",
     ".weight_packed",           ".weight", ".weight_scale",                   ".weight_global_scale",   true,
     {".input_global_scale", ".weight_shape"}},
    {"modelopt", "modelopt",
     ".weight",                  ".weight", ".weight_scale",                   ".weight_scale_2",        false,
     {".input_scale", ".pre_quant_scale"}},
    {"gpt_oss", "mxfp4",
     "_blocks",                  "",        "_scales",                         "",                       false,
     {}},
    {"fp_quant", "fp_quant",
     ".qweight",                 ".weight", ".scales",                         ".weight_global_scale",   true,
     {".act_global_scale", ".forward_hadamard_matrix", ".backward_hadamard_matrix", ".dqweight"}},
    {"fouroversix", "fouroversix",
     ".quantized_weight_values", ".weight", ".quantized_weight_scale_factors", ".quantized_weight_amax", false,
     {".quantized_weight_metadata"}},
    {"fp4scope", "",
     ".codes",                   "",        ".scales",                         ".tensor_scale",          false,
     {".amax", ".dequantized"}},
};
// clang-format on

constexpr std::int64_t most_elements = std::int64_t{1} << 46;

/// What a file beside the tensors says of the quantization; empty where it says nothing.
struct Declared {
  std::string where;  ///< the file
  std::string method;
  std::set<std::int64_t> groups;
  std::set<std::int64_t> bits;
  std::string data_type;   ///< the format of all weights, where one word names it
  std::string scale_rule;  ///< fouroversix: which K its amax stands for
};

/// What a file of our own says in its metadata.
struct OwnRecord {
  const BlockFormat* format = nullptr;
  int block = 0;
};

/// All that is said.
struct Said {
  std::vector<Declared> files;  ///< config.json, hf_quant_config.json
  OwnRecord own;

  /// The first file's word.
  std::string word(std::string Declared::*which) const {
    for (const Declared& d : files) {
      if (!(d.*which).empty()) return d.*which;
    }
    return "";
  }
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
  d.method = text_at(q, "quant_method");
  take_number(q, "group_size", d.groups);
  d.scale_rule = text_at(q, q.contains("weight_scale_rule") ? "weight_scale_rule" : "scale_rule");
  const std::string format = text_at(q, "format"), packed = "-pack-quantized";  // compressed-tensors
  if (format.ends_with(packed)) d.data_type = format.substr(0, format.size() - packed.size());
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

std::vector<Declared> read_declared(const std::filesystem::path& folder, const std::string& config,
                                    const std::string& quant_config) {
  std::vector<Declared> list;
  if (!config.empty()) {
    const std::string where = (folder / "config.json").string();
    const Json j = parsed(config, where);
    if (j.contains("quantization_config") && !j["quantization_config"].is_null()) {
      if (!j["quantization_config"].is_object()) throw Error(where, "its quantization_config is no object");
      list.push_back(declared_by(j["quantization_config"], where));
    }
  }
  if (!quant_config.empty()) {
    const std::string where = (folder / "hf_quant_config.json").string();
    const Json j = parsed(quant_config, where);
    if (!j.contains("quantization") || !j["quantization"].is_object()) throw Error(where, "has no 'quantization' object");
    list.push_back(declared_by(j["quantization"], where));
  }
  return list;
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
  const Said& said;
  std::string base;
  StoredWeight weight;

  /// Whether a file of our own says what it is.
  bool own() const { return said.own.format && std::string_view(layout.name) == "fp4scope"; }
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

/// F4 counts elements, U8 bytes.
std::int64_t elements_an_item(const Reading& r) {
  const bool wide = r.own() && r.said.own.format->element.bits > 4;
  return wide || r.weight.codes->dtype.name == "F4" ? 1 : 2;
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
  const std::int64_t each = elements_an_item(r);
  w.shape.back() = each * codes.back() * (blocks_last ? codes[codes.size() - 2] : 1);
  w.cols = w.shape.back();
  w.rows = w.codes->elements() * each / w.cols;
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

/// Nothing that a file says of a weight may be another's.
void check_declared(const Reading& r, const Declared& d) {
  const StoredWeight& w = r.weight;
  const auto contradicts = [&](const std::string& says, const std::string& is) {
    throw Error(d.where, fmt::format("says {}, but '{}' {}", says, w.name, is), "one of the two is of another checkpoint");
  };
  if (!d.groups.empty() && !d.groups.contains(w.block)) {
    contradicts(fmt::format("groups of {}", *d.groups.begin()), fmt::format("has blocks of {}", w.block));
  }
  if (!d.bits.empty() && !d.bits.contains(w.format->element.bits)) {
    contradicts(fmt::format("{} bits", *d.bits.begin()), fmt::format("has {}", w.format->element.bits));
  }
  if (formats::find_block_format(d.data_type) && d.data_type != w.format->name) {
    contradicts(d.data_type, fmt::format("is {}", w.format->name));
  }
  for (const Layout& other : layouts) {
    if (d.method.empty() || d.method != other.method || d.method == r.layout.method) continue;
    contradicts("quant_method " + d.method, fmt::format("lies as {} keeps it", r.layout.name));
  }
}

/// The format that these scales and this block are of.
void take_format(Reading& r) {
  StoredWeight& w = r.weight;
  const bool coded = w.scales->dtype.name == "F8_E4M3" || (w.scales->dtype.name == "U8" && w.block == formats::nvfp4.block);
  w.format = coded ? &formats::nvfp4 : &formats::mxfp4;
  const std::string data_type = r.said.word(&Declared::data_type);
  if (std::string_view(r.layout.name) == "fouroversix" && !data_type.empty()) {
    w.format = formats::find_block_format(data_type);
    if (!w.format || w.format->element.bits > 4) r.refuse(*w.codes, "holds " + data_type + ", which is not read");
  }
  if (r.own()) w.format = r.said.own.format;
  const int block = r.own() ? r.said.own.block : w.format->block;
  if (w.block != block) {
    r.refuse(*w.scales, fmt::format("gives blocks of {}, where {} has {}", w.block, w.format->name, block));
  }
  for (const Declared& d : r.said.files) check_declared(r, d);
}

/// K of a fouroversix scale rule: largest element times the largest block scale that amax aims at.
float fouroversix_k(const Reading& r) {
  const std::string rule = r.said.word(&Declared::scale_rule);
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
                                        const Said& said, const io::TensorInfo& codes) {
  const std::optional<std::string> base = without(codes.name, layout.codes);
  if (!base) return std::nullopt;
  const io::TensorInfo* const scales = file.find(*base + layout.scales);
  const bool nibbles = codes.dtype.name == "U8" || codes.dtype.name == "F4";
  const bool own_name = std::string_view(layout.codes) == layout.weight;
  if (own_name && !nibbles) return std::nullopt;
  if (!scales) {
    const bool alone = own_name && !file.find(*base + layout.tensor_scale);
    if (!nibbles || alone) return std::nullopt;
    throw Error(path + ": " + codes.name, fmt::format("has codes but no '{}{}'", *base, layout.scales),
                "the checkpoint is incomplete");
  }
  Reading r = {path, file, layout, said, *base, {}};
  StoredWeight& w = r.weight;
  w.name = *base + layout.weight;
  if (!own_name && file.find(w.name)) {
    r.refuse(codes, "stands beside the weight that it codes, '" + w.name + "'", "remove one of the two");
  }
  w.layout = layout.name;
  w.codes = &codes;
  w.scales = scales;
  need_dtype(r, codes, {"U8", "F4"});
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
                                             const Said& said, const io::TensorInfo& t) {
  const BlockFormat* const format = t.dtype.name == "MXFP4"   ? &formats::mxfp4
                                    : t.dtype.name == "NVFP4" ? &formats::nvfp4
                                                              : nullptr;
  if (!format) return std::nullopt;
  constexpr Layout gguf = {"gguf", "", "", "", "", ".scale", false, {}};
  const std::optional<std::string> base = without(t.name, ".weight");
  Reading r = {path, file, gguf, said, base.value_or(t.name), {}};
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
OwnRecord read_record(const std::string& path, const io::TensorFile& file) {
  const auto found = file.metadata().find("fp4scope");
  if (found == file.metadata().end()) return {};
  const Json j = Json::parse(found->second, nullptr, false);
  if (!j.is_object() || !j.value("block", Json()).is_number_integer() || text_at(j, "format").empty()) {
    throw Error(path, "its fp4scope record has no format and block", "quantize it again");
  }
  const bool moved = j.value("transpose", Json(false)) == Json(true) || j.value("hadamard", Json(0)) != Json(0);
  if (moved) throw Error(path, "its weights are transposed or rotated", "fp4scope dequantize takes them back");
  if (j.contains("definition")) throw Error(path, "its format is one of its own", "fp4scope dequantize reads it");
  const BlockFormat* const format = formats::find_block_format(text_at(j, "format"));
  if (!format) throw Error(path, "its fp4scope record names the unknown format " + text_at(j, "format"));
  return {format, static_cast<int>(std::clamp<std::int64_t>(j["block"].get<std::int64_t>(), 0, search::max_block))};
}

/// Of what belongs to no weight: throws Error for the scales of codes that aren't there.
void check_orphan(const std::string& path, const io::TensorFile& file, const io::TensorInfo& t) {
  if (t.shape.size() < 2 || t.readable()) return;
  for (const Layout& layout : layouts) {
    const std::optional<std::string> base = without(t.name, layout.scales);
    if (!base || file.find(*base + layout.codes) || file.find(*base + layout.weight)) continue;
    throw Error(path + ": " + t.name, fmt::format("has scales but no '{}{}'", *base, layout.codes),
                "the checkpoint is incomplete");
  }
}

}  // namespace

Checkpoint::Checkpoint(const std::string& path) : path_(path), file_(io::open_tensors(path)) {
  const std::filesystem::path folder =
      std::filesystem::is_directory(path) ? std::filesystem::path(path) : std::filesystem::path(path).parent_path();
  config_ = text_beside(folder, "config.json");
  quant_config_ = text_beside(folder, "hf_quant_config.json");
  const Said said = {read_declared(folder, config_, quant_config_), read_record(path, *file_)};
  std::set<const io::TensorInfo*> taken;
  for (const io::TensorInfo& t : file_->tensors()) {
    if (std::optional<StoredWeight> w = read_gguf_weight(path, *file_, said, t)) {
      taken.insert({w->codes, w->tensor_scale});
      weights_.push_back(std::move(*w));
      continue;
    }
    for (const Layout& layout : layouts) {
      std::optional<StoredWeight> w = read_weight(path, *file_, layout, said, t);
      if (!w) continue;
      taken.insert({w->codes, w->scales, w->tensor_scale});
      taken.insert(w->others.begin(), w->others.end());
      weights_.push_back(std::move(*w));
      break;
    }
  }
  for (const io::TensorInfo& t : file_->tensors()) {
    if (taken.contains(&t)) continue;
    check_orphan(path, *file_, t);
    rest_.push_back(&t);
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

std::vector<const io::TensorInfo*> Checkpoint::otherwise_quantized() const {
  std::vector<const io::TensorInfo*> list;
  for (const io::TensorInfo* t : rest_) {
    const bool small = t->dtype.name.starts_with("F8_") || t->dtype.name.starts_with("F6_") || t->dtype.name == "F4";
    const bool weight = t->name.ends_with(".weight") && !t->readable();
    if (t->dtype.name.starts_with("GGML_") || (t->shape.size() >= 2 && (small || weight))) list.push_back(t);
  }
  return list;
}

void notice_unread(const Checkpoint& checkpoint, const Notice& notice) {
  notice_unlisted(checkpoint.file(), notice);
  const std::vector<const io::TensorInfo*> others = checkpoint.otherwise_quantized();
  if (others.empty() || !notice) return;
  notice(fmt::format("{} tensors are quantized in ways that are not read, the first {}, {}", others.size(),
                     others[0]->name, others[0]->dtype.name));
}

Quantized Checkpoint::read(const StoredWeight& w, std::int64_t first, std::int64_t count) const {
  Quantized q;
  q.config = parse_config({w.format->name, "", "", "none", "propagate", w.block});
  q.rows = count;
  q.cols = w.cols;
  q.first_row = first;
  q.tensor_scale = w.decode_scale;
  const std::int64_t per_row = q.blocks_per_row();
  const auto* const scales = reinterpret_cast<const std::uint8_t*>(file_->raw(*w.scales).data());
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(file_->raw(*w.codes).data());
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
  if (w.format->element.bits > 4) {
    std::copy_n(codes + first * w.cols, q.codes.size(), q.codes.begin());
    return q;
  }
  const std::uint8_t* const packed = codes + first * w.cols / 2;
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count * w.cols; ++i) {
    q.codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(formats::unpack_nibble(packed, i));
  }
  return q;
}

}  // namespace fp4scope::analysis
