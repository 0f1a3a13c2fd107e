#include "analysis/model_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>

#include "analysis/tensors.hpp"
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
    if (!entry->is_regular_file(ignored) || is_weight_file(name)) continue;
    names.push_back(entry->path().lexically_relative(folder).string());
  }
  if (failure) throw Error(folder, "cannot list the folder: " + failure.message());
  std::sort(names.begin(), names.end());
  return names;
}

void copy_tensor(const io::TensorFile& file, const io::TensorInfo& tensor, io::SafetensorsWriter& out) {
  const std::span<const std::byte> raw = file.raw(tensor);
  for (std::size_t at = 0; at < raw.size(); at += copied_at_once) {
    out.write_part(tensor.name, at, raw.subspan(at, std::min(copied_at_once, raw.size() - at)));
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
