// `quantize` and `dequantize`: tensors of a file -> codes and scales of a file, and back.
//
// For each tensor T [R, C], transposed and rotated first where asked for (C padded to a multiple of the block):
//   T.codes         U8  [R, C/2] packed, low nibble = even column; [R, C] for elements of more than 4 bits
//   T.scales        U8  [R, C/block] raw scale codes; of square blocks repeated on each row; IF4's selection in bit 7
//   T.tensor_scale  F32 [1] the multiplier on decode, 1 without
//   T.amax          F32 [1] where the tensor scale comes from it
//   T.dequantized   F32 [R, C] on request: the exact product rounded once, or in the recipe's own order of operations,
//                   in the rotated and transposed basis
//   T.certificate.* on request, of methods that are optimal (certificate.hpp)
// and the configuration as JSON in the file's metadata ("fp4scope"), with the definition of a format of one's own.
#pragma once

#include <atomic>

#include "analysis/metrics.hpp"
#include "analysis/on_device.hpp"
#include "analysis/tensors.hpp"
#include "analysis/transform.hpp"
#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {

struct QuantizeFileOptions {
  std::string in, out;
  QuantizeConfig config;
  Transform transform;
  std::vector<std::string> tensors = {"*"};
  std::vector<std::string> exclude;
  std::string activations;   ///< "FILE:NAME", for Hessian methods and the output error; "" for none
  std::string hessian;       ///< "FILE:NAME" of H instead (curvature.hpp); "" for none
  bool pad_error = false;    ///< refuse a column count that the block doesn't divide
  bool keep = false;         ///< copy what isn't quantized
  bool dequantized = false;  ///< add T.dequantized
  bool certificate = false;  ///< add T.certificate.*, proofs that the scales are optimal (certificate.hpp)
  bool fake_quant = false;   ///< instead: T itself with its dtype and shape, dequantized; all else copied
  std::string tool;          ///< "fp4scope 0.1.0"
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
  std::vector<int> devices;          ///< GPUs (device.hpp); empty for the CPU. The bytes and the summary are the same
  std::int64_t device_memory = 0;    ///< bytes of a GPU for a tensor in flight; 0: what it has
  DeviceSeconds* seconds = nullptr;  ///< receives what a GPU's steps took, unless null
};

/// What a line of the summary needs.
struct QuantizedTensor {
  std::string name;
  Shape2d shape{};
  double weight_error = 0, sqnr_db = 0, output_error = 0, bits_per_weight = 0;
  std::int64_t blocks = 0, proved = 0;  ///< of method joint: blocks proved best in scale and elements together
};

QuantizedTensor summarize(const std::string& name, const Shape2d& shape, const Quantized& q, const Metrics& metrics);

/// T.tensor_scale, and T.amax where it has one.
void write_constants(const QuantizeFileOptions& options, const std::string& name, const Quantized& q,
                     io::SafetensorsWriter& writer);

/// Codes as they are stored: two in a byte up to 4 bits, the even one low.
std::vector<std::uint8_t> packed_codes(const formats::BlockFormat& format, const std::vector<std::uint8_t>& codes);

/// The unpadded values in a floating-point dtype, little-endian: the exact products rounded once, to nearest even.
std::vector<std::byte> dequantized_as(const std::string& dtype, const Quantized& q, std::int64_t original_cols);

/// Throws Error; `out` is whole or absent. Interrupted: no file, an empty list.
std::vector<QuantizedTensor> quantize_file(const QuantizeFileOptions& options);

/// Reads what quantize_file wrote: every tensor under its own name and shape, F32 or BF16, kept tensors copied. The
/// exact product is rounded once; beyond the type's range that is Inf. Of a rotated tensor it is rounded to binary32,
/// rotated back and rounded again. Returns how many were dequantized, 0 if interrupted.
std::size_t dequantize_file(const std::string& in, const std::string& out, const std::string& dtype,
                            const std::string& tool, const std::atomic<bool>* stop = nullptr);

}  // namespace fp4scope::analysis
