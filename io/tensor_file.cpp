#include "io/tensor_file.hpp"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include "io/complain.hpp"
#include "io/readers.hpp"

namespace fp4scope::io {
namespace {

namespace fs = std::filesystem;

enum class Kind { safetensors, index, npy, hdf5, gguf, unknown };

Kind kind_by_name(std::string_view path) {
  if (path.ends_with(".safetensors")) return Kind::safetensors;
  if (path.ends_with(".index.json")) return Kind::index;
  if (path.ends_with(".npy")) return Kind::npy;
  if (path.ends_with(".gguf")) return Kind::gguf;
  if (path.ends_with(".h5") || path.ends_with(".hdf5")) return Kind::hdf5;
  return Kind::unknown;
}

/// By the first bytes: the three with a signature, then safetensors' "{" behind the length, then JSON.
Kind kind_by_content(std::string_view bytes) {
  if (bytes.starts_with("\x93NUMPY")) return Kind::npy;
  if (bytes.starts_with("GGUF")) return Kind::gguf;
  if (bytes.starts_with("\x89HDF\r\n\x1a\n")) return Kind::hdf5;
  if (bytes.size() > 8 && bytes[8] == '{') return Kind::safetensors;
  if (bytes.starts_with('{')) return Kind::index;
  return Kind::unknown;
}

/// The one file of a folder whose name ends so, "" if there is none. Throws Error if there are several.
std::string only_file(const std::string& folder, std::string_view ending) {
  std::vector<std::string> found;
  std::error_code failure;
  for (fs::directory_iterator entry(folder, failure), end; !failure && entry != end; entry.increment(failure)) {
    if (entry->path().native().ends_with(ending)) found.push_back(entry->path().string());
  }
  if (failure) throw system_failure(folder, "list the folder", failure.value());
  if (found.size() > 1) {
    throw Error(shown(folder), "holds " + std::to_string(found.size()) + " *" + std::string(ending) + " files",
                "name one of them");
  }
  return found.empty() ? "" : found[0];
}

std::string file_of_folder(const std::string& folder) {
  const std::string index = only_file(folder, ".safetensors.index.json");
  if (!index.empty()) return index;
  const std::string single = only_file(folder, ".safetensors");
  if (single.empty()) throw Error(shown(folder), "holds no .safetensors file", "name the file that holds the tensors");
  return single;
}

}  // namespace

std::int64_t TensorInfo::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t axis : shape) product *= axis;
  return product;
}

std::string TensorInfo::shape_text() const {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool TensorInfo::readable() const {
  return dtype.name == "F32" || dtype.name == "F16" || dtype.name == "BF16" || dtype.name == "F64";
}

const TensorInfo* TensorFile::find(const std::string& name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorInfo& tensor, const std::string& key) { return tensor.name < key; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

std::size_t index_of(const TensorFile& file, const TensorInfo& tensor) {
  const TensorInfo* const found = file.find(tensor.name);
  if (found == nullptr) throw Error(place(file.files().front(), tensor.name), "no tensor of that name");
  return static_cast<std::size_t>(found - file.tensors().data());
}

void require_readable(const TensorInfo& tensor) {
  if (tensor.readable()) return;
  throw Error(place(tensor.file, tensor.name),
              "has dtype " + tensor.dtype.name + ", which holds no plain numbers to read",
              "F32, F16, BF16 and F64 can be read");
}

std::unique_ptr<TensorFile> open_tensors(const std::string& path) {
  std::error_code ignored;
  const std::string name = fs::is_directory(path, ignored) ? file_of_folder(path) : path;
  MappedFile file(name);
  Kind kind = kind_by_name(name);
  if (kind == Kind::unknown) {
    const auto bytes = file.bytes();
    kind = kind_by_content({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  switch (kind) {
    case Kind::safetensors: return open_safetensors(std::move(file));
    case Kind::index: return open_sharded(file);
    case Kind::npy: return open_npy(std::move(file));
    case Kind::hdf5: return open_hdf5(name);
    case Kind::gguf: return open_gguf(std::move(file));
    case Kind::unknown: break;
  }
  throw Error(shown(name), "is no kind of tensor file known here",
              "give .safetensors, .safetensors.index.json, .npy, .h5, .gguf or a folder with a model");
}

}  // namespace fp4scope::io
