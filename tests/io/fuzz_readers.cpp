// A libFuzzer target: the readers on arbitrary bytes. The first byte chooses the reader, the rest is the file.
//   clang++ -fsanitize=fuzzer,address,undefined ... tests/io/fuzz_readers.cpp io/*.cpp

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "formats/error.hpp"
#include "io/readers.hpp"

namespace {

using namespace fp4scope;

void require(bool condition) {
  if (!condition) std::abort();
}

void walk(const io::TensorFile& file) {
  for (const io::TensorInfo& tensor : file.tensors()) {
    require(file.find(tensor.name) == &tensor);
    require(file.raw(tensor).size() == tensor.bytes);
    if (!tensor.readable()) continue;
    require(file.read(tensor).data.size() == static_cast<std::size_t>(tensor.elements()));
  }
}

void check_index(std::string_view text) {
  for (const auto& [tensor, shard] : io::parse_index(text, "index.json")) {
    require(!shard.empty() && shard != "." && shard != ".." && shard.find('/') == std::string::npos);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data + 1, size - 1));
  try {
    switch (data[0] % 4) {
      case 0: walk(*io::open_safetensors(io::MappedFile("fuzz.safetensors", bytes))); break;
      case 1: walk(*io::open_npy(io::MappedFile("fuzz.npy", bytes))); break;
      case 2: walk(*io::open_gguf(io::MappedFile("fuzz.gguf", bytes))); break;
      default: check_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); break;
    }
  } catch (const Error& error) {
    require(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  return 0;
}
