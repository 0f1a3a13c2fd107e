// What writing a model's folder takes beside its weights: files that come along, tensors as they are, and the promise
// that loaders' scales are numbers.
#pragma once

#include <string>
#include <vector>

#include "analysis/checkpoint_config.hpp"
#include "analysis/quantize.hpp"
#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::analysis {

/// Tokenizer and the like, by path relative to the folder, in order: what holds no weights. What begins with a dot stays
/// behind. Empty where `folder` is none. Throws Error.
std::vector<std::string> other_files(const std::string& folder);

/// A tensor's bytes, in parts whose memory is given back.
void copy_tensor(const io::TensorFile& file, const io::TensorInfo& tensor, io::SafetensorsWriter& out);

/// Loaders take every byte of block scales as a number: throws Error, at `where`, if one is NaN or a negative E4M3.
void check_scales(const std::string& where, const LayoutFormat& layout, const Quantized& q);

}  // namespace fp4scope::analysis
