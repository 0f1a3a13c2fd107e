#include "analysis/model_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "formats/error.hpp"

namespace fp4scope::analysis {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t copied_at_once = std::size_t{1} << 24;

bool is_weight_file(const std::string& name) {
  static const std::vector<std::string> patterns = {
      "*.safetensors", "*.safetensors.index.json", "*.bin",     "*.bin.index.json", "*.pt",   "*.pth",
      "*.gguf",        "*.h5",                     "*.msgpack", "*.ckpt",           "*.onnx", "*.onnx_data"};
  return selected(name, patterns, {});
}

}  // namespace

void FolderWork::check_folders() const {
  std::error_code ignored;
  if (!fs::is_directory(in, ignored)) return;
  const fs::path from = fs::weakly_canonical(in, ignored), to = fs::weakly_canonical(out, ignored);
  if (std::mismatch(from.begin(), from.end(), to.begin(), to.end()).first != from.end()) return;
  throw UsageError("-o", out + " lies in " + in, "name a folder outside it");
}

std::string bare_name(const std::string& path) { return fs::path(path).filename().string(); }

std::string index_name(const io::TensorFile& file) {
  const std::string first = bare_name(file.files().front());
  if (first.ends_with(".index.json")) return first;
  return (first.ends_with(".safetensors") ? first : "model.safetensors") + ".index.json";
}

std::map<std::string, std::string> shard_metadata(const io::TensorFile& file, const std::string& tool,
                                                  const std::string& layout) {
  std::map<std::string, std::string> metadata = file.metadata();
  metadata.erase("fp4scope");        // of a file of codes and scales
  metadata.emplace("format", "pt");  // transformers refuses a file that doesn't say so
  metadata["fp4scope_checkpoint"] = nlohmann::ordered_json{{"tool", tool}, {"as", layout}}.dump();
  return metadata;
}

void notice_unlisted(const io::TensorFile& file, const Notice& notice) {
  const std::vector<std::string>& names = file.unlisted();
  if (names.empty() || !notice) return;
  notice(fmt::format("{} tensors of the shards are not in the index and not read, the first {}", names.size(), names[0]));
}

std::vector<std::string> other_files(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code failure, ignored;
  if (!fs::is_directory(folder, ignored)) return names;
  fs::recursive_directory_iterator entry(folder, failure);
  for (const fs::recursive_directory_iterator end; !failure && entry != end; entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    if (name[0] == '.') {
      entry.disable_recursion_pending();
      continue;
    }
    if (is_weight_file(name)) continue;
    if (entry->is_symlink(ignored) && !entry->exists(ignored)) {
      throw Error(entry->path().string(), "points to a file that is not there", "fetch it, or remove the link");
    }
    if (!entry->is_regular_file(ignored)) continue;
    names.push_back(entry->path().lexically_relative(folder).string());
  }
  if (failure) throw Error(folder, "cannot list the folder: " + failure.message());
  std::sort(names.begin(), names.end());
  return names;
}

void copy_tensor(const io::TensorFile& file, const io::TensorInfo& tensor, const std::string& name,
                 io::SafetensorsWriter& out) {
  const std::span<const std::byte> raw = file.raw(tensor);
  for (std::size_t at = 0; at < raw.size(); at += copied_at_once) {
    out.write_part(name, at, raw.subspan(at, std::min(copied_at_once, raw.size() - at)));
    file.release(tensor);
  }
}

void check_scales(const std::string& where, const LayoutFormat& layout, const Quantized& q) {
  const std::uint8_t most = std::string_view(layout.scale_dtype) == "U8" ? 0xFE : 0x7E;
  const auto bad = std::find_if(q.scales.begin(), q.scales.end(), [most](std::uint8_t s) { return s > most; });
  if (bad == q.scales.end()) return;
  const std::int64_t at = bad - q.scales.begin();
  throw Error(where, fmt::format("block {} of row {} has the scale 0x{:02x}, which is NaN or negative",
                                 at % q.blocks_per_row(), q.first_row + at / q.blocks_per_row(), *bad),
              "loaders take every scale as a number");
}

}  // namespace fp4scope::analysis
