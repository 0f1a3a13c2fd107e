// A matrix as the bits of a dtype that kernels read: what the tests on a device compute on, there and on the CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/cuda.hpp"
#include "formats/codec.hpp"

namespace fp4scope {

inline std::uint32_t bits_of(cuda::Type type, double v, formats::Overflow overflow = formats::Overflow::nan) {
  if (type == cuda::Type::f32) return __builtin_bit_cast(std::uint32_t, static_cast<float>(v));
  const formats::Format& f = type == cuda::Type::f16 ? formats::fp16 : formats::bf16;
  return formats::encode(f, v, formats::Rounding::nearest_even, overflow).code;
}

inline float value_of(cuda::Type type, std::uint32_t bits) {
  if (type == cuda::Type::f32) return __builtin_bit_cast(float, bits);
  if (type == cuda::Type::bf16) return __builtin_bit_cast(float, bits << 16);
  return formats::decode_float(formats::fp16, bits);
}

struct Shape {
  std::int64_t rows, cols;
  int offset;  ///< elements between the allocation and the matrix
};

struct StoredMatrix {
  Shape shape;
  cuda::Type type;
  std::vector<std::uint32_t> bits;  ///< [rows, cols], one element each

  /// Values with zero columns up to a multiple of `block`.
  std::vector<float> padded(std::int64_t block) const {
    const std::int64_t cols = (shape.cols + block - 1) / block * block;
    std::vector<float> x(static_cast<std::size_t>(shape.rows * cols));
    for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
      x[static_cast<std::size_t>(i / shape.cols * cols + i % shape.cols)] =
          value_of(type, bits[static_cast<std::size_t>(i)]);
    }
    return x;
  }
  cuda::Memory upload(cuda::Stream& stream) const {
    const std::int64_t w = cuda::width(type), n = shape.rows * shape.cols;
    cuda::Memory memory(stream.device(), (n + shape.offset) * w);
    std::vector<unsigned char> bytes(static_cast<std::size_t>(n * w));
    for (std::int64_t i = 0; i < n; ++i) {
      std::memcpy(bytes.data() + i * w, &bits[static_cast<std::size_t>(i)], static_cast<std::size_t>(w));
    }
    stream.upload(memory.as<unsigned char>() + shape.offset * w, bytes.data(), n * w);
    stream.wait();
    return memory;
  }
  /// The matrix in what upload returned.
  cuda::Matrix in(const cuda::Memory& memory) const {
    return {type, memory.as<unsigned char>() + shape.offset * cuda::width(type), shape.rows, shape.cols};
  }
};

}  // namespace fp4scope
