#include "analysis/against_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

struct NameScheme {
  const char *codes, *scales, *tensor_scale;
  bool reciprocal;
  bool of_layer;  ///< the names follow P, not T
};
constexpr NameScheme schemes[] = {
    {".codes", ".scales", ".tensor_scale", false, false},     {"", "_scale", "_scale_2", false, false},
    {"_packed", "_scale", "_global_scale", true, false},      {"_blocks", "_scales", "", false, false},
    {"qweight", "scales", "weight_global_scale", true, true},
};

/// The tensors of one matrix.
struct Parts {
  const io::TensorInfo *codes = nullptr, *scales = nullptr, *tensor_scale = nullptr;
  bool reciprocal = false;
};

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

bool holds_bytes(const io::TensorInfo& t) { return t.dtype.bits == 8 || t.dtype.bits == 4; }

Parts parts_of(const io::TensorFile& file, const NameScheme& s, const std::string& stem) {
  Parts p;
  const io::TensorInfo* const codes = file.find(stem + s.codes);
  const io::TensorInfo* const scales = file.find(stem + s.scales);
  if (!codes || !scales || codes == scales || !holds_bytes(*codes) || !holds_bytes(*scales)) return p;
  p.codes = codes;
  p.scales = scales;
  if (*s.tensor_scale != '\0') p.tensor_scale = file.find(stem + s.tensor_scale);
  p.reciprocal = s.reciprocal;
  return p;
}

Parts find_parts(const io::TensorFile& file, const std::string& name) {
  for (const NameScheme& s : schemes) {
    const bool weight = ends_with(name, "weight");
    if (s.of_layer && !weight) continue;
    const Parts p = parts_of(file, s, s.of_layer ? name.substr(0, name.size() - 6) : name);
    if (p.codes) return p;
  }
  return {};
}

/// The file's only set of codes and scales, whatever its names begin with.
Parts only_parts(const io::TensorFile& file) {
  std::vector<Parts> found;
  for (const io::TensorInfo& t : file.tensors()) {
    for (const NameScheme& s : schemes) {
      if (!ends_with(t.name, s.codes)) continue;
      const Parts p = parts_of(file, s, t.name.substr(0, t.name.size() - std::string(s.codes).size()));
      const bool known = std::any_of(found.begin(), found.end(), [&](const Parts& q) { return q.codes == p.codes; });
      if (p.codes && !known) found.push_back(p);
    }
  }
  return found.size() == 1 ? found[0] : Parts{};
}

std::vector<std::string> names_of(const io::TensorFile& file) {
  std::vector<std::string> names;
  for (const io::TensorInfo& t : file.tensors()) names.push_back(t.name);
  return names;
}

/// A tensor of THEIRS that an option names.
const io::TensorInfo& named(const io::TensorFile& file, const std::string& path, const std::string& option,
                            const std::string& name) {
  if (const io::TensorInfo* t = file.find(name)) return *t;
  const std::vector<std::string> names = names_of(file);
  throw UsageError(option, "no tensor '" + name + "' in " + path,
                   names.empty() ? "the file is empty" : "did you mean '" + nearest_name(name, names) + "'?");
}

std::span<const std::uint8_t> bytes_of(const io::TensorFile& file, const io::TensorInfo& t, const std::string& path) {
  if (!holds_bytes(t)) {
    throw Error(path + ": " + t.name, "its dtype " + t.dtype.name + " is no byte",
                "codes and scales are raw bytes, U8");
  }
  const std::span<const std::byte> raw = file.raw(t);
  return {reinterpret_cast<const std::uint8_t*>(raw.data()), raw.size()};
}

/// The one number of a tensor.
float number_of(const io::TensorFile& file, const io::TensorInfo& t, const std::string& path) {
  if (!t.readable() || t.elements() != 1) {
    throw Error(path + ": " + t.name, "a tensor scale is one number, not " + t.dtype.name + " " + t.shape_text());
  }
  return file.read(t).data.at(0);
}

std::optional<float> parse_number(const std::string& word) {
  char* end = nullptr;
  const float value = std::strtof(word.c_str(), &end);
  if (end == word.c_str() || *end != '\0') return std::nullopt;
  return value;
}

/// The --tensor-scale of the command line.
TheirTensorScale parse_tensor_scale(const AgainstFiles& files, const io::TensorFile& file) {
  const bool reciprocal = files.tensor_scale.rfind("1/", 0) == 0;
  const std::string word = files.tensor_scale.substr(reciprocal ? 2 : 0);
  if (file.find(word)) return {number_of(file, *file.find(word), files.theirs), reciprocal};
  const std::optional<float> value = parse_number(word);
  if (!value) {
    throw UsageError("--tensor-scale", "'" + word + "' is neither a number nor a tensor of " + files.theirs,
                     "did you mean '" + nearest_name(word, names_of(file)) + "'?");
  }
  if (!(*value > 0) || !std::isfinite(*value)) {
    throw UsageError("--tensor-scale", "'" + word + "' is not a positive finite number");
  }
  return {*value, reciprocal};
}

/// THEIRS and, of .npy, the scales' file.
struct Sources {
  std::shared_ptr<const io::TensorFile> codes, scales;
  std::string scales_path;
};

bool is_npy(const std::string& path) { return ends_with(path, ".npy"); }

Sources open_sources(const AgainstFiles& f) {
  Sources s;
  s.codes = io::open_tensors(f.theirs);
  s.scales = s.codes;
  s.scales_path = f.theirs;
  if (is_npy(f.theirs) && f.scales.empty()) {
    throw UsageError("--scales", f.theirs + " holds one array, the codes", "name the file with the scales");
  }
  if (f.scales.empty() || s.codes->find(f.scales)) return s;
  std::error_code none;
  if (is_npy(f.scales) || std::filesystem::is_regular_file(f.scales, none)) {
    s.scales = io::open_tensors(f.scales);
    s.scales_path = f.scales;
  }
  return s;
}

/// The parts of one matrix as names and options have them; without codes if there are none.
Parts choose_parts(const AgainstFiles& f, const Sources& s, const std::string& name, bool only) {
  Parts p = find_parts(*s.codes, name);
  if (!p.codes && only) p = only_parts(*s.codes);
  if (!f.codes.empty()) {
    p = {};
    p.codes = &named(*s.codes, f.theirs, "--codes", f.codes);
  } else if (is_npy(f.theirs)) {
    p.codes = &s.codes->tensors().front();
  }
  if (!f.scales.empty()) {
    const bool file = s.scales != s.codes;
    p.scales = file ? &find_tensor(*s.scales, s.scales_path, "", "the scales")
                    : &named(*s.codes, f.theirs, "--scales", f.scales);
  }
  if (p.codes && !p.scales) throw UsageError("--scales", "is missing beside --codes", "name the tensor of scales");
  return p;
}

/// Codes have as many rows as the matrix, unless they are flat.
void check_rows(const io::TensorInfo& codes, const Matrix& m, const std::string& path, const std::string& name) {
  if (codes.shape.size() < 2 || codes.shape[0] == m.rows) return;
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < codes.shape.size(); ++i) rows *= codes.shape[i];
  if (rows == m.rows || codes.shape.size() > 2) return;
  throw Error(path + ": " + codes.name,
              fmt::format("its shape {} does not fit {} [{}, {}]", codes.shape_text(), name, m.rows, m.cols),
              fmt::format("[{}, {}] packed or [{}, {}] one a byte", m.rows, m.cols / 2, m.rows, m.cols));
}

/// What our own files say of themselves.
void apply_record(const io::TensorFile& file, const std::string& path, AgainstOptions& o) {
  const auto found = file.metadata().find("fp4scope");
  if (found == file.metadata().end()) return;
  const auto j = nlohmann::json::parse(found->second, nullptr, false);
  if (!j.is_object()) return;
  const auto flag = [&](const char* key) { return j.contains(key) && j[key].is_boolean() && j[key].get<bool>(); };
  const bool rotated = j.contains("hadamard") && j["hadamard"].is_number_integer() && j["hadamard"].get<int>() != 0;
  if (flag("transpose") || rotated) {
    throw Error(path, "its tensors are rotated or transposed", "crosscheck compares in the basis of the input");
  }
  const std::string format = j.contains("format") && j["format"].is_string() ? j["format"].get<std::string>() : "";
  const bool known = formats::find_block_format(format) != nullptr;
  if (o.format.empty() && known) o.format = format;
  if (o.block == 0 && known && j.contains("block") && j["block"].is_number_integer()) o.block = j["block"].get<int>();
  o.tiles = o.tiles || flag("block_2d");
}

struct Input {
  std::shared_ptr<const io::TensorFile> file;
  std::string path;
  std::vector<const io::TensorInfo*> tensors;
};

Input open_input(const AgainstFiles& f) {
  Input in;
  std::error_code none;
  const auto [path, name] =
      std::filesystem::exists(f.input, none) ? std::pair<std::string, std::string>{f.input, ""} : split_name(f.input);
  in.path = path;
  in.file = io::open_tensors(path);
  if (!name.empty()) in.tensors.push_back(&find_tensor(*in.file, path, name, "the matrix"));
  for (const io::TensorInfo& t : in.file->tensors()) {
    if (!name.empty() || !selected(t.name, f.tensors, {})) continue;
    const std::string obstacle = why_not(t);
    if (obstacle.empty()) in.tensors.push_back(&t);
    else if (f.notice) f.notice(t.name + " skipped, " + obstacle);
  }
  if (in.tensors.empty()) {
    throw Error(path, "no tensor is matched by " + join(f.tensors), "see the words above, or other --tensor");
  }
  const std::string obstacle = why_not(*in.tensors[0]);
  if (!obstacle.empty()) throw Error(path + ": " + in.tensors[0]->name, obstacle);
  return in;
}

AgainstReport compare_one(const AgainstFiles& f, const Sources& s, const Parts& p, const Matrix& m,
                          const std::string& name, const AgainstOptions& options) {
  check_rows(*p.codes, m, f.theirs, name);
  TheirBytes bytes;
  bytes.where = f.theirs + ": " + p.codes->name;
  bytes.codes = bytes_of(*s.codes, *p.codes, f.theirs);
  bytes.scales = bytes_of(*s.scales, *p.scales, s.scales_path);
  bytes.scales_shape = p.scales->shape;
  bytes.scales_dtype = p.scales->dtype.name;
  if (!f.tensor_scale.empty()) bytes.tensor_scale = parse_tensor_scale(f, *s.codes);
  else if (p.tensor_scale) bytes.tensor_scale = {number_of(*s.codes, *p.tensor_scale, f.theirs), p.reciprocal};
  return compare_against(options, name, m, bytes);
}

}  // namespace

std::vector<AgainstReport> compare_files(const AgainstFiles& files) {
  const Input in = open_input(files);
  const Sources sources = open_sources(files);
  const bool only = in.tensors.size() == 1;
  if (!only && (!files.codes.empty() || !files.scales.empty() || !files.tensor_scale.empty())) {
    throw UsageError(!files.codes.empty()    ? "--codes"
                     : !files.scales.empty() ? "--scales"
                                             : "--tensor-scale",
                     fmt::format("is of one matrix, and {} has {}", in.path, in.tensors.size()),
                     "choose one with --tensor");
  }
  AgainstOptions options = files.options;
  apply_record(*sources.codes, files.theirs, options);
  std::vector<AgainstReport> reports;
  for (const io::TensorInfo* t : in.tensors) {
    const Parts parts = choose_parts(files, sources, t->name, only);
    if (!parts.codes) {
      if (files.notice && !only)
        files.notice(t->name + " skipped, " + files.theirs + " has no codes and scales for it");
      continue;
    }
    const Matrix m = read_matrix(*in.file, *t, files.notice);
    reports.push_back(compare_one(files, sources, parts, m, t->name, options));
    if (options.stop && *options.stop) return {};
  }
  if (!reports.empty()) return reports;
  const std::string name = in.tensors[0]->name;
  const std::vector<std::string> names = names_of(*sources.codes);
  throw Error(files.theirs, fmt::format("no codes and scales for '{}'", name),
              names.empty() ? "the file is empty"
                            : fmt::format("the nearest name is '{}'; --codes and --scales name others",
                                          nearest_name(name + ".codes", names)));
}

}  // namespace fp4scope::analysis
