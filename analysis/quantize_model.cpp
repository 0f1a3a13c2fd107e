#include "analysis/quantize_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "analysis/curvature.hpp"
#include "analysis/names.hpp"
#include "analysis/quantize_file.hpp"
#include "formats/error.hpp"
#include "io/atomic_file.hpp"
#include "io/checkpoint_writer.hpp"

namespace fp4scope::analysis {

namespace {

namespace fs = std::filesystem;
using Entry = io::SafetensorsWriter::Entry;
using Json = nlohmann::ordered_json;
using Writer = io::CheckpointWriter;

constexpr std::int64_t piece_elements = std::int64_t{1} << 22;  ///< 16 MiB of binary32

std::int64_t piece_rows(const Shape2d& shape) { return std::max<std::int64_t>(1, piece_elements / shape.cols); }

// ---------------------------------------------------------------------------------------------------------------------
// The input folder.

void check_folders(const QuantizeModelOptions& o) {
  std::error_code ignored;
  if (fs::exists(o.in, ignored) && !fs::is_directory(o.in, ignored)) {
    throw UsageError("--as", o.in + " is a file, and a checkpoint is a folder",
                     "give the model's folder, or leave --as out to quantize a file");
  }
  o.check_folders();
}

/// The text of config.json as the layout wants it; "" for fake.
std::string new_config(const QuantizeModelOptions& o, const CheckpointConfig& config) {
  if (o.words.layout == "fake") return "";
  const std::string path = (fs::path(o.in) / "config.json").string();
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw Error(o.in, "has no config.json, where loaders look for the quantization", "give the model's whole folder");
  }
  if (fs::exists(fs::path(o.in) / "hf_quant_config.json", ignored)) {
    throw Error(o.in, "has a hf_quant_config.json: it is quantized already", "give the model before that");
  }
  return with_quantization_config(io::read_text_file(path), quantization_config(config), path);
}

// ---------------------------------------------------------------------------------------------------------------------
// H by name.

class HessianFiles {
 public:
  explicit HessianFiles(const std::string& path) : path_(path) {
    if (path.empty()) return;
    std::error_code failure;
    std::vector<std::string> files;
    if (!fs::is_directory(path, failure)) files = {path};
    else {
      for (const auto& entry : fs::directory_iterator(path, failure)) {
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
      }
      std::sort(files.begin(), files.end());
      if (files.empty()) throw Error(path, "holds no .safetensors file with H", "see notebooks-data/save_hessians.py");
    }
    for (const std::string& file : files) add(file);
  }

  /// Of a weight, by its own name or its module's. Throws Error if it is missing or has another shape.
  Curvature read(const PlannedWeight& w) const {
    const auto& [name, file] = find(w);
    Curvature c = read_curvature(file, name, w.config.block, w.config.method->needs_full_hessian());
    if (c.cols == w.shape.cols) return c;
    throw Error(file + ":" + name,
                fmt::format("H is of {} columns, and {} has {}", c.cols, w.tensor->name, w.shape.cols));
  }

  /// Before hours of work.
  void check(const PlannedWeight& w) const {
    if (!w.config.method->needs_hessian()) return;
    if (path_.empty()) {
      throw UsageError("--scale", std::string(w.config.method->name) + " needs H = X^T X of every layer",
                       "--hessian, a folder or file as notebooks-data/save_hessians.py writes");
    }
    find(w);
  }

  /// For the record of what a result is made of.
  Json identity() const {
    Json j = Json::array();
    for (const std::string& file : files_) j.push_back(io::file_identity(file));
    return j;
  }

 private:
  void add(const std::string& file) {
    files_.push_back(file);
    const auto opened = io::open_tensors(file);
    for (const io::TensorInfo& t : opened->tensors()) {
      if (!sources_.emplace(t.name, file).second) throw Error(file, "holds '" + t.name + "', as another file does");
    }
  }

  const std::pair<const std::string, std::string>& find(const PlannedWeight& w) const {
    for (const std::string& name : {w.tensor->name, module_of(w.tensor->name)}) {
      const auto found = sources_.find(name);
      if (found != sources_.end()) return *found;
    }
    throw Error(path_, fmt::format("holds no H of {}, which {} needs", w.tensor->name, w.config.method->name),
                "--exclude it, or --override it with another scale");
  }

  std::string path_;
  std::vector<std::string> files_;
  std::map<std::string, std::string> sources_;  ///< the file of each name
};

// ---------------------------------------------------------------------------------------------------------------------
// Tensor scales.

/// How a weight is quantized once its group is known.
struct Scaled {
  QuantizeConfig config;
  float amax = 0;    ///< joint, what a recipe's constants come from
  float decode = 1;  ///< D
  float stored = 1;  ///< D, or S
};

class TensorScales {
 public:
  TensorScales(const QuantizeModelOptions& o, const io::TensorFile& file, const ModelPlan& plan)
      : o_(o), file_(file), plan_(plan), amax_(plan.weights.size()) {}

  Scaled of(std::size_t i) {
    const PlannedWeight& w = plan_.weights[i];
    const std::vector<std::size_t> members = w.group < 0 ? std::vector<std::size_t>{i} : group(w);
    Scaled s;
    for (const std::size_t m : members) s.amax = std::max(s.amax, amax(m));
    s.config = w.config;
    if (needs_whole_tensor(w.config)) fix(s, searched(members));
    const Survey joint = Survey::of_finite(w.shape.cols, s.amax);
    const Quantized start = start_quantized(s.config, w.shape.rows, w.shape.cols, {joint}, w.tensor->name);
    s.decode = s.stored = start.tensor_scale;
    check(w, s.decode);
    if (!w.layout || !w.layout->reciprocal) return s;
    s.stored = encode_scale_of(s.decode);
    if (!s.config.recipe) fix(s, decode_scale_of(s.stored));
    else if (decode_scale_of(start.constants.encode) == s.decode) s.stored = start.constants.encode;
    s.decode = decode_scale_of(s.stored);
    return s;
  }

 private:
  const std::vector<std::size_t>& group(const PlannedWeight& w) const {
    return plan_.groups[static_cast<std::size_t>(w.group)];
  }

  static void fix(Scaled& s, float d) {
    s.config.scaling = TensorScaling::value;
    s.config.scaling_value = s.decode = d;
  }

  void check(const PlannedWeight& w, float d) const {
    if (d > 0 && std::isfinite(d)) return;
    throw Error(o_.in + ": " + w.tensor->name,
                fmt::format("recipe {} gives the tensor scale {}", w.config.recipe_name(), d),
                "--override it with keep, or recipe exact");
  }

  /// A pass over the weight; throws Error for NaN and Inf, which a checkpoint's scales have no room for.
  float amax(std::size_t i) {
    if (amax_[i]) return *amax_[i];
    const PlannedWeight& w = plan_.weights[i];
    Survey survey(w.shape.cols);
    std::int64_t changed = 0;
    const std::int64_t step = piece_rows(w.shape);
    for (std::int64_t first = 0; first < w.shape.rows && !o_.stopped(); first += step) {
      survey.add(read_matrix_rows(file_, *w.tensor, first, std::min(step, w.shape.rows - first), changed));
    }
    notice_rounded(*w.tensor, changed, o_.notice);
    const std::string bad = survey.describe_nonfinite();
    if (!bad.empty()) throw Error(o_.in + ": " + w.tensor->name, bad, "mend the data, or --exclude it");
    if (o_.stopped()) return survey.finite_amax();
    amax_[i] = survey.finite_amax();
    return *amax_[i];
  }

  /// By the search that takes a tensor whole: the group's rows as one.
  float searched(const std::vector<std::size_t>& members) {
    if (members[0] == searched_first_) return searched_;
    const PlannedWeight& first = plan_.weights[members[0]];
    Matrix all = {0, first.shape.cols, {}};
    for (const std::size_t m : members) {
      const PlannedWeight& w = plan_.weights[m];
      if (w.shape.cols != all.cols) {
        throw Error(o_.in + ": " + w.tensor->name, "has other columns than the weights that it is fused with",
                    "--no-fuse");
      }
      const Matrix rows = read_matrix(file_, *w.tensor, nullptr);
      all.data.insert(all.data.end(), rows.data.begin(), rows.data.end());
      all.rows += rows.rows;
    }
    QuantizeConfig config = first.config;
    config.method = &config.naive();  // the search is for the least squared error, whatever chooses block scales later
    searched_ = quantize(config, all, o_.in + ": " + first.tensor->name, nullptr, o_.stop).tensor_scale;
    searched_first_ = members[0];
    return searched_;
  }

  const QuantizeModelOptions& o_;
  const io::TensorFile& file_;
  const ModelPlan& plan_;
  std::vector<std::optional<float>> amax_;
  std::size_t searched_first_ = static_cast<std::size_t>(-1);
  float searched_ = 1;
};

// ---------------------------------------------------------------------------------------------------------------------
// One weight.

struct Errors {
  double lost = 0, whole = 0;  ///< |w - wq|^2, |w|^2
};

/// The values of 4-bit codes at step 1, of floating-point elements and of IF4's integers.
using Levels = std::array<std::array<double, 16>, 2>;

Levels levels_of(const formats::BlockFormat& format) {
  Levels levels = {};
  for (std::uint8_t code = 0; code < 16; ++code) {
    levels[0][code] = sim::dequantize(format, code, 1, false);
    levels[1][code] = format.selects() ? sim::dequantize(format, code, 1, true) : 0;
  }
  return levels;
}

/// Of one row. A level times a step is what Quantized::value rounds to: both are exact.
Errors row_errors(const Quantized& q, const Levels& levels, const float* x, std::int64_t row, std::int64_t cols) {
  constexpr std::int64_t lanes = 4;  // sums side by side, since an addition waits for the one before
  std::array<Errors, lanes> sums = {};
  const std::uint8_t* const codes = q.codes.data() + row * q.cols;
  for (std::int64_t first = 0; first < cols; first += q.config.block) {
    const double step = q.step(row, first / q.config.block);
    const std::array<double, 16>& level = levels[q.integer(row, first / q.config.block) ? 1 : 0];
    for (std::int64_t c = first; c < std::min(first + q.config.block, cols); ++c) {
      const double w = x[c], error = w - level[codes[c]] * step;
      Errors& sum = sums[static_cast<std::size_t>(c % lanes)];
      sum.lost += error * error;
      sum.whole += w * w;
    }
  }
  return {(sums[0].lost + sums[1].lost) + (sums[2].lost + sums[3].lost),
          (sums[0].whole + sums[1].whole) + (sums[2].whole + sums[3].whole)};
}

/// The same of formats of more bits and of methods that correct values.
Errors row_errors(const Quantized& q, const float* x, std::int64_t row, std::int64_t cols) {
  Errors sum;
  for_each_value(q, row, cols, [&](std::int64_t c, double value) {
    const double w = x[c];
    sum.lost += (w - value) * (w - value);
    sum.whole += w * w;
  });
  return sum;
}

/// Added to the sums in the order of the rows: the same bits on any number of threads and for any pieces.
void add_errors(const Matrix& m, const Quantized& q, ModelWeight& out) {
  const bool plain = q.config.format->element.bits <= 4 && !q.config.method->corrects();
  const Levels levels = plain ? levels_of(*q.config.format) : Levels{};
  std::vector<Errors> rows(static_cast<std::size_t>(m.rows));
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < m.rows; ++r) {
    rows[static_cast<std::size_t>(r)] =
        plain ? row_errors(q, levels, m.row(r), r, m.cols) : row_errors(q, m.row(r), r, m.cols);
  }
  for (const Errors& e : rows) {
    out.sse += e.lost;
    out.energy += e.whole;
  }
}

class WeightWriter {
 public:
  WeightWriter(const QuantizeModelOptions& o, const io::TensorFile& file, const HessianFiles& hessians)
      : o_(o), file_(file), hessians_(hessians) {}

  /// Empty where a signal stopped it.
  std::optional<ModelWeight> write(const PlannedWeight& w, const Scaled& scaled, io::SafetensorsWriter& out) const {
    ModelWeight result;
    result.name = w.tensor->name;
    result.format = w.config.format->name;
    result.method = w.config.method->name;
    result.rows = w.shape.rows;
    result.cols = w.shape.cols;
    result.block = w.config.block;
    result.group = w.group;
    result.tensor_scale = scaled.decode;
    std::optional<Curvature> curvature;
    if (w.config.method->needs_hessian()) curvature = hessians_.read(w);
    const Survey joint = Survey::of_finite(w.shape.cols, scaled.amax);
    const std::int64_t step = piece_rows(w.shape);
    double bits = 0;
    for (std::int64_t first = 0; first < w.shape.rows; first += step) {
      std::int64_t changed = 0;
      const Matrix m = read_matrix_rows(file_, *w.tensor, first, std::min(step, w.shape.rows - first), changed);
      const Piece piece = {joint, first};
      const Quantized q = quantize(scaled.config, m, o_.in + ": " + w.tensor->name, curvature ? &*curvature : nullptr,
                                   o_.stop, &piece);
      if (o_.stopped()) return {};
      write_rows(w, q, out);
      add_errors(m, q, result);
      bits += payload_bits(q, w.shape.cols);
    }
    if (w.layout && *w.layout->tensor_suffix != '\0') {
      out.write(w.tensor->name + w.layout->tensor_suffix, std::as_bytes(std::span(&scaled.stored, 1)));
    }
    const double constants = scaled.config.scaling == TensorScaling::none ? 0 : 32;
    result.bits_per_weight = (bits + constants) / static_cast<double>(w.shape.rows * w.shape.cols);
    return result;
  }

 private:
  /// Bits of some rows without the tensor scale.
  static double payload_bits(const Quantized& q, std::int64_t cols) {
    const double constants = q.config.scaling == TensorScaling::none ? 0 : 32;
    return bits_per_weight(q, cols) * static_cast<double>(q.rows * cols) - constants;
  }

  void write_rows(const PlannedWeight& w, const Quantized& q, io::SafetensorsWriter& out) const {
    const auto row = static_cast<std::uint64_t>(q.first_row);
    const auto put = [&](const std::string& name, const auto& values) {
      out.write_part(name, row * (values.size() * sizeof values[0] / static_cast<std::uint64_t>(q.rows)),
                     std::as_bytes(std::span(values)));
    };
    if (!w.layout) {
      put(w.tensor->name, dequantized_as(w.tensor->dtype.name, q, w.shape.cols));
      return;
    }
    check_scales(w.tensor->name, *w.layout, q);
    put(w.tensor->name + w.layout->codes_suffix, packed_codes(*q.config.format, q.codes));
    put(w.tensor->name + w.layout->scale_suffix, q.scales);
  }

  const QuantizeModelOptions& o_;
  const io::TensorFile& file_;
  const HessianFiles& hessians_;
};

// ---------------------------------------------------------------------------------------------------------------------
// The whole.

/// A tensor of the input in its shard: an index into plan.weights, or a tensor to copy.
struct Part {
  const io::TensorInfo* tensor;
  std::optional<std::size_t> weight;
};

using Parts = std::map<std::string, std::vector<Part>>;  // by shard

Parts parts_of(const ModelPlan& plan) {
  std::map<std::string, Part> by_name;
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    by_name[plan.weights[i].tensor->name] = {plan.weights[i].tensor, i};
  }
  for (const io::TensorInfo* t : plan.left) by_name[t->name] = {t, {}};
  Parts parts;
  for (const auto& [name, part] : by_name) parts[bare_name(part.tensor->file)].push_back(part);
  return parts;
}

/// The words of one weight, for the record of what a result is made of and for the shards' metadata.
Json config_json(const PlannedWeight& w) {
  const QuantizeConfig& c = w.config;
  Json j = {{"format", c.format->name},
            {"block", c.block},
            {"scale", c.method->name},
            {"select", select_names[static_cast<std::size_t>(c.select)]},
            {"tensor_scale", c.scaling_text()},
            {"scale_max", c.scale_max},
            {"recipe", c.recipe_name()},
            {"rounding", c.rounding_name()}};
  if (c.rounding == formats::Rounding::stochastic || c.method->random()) j["seed"] = c.seed;
  if (c.method->damps()) j["damping"] = c.damping;
  if (c.method->limits_nodes()) j["node_limit"] = c.node_limit;
  return j;
}

/// Everything that decides the bytes.
std::string work_text(const QuantizeModelOptions& o, const io::TensorFile& file, const ModelPlan& plan,
                      const HessianFiles& hessians, const std::string& config) {
  Json j;
  j["build"] = o.build;
  j["as"] = o.words.layout;
  for (const std::string& path : file.files()) j["input"].push_back(io::file_identity(path));
  if (!o.formats.empty()) j["formats"] = io::file_identity(o.formats);
  j["hessian"] = hessians.identity();
  j["config"] = config;
  for (const PlannedWeight& w : plan.weights) {
    j["weights"][w.tensor->name] = config_json(w);
    j["weights"][w.tensor->name]["group"] = w.group;
  }
  return j.dump(1) + "\n";
}

std::vector<Writer::Shard> shards_of(const QuantizeModelOptions& o, const io::TensorFile& file, const ModelPlan& plan,
                                     const Parts& parts) {
  const std::map<std::string, std::string> metadata = shard_metadata(file, o.tool, o.words.layout);
  std::vector<Writer::Shard> shards;
  for (const auto& [name, list] : parts) {
    Writer::Shard shard = {name, {}, metadata};
    for (const Part& part : list) {
      const io::TensorInfo& t = *part.tensor;
      const PlannedWeight* const w = part.weight ? &plan.weights[*part.weight] : nullptr;
      const std::vector<Entry> entries =
          w && w->layout ? layout_entries(*w->layout, t.name, w->shape.rows, w->shape.cols)
                         : std::vector<Entry>{{t.name, t.dtype.name, t.shape}};
      shard.entries.insert(shard.entries.end(), entries.begin(), entries.end());
    }
    shards.push_back(std::move(shard));
  }
  return shards;
}

Json to_json(const std::vector<ModelWeight>& weights) {
  Json j = Json::array();
  for (const ModelWeight& w : weights) {
    j.push_back({w.name, w.format, w.method, w.rows, w.cols, w.block, w.group, w.tensor_scale, w.sse, w.energy,
                 w.bits_per_weight});
  }
  return j;
}

std::vector<ModelWeight> weights_from(const std::string& note, const std::string& shard, const std::string& where) {
  std::vector<ModelWeight> list;
  try {
    for (const Json& j : Json::parse(note)) {
      list.push_back({j.at(0), shard, j.at(1), j.at(2), j.at(3), j.at(4), j.at(5), j.at(6), j.at(7), j.at(8), j.at(9),
                      j.at(10)});
    }
  } catch (const nlohmann::json::exception&) {
    throw Error(where, "the record of " + shard + " is damaged", "remove the folder and begin anew");
  }
  return list;
}

struct Run {
  const QuantizeModelOptions& o;
  const io::TensorFile& file;
  const ModelPlan& plan;
  const HessianFiles& hessians;
  const Parts& parts;
  double total = 0, done = 0;

  void advance(const io::TensorInfo& t) {
    done += static_cast<double>(t.elements());
    if (o.progress) o.progress(done / total, t.name);
  }

  /// Empty where a signal stopped it.
  std::optional<std::vector<ModelWeight>> write_shard(const Writer::Shard& shard, TensorScales& scales,
                                                      io::SafetensorsWriter& out) {
    const WeightWriter writer(o, file, hessians);
    std::vector<ModelWeight> weights;
    for (const Part& part : parts.at(shard.file)) {
      if (!part.weight) copy_tensor(file, *part.tensor, part.tensor->name, out);
      else {
        const Scaled scaled = scales.of(*part.weight);
        const auto weight = o.stopped() ? std::nullopt : writer.write(plan.weights[*part.weight], scaled, out);
        if (!weight) return {};
        weights.push_back(*weight);
      }
      if (o.stopped()) return {};
      advance(*part.tensor);
    }
    return weights;
  }

  void write_shards(Writer& writer, ModelSummary& summary) {
    TensorScales scales(o, file, plan);
    for (const io::TensorInfo& t : file.tensors()) total += static_cast<double>(t.elements());
    for (const Writer::Shard& shard : writer.shards()) {
      if (writer.finished(shard.file)) {
        ++summary.kept;
        for (const Part& part : parts.at(shard.file)) advance(*part.tensor);
      } else {
        io::SafetensorsWriter out = writer.begin(shard);
        const auto weights = write_shard(shard, scales, out);
        if (!weights) {
          summary.interrupted = true;
          return;
        }
        writer.finish(shard, out, to_json(*weights).dump());
      }
      for (ModelWeight& w : weights_from(writer.note(shard.file), shard.file, writer.partial())) {
        summary.weights.push_back(std::move(w));
      }
    }
  }
};

void write_other_files(const QuantizeModelOptions& o, const std::vector<std::string>& names, const std::string& config,
                       const CheckpointConfig& says, Writer& writer) {
  for (const std::string& name : names) {
    if (name == "config.json" && !config.empty()) continue;
    writer.copy((fs::path(o.in) / name).string(), name);
  }
  if (!config.empty()) writer.write_text("config.json", config);
  if (says.layout == "modelopt") writer.write_text("hf_quant_config.json", hf_quant_config(says));
}

}  // namespace

double ModelWeight::relative_error() const { return std::sqrt(sse / energy); }

double ModelWeight::sqnr_db() const { return -10 * std::log10(sse / energy); }

ModelSummary quantize_model(const QuantizeModelOptions& o) {
  check_folders(o);
  const auto file = io::open_tensors(o.in);
  notice_unlisted(*file, o.notice);
  const ModelPlan plan = plan_model(o.words, file->tensors());
  CheckpointConfig says = {o.words.layout, {}, left_modules(plan), o.tool};
  for (const PlannedWeight& w : plan.weights) says.quantized.push_back({module_of(w.tensor->name), w.layout});
  const std::string config = new_config(o, says);
  const HessianFiles hessians(o.hessian);
  for (const PlannedWeight& w : plan.weights) hessians.check(w);
  const std::vector<std::string> others = other_files(o.in);

  const Parts parts = parts_of(plan);
  const std::vector<Writer::Shard> shards = shards_of(o, *file, plan, parts);
  Writer writer(o.out, work_text(o, *file, plan, hessians, config), shards, index_name(*file), o.resume);
  for (const std::string& word : plan.words) o.notice(word);

  ModelSummary summary;
  summary.shards = shards.size();
  for (const io::TensorInfo* t : plan.left) summary.left.push_back(t->name);
  for (const io::TensorInfo& t : file->tensors()) summary.bytes_in += static_cast<std::int64_t>(t.bytes);
  Run run = {o, *file, plan, hessians, parts};
  run.write_shards(writer, summary);
  if (summary.interrupted) return summary;
  write_other_files(o, others, config, says, writer);
  writer.commit();
  summary.bytes_out = static_cast<std::int64_t>(writer.total_bytes());
  return summary;
}

}  // namespace fp4scope::analysis
