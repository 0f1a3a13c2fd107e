#include "analysis/convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/checkpoint.hpp"
#include "analysis/checkpoint_config.hpp"
#include "analysis/lossless.hpp"
#include "analysis/names.hpp"
#include "analysis/quantize_file.hpp"
#include "formats/error.hpp"
#include "io/checkpoint_writer.hpp"

namespace fp4scope::analysis {
namespace {

namespace fs = std::filesystem;
using Entry = io::SafetensorsWriter::Entry;
using Json = nlohmann::ordered_json;
using Writer = io::CheckpointWriter;

constexpr std::int64_t piece_elements = std::int64_t{1} << 22;

/// A weight of the result: rows of one of the source's.
struct Target {
  std::string name;
  const StoredWeight* source = nullptr;
  std::int64_t first = 0, rows = 0;
  const LayoutFormat* layout = nullptr;
  bool lossless = false;                       ///< MXFP4 to NVFP4, with
  int exponent = 0;                            ///< D = 2^exponent
  float decode = 1, stored = 1;                ///< D, and what the file gets: D or S
  const io::TensorInfo* input_scale = nullptr;  ///< of activations
};

/// A tensor as it is, perhaps under another name.
struct Copy {
  const io::TensorInfo* tensor;
  std::string name;
};

/// What becomes one shard.
struct Part {
  std::vector<Target> targets;
  std::vector<Copy> copies;
};
using Parts = std::map<std::string, Part>;

struct Plan {
  Parts parts;
  CheckpointConfig config;
  std::vector<std::string> left_out;
  std::size_t copied = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// The plan.

void check_options(const ConvertOptions& o) {
  const std::vector<std::string> layouts = layout_names();
  if (std::find(layouts.begin(), layouts.end(), o.layout) == layouts.end()) {
    throw UsageError("--as", "unknown layout '" + o.layout + "'", suggestion(o.layout, layouts));
  }
  if (o.format == "mxfp4") {
    throw UsageError("--format", "nothing becomes mxfp4 without loss: its scales are powers of two, NVFP4's are not",
                     "quantize the original weights");
  }
  if (!o.format.empty() && o.format != "nvfp4") {
    throw UsageError("--format", "unknown format '" + o.format + "'", suggestion(o.format, {"nvfp4"}));
  }
  o.check_folders();
}

std::string place(const Checkpoint& c, const std::string& name) { return c.path() + ": " + name; }

bool is_input_scale(const io::TensorInfo& t) {
  return (t.name.ends_with("input_scale") || t.name.ends_with("input_global_scale")) && t.dtype.name == "F32" &&
         t.elements() == 1;
}

/// What another layout has no word for: weights that are not used as they stand, or lie in a way that is not read.
void check_meaning(const Checkpoint& c) {
  for (const io::TensorInfo* t : c.otherwise_quantized()) {
    throw Error(place(c, t->name), "is " + t->dtype.name + ", quantized in a way that the result could not say",
                "a source with F32, F16 or BF16 in its place");
  }
  for (const io::TensorInfo& t : c.file().tensors()) {
    if (!t.name.ends_with("pre_quant_scale")) continue;
    throw Error(place(c, t.name), "scales activations before the product, which other layouts can't say",
                "fold it into the weights before quantizing");
  }
  for (const StoredWeight& w : c.weights()) {
    if (w.layout != "fp_quant" && !w.rotated) continue;
    throw Error(place(c, w.name), "is stored rotated, as fp_quant does, and no other layout says that",
                "quantize the original weights");
  }
}

/// Experts [E, N, K] are named one by one: A.B -> A.0.B.weight, A.1.B.weight, ...
std::string expert_name(const std::string& weight, std::int64_t expert) {
  const std::string module = weight.ends_with(".weight") ? module_of(weight) : weight;
  const std::size_t dot = module.rfind('.');
  if (dot == std::string::npos) return fmt::format("{}.{}.weight", expert, module);
  return fmt::format("{}.{}.{}.weight", module.substr(0, dot), expert, module.substr(dot + 1));
}

/// The layout's row for a weight, once MXFP4 is NVFP4 where that is asked for.
const LayoutFormat& layout_row(const ConvertOptions& o, const Checkpoint& c, const StoredWeight& w, bool lossless) {
  const std::string format = lossless ? "nvfp4" : w.format->name;
  const int block = lossless ? 16 : w.block;
  if (const LayoutFormat* const found = find_layout_format(o.layout, format, block)) return *found;
  const bool may_become = w.format->name == std::string_view("mxfp4") && find_layout_format(o.layout, "nvfp4", 16);
  throw Error(place(c, w.name),
              fmt::format("is {} in blocks of {}, and {} has {}", format, block, o.layout, layout_has(o.layout)),
              may_become ? "--format nvfp4 where that is lossless" : "another --as");
}

float only_float(const io::TensorFile& file, const io::TensorInfo& t) {
  float value;
  std::memcpy(&value, file.raw(t).data(), sizeof value);
  return value;
}

/// Null where the weight has none. Throws Error for one that no calibration makes.
const io::TensorInfo* find_input_scale(const Checkpoint& c, const StoredWeight& w) {
  for (const io::TensorInfo* other : w.others) {
    if (!is_input_scale(*other)) continue;
    const float value = only_float(c.file(), *other);
    if (value > 0 && std::isfinite(value)) return other;
    throw Error(place(c, other->name), fmt::format("is {}, and no input scale is", value), "calibrate again");
  }
  return nullptr;
}

void add_targets(const ConvertOptions& o, const Checkpoint& c, const StoredWeight& w, Part& part) {
  if (w.shape.size() > 3) {
    throw Error(place(c, w.name), fmt::format("has {} dimensions, where layouts have matrices or experts of them",
                                              w.shape.size()));
  }
  Target t = {w.name, &w, 0, w.rows};
  t.lossless = o.format == "nvfp4" && w.format->name == std::string_view("mxfp4");
  t.layout = &layout_row(o, c, w, t.lossless);
  t.decode = t.lossless ? 1 : w.decode_scale;
  const bool has_place = *t.layout->tensor_suffix != '\0';
  if (!has_place && t.decode != 1) {
    throw Error(place(c, w.name),
                fmt::format("has the tensor scale {}, and {} has no place for one", t.decode, o.layout));
  }
  if (has_place) t.input_scale = find_input_scale(c, w);
  const bool experts = w.shape.size() == 3;
  const std::int64_t count = experts ? w.shape[0] : 1;
  t.rows = w.rows / count;
  for (std::int64_t e = 0; e < count; ++e) {
    t.first = e * t.rows;
    if (experts) t.name = expert_name(w.name, e);
    part.targets.push_back(t);
  }
}

std::string shard_name(const io::TensorInfo& t) {
  const std::string name = bare_name(t.file);
  return name.ends_with(".safetensors") ? name : "model.safetensors";
}

/// Activations are quantized where every weight says how: half of a scheme is none.
void decide_activations(const ConvertOptions& o, Plan& plan) {
  std::size_t with = 0, all = 0;
  for (const auto& [file, part] : plan.parts) {
    for (const Target& t : part.targets) {
      ++all;
      with += t.input_scale != nullptr;
    }
  }
  plan.config.activations = with == all;
  if (with == all || with == 0) return;
  o.notice(fmt::format("{} of {} weights have an input scale: all are left out, and activations stay as they are", with,
                       all));
  for (auto& [file, part] : plan.parts) {
    for (Target& t : part.targets) t.input_scale = nullptr;
  }
}

/// Whether all of a weight's `others` found a place in the result.
void note_left_out(const Checkpoint& c, Plan& plan) {
  for (const StoredWeight& w : c.weights()) {
    for (const io::TensorInfo* other : w.others) {
      if (!plan.config.activations || !is_input_scale(*other)) plan.left_out.push_back(other->name);
    }
  }
}

/// What keys and values are kept in.
void take_cache(const ConvertOptions& o, const Checkpoint& c, CheckpointConfig& config) {
  const std::string scheme = cache_scheme_of(c.config(), c.quant_config());
  config.fp8_cache = scheme == "FP8";
  if (config.fp8_cache || scheme.empty()) return;
  o.notice(fmt::format("the scheme of keys and values, {}, is left out: {} is not told", scheme, o.layout));
}

Plan make_plan(const ConvertOptions& o, const Checkpoint& c) {
  Plan plan;
  plan.config.layout = o.layout;
  plan.config.tool = o.tool;
  for (const StoredWeight& w : c.weights()) add_targets(o, c, w, plan.parts[shard_name(*w.codes)]);
  for (const io::TensorInfo* t : c.rest()) {
    plan.parts[shard_name(*t)].copies.push_back({t, cache_scale_name(o.layout, t->name)});
    ++plan.copied;
    const bool matrix = t->shape.size() >= 2 && t->name.ends_with(".weight");
    if (matrix && !is_embedding(t->name)) plan.config.left.push_back(module_of(t->name));
  }
  decide_activations(o, plan);
  take_cache(o, c, plan.config);
  note_left_out(c, plan);
  for (const auto& [file, part] : plan.parts) {
    for (const Target& t : part.targets) plan.config.quantized.push_back({module_of(t.name), t.layout});
  }
  if (plan.config.quantized.empty()) throw Error(c.path(), "holds no quantized weight");
  return plan;
}

std::int64_t piece_rows(const Target& t) { return std::max<std::int64_t>(1, piece_elements / t.source->cols); }

/// visit(piece) for a target's rows, a piece at a time.
template <class Visit>
void for_each_piece(const ConvertOptions& o, const Checkpoint& c, const Target& t, const Visit& visit) {
  for (std::int64_t at = 0; at < t.rows && !o.stopped(); at += piece_rows(t)) {
    visit(c.read(*t.source, t.first + at, std::min(piece_rows(t), t.rows - at)), at);
  }
}

/// A pass over what shall become NVFP4. Throws Error with the count of blocks where something can't.
void check_lossless(const ConvertOptions& o, const Checkpoint& c, Plan& plan) {
  std::int64_t blocks = 0, outside = 0;
  std::size_t weights = 0;
  std::string first;
  for (auto& [file, part] : plan.parts) {
    for (Target& t : part.targets) {
      if (!t.lossless) continue;
      LosslessCount count;
      for_each_piece(o, c, t, [&](const Quantized& q, std::int64_t) { count.add(q); });
      const Lossless l = count.result();
      blocks += l.blocks;
      outside += l.outside;
      t.exponent = l.exponent;
      t.decode = std::ldexp(1.0f, l.exponent);
      if (l.possible) continue;
      if (first.empty()) first = t.name;
      ++weights;
    }
  }
  if (outside == 0) return;
  throw Error(place(c, first),
              fmt::format("{} of {} blocks of 16, in {} weights, have no E4M3 scale that keeps their values: scales span "
                          "more than 2^17",
                          outside, blocks, weights),
              "leave --format out to keep mxfp4");
}

void set_stored(Plan& plan) {
  for (auto& [file, part] : plan.parts) {
    for (Target& t : part.targets) {
      t.stored = t.decode;
      if (!t.layout->reciprocal) continue;
      t.stored = encode_scale_of(t.decode);
      t.decode = decode_scale_of(t.stored);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Bytes.

void put_float(io::SafetensorsWriter& out, const std::string& name, float value) {
  out.write(name, std::as_bytes(std::span(&value, 1)));
}

std::string input_scale_name(const Target& t) {
  return module_of(t.name) + (t.layout->reciprocal ? ".input_global_scale" : ".input_scale");
}

/// As it stands where the layouts agree, else its reciprocal.
float input_scale(const io::TensorFile& file, const Target& t) {
  const float stored = only_float(file, *t.input_scale);
  const bool reciprocal = t.input_scale->name.ends_with("input_global_scale");
  if (reciprocal == t.layout->reciprocal) return stored;
  return reciprocal ? decode_scale_of(stored) : encode_scale_of(stored);
}

void write_target(const ConvertOptions& o, const Checkpoint& c, const Target& t, io::SafetensorsWriter& out) {
  for_each_piece(o, c, t, [&](Quantized q, std::int64_t at) {
    if (t.lossless) q = to_nvfp4(q, t.exponent);
    check_scales(place(c, t.name), *t.layout, q);
    const auto row = static_cast<std::uint64_t>(at);
    const std::vector<std::uint8_t> codes = packed_codes(*q.config.format, q.codes);
    out.write_part(t.name + t.layout->codes_suffix, row * static_cast<std::uint64_t>(q.cols / 2),
                   std::as_bytes(std::span(codes)));
    out.write_part(t.name + t.layout->scale_suffix, row * static_cast<std::uint64_t>(q.blocks_per_row()),
                   std::as_bytes(std::span(q.scales)));
  });
  if (t.first + t.rows == t.source->rows) {
    c.file().release(*t.source->codes);
    c.file().release(*t.source->scales);
  }
  if (*t.layout->tensor_suffix != '\0') put_float(out, t.name + t.layout->tensor_suffix, t.stored);
  if (t.input_scale) put_float(out, input_scale_name(t), input_scale(c.file(), t));
}

// ---------------------------------------------------------------------------------------------------------------------
// The folder.

std::vector<Entry> entries_of(const Target& t) {
  std::vector<Entry> entries = layout_entries(*t.layout, t.name, t.rows, t.source->cols);
  if (!t.input_scale) return entries;
  std::vector<std::int64_t> shape;
  if (!t.layout->tensor_scale_is_scalar) shape.push_back(1);
  entries.push_back({input_scale_name(t), "F32", shape});
  return entries;
}

std::vector<Writer::Shard> shards_of(const ConvertOptions& o, const Checkpoint& c, const Plan& plan) {
  const std::map<std::string, std::string> metadata = shard_metadata(c.file(), o.tool, o.layout);
  std::vector<Writer::Shard> shards;
  for (const auto& [file, part] : plan.parts) {
    Writer::Shard shard = {file, {}, metadata};
    for (const Target& t : part.targets) {
      for (Entry& e : entries_of(t)) shard.entries.push_back(std::move(e));
    }
    for (const Copy& t : part.copies) shard.entries.push_back({t.name, t.tensor->dtype.name, t.tensor->shape});
    shards.push_back(std::move(shard));
  }
  return shards;
}

/// Everything that decides the bytes.
std::string work_text(const ConvertOptions& o, const Checkpoint& c, const std::string& config) {
  Json j = {{"build", o.build}, {"convert_as", o.layout}, {"format", o.format}};
  for (const std::string& path : c.file().files()) j["input"].push_back(io::file_identity(path));
  j["config"] = config;
  return j.dump(1) + "\n";
}

/// False where a signal stopped it.
bool write_shards(const ConvertOptions& o, const Checkpoint& c, const Plan& plan, Writer& writer,
                  ConvertSummary& summary) {
  double total = 0, done = 0;
  for (const auto& [file, part] : plan.parts) total += static_cast<double>(part.targets.size() + part.copies.size());
  for (const Writer::Shard& shard : writer.shards()) {
    const Part& part = plan.parts.at(shard.file);
    if (writer.finished(shard.file)) {
      ++summary.kept;
      done += static_cast<double>(part.targets.size() + part.copies.size());
      continue;
    }
    io::SafetensorsWriter out = writer.begin(shard);
    const auto advance = [&](const std::string& name) {
      if (o.progress) o.progress(++done / total, name);
      return !o.stopped();
    };
    for (const Target& t : part.targets) {
      write_target(o, c, t, out);
      if (!advance(t.name)) return false;
    }
    for (const Copy& t : part.copies) {
      copy_tensor(c.file(), *t.tensor, t.name, out);
      if (!advance(t.name)) return false;
    }
    writer.finish(shard, out, "converted");
  }
  return true;
}

ConvertSummary summary_of(const Plan& plan) {
  ConvertSummary s;
  for (const auto& [file, part] : plan.parts) {
    for (const Target& t : part.targets) {
      s.weights.push_back({t.name, t.source->format->name, t.layout->format, t.rows, t.source->cols,
                           t.lossless ? t.decode : t.source->decode_scale, t.decode});
    }
  }
  s.copied = plan.copied;
  s.left_out = plan.left_out;
  s.shards = plan.parts.size();
  return s;
}

}  // namespace

std::int64_t ConvertedWeight::ulps() const {
  return std::int64_t{std::bit_cast<std::int32_t>(decode)} - std::bit_cast<std::int32_t>(decode_before);
}

double ConvertedWeight::change() const { return double{decode} / double{decode_before} - 1; }

std::size_t ConvertSummary::moved() const {
  return static_cast<std::size_t>(
      std::count_if(weights.begin(), weights.end(), [](const ConvertedWeight& w) { return w.ulps() != 0; }));
}

ConvertSummary convert(const ConvertOptions& o) {
  check_options(o);
  const Checkpoint source(o.in);
  notice_unlisted(source.file(), o.notice);
  check_meaning(source);
  Plan plan = make_plan(o, source);
  check_lossless(o, source, plan);
  set_stored(plan);
  ConvertSummary summary = summary_of(plan);
  summary.interrupted = o.stopped();
  if (summary.interrupted) return summary;

  const std::vector<std::string> others = other_files(o.in);
  const std::string before = source.config().empty() ? "{}" : source.config();
  const std::string config =
      with_quantization_config(before, quantization_config(plan.config), place(source, "config.json"), true);
  Writer writer(o.out, work_text(o, source, config), shards_of(o, source, plan), index_name(source.file()), o.resume);
  summary.interrupted = !write_shards(o, source, plan, writer, summary);
  if (summary.interrupted) return summary;
  for (const std::string& name : others) {
    const bool written = name == "config.json" || name == "hf_quant_config.json";
    if (!written) writer.copy((fs::path(o.in) / name).string(), name);
  }
  writer.write_text("config.json", config);
  if (o.layout == "modelopt") writer.write_text("hf_quant_config.json", hf_quant_config(plan.config));
  writer.commit();
  return summary;
}

}  // namespace fp4scope::analysis
