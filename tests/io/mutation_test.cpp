// Files are never trusted: any damage to a valid file gives a TensorFile that can be walked in full, or an Error.

#include <random>

#include "io/readers.hpp"
#include "tests/io/temp_folder.hpp"

namespace fp4scope::io {
namespace {

using testing::as_bytes;

const std::string safetensors_json =
    "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
    "\"b\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]},\"c\":{\"dtype\":\"F4\",\"shape\":[2,2],"
    "\"data_offsets\":[14,16]}}";

std::string safetensors_file() {
  return as_bytes<std::uint64_t>({safetensors_json.size()}) + safetensors_json + "0123456789abcdef";
}

std::string npy_file() {
  std::string header = "{'descr': '>f8', 'fortran_order': False, 'shape': (2, 1), }";
  header.resize(117, ' ');
  return "\x93NUMPY\x01" + std::string(1, '\0') + as_bytes<std::uint16_t>({118}) + header + "\n0123456789abcdef";
}

std::string gguf_text(const std::string& text) { return as_bytes<std::uint64_t>({text.size()}) + text; }

/// An alignment, an array of texts; a matrix of MXFP4, one of F32, and one of a type that is not known.
std::string gguf_file() {
  std::string bytes = "GGUF" + as_bytes<std::uint32_t>({3}) + as_bytes<std::uint64_t>({3, 2});
  bytes += gguf_text("general.alignment") + as_bytes<std::uint32_t>({4, 16});
  bytes += gguf_text("tokens") + as_bytes<std::uint32_t>({9, 8}) + as_bytes<std::uint64_t>({2}) + gguf_text("a") +
           gguf_text("bc");
  const auto info = [](const std::string& name, std::uint64_t cols, std::uint32_t type, std::uint64_t offset) {
    return gguf_text(name) + as_bytes<std::uint32_t>({2}) + as_bytes<std::uint64_t>({cols, 2}) +
           as_bytes<std::uint32_t>({type}) + as_bytes<std::uint64_t>({offset});
  };
  bytes += info("w", 32, 39, 0) + info("n", 2, 0, 48) + info("q", 256, 12, 64);
  bytes.resize((bytes.size() + 15) / 16 * 16, '\0');
  return bytes + std::string(64 + 288, 'x');
}

/// One to four changes: a bit, a byte, a digit, a cut, a copy of a stretch, a number that is too large.
std::string mutated(std::string bytes, std::mt19937& random) {
  const auto below = [&random](std::size_t n) { return random() % std::max<std::size_t>(n, 1); };
  for (std::size_t changes = 1 + below(4); changes > 0 && !bytes.empty(); --changes) {
    const std::size_t at = below(bytes.size());
    switch (below(7)) {
      case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
      case 1: bytes[at] = static_cast<char>(below(256)); break;
      case 2: bytes[at] = static_cast<char>('0' + below(10)); break;
      case 3: bytes.resize(at); break;
      case 4: bytes.insert(at, bytes.substr(below(bytes.size()), below(20))); break;
      case 5: bytes.erase(at, 1 + below(8)); break;
      default: bytes.replace(at, 1, "4294967296"); break;
    }
  }
  return bytes;
}

/// Reads all that an opened file offers.
void walk(const TensorFile& file) {
  for (const TensorInfo& tensor : file.tensors()) {
    ASSERT_EQ(file.raw(tensor).size(), tensor.bytes);
    ASSERT_EQ(tensor.shape_text().empty(), false);
    if (!tensor.readable()) continue;
    ASSERT_EQ(file.read(tensor).data.size(), static_cast<std::size_t>(tensor.elements()));
  }
}

/// `open` on `count` damaged copies; gives how many were refused.
template <typename Open>
int refused(const std::string& valid, int count, Open open) {
  std::mt19937 random(20240607);
  int errors = 0;
  for (int i = 0; i < count; ++i) {
    const std::string bytes = mutated(valid, random);
    try {
      open(bytes);
    } catch (const Error& error) {
      EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
      ++errors;
    }
  }
  return errors;
}

MappedFile in_memory(const std::string& bytes) { return MappedFile("x.npy", std::as_bytes(std::span(bytes))); }

constexpr int count = 20'000;

TEST(Mutations, SafetensorsAreReadOrRefused) {
  const int errors =
      refused(safetensors_file(), count, [](const std::string& b) { walk(*open_safetensors(in_memory(b))); });
  EXPECT_GT(errors, count / 2);
  EXPECT_LT(errors, count) << "some damage is to the data, and can't be seen";
}

TEST(Mutations, NpyIsReadOrRefused) {
  const int errors = refused(npy_file(), count, [](const std::string& b) { walk(*open_npy(in_memory(b))); });
  EXPECT_GT(errors, count / 2);
  EXPECT_LT(errors, count);
}

TEST(Mutations, GgufIsReadOrRefused) {
  const std::string whole = gguf_file();
  const auto file = open_gguf(in_memory(whole));
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->find("w")->shape, (std::vector<std::int64_t>{2, 32}));
  EXPECT_EQ(file->find("w")->bytes, 34u);
  EXPECT_EQ(file->find("q")->dtype.name, "GGML_12");
  EXPECT_EQ(file->find("q")->bytes, 288u);
  EXPECT_EQ(file->read(*file->find("n")).data.size(), 4u);
  const int errors = refused(whole, count, [](const std::string& b) { walk(*open_gguf(in_memory(b))); });
  EXPECT_GT(errors, count / 3);
  EXPECT_LT(errors, count) << "some damage is to the data, and can't be seen";
}

TEST(Mutations, AnIndexNamesFilesBesideItOrIsRefused) {
  const std::string index =
      "{\"metadata\":{\"n\":1},\"weight_map\":{\"a\":\"x-1.safetensors\",\"b\":\"x-2.safetensors\"}}";
  const int errors = refused(index, count, [](const std::string& bytes) {
    for (const auto& [tensor, shard] : parse_index(bytes, "index.json")) {
      ASSERT_FALSE(shard.empty() || shard == "..");
      ASSERT_EQ(shard.find('/'), std::string::npos);
    }
  });
  EXPECT_GT(errors, count / 4);
  EXPECT_LT(errors, count);
}

}  // namespace
}  // namespace fp4scope::io
