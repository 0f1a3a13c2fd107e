// The header of a .safetensors file, checked in full before a byte of data is touched.
//
//   8 bytes: N, unsigned little-endian     N bytes: JSON, an object, padded with spaces     the rest: data
//   {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"k": "text"}}
//
// Offsets count from the start of the data, which the tensors fill without overlap, hole or rest.
// Source: huggingface/safetensors, the format description in its README.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/tensor_file.hpp"

namespace fp4scope::io {

/// The longest header that the reference implementation accepts.
inline constexpr std::size_t max_safetensors_header = 100'000'000;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< in the order of their names
  std::vector<std::size_t> begins;  ///< of each, in the file
  std::map<std::string, std::string> metadata;
};

/// Throws Error for a file that is no safetensors file or contradicts itself.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, const std::string& path);

}  // namespace fp4scope::io
