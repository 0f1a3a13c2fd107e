// A model in shards reads as one file, and an index leads nowhere but to the files beside it.

#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::error_of;
using testing::says;

class Shards : public testing::TempFolder {
 protected:
  void shard(const std::string& name, const std::vector<std::string>& tensors) const {
    std::vector<SafetensorsWriter::Entry> entries;
    for (const std::string& tensor : tensors) entries.push_back({tensor, "F32", {1}});
    SafetensorsWriter writer(path(name), entries, {{"format", "pt"}});
    for (const std::string& tensor : tensors) {
      const float value = static_cast<float>(tensor.size());
      writer.write(tensor, std::as_bytes(std::span(&value, 1)));
    }
    writer.commit();
  }
  std::string index(const std::string& json) const { return file("model.safetensors.index.json", json); }
  std::string refusal(const std::string& json) const {
    return error_of([&] { open_tensors(index(json)); });
  }
};

TEST_F(Shards, TwoShardsAreOneFile) {
  shard("one.safetensors", {"bb", "dddd", "hidden"});
  shard("two.safetensors", {"a", "ccc"});
  const std::string name = index(
      "{\"metadata\":{\"total_size\":16,\"deep\":[[{}]]},\"weight_map\":{\"a\":\"two.safetensors\",\"bb\":"
      "\"one.safetensors\",\"ccc\":\"two.safetensors\",\"dddd\":\"one.safetensors\"}}");
  for (const std::string& opened_as : {name, path("")}) {
    const auto opened = open_tensors(opened_as);
    ASSERT_EQ(opened->tensors().size(), 4u);
    EXPECT_EQ(opened->files().size(), 3u);
    EXPECT_EQ(opened->metadata().at("format"), "pt");
    EXPECT_EQ(opened->find("hidden"), nullptr) << "the index doesn't name it";
    for (const TensorInfo& tensor : opened->tensors()) {
      EXPECT_EQ(opened->read(tensor).data.at(0), static_cast<float>(tensor.name.size()));
      EXPECT_EQ(opened->raw(tensor).size(), 4u);
    }
    EXPECT_TRUE(says(opened->find("a")->file, "two.safetensors"));
  }
}

TEST_F(Shards, AnIndexThatContradictsItselfIsRefused) {
  shard("one.safetensors", {"a"});
  EXPECT_TRUE(
      says(refusal("{\"weight_map\":{\"a\":\"two.safetensors\"}}"), "two.safetensors: cannot read: No such file"));
  EXPECT_TRUE(says(refusal("{\"weight_map\":{\"b\":\"one.safetensors\"}}"), "'b': is not in 'one.safetensors'"));
  EXPECT_TRUE(says(refusal("{\"weight_map\":{\"a\":1}}"), "names no file"));
  EXPECT_TRUE(says(refusal("{\"weight_map\":{\"a\":[\"one.safetensors\"]}}"), "names no file"));
  EXPECT_TRUE(says(refusal("{\"weight_map\":[]}"), "not a JSON object"));
  EXPECT_TRUE(says(refusal("{}"), "no weight_map"));
  EXPECT_TRUE(says(refusal("[]"), "not a JSON object"));
  EXPECT_TRUE(says(refusal(""), "not JSON"));
  EXPECT_TRUE(says(refusal("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}"), "twice"));
  EXPECT_TRUE(says(refusal("{\"metadata\":" + std::string(100'000, '[') + "}"), "nests deeper"));
}

TEST_F(Shards, AShardElsewhereIsNotOpened) {
  shard("one.safetensors", {"a"});
  std::filesystem::create_directory(path("sub"));
  shard("sub/one.safetensors", {"a"});
  for (const std::string& name : {path("one.safetensors"), std::string("sub/one.safetensors"), std::string("../one"),
                                  std::string(".."), std::string("."), std::string(), std::string("..\\\\one"),
                                  std::string("./one.safetensors"), std::string("one.safetensors\\u0000")}) {
    EXPECT_TRUE(says(refusal("{\"weight_map\":{\"a\":\"" + name + "\"}}"), "not beside the index")) << name;
  }
}

TEST_F(Shards, AFolderNeedsOneModel) {
  EXPECT_TRUE(says(error_of([&] { open_tensors(path("")); }), "holds no .safetensors"));
  shard("one.safetensors", {"a"});
  EXPECT_EQ(open_tensors(path(""))->tensors().size(), 1u);
  shard("two.safetensors", {"a"});
  EXPECT_TRUE(says(error_of([&] { open_tensors(path("")); }), "holds 2 *.safetensors files"));
  std::filesystem::remove(path("two.safetensors"));
  std::filesystem::remove(path("one.safetensors"));
  std::filesystem::create_directory_symlink(".", path("loop.safetensors"));
  EXPECT_TRUE(says(error_of([&] { open_tensors(path("")); }), "Is a directory"));
}

}  // namespace
}  // namespace fp4scope::io
