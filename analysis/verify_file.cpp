#include "analysis/verify_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "analysis/format_table.hpp"
#include "analysis/transform.hpp"
#include "analysis/verify.hpp"
#include "formats/error.hpp"
#include "formats/pack.hpp"

namespace fp4scope::analysis {

namespace {

using Json = nlohmann::ordered_json;

/// What the file says of itself.
struct Record {
  std::string file;
  Json json;
  Formats formats;
  const formats::BlockFormat* format = nullptr;
  int block = 0;
  int tile_rows = 1;
  Transform transform;
  bool hessian = false;

  template <class T>
  T get(const char* key, T by_default) const {
    const auto found = json.find(key);
    if (found == json.end()) return by_default;
    try {
      return found->template get<T>();
    } catch (const Json::exception&) {
      throw Error(file, fmt::format("its record's '{}' is not readable", key), "quantize it again");
    }
  }
};

Formats formats_of(const Record& record) {
  if (!record.json.contains("definition")) return std::make_shared<const FormatTable>();
  const auto refuse = [&](const std::string&, const std::string& what, const std::string& mend) {
    throw Error(record.file, "its record's format: " + what, mend);
  };
  FormatDefinition d;
  try {
    const Json& j = record.json["definition"];
    d = {record.get<std::string>("format", ""),
         j.value("levels", std::vector<double>{}),
         j.value("element", ""),
         j.value("scale", ""),
         j.at("block").get<std::int64_t>(),
         j.value("tensor_scale", ""),
         {}};
    if (j.contains("scale_max")) d.scale_max = j["scale_max"].get<std::int64_t>();
  } catch (const Json::exception&) {
    refuse("", "no readable definition", "quantize it again");
  }
  return std::make_shared<const FormatTable>(std::vector<FormatDefinition>{complete(d, refuse)});
}

/// Arithmetic that this knows nothing of.
void refuse_unverifiable(const Record& r) {
  const auto recipe = r.get<std::string>("recipe", ""), rounding = r.get<std::string>("rounding", "rne");
  if (recipe != "exact") {
    throw Error(r.file, "recipe " + recipe + " has its own arithmetic", "verify knows recipe exact");
  }
  if (rounding != "rne") {
    throw Error(r.file, "its elements were rounded by " + rounding, "verify knows nearest elements, rne");
  }
}

/// The elements are those nearest at the scale, not chosen by the method or scaled anew.
void refuse_other_elements(const Record& r) {
  const auto name = r.get<std::string>("scale", "");
  const search::Method* method = r.formats->find_method(r.format->name, name);
  if (!method) throw Error(r.file, "its record's method '" + name + "' is unknown");
  if (method->gives_codes() || method->random() || method->corrects()) {
    throw Error(r.file, name + " has other elements than the nearest ones", "verify knows nearest elements");
  }
}

Transform transform_of(const Record& r) {
  Transform t;
  t.transposed = r.get<bool>("transpose", false);
  t.hadamard = r.get<int>("hadamard", 0);
  if (r.json.contains("hadamard_seed")) t.hadamard_seed = r.get<std::uint64_t>("hadamard_seed", 0);
  const bool power = t.hadamard >= 2 && t.hadamard <= 1024 && std::has_single_bit(static_cast<unsigned>(t.hadamard));
  if (t.hadamard != 0 && (!power || (!t.hadamard_seed && t.hadamard != 16))) {
    throw Error(r.file, "its record's rotation is none that there is");
  }
  return t;
}

Record read_record(const std::string& path, const io::TensorFile& file) {
  const auto found = file.metadata().find("fp4scope");
  Record r;
  r.file = path;
  if (found != file.metadata().end()) r.json = Json::parse(found->second, nullptr, false);
  if (!r.json.is_object() || !r.json.contains("tensors") || !r.json["tensors"].is_object()) {
    throw Error(path, "is no output of fp4scope quantize", "its metadata has no readable 'fp4scope' record");
  }
  refuse_unverifiable(r);
  r.formats = formats_of(r);
  const auto name = r.get<std::string>("format", "");
  r.format = r.formats->find(name);
  if (!r.format) throw Error(path, "its record's format '" + name + "' is unknown");
  refuse_other_elements(r);
  r.block = r.get<int>("block", 0);
  if (r.block < 2 || r.block > 1024 || r.block % 2 != 0) {
    throw Error(path, fmt::format("its record says a block of {}", r.block));
  }
  if (r.get<bool>("block_2d", false)) r.tile_rows = r.block;
  if (r.tile_rows * r.block > 1024) throw Error(path, "its record's square blocks are too large");
  r.transform = transform_of(r);
  r.hessian = r.get<std::string>("scale", "") == "hessian";
  return r;
}

/// One tensor of the file, checked for its type and shape.
class Parts {
 public:
  Parts(const Record& record, const io::TensorFile& file, std::string name)
      : record_(record), file_(file), name_(std::move(name)) {}

  bool has(const char* suffix) const { return file_.find(name_ + suffix) != nullptr; }

  template <class T>
  std::vector<T> read(const char* suffix, const char* dtype, const std::vector<std::int64_t>& shape) const {
    const io::TensorInfo* t = file_.find(name_ + suffix);
    if (!t) throw Error(record_.file, "tensor '" + name_ + suffix + "' is missing", "the file is incomplete");
    if (t->dtype.name != dtype || t->shape != shape) {
      throw Error(record_.file, fmt::format("'{}{}' is {} {}, not what its record says", name_, suffix, t->dtype.name,
                                            t->shape_text()));
    }
    const auto raw = file_.raw(*t);
    std::vector<T> out(raw.size() / sizeof(T));
    std::memcpy(out.data(), raw.data(), raw.size());
    return out;
  }

 private:
  const Record& record_;
  const io::TensorFile& file_;
  std::string name_;
};

/// H of every block of columns, summed here: products of floats in binary64, over the tokens in order.
struct HessianSums {
  int block = 0;
  std::int64_t cols = 0;
  std::vector<double> h;
};

HessianSums sum_hessians(const Matrix& x, int block) {
  HessianSums sums = {block, x.cols, std::vector<double>(static_cast<std::size_t>(x.cols * block), 0.0)};
#pragma omp parallel for schedule(static)
  for (std::int64_t b = 0; b < x.cols / block; ++b) {
    double* const h = sums.h.data() + b * block * block;
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const float* const row = x.row(t) + b * block;
      for (int i = 0; i < block; ++i) {
        for (int j = 0; j < block; ++j) h[i * block + j] += static_cast<double>(row[i]) * static_cast<double>(row[j]);
      }
    }
  }
  return sums;
}

/// H as a file holds it, [cols, cols], [cols / block, block, block] or its diagonal [cols]: its diagonal blocks.
HessianSums read_hessians(const std::string& path, const std::string& tensor, int block) {
  const auto file = io::open_tensors(path);
  const io::TensorInfo& info = find_tensor(*file, path, tensor, "H");
  const std::vector<std::int64_t>& shape = info.shape;
  const bool blocks = shape.size() == 3 && shape[1] == block && shape[2] == block;
  const bool whole = shape.size() == 2 && shape[0] == shape[1];
  if ((!blocks && !whole && shape.size() != 1) || (info.dtype.name != "F32" && info.dtype.name != "F64")) {
    throw Error(path + ":" + info.name, info.dtype.name + " " + info.shape_text() + " is no H");
  }
  std::vector<double> values(static_cast<std::size_t>(info.elements()));
  if (info.dtype.name == "F64") {
    std::memcpy(values.data(), file->raw(info).data(), values.size() * sizeof(double));
  } else {
    const io::Values narrow = file->read(info);
    std::copy(narrow.data.begin(), narrow.data.end(), values.begin());
  }
  const std::int64_t cols = blocks ? shape[0] * block : shape[0];
  HessianSums sums = {block, padded(cols, block), {}};
  sums.h.assign(static_cast<std::size_t>(sums.cols * block), 0.0);
  for (std::int64_t i = 0; i < cols; ++i) {
    for (std::int64_t j = i / block * block; j < std::min(i / block * block + block, cols); ++j) {
      const std::int64_t at = i * block + j % block;  // of a block's row
      if (blocks) sums.h[static_cast<std::size_t>(at)] = values[static_cast<std::size_t>(at)];
      else if (whole) sums.h[static_cast<std::size_t>(at)] = values[static_cast<std::size_t>(i * cols + j)];
      else if (i == j) sums.h[static_cast<std::size_t>(at)] = values[static_cast<std::size_t>(i)];
    }
  }
  return sums;
}

std::string hash_text(const HessianSums& sums) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  const auto mix = [&hash](std::uint64_t word) { hash = (hash ^ word) * 0x100000001B3u; };
  mix(static_cast<std::uint64_t>(sums.block));
  mix(static_cast<std::uint64_t>(sums.cols / sums.block));
  for (const double entry : sums.h) mix(std::bit_cast<std::uint64_t>(entry));
  return fmt::format("{:016x}", hash);
}

/// One tensor's data, as its blocks see it.
struct Task {
  const Record& record;
  std::string where;  ///< "FILE: T"
  Matrix x;           ///< transformed and padded
  std::int64_t blocks;
  VerifyRules rules = {};
  std::vector<std::uint8_t> packed = {}, scales = {}, lo = {}, hi = {};
  std::vector<double> loss = {}, gap = {}, minorant = {};
  const HessianSums* sums = nullptr;
};

/// A tensor scale that was searched is taken as it is: certificates are of the block scales at it.
void check_tensor_scale(const Task& task, const Parts& parts, float scale) {
  const auto word = task.record.get<std::string>("tensor_scale", "none");
  if (word == "search" || word == "headroom" || word == "soar") {
    if (scale > 0 && std::isfinite(scale)) return;
    throw Error(task.where, fmt::format("its tensor scale is {}", scale));
  }
  float want = 1;
  if (word == "amax") {
    float amax = 0;
    for (const float v : task.x.data) amax = std::isfinite(v) ? std::max(amax, std::fabs(v)) : amax;
    const float recorded = parts.read<float>(".amax", "F32", {1}).at(0);
    if (recorded != amax) {
      throw Error(task.where, fmt::format("its largest magnitude is {}, its record says {}", amax, recorded));
    }
    const int scale_max = task.record.get<int>("scale_max", 0);
    if (scale_max < 1) throw Error(task.where, "its record has no scale max");
    want = amax_tensor_scale(*task.record.format, amax, scale_max);
  } else if (word != "none") {
    want = std::strtof(word.c_str(), nullptr);
  }
  if (std::bit_cast<std::uint32_t>(scale) != std::bit_cast<std::uint32_t>(want)) {
    throw Error(task.where, fmt::format("its tensor scale is {}, it should be {}", scale, want));
  }
}

/// The codes of a row's block, one a byte.
void unpack_codes(const Task& task, std::int64_t row, std::int64_t b, std::uint8_t* codes) {
  const int block = task.record.block;
  const std::int64_t first = row * task.x.cols + b * block;
  for (int i = 0; i < block; ++i) {
    codes[i] = task.record.format->element.bits > 4
                   ? task.packed[static_cast<std::size_t>(first + i)]
                   : static_cast<std::uint8_t>(formats::unpack_nibble(task.packed.data(), first + i));
  }
}

/// The first block, in the order of rows, that is wrong.
struct FirstProblem {
  std::int64_t row, block;
  std::string text;
};

struct TileCheck {
  std::vector<float> x;
  std::vector<std::uint8_t> codes;

  /// Rows first to last of block column b, which share a scale. Adds to `seen`.
  std::string run(const Task& task, std::int64_t first, std::int64_t last, std::int64_t b, VerifiedTensor& seen) {
    const int block = task.record.block;
    const auto n = static_cast<int>((last - first) * block);
    x.resize(static_cast<std::size_t>(n));
    codes.resize(static_cast<std::size_t>(n));
    const auto at = static_cast<std::size_t>(first * task.blocks + b);
    for (std::int64_t r = first; r < last; ++r) {
      const auto here = static_cast<std::size_t>(r * task.blocks + b);
      std::copy_n(task.x.row(r) + b * block, block, x.data() + (r - first) * block);
      unpack_codes(task, r, b, codes.data() + (r - first) * block);
      if (task.scales[here] != task.scales[at]) return "the rows of a square block differ in their scale";
      if (!seen.certified) continue;
      const auto same = [&](const std::vector<double>& v) {
        return std::bit_cast<std::uint64_t>(v[here]) == std::bit_cast<std::uint64_t>(v[at]);
      };
      if (task.lo[here] != task.lo[at] || task.hi[here] != task.hi[at] || !same(task.loss) || !same(task.gap)) {
        return "the rows of a square block differ in their certificate";
      }
    }
    return check(task, b, at, seen);
  }

  std::string check(const Task& task, std::int64_t b, std::size_t at, VerifiedTensor& seen) {
    const int scale = task.scales[at];
    const auto n = static_cast<int>(x.size());
    std::string problem = check_elements(task.rules, x.data(), n, scale, codes.data());
    if (!problem.empty()) return problem;
    ++seen.blocks;
    const bool undecided = std::all_of(x.begin(), x.end(), [](float v) { return v == 0; }) ||
                           !std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
    seen.undecided += undecided;
    if (!seen.certified) return "";
    const BlockClaim claim = {task.lo[at], task.hi[at], task.loss[at], task.gap[at]};
    const std::size_t column = static_cast<std::size_t>(b) * static_cast<std::size_t>(task.record.block);
    const BlockFinding found =
        task.sums ? check_claim(task.rules, x.data(), n, scale, claim,
                                task.sums->h.data() + column * static_cast<std::size_t>(task.record.block),
                                task.minorant.data() + column)
                  : check_claim(task.rules, x.data(), n, scale, claim);
    if (undecided || !found.problem.empty()) return found.problem;
    seen.mean_interval += claim.hi - claim.lo + 1;  // a sum of whole numbers: exact in any order
    if (claim.gap > 0) seen.least_gap = std::min(seen.least_gap, claim.gap);
    seen.ties += found.tie;
    return "";
  }
};

VerifiedTensor check_blocks(const Task& task, VerifiedTensor total, const std::atomic<bool>* stop) {
  const std::int64_t tile_rows = task.record.tile_rows, rows = task.x.rows;
  FirstProblem first_problem = {rows, 0, ""};
#pragma omp parallel
  {
    TileCheck check;
    VerifiedTensor seen = {total.name, 0, 0, total.certified, 0, INFINITY, 0};
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t tile = 0; tile < (rows + tile_rows - 1) / tile_rows; ++tile) {
      const std::int64_t first = tile * tile_rows, last = std::min(first + tile_rows, rows);
      for (std::int64_t b = 0; b < task.blocks && !(stop && *stop); ++b) {
        const std::string problem = check.run(task, first, last, b, seen);
        if (problem.empty()) continue;
#pragma omp critical(fp4scope_verify)
        if (first < first_problem.row) first_problem = {first, b, problem};
        break;
      }
    }
#pragma omp critical(fp4scope_verify)
    {
      total.blocks += seen.blocks;
      total.undecided += seen.undecided;
      total.mean_interval += seen.mean_interval;
      total.least_gap = std::min(total.least_gap, seen.least_gap);
      total.ties += seen.ties;
    }
  }
  if (!first_problem.text.empty()) {
    throw Error(task.where,
                fmt::format("row {}, block {}: {}", first_problem.row, first_problem.block, first_problem.text));
  }
  const std::int64_t decided = total.blocks - total.undecided;
  total.mean_interval = decided > 0 ? total.mean_interval / static_cast<double>(decided) : 0;
  return total;
}

/// H as the file's certificate means it, its hash compared.
class CheckedHessians {
 public:
  CheckedHessians(const Record& record, const VerifyOptions& o) : record_(record), options_(o) {}

  const HessianSums& of(const Task& task, const Parts& parts) {
    if (plain_.h.empty()) load();
    if (plain_.cols != task.x.cols) {
      throw Error(task.where, fmt::format("{} columns do not fit activations of {}", task.x.cols, plain_.cols));
    }
    shifted_ = plain_;
    const int n = record_.block;
    const auto shift = parts.read<double>(".certificate.shift", "F64", {task.blocks});
    for (std::size_t b = 0; b < shift.size(); ++b) {
      if (!(shift[b] >= 0) || std::isinf(shift[b])) throw Error(task.where, "a shift that is no distance");
      for (int i = 0; i < n; ++i) shifted_.h[(b * n + i) * n + i] += shift[b];
    }
    const auto recorded = record_.get<std::string>("hessian_hash", "");
    if (hash_text(shifted_) != recorded) {
      throw Error(
          task.where,
          fmt::format("the activations give another Hessian, hash {} and not {}", hash_text(shifted_), recorded),
          "give those that it was quantized with");
    }
    return shifted_;
  }

 private:
  void load() {
    const bool other = !options_.activations.empty() || !options_.hessian.empty();
    const auto given = [&](const std::string& word, const char* key) {
      return other ? word : record_.get<std::string>(key, "");
    };
    const std::string x = given(options_.activations, "activations"), h = given(options_.hessian, "hessian");
    if (x.empty() && h.empty()) {
      throw Error(record_.file, "its record names no activations", "--activations FILE:NAME or --hessian FILE:NAME");
    }
    const auto [path, name] = split_name(h.empty() ? x : h);
    if (!h.empty()) {
      plain_ = read_hessians(path, name, record_.block);
      return;
    }
    const Matrix inputs = apply_to_inputs(record_.transform, read_activations(path, name, options_.notice));
    plain_ = sum_hessians(pad_columns(inputs, record_.block), record_.block);
  }

  const Record& record_;
  const VerifyOptions& options_;
  HessianSums plain_, shifted_;
};

/// d >= 0 and H - diag(d) >= 0 for every block of columns. Above 64 columns nobody eliminates: then d has to be 0, with
/// which no bound excludes a code unless the loss is 0, and H is taken to be positive semidefinite.
void check_minorants(const Task& task) {
  const int n = task.record.block;
  std::vector<char> wrong(static_cast<std::size_t>(task.blocks), 0);
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t b = 0; b < task.blocks; ++b) {
    const double* const d = task.minorant.data() + b * n;
    const bool none = std::all_of(d, d + n, [](double v) { return v == 0; });
    wrong[static_cast<std::size_t>(b)] = n > 64 ? !none : !check_minorant(task.sums->h.data() + b * n * n, n, d);
  }
  const auto found = std::find(wrong.begin(), wrong.end(), 1);
  if (found == wrong.end()) return;
  throw Error(task.where, fmt::format("column block {}: its minorant is not below its Hessian", found - wrong.begin()));
}

void read_certificate(Task& task, const Parts& parts, CheckedHessians& hessians) {
  const std::vector<std::int64_t> shape = {task.x.rows, task.blocks};
  task.lo = parts.read<std::uint8_t>(".certificate.lo", "U8", shape);
  task.hi = parts.read<std::uint8_t>(".certificate.hi", "U8", shape);
  task.loss = parts.read<double>(".certificate.loss", "F64", shape);
  task.gap = parts.read<double>(".certificate.gap", "F64", shape);
  if (!task.record.hessian) return;
  task.minorant = parts.read<double>(".certificate.minorant", "F64", {task.blocks, task.record.block});
  task.sums = &hessians.of(task, parts);
  check_minorants(task);
}

std::vector<std::int64_t> recorded_shape(const Record& record, const std::string& name, const Json& t) {
  if (t.is_object() && t.contains("shape") && t["shape"].is_array()) {
    std::vector<std::int64_t> shape;
    for (const Json& n : t["shape"]) shape.push_back(n.is_number_integer() ? n.get<std::int64_t>() : -1);
    return shape;
  }
  throw Error(record.file, "the record of '" + name + "' has no shape", "quantize it again");
}

VerifiedTensor verify_tensor(const VerifyOptions& o, const Record& record, const io::TensorFile& file,
                             const io::TensorInfo& source, const io::TensorFile& input, CheckedHessians& hessians) {
  const Parts parts(record, file, source.name);
  Matrix m = apply(record.transform, {}, read_matrix(input, source, o.notice));
  if (m.cols % record.block != 0) m = pad_columns(m, record.block);
  const std::int64_t blocks = m.cols / record.block;
  Task task = {record, o.file + ": " + source.name, std::move(m), blocks};
  const std::int64_t bytes = record.format->element.bits > 4 ? task.x.cols : task.x.cols / 2;
  task.packed = parts.read<std::uint8_t>(".codes", "U8", {task.x.rows, bytes});
  task.scales = parts.read<std::uint8_t>(".scales", "U8", {task.x.rows, blocks});
  const float scale = parts.read<float>(".tensor_scale", "F32", {1}).at(0);
  check_tensor_scale(task, parts, scale);
  task.rules = make_rules(*record.format, scale);
  VerifiedTensor total = {source.name, 0, 0, parts.has(".certificate.lo"), 0, INFINITY, 0};
  if (total.certified) read_certificate(task, parts, hessians);
  return check_blocks(task, total, o.stop);
}

}  // namespace

std::vector<VerifiedTensor> verify_file(const VerifyOptions& o) {
  const auto file = io::open_tensors(o.file);
  const Record record = read_record(o.file, *file);
  for (const auto& [option, word] : {std::pair{"--activations", &o.activations}, {"--hessian", &o.hessian}}) {
    if (word->empty() || record.hessian) continue;
    throw UsageError(option, "has no effect on scales of " + record.get<std::string>("scale", ""), "leave it out");
  }
  const auto input = io::open_tensors(o.input);
  CheckedHessians hessians(record, o);
  std::vector<VerifiedTensor> out;
  const double count = static_cast<double>(record.json["tensors"].size());
  for (const auto& [name, t] : record.json["tensors"].items()) {
    const io::TensorInfo* source = input->find(name);
    if (!source) throw Error(o.input, "has no tensor '" + name + "'", "give the file that was quantized");
    if (source->shape != recorded_shape(record, name, t) || source->shape.size() < 2) {
      throw Error(o.input, fmt::format("'{}' is {}, not what was quantized", name, source->shape_text()));
    }
    out.push_back(verify_tensor(o, record, *file, *source, *input, hessians));
    if (o.stop && *o.stop) return {};
    if (o.progress) o.progress(static_cast<double>(out.size()) / count, name);
  }
  return out;
}

}  // namespace fp4scope::analysis
