// The readers behind open_tensors(), one a kind of file. Each takes bytes, so that they can be read from memory too.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "io/mapped_file.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::io {

std::unique_ptr<TensorFile> open_safetensors(MappedFile file);

/// The shards beside an index.json, as one.
std::unique_ptr<TensorFile> open_sharded(const MappedFile& index);

/// Tensor name -> shard, a bare file name. Throws Error if the index says anything else.
std::map<std::string, std::string> parse_index(std::string_view text, const std::string& path);

std::unique_ptr<TensorFile> open_npy(MappedFile file);

std::unique_ptr<TensorFile> open_gguf(MappedFile file);

/// The type, shape and place of an array in a .npy file.
struct NpyHeader {
  DType dtype;
  std::vector<std::int64_t> shape;
  std::size_t begin;  ///< of the data, which fills the rest of the file
  bool big_endian;
};
NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& path);

std::unique_ptr<TensorFile> open_hdf5(const std::string& path);

/// The tensor of that name in `file`, at its place in tensors(). Throws Error if `file` has none.
std::size_t index_of(const TensorFile& file, const TensorInfo& tensor);

/// Throws Error, with the mend, if a computation can't read that dtype.
void require_readable(const TensorInfo& tensor);

}  // namespace fp4scope::io
