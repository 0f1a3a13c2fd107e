// `encode`: tensors of any shape, each F32 value to one code of an element format.
#pragma once

#include <atomic>
#include <string>

#include "analysis/tensors.hpp"
#include "formats/codec.hpp"

namespace fp4scope::analysis {

struct EncodeOptions {
  const formats::Format* element = &formats::e2m1;
  formats::Rounding rounding = formats::Rounding::nearest_even;
  formats::Overflow overflow = formats::Overflow::saturate;
  std::uint64_t seed = 1;  ///< of the stochastic rounding: word = Philox(seed, position in the tensor)
  const std::atomic<bool>* stop = nullptr;
};

struct EncodeCount {
  std::int64_t values = 0, inexact = 0, underflow = 0, overflow = 0, nan = 0;
};

std::vector<std::string> element_names();
extern const std::vector<std::string> rounding_names;  ///< in the order of formats::Rounding
extern const std::vector<std::string> overflow_names;  ///< in the order of formats::Overflow

/// codes[i] for values[i]; one byte each, two (little-endian) for 16-bit formats.
std::vector<std::uint8_t> encode_values(const EncodeOptions& options, const std::vector<float>& values,
                                        EncodeCount& count);

/// Every F32 tensor T of `in` -> T.codes of the same shape in `out`, U8 or U16. Others are skipped with a word.
/// `out` is whole or absent; absent when `stop` turns true.
EncodeCount encode_file(const EncodeOptions& options, const std::string& in, const std::string& out,
                        const std::string& tool, const Notice& notice);

}  // namespace fp4scope::analysis
