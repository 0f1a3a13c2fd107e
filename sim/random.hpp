// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC'11; Random123), keyed by a seed, counted by
// (stream, index). A number depends on these three alone, never on threads, tiles or the order of the calls.
#pragma once

#include "formats/host_device.hpp"

#ifdef __CUDACC__
#define R123_CUDA_DEVICE FP4SCOPE_HD  // how Random123 marks its functions
#endif
#include <Random123/philox.h>

#include <cstdint>

namespace fp4scope::sim {

/// Four independent 32-bit words of (seed, stream, index).
FP4SCOPE_HD inline void random_words(std::uint64_t seed, std::uint32_t stream, std::uint64_t index,
                                     std::uint32_t words[4]) {
  const r123::Philox4x32::ctr_type counter = {
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), stream, 0}};
  const r123::Philox4x32::key_type key = {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const r123::Philox4x32::ctr_type random = r123::Philox4x32()(counter, key);
  for (unsigned i = 0; i < 4; ++i) words[i] = random[i];
}

/// words[n] of the positions first, first + 1, ...: position p has word p % 4 of index p / 4.
FP4SCOPE_HD inline void fill_words(std::uint64_t seed, std::uint32_t stream, std::uint64_t first, int n,
                                   std::uint32_t* words) {
  std::uint32_t four[4] = {};
  for (int i = 0; i < n; ++i) {
    const std::uint64_t position = first + static_cast<std::uint64_t>(i);
    if (i == 0 || position % 4 == 0) random_words(seed, stream, position / 4, four);
    words[i] = four[position % 4];
  }
}

/// n signs, +1 or -1: sign i is bit i % 32 of word i / 32 % 4 of index i / 128, a set bit for -1.
FP4SCOPE_HD inline void random_signs(std::uint64_t seed, std::uint32_t stream, int n, std::int8_t* signs) {
  std::uint32_t words[4] = {};
  for (int i = 0; i < n; ++i) {
    if (i % 128 == 0) random_words(seed, stream, static_cast<std::uint64_t>(i / 128), words);
    signs[i] = static_cast<std::int8_t>((words[i / 32 % 4] >> i % 32 & 1) != 0 ? -1 : 1);
  }
}

/// Two words -> a uniform number in the open interval (0, 1), a multiple of 2^-53.
FP4SCOPE_HD inline double open_uniform(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 32 | low) >> 12;  // 52 bits, and a half
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

}  // namespace fp4scope::sim
