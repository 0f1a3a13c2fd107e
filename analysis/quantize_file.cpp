#include "analysis/quantize_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "analysis/certificate.hpp"
#include "analysis/curvature.hpp"
#include "analysis/names.hpp"
#include "analysis/quantize_file_on_device.hpp"
#include "formats/error.hpp"
#include "formats/pack.hpp"
#include "sim/hadamard.hpp"

namespace fp4scope::analysis {

namespace {

using Entry = io::SafetensorsWriter::Entry;
using Json = nlohmann::ordered_json;

/// What happens to each tensor of the input.
struct Job {
  std::vector<const io::TensorInfo*> quantized;
  std::vector<const io::TensorInfo*> copied;
};

Job plan(const QuantizeFileOptions& o, const io::TensorFile& file) {
  Job job;
  for (const io::TensorInfo& t : file.tensors()) {
    const std::string obstacle = why_not(t);
    const bool chosen = selected(t.name, o.tensors, o.exclude);
    if (chosen && obstacle.empty()) {
      job.quantized.push_back(&t);
      continue;
    }
    const bool copy = o.keep || o.fake_quant;
    if (copy) job.copied.push_back(&t);
    if (chosen) o.notice(t.name + (copy ? " copied, " : " skipped, ") + obstacle);
  }
  if (job.quantized.empty()) {
    throw Error(o.in, "no tensor to quantize is matched by " + join(o.tensors),
                "see the words above, or other --tensor");
  }
  return job;
}

/// Rows and columns of the stored tensor.
Shape2d stored_shape(const Shape2d& original, const Transform& transform, int block) {
  return {transform.transposed ? original.cols : original.rows, padded(transformed_cols(transform, original), block)};
}

void check_columns(const QuantizeFileOptions& o, const io::TensorInfo& t) {
  const Shape2d shape = as_matrix(t);
  const std::int64_t cols = o.transform.transposed ? shape.rows : shape.cols;
  const std::int64_t stored = stored_shape(shape, o.transform, o.config.block).cols;
  if (cols == stored) return;
  if (o.pad_error) {
    const int unit = cols % o.config.block != 0 ? o.config.block : o.transform.hadamard;
    throw Error(
        o.in + ": " + t.name,
        fmt::format("{} columns are no multiple of {} {}", cols, unit == o.config.block ? "block" : "rotation", unit),
        "another --block, --exclude it, or allow zero padding without --pad error");
  }
  o.notice(fmt::format("{}: {} columns padded with zeros to {}", t.name, cols, stored));
}

/// Refuses words that leave a certificate nothing to stand on.
void check_certificate(const QuantizeFileOptions& o) {
  if (!o.certificate) return;
  require_certifiable(o.config);
  if (o.fake_quant) throw UsageError("--certificate", "is of codes, and --fake-quant writes none", "leave one out");
}

/// A file has codes and block scales, and nothing that corrects them.
void check_correction(const QuantizeFileOptions& o) {
  if (!o.config.method->corrects() || o.fake_quant) return;
  throw UsageError("--scale", fmt::format("{}'s codes have no place in a quantized file", o.config.method->name),
                   "--fake-quant, or a sweep");
}

/// The certificate's tensors for a tensor of `rows` and `blocks` a row.
std::vector<Entry> certificate_entries(const QuantizeConfig& config, const std::string& name, std::int64_t rows,
                                       std::int64_t blocks) {
  std::vector<Entry> list;
  for (const CertificatePart& part : certificate_parts) {
    if (part.shape == CertificateShape::block) list.push_back({name + part.suffix, part.dtype, {rows, blocks}});
    if (!config.method->needs_hessian()) continue;
    if (part.shape == CertificateShape::column_block) list.push_back({name + part.suffix, part.dtype, {blocks}});
    if (part.shape == CertificateShape::column) {
      list.push_back({name + part.suffix, part.dtype, {blocks, config.block}});
    }
  }
  return list;
}

/// Bytes of a row of codes.
std::int64_t code_bytes(const formats::BlockFormat& format, std::int64_t cols) {
  return format.element.bits <= 4 ? cols / 2 : cols;
}

std::vector<Entry> entries(const QuantizeFileOptions& o, const Job& job) {
  std::vector<Entry> list;
  for (const io::TensorInfo* t : job.quantized) {
    if (o.fake_quant) {
      list.push_back({t->name, t->dtype.name, t->shape});
      continue;
    }
    const Shape2d shape = stored_shape(as_matrix(*t), o.transform, o.config.block);
    list.push_back({t->name + ".codes", "U8", {shape.rows, code_bytes(*o.config.format, shape.cols)}});
    list.push_back({t->name + ".scales", "U8", {shape.rows, shape.cols / o.config.block}});
    list.push_back({t->name + ".tensor_scale", "F32", {1}});
    if (o.config.scaling == TensorScaling::amax) list.push_back({t->name + ".amax", "F32", {1}});
    if (o.dequantized) list.push_back({t->name + ".dequantized", "F32", {shape.rows, shape.cols}});
    if (!o.certificate) continue;
    for (Entry& e : certificate_entries(o.config, t->name, shape.rows, shape.cols / o.config.block)) {
      list.push_back(std::move(e));
    }
  }
  for (const io::TensorInfo* t : job.copied) list.push_back({t->name, t->dtype.name, t->shape});
  return list;
}

/// What errors are weighed with: inputs X, or H from a file.
struct Weights {
  Matrix x;
  Activations activations;
  std::optional<Curvature> curvature;

  /// Of the tensors that they fit; 0 without.
  std::int64_t cols() const { return curvature ? curvature->cols : x.cols; }
};

Weights load_weights(const QuantizeFileOptions& o) {
  const search::Method& method = *o.config.method;
  if (method.needs_hessian() && o.activations.empty() && o.hessian.empty()) {
    throw UsageError("--scale", std::string(method.name) + " needs the layer's inputs, or H = X^T X",
                     "--activations X.safetensors:NAME or --hessian H.safetensors:NAME");
  }
  if (!o.hessian.empty() && !o.activations.empty()) {
    throw UsageError("--hessian", "stands in for --activations", "leave one of them out");
  }
  if (!o.hessian.empty() && (o.transform.transposed || o.transform.rotated())) {
    throw UsageError("--hessian", "is H in another basis than the transformed tensor",
                     "--activations, which follow it");
  }
  Weights w;
  if (!o.hessian.empty()) {
    const auto [path, tensor] = split_name(o.hessian);
    w.curvature = read_curvature(path, tensor, o.config.block, method.needs_full_hessian());
  } else if (!o.activations.empty()) {
    const auto [path, tensor] = split_name(o.activations);
    w.x = apply_to_inputs(o.transform, read_activations(path, tensor, o.notice));
    w.activations = make_activations(w.x);
    if (method.needs_hessian()) w.curvature = curvature_of(w.x, o.config.block, method.needs_full_hessian());
  }
  if (w.curvature && w.curvature->psd.shifted > 0) {
    o.notice(fmt::format("{} of {} diagonal blocks of H were not positive semidefinite: shifted by at most {:.3g}",
                         w.curvature->psd.shifted, w.curvature->blocks.count(), w.curvature->psd.largest_shift));
  }
  return w;
}

/// A format of one's own, so that dequantize needs nothing but the file.
Json to_json(const FormatDefinition& d) {
  Json j;
  if (d.levels.empty()) j["element"] = d.element;
  else j["levels"] = d.levels;
  j["scale"] = d.scale;
  j["block"] = *d.block;
  j["tensor_scale"] = d.tensor_scale;
  if (d.scale_max) j["scale_max"] = *d.scale_max;
  return j;
}

std::map<std::string, std::string> metadata(const QuantizeFileOptions& o, const io::TensorFile& file, const Job& job,
                                            const Weights& weights) {
  std::map<std::string, std::string> out = file.metadata();
  Json j;
  j["tool"] = o.tool;
  j["recipe"] = o.config.recipe_name();
  j["format"] = o.config.format->name;
  if (const FormatDefinition* d = o.config.formats->definition(o.config.format->name)) j["definition"] = to_json(*d);
  j["block"] = o.config.block;
  j["scale"] = o.config.method->name;
  if (o.config.method->chooses()) {
    j["select"] = select_names[static_cast<std::size_t>(o.config.select)];
  }
  j["tensor_scale"] = o.config.scaling_text();
  if (o.config.scaling == TensorScaling::amax) j["scale_max"] = o.config.scale_max;
  j["rounding"] = o.config.rounding_name();
  if (o.config.rounding == formats::Rounding::stochastic || o.config.method->random()) j["seed"] = o.config.seed;
  j["block_2d"] = o.config.tiles;
  j["transpose"] = o.transform.transposed;
  j["hadamard"] = o.transform.hadamard;
  if (o.transform.hadamard_seed) j["hadamard_seed"] = *o.transform.hadamard_seed;
  j["activations"] = o.activations;
  j["hessian"] = o.hessian;
  if (o.config.method->damps()) j["damping"] = o.config.damping;
  if (o.config.method->limits_nodes()) j["node_limit"] = o.config.node_limit;
  if (weights.curvature) {
    j["hessian_hash"] = fmt::format("{:016x}", weights.curvature->psd.hash);
    j["hessian_shifted"] = weights.curvature->psd.shifted;
    j["hessian_largest_shift"] = weights.curvature->psd.largest_shift;
  }
  if (o.certificate) {
    j["certificate"]["loss"] = o.config.method->needs_hessian() ? "r^T H r" : "squared error";
    for (const CertificatePart& part : certificate_parts) {
      if (part.shape == CertificateShape::block || o.config.method->needs_hessian()) {
        j["certificate"][part.suffix] = part.meaning;
      }
    }
  }
  for (const io::TensorInfo* t : job.quantized) j["tensors"][t->name] = {{"dtype", t->dtype.name}, {"shape", t->shape}};
  // A fake-quantized file holds ordinary tensors, so its record goes under a name that dequantize won't take for codes.
  out[o.fake_quant ? "fp4scope_fake_quant" : "fp4scope"] = j.dump();
  return out;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// The bytes of an exact value in a floating-point dtype, rounded once, to nearest even.
void store(const std::string& dtype, double value, std::byte* out) {
  if (dtype == "F64") {
    std::memcpy(out, &value, sizeof value);
  } else if (dtype == "F32") {
    const auto narrow = static_cast<float>(value);
    std::memcpy(out, &narrow, sizeof narrow);
  } else {
    const formats::Format& f = dtype == "BF16" ? formats::bf16 : formats::fp16;
    const formats::Encoded e = formats::encode(f, value, formats::Rounding::nearest_even, formats::Overflow::nan);
    const auto code = static_cast<std::uint16_t>(e.code);
    std::memcpy(out, &code, sizeof code);
  }
}

std::int64_t width_of(const std::string& dtype) { return dtype == "F64" ? 8 : dtype == "F32" ? 4 : 2; }

/// The same of a tensor that was transposed or rotated: values rounded to binary32, taken back, stored.
std::vector<std::byte> undone_as(const std::string& dtype, const Quantized& q, const Transform& transform,
                                 const Shape2d& original) {
  const Matrix back = undo(transform, {q.rows, q.cols, exact_values(q)}, original);
  const std::int64_t width = width_of(dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(back.size() * width));
  for (std::int64_t i = 0; i < back.size(); ++i) {
    store(dtype, back.data[static_cast<std::size_t>(i)], bytes.data() + i * width);
  }
  return bytes;
}

/// A tensor's values in a dtype, in the basis and shape of the original.
std::vector<std::byte> values_as(const std::string& dtype, const Quantized& q, const Transform& transform,
                                 const Shape2d& original) {
  if (transform.transposed || transform.rotated()) return undone_as(dtype, q, transform, original);
  return dequantized_as(dtype, q, original.cols);
}

void write_tensor(const QuantizeFileOptions& o, const io::TensorInfo& t, const Matrix& m, const Quantized& q,
                  io::SafetensorsWriter& w) {
  if (o.fake_quant) {
    w.write(t.name, values_as(t.dtype.name, q, o.transform, as_matrix(t)));
    return;
  }
  w.write(t.name + ".codes", bytes_of(packed_codes(*q.config.format, q.codes)));
  w.write(t.name + ".scales", bytes_of(q.scales));
  write_constants(o, t.name, q, w);
  if (o.dequantized) w.write(t.name + ".dequantized", bytes_of(dequantize(q, &m)));
}

void write_certificate(const Quantized& q, const Matrix& m, const Weights& weights, const std::string& name,
                       const std::atomic<bool>* stop, io::SafetensorsWriter& w) {
  const bool hessian = q.config.method->needs_hessian();
  const std::vector<double> d = hessian ? minorants(weights.curvature->blocks) : std::vector<double>{};
  const Certificates c = certify(q, m, hessian ? &weights.curvature->blocks : nullptr, d, stop);
  w.write(name + ".certificate.lo", bytes_of(c.lo));
  w.write(name + ".certificate.hi", bytes_of(c.hi));
  w.write(name + ".certificate.loss", bytes_of(c.loss));
  w.write(name + ".certificate.gap", bytes_of(c.gap));
  if (!hessian) return;
  w.write(name + ".certificate.shift", bytes_of(weights.curvature->psd.shift));
  w.write(name + ".certificate.minorant", bytes_of(d));
}

/// |X Wq^T - X W^T| / |X W^T| from X or from a whole H, NaN from neither.
Metrics measure_with(const Weights& w, bool fits, const Matrix& m, const Quantized& q) {
  const bool by_inputs = fits && w.x.cols > 0;
  Metrics metrics =
      measure(m, q, by_inputs ? &w.activations : nullptr, by_inputs ? output_energy(m, w.activations) : 0);
  if (fits && !by_inputs && w.curvature->full.cols > 0) metrics.output_error = output_error(m, q, w.curvature->full);
  return metrics;
}

/// Whether the weights fit a tensor, with a word or an Error where they should.
bool check_fit(const QuantizeFileOptions& o, const Weights& weights, const std::string& name, const Matrix& m) {
  const std::int64_t columns = weights.cols();
  if (columns == 0 || m.cols == columns) return columns > 0;
  const std::string mismatch =
      fmt::format("{} columns do not fit {} of {}", m.cols, o.hessian.empty() ? "activations" : "H", columns);
  if (o.config.method->needs_hessian()) {
    throw Error(o.in + ": " + name, mismatch, "select the tensors that they belong to with --tensor");
  }
  o.notice(fmt::format("{}: no output error, {}", name, mismatch));
  return false;
}

/// On the CPU, or on the GPU with scales and codes brought back.
Quantized quantize_matrix(const QuantizeFileOptions& o, const std::string& name, const Matrix& m,
                          const Curvature* curvature, OnDevice* gpu) {
  QuantizeConfig config = o.config;
  config.stream = name_stream(name);
  const std::string where = o.in + ": " + name;
  if (!gpu) return quantize(config, m, where, curvature, o.stop);
  Survey survey(m.cols);
  survey.add(m);
  gpu->load(cuda::Type::f32, m.rows, m.cols, m.data.data());
  Quantized q = gpu->quantize(config, {survey}, where, curvature);
  gpu->download(q);
  return q;
}

/// Tensors one after the other.
std::vector<QuantizedTensor> quantize_in_turn(const QuantizeFileOptions& o, const io::TensorFile& file,
                                              const std::vector<const io::TensorInfo*>& tensors, const Weights& weights,
                                              io::SafetensorsWriter& writer) {
  const auto gpu = o.devices.empty() ? nullptr : OnDevice::start(o.devices[0]);
  const bool needs_hessian = o.config.method->needs_hessian();
  std::vector<QuantizedTensor> summary;
  double total = 0, done = 0;
  for (const io::TensorInfo* t : tensors) total += static_cast<double>(t->elements());
  for (const io::TensorInfo* t : tensors) {
    const Matrix m = apply(o.transform, o.config, read_matrix(file, *t, o.notice));
    const bool fits = check_fit(o, weights, t->name, m);
    const Quantized q = quantize_matrix(o, t->name, m, needs_hessian ? &*weights.curvature : nullptr, gpu.get());
    if (o.stop && *o.stop) return {};
    write_tensor(o, *t, m, q, writer);
    if (o.certificate) write_certificate(q, m, weights, t->name, o.stop, writer);
    if (o.stop && *o.stop) return {};
    const Metrics metrics = measure_with(weights, fits, m, q);
    if (o.config.scaling == TensorScaling::search) {
      o.notice(fmt::format("{}: no tensor scale has a weight error below {:.4f} % with scales of least squared error",
                           t->name, 100 * std::sqrt(q.tensor_scale_bound / metrics.energy)));
    }
    summary.push_back(summarize(t->name, {m.rows, m.cols}, q, metrics));
    done += static_cast<double>(t->elements());
    if (o.progress) o.progress(done / total, t->name);
  }
  if (gpu && o.seconds) *o.seconds = gpu->seconds();
  return summary;
}

void check_device(const QuantizeFileOptions& o) {
  const std::string obstacle = o.devices.empty() ? "" : device_obstacle(o.config);
  if (!obstacle.empty()) throw UsageError("--device", obstacle, device_has());
}

}  // namespace

std::vector<std::uint8_t> packed_codes(const formats::BlockFormat& format, const std::vector<std::uint8_t>& codes) {
  if (format.element.bits > 4) return codes;
  std::vector<std::uint8_t> packed(codes.size() / 2);
  for (std::size_t i = 0; i < packed.size(); ++i) packed[i] = formats::pack_nibbles(codes[2 * i], codes[2 * i + 1]);
  return packed;
}

std::vector<std::byte> dequantized_as(const std::string& dtype, const Quantized& q, std::int64_t original_cols) {
  const std::int64_t width = width_of(dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(q.rows * original_cols * width));
#pragma omp parallel for schedule(static)
  for (std::int64_t r = 0; r < q.rows; ++r) {
    std::byte* const out = bytes.data() + r * original_cols * width;
    for_each_value(q, r, original_cols, [&](std::int64_t c, double value) { store(dtype, value, out + c * width); });
  }
  return bytes;
}

QuantizedTensor summarize(const std::string& name, const Shape2d& shape, const Quantized& q, const Metrics& metrics) {
  return {name,
          shape,
          std::sqrt(metrics.relative_mse()),
          -10 * std::log10(metrics.relative_mse()),
          metrics.output_error,
          bits_per_weight(q, shape.cols),
          q.block_count(),
          q.proved};
}

void write_constants(const QuantizeFileOptions& o, const std::string& name, const Quantized& q,
                     io::SafetensorsWriter& w) {
  w.write(name + ".tensor_scale", bytes_of(std::vector<float>{q.tensor_scale}));
  if (o.config.scaling == TensorScaling::amax) w.write(name + ".amax", bytes_of(std::vector<float>{q.amax}));
}

std::vector<QuantizedTensor> quantize_file(const QuantizeFileOptions& o) {
  check_certificate(o);
  check_correction(o);
  check_device(o);
  const auto file = io::open_tensors(o.in);
  const Job job = plan(o, *file);
  for (const io::TensorInfo* t : job.quantized) check_columns(o, *t);
  const Weights weights = load_weights(o);

  io::SafetensorsWriter writer(o.out, entries(o, job), metadata(o, *file, job, weights));
  const std::vector<QuantizedTensor> summary = !o.devices.empty() && goes_straight(o, job.quantized)
                                                   ? quantize_on_devices(o, *file, job.quantized, writer)
                                                   : quantize_in_turn(o, *file, job.quantized, weights, writer);
  if (summary.empty()) return {};
  for (const io::TensorInfo* t : job.copied) writer.write(t->name, file->raw(*t));
  writer.commit();
  return summary;
}

namespace {

/// The tensors that a quantized file holds, from its metadata.
Json read_record(const std::string& in, const io::TensorFile& file) {
  const auto found = file.metadata().find("fp4scope");
  const Json record = found == file.metadata().end() ? Json() : Json::parse(found->second, nullptr, false);
  const bool whole = record.is_object() && record.contains("tensors") && record["tensors"].is_object() &&
                     record.contains("format") && record["format"].is_string() && record.contains("block") &&
                     record["block"].is_number_integer();
  if (!whole) throw Error(in, "is no output of fp4scope quantize", "its metadata has no readable 'fp4scope' record");
  return record;
}

/// What the record says of a transposition and a rotation.
Transform recorded_transform(const std::string& in, const Json& record) {
  Transform t;
  t.transposed = record.value("transpose", Json(false)) == Json(true);
  const Json size = record.value("hadamard", Json(0)), seed = record.value("hadamard_seed", Json());
  if (!size.is_number_integer()) throw Error(in, "its record's rotation is no number");
  if (size == 0) return t;
  if (seed.is_number_unsigned()) t.hadamard_seed = seed.get<std::uint64_t>();
  t.hadamard = static_cast<int>(std::clamp<std::int64_t>(size.get<std::int64_t>(), -1, 1 << 20));
  if (!sim::is_hadamard_size(t.hadamard) || (!t.hadamard_seed && t.hadamard != 16)) {
    throw Error(in, "its record's rotation is none that there is");
  }
  return t;
}

/// The formats that a record knows: the built-in ones, and its own where it defines one.
Formats recorded_formats(const std::string& in, const Json& record) {
  if (!record.contains("definition")) return std::make_shared<const FormatTable>();
  const Json& j = record["definition"];
  const auto refuse = [&in](const std::string&, const std::string& what, const std::string& mend) {
    throw Error(in, "its record's format: " + what, mend);
  };
  const auto broken = [&](const std::string& key) { refuse(key, "no readable '" + key + "'", "quantize it again"); };
  if (!j.is_object()) broken("definition");
  FormatDefinition d;
  d.name = record["format"].get<std::string>();
  for (const auto& [key, value] : j.items()) {
    if (key == "levels" && value.is_array()) {
      for (const Json& level : value) {
        if (!level.is_number()) broken(key);
        d.levels.push_back(level.get<double>());
      }
    } else if (key == "element" && value.is_string()) {
      d.element = value.get<std::string>();
    } else if (key == "scale" && value.is_string()) {
      d.scale = value.get<std::string>();
    } else if (key == "tensor_scale" && value.is_string()) {
      d.tensor_scale = value.get<std::string>();
    } else if (key == "block" && value.is_number_integer()) {
      d.block = value.get<std::int64_t>();
    } else if (key == "scale_max" && value.is_number_integer()) {
      d.scale_max = value.get<std::int64_t>();
    } else {
      broken(key);
    }
  }
  return std::make_shared<const FormatTable>(std::vector<FormatDefinition>{complete(d, refuse)});
}

/// Refuses a record whose method says that codes and scales are not all.
void refuse_corrections(const std::string& in, const QuantizeConfig& config, const Json& record) {
  const Json name = record.value("scale", Json());
  if (!name.is_string()) return;
  const search::Method* method = config.formats->find_method(config.format->name, name.get<std::string>());
  if (method && method->corrects()) {
    throw Error(in, fmt::format("its record's {} has more to its values than codes and scales", method->name));
  }
}

/// Format and block as the record has them.
QuantizeConfig recorded_config(const std::string& in, const Json& record) {
  const auto block = record["block"].get<std::int64_t>();
  if (block < 2 || block > search::max_block) throw Error(in, fmt::format("its record says a block of {}", block));
  try {
    const QuantizeConfig config =
        parse_config({record["format"].get<std::string>(), "", "", "none", "", static_cast<int>(block), 0},
                     recorded_formats(in, record));
    refuse_corrections(in, config, record);
    return config;
  } catch (const UsageError& e) {
    throw Error(in, "its record: " + e.problem);
  }
}

const io::TensorInfo& part(const std::string& in, const io::TensorFile& file, const std::string& name,
                           const std::string& dtype, const std::vector<std::int64_t>& shape) {
  const io::TensorInfo* t = file.find(name);
  if (!t) throw Error(in, "tensor '" + name + "' is missing", "the file is incomplete");
  if (t->dtype.name != dtype || t->shape != shape) {
    throw Error(in, fmt::format("'{}' is {} {}, not what its record says", name, t->dtype.name, t->shape_text()),
                "quantize it again");
  }
  return *t;
}

/// Codes and scales of one tensor as a Quantized; shapes are checked against the record.
Quantized read_quantized(const std::string& in, const io::TensorFile& file, const std::string& name,
                         const QuantizeConfig& config, const Shape2d& stored) {
  Quantized q;
  q.config = config;
  q.rows = stored.rows;
  q.cols = stored.cols;
  const std::int64_t bytes = code_bytes(*config.format, q.cols);
  const auto codes = file.raw(part(in, file, name + ".codes", "U8", {q.rows, bytes}));
  const auto scales = file.raw(part(in, file, name + ".scales", "U8", {q.rows, q.cols / config.block}));
  q.tensor_scale = file.read(part(in, file, name + ".tensor_scale", "F32", {1})).data.at(0);
  q.scales.resize(scales.size());
  std::memcpy(q.scales.data(), scales.data(), scales.size());
  q.codes.resize(static_cast<std::size_t>(q.rows * q.cols));
  if (config.format->element.bits > 4) {
    std::memcpy(q.codes.data(), codes.data(), codes.size());
    return q;
  }
  const auto* packed = reinterpret_cast<const std::uint8_t*>(codes.data());
  for (std::size_t i = 0; i < q.codes.size(); ++i) {
    q.codes[i] = static_cast<std::uint8_t>(formats::unpack_nibble(packed, static_cast<std::int64_t>(i)));
  }
  return q;
}

}  // namespace

std::size_t dequantize_file(const std::string& in, const std::string& out, const std::string& dtype,
                            const std::string& tool, const std::atomic<bool>* stop) {
  const auto file = io::open_tensors(in);
  const Json record = read_record(in, *file);
  const QuantizeConfig config = recorded_config(in, record);
  const Transform transform = recorded_transform(in, record);

  std::vector<Entry> list;
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> quantized;
  std::vector<std::string> parts;
  for (const auto& [name, t] : record["tensors"].items()) {
    if (!t.is_object() || !t.contains("shape") || !t["shape"].is_array() || t["shape"].size() < 2) {
      throw Error(in, "the record of '" + name + "' has no shape", "quantize it again");
    }
    std::vector<std::int64_t> shape;
    for (const auto& n : t["shape"]) shape.push_back(n.is_number_integer() ? n.get<std::int64_t>() : 0);
    for (const std::int64_t n : shape) {
      if (n < 1 || n > (std::int64_t{1} << 40)) throw Error(in, "the record of '" + name + "' has no sane shape");
    }
    list.push_back({name, dtype, shape});
    quantized.emplace_back(name, shape);
    for (const char* suffix : {".codes", ".scales", ".tensor_scale", ".amax", ".dequantized"})
      parts.push_back(name + suffix);
    for (const CertificatePart& certificate : certificate_parts) parts.push_back(name + certificate.suffix);
  }
  std::vector<const io::TensorInfo*> copied;
  for (const io::TensorInfo& t : file->tensors()) {
    if (std::find(parts.begin(), parts.end(), t.name) != parts.end()) continue;
    copied.push_back(&t);
    list.push_back({t.name, t.dtype.name, t.shape});
  }

  std::map<std::string, std::string> meta = file->metadata();
  meta.erase("fp4scope");
  meta["fp4scope_dequantized"] = Json{{"tool", tool}, {"from", record}}.dump();
  io::SafetensorsWriter writer(out, list, meta);
  for (const auto& [name, shape] : quantized) {
    std::int64_t cols = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) cols *= shape[i];
    const Shape2d original = {shape[0], cols};
    const Quantized q = read_quantized(in, *file, name, config, stored_shape(original, transform, config.block));
    const std::vector<std::byte> values = values_as(dtype, q, transform, original);
    if (stop && *stop) return 0;
    writer.write(name, values);
  }
  for (const io::TensorInfo* t : copied) writer.write(t->name, file->raw(*t));
  writer.commit();
  return quantized.size();
}

}  // namespace fp4scope::analysis
