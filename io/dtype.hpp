// Element types by name, and how many bytes a shape of them takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "io/mapped_file.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::io {

/// The row of that name in safetensors' list of types, or nothing.
std::optional<DType> find_dtype(std::string_view name);

/// The most axes that a tensor may have, as in NumPy.
inline constexpr std::size_t max_rank = 64;

/// The bytes of a whole tensor. Nothing if an axis is negative, there are too many of them, the elements don't fill
/// whole bytes, or the product of the axes that aren't 0 leaves 63 bits: then no later product of some axes overflows.
std::optional<std::size_t> tensor_bytes(std::span<const std::int64_t> shape, int bits);

/// Raw little-endian elements of a readable dtype as binary32, to `out`; returns Values::changed.
std::int64_t widen(const DType& dtype, std::span<const std::byte> raw, float* out);
Values widen(const DType& dtype, std::span<const std::byte> raw);
/// The same of bytes of a mapped file, whose pages are released behind.
Values widen(const DType& dtype, std::span<const std::byte> raw, const MappedFile& file);

/// Where rows [first, first + count) lie within a tensor's bytes. Throws Error for a tensor without them.
struct ByteRange {
  std::size_t begin, size;
};
ByteRange row_bytes(const TensorInfo& tensor, std::int64_t first, std::int64_t count);

}  // namespace fp4scope::io
