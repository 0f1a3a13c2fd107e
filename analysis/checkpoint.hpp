// Quantized checkpoints that people ship, as data: which tensors make one weight, and what their bytes mean.
//
// A producer is a row of checkpoint_layouts: the suffixes of its tensors, the format of its elements and scales, and
// whether its tensor scale multiplies on decode (D) or on encode (S, D = RNE32(1 / S) as the loaders take it).
// Sources: hardware facts of each producer's exporter and loader stand at its row (checkpoint.cpp).
//
// Codes are U8 [N, K/2], or F4 [N, K] with the same bytes. Files beside the tensors may not contradict them.
//
//   modelopt             T (weight) U8 [N, K/2], T_scale E4M3 [N, K/16], T_scale_2 F32 = D; T_scale U8 [N, K/32]: MXFP4
//   compressed_tensors   T_packed U8 [N, K/2], T_scale E4M3 [N, K/16], T_global_scale F32 [1] = S; U8 [N, K/32]: MXFP4
//   gpt_oss              T_blocks U8 [E, N, K/32, 16], T_scales U8 [E, N, K/32]: MXFP4, experts first
//   fp_quant             qweight, scales U8, weight_global_scale F32
//   fouroversix          quantized_weight_{values, scale_factors, amax, metadata}
//   fp4scope             T.codes, T.scales, T.tensor_scale and the configuration in the metadata (quantize_file.hpp)
//   gguf                 MXFP4 and NVFP4 blocks of a .gguf file
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/quantize.hpp"
#include "analysis/tensors.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::analysis {

/// One quantized weight, as it lies.
struct StoredWeight {
  std::string name;    ///< of the weight that it stands for: "model.layers.0.mlp.up_proj.weight"
  std::string layout;  ///< the producer: a name of the list above
  const formats::BlockFormat* format = nullptr;
  int block = 16;
  std::vector<std::int64_t> shape;  ///< of that weight, as known: the columns may be padded ones
  std::int64_t rows = 0, cols = 0;  ///< as a matrix, columns as stored
  const io::TensorInfo* codes = nullptr;
  const io::TensorInfo* scales = nullptr;        ///< the tensor of the codes where both lie in one (gguf)
  const io::TensorInfo* tensor_scale = nullptr;  ///< null: none
  std::vector<const io::TensorInfo*> others;     ///< input_scale and the like, which belong to it too
  float stored_tensor_scale = 1;                 ///< as the file has it: D, or S
  bool reciprocal = false;                       ///< it is S
  bool rotated = false;                          ///< it is of the weight times a rotation that the file holds
  bool swizzled = false;                         ///< scales lie in atoms of 128 x 4 (formats/layout.hpp)
  float decode_scale = 1;                        ///< D, what values are multiplied by
};

/// A file or a directory that holds quantized weights. Everything is checked at opening: shapes of codes, scales and
/// tensor scale against each other, dtypes, what is missing or double, the configurations against the tensors; one Error
/// each.
class Checkpoint {
 public:
  /// `path`: whatever open_tensors takes, .gguf too. Throws Error.
  explicit Checkpoint(const std::string& path);

  const std::string& path() const { return path_; }
  const io::TensorFile& file() const { return *file_; }
  const std::vector<StoredWeight>& weights() const { return weights_; }
  /// What belongs to no quantized weight.
  const std::vector<const io::TensorInfo*>& rest() const { return rest_; }
  /// Of these what is quantized in a way that is not read here: FP8 and integer weights, ggml's other types.
  std::vector<const io::TensorInfo*> otherwise_quantized() const;
  /// The text of config.json and of hf_quant_config.json beside the tensors; "" without.
  const std::string& config() const { return config_; }
  const std::string& quant_config() const { return quant_config_; }

  /// Rows [first, first + count) of a weight: codes one byte an element, scales row-major, D; config has format, block
  /// and `exact`'s naive as the method, whatever made them. Memory for these rows alone.
  Quantized read(const StoredWeight& weight, std::int64_t first, std::int64_t count) const;
  Quantized read(const StoredWeight& weight) const { return read(weight, 0, weight.rows); }

 private:
  std::string path_, config_, quant_config_;
  std::unique_ptr<io::TensorFile> file_;
  std::vector<StoredWeight> weights_;
  std::vector<const io::TensorInfo*> rest_;
};

/// Words about what is in the files and not read: tensors that the index doesn't name, and otherwise_quantized().
void notice_unread(const Checkpoint& checkpoint, const Notice& notice);

}  // namespace fp4scope::analysis
