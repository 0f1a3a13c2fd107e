// A model in several .safetensors files, listed in an index.json:
//
//   {"metadata": {...}, "weight_map": {"TENSOR": "model-00001-of-00002.safetensors", ...}}

#include <algorithm>
#include <filesystem>
#include <utility>

#include "io/complain.hpp"
#include "io/readers.hpp"
#include "io/strict_json.hpp"

namespace fp4scope::io {
namespace {

/// A shard lies beside its index: a name that leads elsewhere is not followed.
bool is_bare_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

class ShardedFile : public TensorFile {
 public:
  explicit ShardedFile(const MappedFile& index) {
    const auto bytes = index.bytes();
    const auto shard_of = parse_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, index.path());
    files_ = {index.path()};
    std::map<std::string, std::size_t> opened;
    for (const auto& [tensor, shard] : shard_of) {  // in the order of the tensors' names, as tensors_ must be
      if (!opened.contains(shard)) opened[shard] = open_shard(index.path(), shard);
      owners_.push_back(opened[shard]);
      const TensorInfo* const found = shards_[owners_.back()]->find(tensor);
      if (found == nullptr) {
        throw Error(place(index.path(), tensor), "is not in " + in_quotes(shard) + ", where the index puts it",
                    "the shards belong to another model, or one is stale");
      }
      tensors_.push_back(*found);
    }
    for (const auto& shard : shards_) {
      for (const TensorInfo& t : shard->tensors()) {
        if (!shard_of.contains(t.name)) unlisted_.push_back(t.name);
      }
    }
  }

  Values read(const TensorInfo& tensor) const override { return owner(tensor).read(tensor); }
  Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const override {
    return owner(tensor).read_rows(tensor, first, count);
  }
  std::span<const std::byte> raw(const TensorInfo& tensor) const override { return owner(tensor).raw(tensor); }
  void release(const TensorInfo& tensor) const override { owner(tensor).release(tensor); }

 private:
  const TensorFile& owner(const TensorInfo& tensor) const { return *shards_[owners_[index_of(*this, tensor)]]; }

  std::size_t open_shard(const std::string& index, const std::string& shard) {
    const std::string path = (std::filesystem::path(index).parent_path() / shard).string();
    shards_.push_back(open_safetensors(MappedFile(path)));
    files_.push_back(path);
    metadata_.insert(shards_.back()->metadata().begin(), shards_.back()->metadata().end());
    return shards_.size() - 1;
  }

  std::vector<std::unique_ptr<TensorFile>> shards_;
  std::vector<std::size_t> owners_;  ///< of each of tensors_, in shards_
};

}  // namespace

std::map<std::string, std::string> parse_index(std::string_view text, const std::string& path) {
  constexpr int max_depth = 16;  // "metadata" is free JSON
  std::map<std::string, std::string> shard_of;
  bool has_map = false;
  visit_json(text, shown(path), max_depth, [&](const JsonEvent& event) {
    if (event.keys.empty() && event.kind != JsonEvent::object) {
      throw Error(shown(path), "is not a JSON object", "give a .safetensors.index.json");
    }
    if (event.keys.empty() || event.keys[0] != "weight_map") return;
    if (event.keys.size() == 1) {
      if (event.kind != JsonEvent::object) throw Error(shown(path), "weight_map is not a JSON object");
      has_map = true;
      return;
    }
    const std::string& tensor = event.keys[1];
    if (event.kind != JsonEvent::text) throw Error(place(path, tensor), "weight_map names no file for it");
    if (!is_bare_name(event.string)) {
      throw Error(place(path, tensor),
                  "weight_map names " + in_quotes(event.string) + ", which is not beside the index",
                  "shards lie in the index's folder");
    }
    shard_of[tensor] = event.string;
  });
  if (!has_map) throw Error(shown(path), "has no weight_map", "give a .safetensors.index.json");
  return shard_of;
}

std::unique_ptr<TensorFile> open_sharded(const MappedFile& index) { return std::make_unique<ShardedFile>(index); }

}  // namespace fp4scope::io
