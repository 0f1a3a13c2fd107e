// Data of the benchmarks: N(0, 0.024^2) as bf16 bits, and its amax.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace fp4scope::bench {

struct Weights {
  std::vector<std::uint16_t> bits;
  float amax = 0;
};

inline Weights weights(std::int64_t n) {
  std::mt19937_64 words(1);
  std::normal_distribution<float> normal(0, 0.024f);
  Weights w;
  w.bits.resize(static_cast<std::size_t>(n));
  std::uint32_t largest = 0;
  for (std::uint16_t& bits : w.bits) {
    bits = static_cast<std::uint16_t>((__builtin_bit_cast(std::uint32_t, normal(words)) + 0x8000) >> 16);
    largest = std::max<std::uint32_t>(largest, bits & 0x7FFF);
  }
  w.amax = __builtin_bit_cast(float, largest << 16);
  return w;
}

}  // namespace fp4scope::bench
