// ml_dtypes' casts of chosen binary32 patterns (golden/ml_dtypes.safetensors), and the reader of its file.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace fp4scope::golden {

/// A safetensors file: a little-endian u64 length, that much JSON {name: {dtype, shape, data_offsets}}, the data.
class Tensors {
 public:
  explicit Tensors(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    std::uint64_t length = 0;
    if (bytes_.size() < 8) throw std::runtime_error(path + " is too short");
    std::memcpy(&length, bytes_.data(), 8);
    if (length > bytes_.size() - 8) throw std::runtime_error(path + " is cut off");
    start_ = 8 + length;
    header_ = nlohmann::json::parse(bytes_.begin() + 8, bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
  }

  /// The elements of unsigned or signed integers of 1, 2 or 4 bytes, as their bits.
  std::vector<std::uint32_t> bits(const std::string& name) const {
    static const std::map<std::string, std::size_t> sizes = {{"U8", 1}, {"I16", 2}, {"I32", 4}};
    const nlohmann::json& entry = header_.at(name);
    const std::size_t size = sizes.at(entry.at("dtype").get<std::string>());
    const std::size_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    if (begin > end || start_ + end > bytes_.size()) throw std::runtime_error(name + " is cut off");
    std::vector<std::uint32_t> out((end - begin) / size);
    for (std::size_t i = 0; i < out.size(); ++i) std::memcpy(&out[i], &bytes_[start_ + begin + i * size], size);
    return out;
  }

 private:
  std::string bytes_;
  std::size_t start_ = 0;
  nlohmann::json header_;
};

struct Golden {
  std::string path;
  std::size_t patterns;
};

/// The file of all patterns where FP4SCOPE_SHARED points, else the committed one; no path when neither is there.
inline Golden golden_file() {
  const char* shared = std::getenv("FP4SCOPE_SHARED");
  const std::string all = std::string(shared ? shared : "") + "/golden/ml_dtypes.safetensors";
  if (shared && std::filesystem::exists(all)) return {all, 262318};
#ifdef FP4SCOPE_DATA
  return {FP4SCOPE_DATA "/golden/ml_dtypes.safetensors", 18446};
#else
  return {};
#endif
}

}  // namespace fp4scope::golden
