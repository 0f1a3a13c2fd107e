// Tensors in: one view over every file that holds some.
//
//   .safetensors                    memory-mapped (huggingface/safetensors, format description in its README)
//   model.safetensors.index.json    the shards that its weight_map names, as one
//                                   (tensors of a shard that weight_map does not name stay hidden: unlisted())
//   a directory                     its .safetensors.index.json, else its only .safetensors
//   .npy                            one tensor, named after the file (NumPy NEP 1, versions 1 to 3, C order)
//   .gguf                           llama.cpp's file; MXFP4 and NVFP4 as raw blocks (gguf.cpp)
//   .h5, .hdf5                      every floating-point dataset, named by its path without the leading '/'
//
// Every header is checked before a byte of data is touched: lengths, overlaps, holes, shapes against sizes.
// Files are data, never trusted: any byte sequence gives a TensorFile or an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace fp4scope::io {

/// Element types as safetensors spells them; HDF5 and npy types are mapped to these names.
/// The four that a computation reads are F32, F16, BF16 and F64; the rest can be listed and copied.
struct DType {
  std::string name;
  int bits = 0;  ///< per element; F4 has 4
};

struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::size_t bytes = 0;  ///< of the raw data
  std::string file;       ///< the file that holds it (a shard)

  std::int64_t elements() const;
  /// "[258, 1, 256]"
  std::string shape_text() const;
  /// F32, F16, BF16 or F64.
  bool readable() const;
};

/// Values as binary32. F16 and BF16 widen exactly; F64 is rounded to nearest-even once, and `changed` counts the
/// elements that were not binary32 numbers.
struct Values {
  std::vector<float> data;
  std::int64_t changed = 0;
};

class TensorFile {
 public:
  virtual ~TensorFile() = default;

  /// In the order of their names.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// nullptr if there is none of that name.
  const TensorInfo* find(const std::string& name) const;
  /// The metadata of a safetensors file ("__metadata__"), the first shard's word where several differ, empty elsewhere.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The files read: the one given, or the index and every shard. For provenance and change detection.
  const std::vector<std::string>& files() const { return files_; }
  /// Of an index: the names that its shards hold beside those of its weight_map.
  const std::vector<std::string>& unlisted() const { return unlisted_; }

  /// Throws Error for a dtype that isn't readable(). NaN and Inf are passed through; an F64 beyond binary32 becomes
  /// Inf.
  virtual Values read(const TensorInfo& tensor) const = 0;
  /// The same for rows [first, first + count) along the first axis: memory for these alone.
  virtual Values read_rows(const TensorInfo& tensor, std::int64_t first, std::int64_t count) const = 0;
  /// The bytes as stored (little-endian, C order), valid while this object lives.
  virtual std::span<const std::byte> raw(const TensorInfo& tensor) const = 0;
  /// raw()'s bytes may leave memory; they come back when they are touched again.
  virtual void release(const TensorInfo&) const {}

 protected:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_, unlisted_;
};

/// Opens whatever `path` is, by its name's ending (and its first bytes where the ending says nothing).
/// Throws Error: no such file, not a known kind, or a file that contradicts itself.
std::unique_ptr<TensorFile> open_tensors(const std::string& path);

}  // namespace fp4scope::io
