// `encode`: tensors of any shape, each F32 value to one code of an element format.
#pragma once

#include <atomic>
#include <string>

#include "analysis/tensors.hpp"
#include "formats/codec.hpp"
#include "sim/converter.hpp"

namespace fp4scope::analysis {

struct EncodeOptions {
  const formats::Format* element = &formats::e2m1;
  formats::Rounding rounding = formats::Rounding::nearest_even;
  formats::Overflow overflow = formats::Overflow::saturate;
  const sim::Converter* converter = nullptr;  ///< nullptr: the recipe `exact`, formats::encode
  std::uint64_t seed = 1;  ///< of the stochastic rounding: word = Philox(seed, position in the tensor)
  const std::atomic<bool>* stop = nullptr;
};

/// What the conversion did, in the words of formats::Status. A recipe's code is inexact when its value isn't x; the
/// rest is what formats::encode reports of x in the same direction.
struct EncodeCount {
  std::int64_t values = 0, inexact = 0, underflow = 0, overflow = 0, nan = 0;
};

std::vector<std::string> element_names();
extern const std::vector<std::string> rounding_names;  ///< in the order of formats::Rounding
extern const std::vector<std::string> overflow_names;  ///< in the order of formats::Overflow

/// The recipes that have converters of elements, and the elements of one; in the order of sim::all_converters.
std::vector<std::string> converter_names();
std::vector<std::string> elements_of(const std::string& recipe);
/// What a converter offers.
std::vector<std::string> roundings_of(const sim::Converter& converter);
std::vector<std::string> overflows_of(const sim::Converter& converter);

/// codes[i] for values[i]; one byte each, two (little-endian) for 16-bit formats.
std::vector<std::uint8_t> encode_values(const EncodeOptions& options, const std::vector<float>& values,
                                        EncodeCount& count);

/// Every F32 tensor T of `in` -> T.codes of the same shape in `out`, U8 or U16. Others are skipped with a word.
/// `out` is whole or absent; absent when `stop` turns true.
EncodeCount encode_file(const EncodeOptions& options, const std::string& in, const std::string& out,
                        const std::string& tool, const Notice& notice);

}  // namespace fp4scope::analysis
