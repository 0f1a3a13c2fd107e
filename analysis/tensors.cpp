#include "analysis/tensors.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/names.hpp"
#include "formats/error.hpp"

namespace fp4scope::analysis {

bool selected(const std::string& name, const std::vector<std::string>& include,
              const std::vector<std::string>& exclude) {
  const auto matched = [&name](const std::string& pattern) { return matches(pattern, name); };
  return std::any_of(include.begin(), include.end(), matched) && std::none_of(exclude.begin(), exclude.end(), matched);
}

std::string why_not(const io::TensorInfo& tensor) {
  if (!tensor.readable()) return "its dtype " + tensor.dtype.name + " is not F32, F16, BF16 or F64";
  if (tensor.shape.size() < 2) return "it has fewer than two dimensions, " + tensor.shape_text();
  if (tensor.elements() == 0) return "it has no elements, " + tensor.shape_text();
  return "";
}

Shape2d as_matrix(const io::TensorInfo& tensor) {
  const std::int64_t rows = tensor.shape.at(0);
  return {rows, tensor.elements() / rows};
}

Matrix read_matrix(const io::TensorFile& file, const io::TensorInfo& tensor, const Notice& notice) {
  io::Values values = file.read(tensor);
  notice_rounded(tensor, values.changed, notice);
  const Shape2d shape = as_matrix(tensor);
  return {shape.rows, shape.cols, std::move(values.data), tensor.dtype.name};
}

Matrix read_matrix_rows(const io::TensorFile& file, const io::TensorInfo& tensor, std::int64_t first,
                        std::int64_t count, std::int64_t& changed) {
  io::Values values = file.read_rows(tensor, first, count);
  changed += values.changed;
  return {count, as_matrix(tensor).cols, std::move(values.data), tensor.dtype.name};
}

void notice_rounded(const io::TensorInfo& tensor, std::int64_t changed, const Notice& notice) {
  if (changed == 0 || !notice) return;
  notice(fmt::format("{}: {} of {} F64 values rounded to binary32", tensor.name, changed, tensor.elements()));
}

std::pair<std::string, std::string> split_name(const std::string& text) {
  const std::string ending = ".safetensors";
  const std::size_t dot = text.rfind(ending + ":");
  const std::size_t colon = dot != std::string::npos ? dot + ending.size() : text.find(':');
  if (colon == std::string::npos) return {text, ""};
  return {text.substr(0, colon), text.substr(colon + 1)};
}

const io::TensorInfo& find_tensor(const io::TensorFile& file, const std::string& path, const std::string& tensor,
                                  const std::string& content) {
  if (tensor.empty() && file.tensors().size() != 1) {
    throw Error(path, fmt::format("holds {} tensors", file.tensors().size()), "name the one with " + content);
  }
  if (tensor.empty()) return file.tensors().front();
  if (const io::TensorInfo* info = file.find(tensor)) return *info;
  std::vector<std::string> names;
  for (const io::TensorInfo& t : file.tensors()) names.push_back(t.name);
  throw Error(path, "no tensor '" + tensor + "'",
              names.empty() ? "the file is empty" : "did you mean '" + nearest_name(tensor, names) + "'?");
}

Matrix read_activations(const std::string& path, const std::string& tensor, const Notice& notice) {
  const auto file = io::open_tensors(path);
  const io::TensorInfo& info = find_tensor(*file, path, tensor, "the activations");
  const std::string obstacle = why_not(info);
  if (!obstacle.empty()) throw Error(path + ":" + info.name, obstacle, "activations are [tokens, cols]");
  Matrix x = read_matrix(*file, info, notice);
  x.cols = info.shape.back();  // [.., cols]: the last dimension is the layer's input
  x.rows = info.elements() / x.cols;
  const std::string bad = describe_nonfinite(x);
  if (!bad.empty()) throw Error(path + ":" + info.name, bad, "activations must be finite");
  return x;
}

}  // namespace fp4scope::analysis
