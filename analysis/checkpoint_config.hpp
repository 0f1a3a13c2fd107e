// What a quantized checkpoint says of itself beside its tensors: quantization_config in config.json, and modelopt's
// hf_quant_config.json. And what a producer calls the tensors of one weight.
//
// A layout row says which tensors stand for a weight X (its module is X without ".weight"):
//
//   compressed-tensors   nvfp4: X_packed U8 [N, K/2], X_scale F8_E4M3 [N, K/16], X_global_scale F32 [1] = S
//                        mxfp4: X_packed U8 [N, K/2], X_scale U8 [N, K/32]
//   modelopt             nvfp4: X U8 [N, K/2], X_scale F8_E4M3 [N, K/16], X_scale_2 F32 [] = D
//
// Both are written for weights alone, activations left as they are: compressed-tensors' scheme without
// input_activations (its presets NVFP4A16 and MXFP4A16), modelopt's quant_algo W4A16_NVFP4. Schemes that quantize
// activations too want an input scale from a calibration: what has them keeps them (`activations`).
// Sources: compressed-tensors quantization/quant_scheme.py and quant_args.py; vLLM
// model_executor/layers/quantization/compressed_tensors and modelopt.py; Model-Optimizer
// torch/export/convert_hf_config.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors_writer.hpp"

namespace fp4scope::analysis {

/// A format in a layout.
struct LayoutFormat {
  const char* layout;        ///< as --as names it
  const char* format;        ///< "nvfp4", "mxfp4"
  int block;                 ///< the only one
  const char* codes_suffix;  ///< behind the weight's name
  const char* scale_suffix;
  const char* scale_dtype;      ///< of the tensor, in safetensors' words
  const char* tensor_suffix;    ///< "" without a tensor scale
  bool reciprocal;              ///< it holds S, and the loader decodes with RNE32(1 / S)
  bool tensor_scale_is_scalar;  ///< shape [] instead of [1]
};
extern const std::vector<LayoutFormat> layout_formats;

/// "compressed-tensors", "modelopt".
std::vector<std::string> layout_names();
/// Null without.
const LayoutFormat* find_layout_format(std::string_view layout, std::string_view format, int block);
/// What a layout has, "nvfp4 in blocks of 16, mxfp4 in blocks of 32".
std::string layout_has(std::string_view layout);

/// The tensors that stand for a weight [rows, cols], cols a multiple of the block.
std::vector<io::SafetensorsWriter::Entry> layout_entries(const LayoutFormat& layout, const std::string& weight,
                                                         std::int64_t rows, std::int64_t cols);

/// D that a loader takes from a stored S: RNE32(1 / S).
float decode_scale_of(float s);

/// S = RNE32(1 / d), finite, for d > 0: no other S has an RNE32(1 / S) closer to d, for every significand of d
/// (tests/analysis/checkpoint_config_test.cpp; RNE32(1 / S) never rises as S grows, so that neighbours decide). Of the
/// 2^23 significands 6,949,350 are met exactly: where that of S is below sqrt(2) a step of S moves 1 / S by more than an
/// ulp.
float encode_scale_of(float d);

/// A module whose weight is quantized.
struct QuantizedModule {
  std::string name;  ///< "model.layers.0.mlp.up_proj"
  const LayoutFormat* format = nullptr;
};

struct CheckpointConfig {
  std::string layout;
  std::vector<QuantizedModule> quantized;
  std::vector<std::string> left;  ///< modules with a matrix that is not quantized: `ignore`, `exclude_modules`
  std::string tool;               ///< "fp4scope 0.1.0"
  bool activations = false;       ///< quantized too, to NVFP4 by stored input scales
};

/// A tensor's name without its last part: "layers.0.mlp.experts" of "layers.0.mlp.experts.gate_up_proj".
std::string module_of(const std::string& tensor);

/// Whether the name is an embedding's: loaders look such modules up rather than multiply, and some refuse to find one
/// in `ignore`.
bool is_embedding(const std::string& tensor);

/// The object `quantization_config`, as JSON text. One group for all linear layers, or, with two formats, a group of
/// each with its modules by name (format "mixed-precision").
std::string quantization_config(const CheckpointConfig& config);

/// The text of hf_quant_config.json, layout modelopt.
std::string hf_quant_config(const CheckpointConfig& config);

/// The text of a config.json with that object under "quantization_config", every other key kept in its place. Throws
/// Error, at `where`, if it is no JSON object, or has one already and `replace` isn't set.
std::string with_quantization_config(const std::string& config_json, const std::string& object,
                                     const std::string& where, bool replace = false);

}  // namespace fp4scope::analysis
