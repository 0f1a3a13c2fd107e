// `dequantize` of other tools' checkpoints (checkpoint.hpp): values in one safetensors file.
#pragma once

#include <atomic>
#include <string>

#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

/// Every weight under its own name and shape (columns as stored, padding included), F32, BF16 or F16: decode scale *
/// block scale * element in real numbers, rounded once; beyond the type's range Inf. What belongs to no weight is copied,
/// with a word about weights quantized otherwise; left out, with a word, are types that safetensors doesn't have, and
/// what belongs to a weight. Rows pass in pieces. Returns how many weights there were, 0 if interrupted. Throws Error,
/// UsageError where `out` is a file of the checkpoint; `out` is whole or absent.
std::size_t dequantize_checkpoint(const std::string& in, const std::string& out, const std::string& dtype,
                                  const std::string& tool, const Notice& notice,
                                  const std::atomic<bool>* stop = nullptr);

/// Whether `path` is an output of `fp4scope quantize`, which dequantize_file reads whatever its basis and format.
bool is_quantized_file(const std::string& path);

}  // namespace fp4scope::analysis
