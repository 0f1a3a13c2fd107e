// What writing a model's folder takes beside its weights: names, files that come along, tensors as they are, and the
// promise that loaders' scales are numbers.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "analysis/checkpoint_config.hpp"
#include "analysis/quantize.hpp"
#include "analysis/tensors.hpp"
#include "io/safetensors_writer.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::analysis {

/// A folder in and a folder out.
struct FolderWork {
  std::string in, out;
  bool resume = false;
  std::string tool;   ///< "fp4scope 0.1.0"
  std::string build;  ///< a resumed run has to be of the same
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;

  bool stopped() const { return stop && *stop; }
  /// Throws UsageError if the folder `out` is `in` or lies in it.
  void check_folders() const;
};

/// "b.safetensors" of "a/b.safetensors".
std::string bare_name(const std::string& path);

/// The index's name: the input's, or that of its only file.
std::string index_name(const io::TensorFile& file);

/// A shard's metadata: what the input's says, what transformers asks for, and who wrote it as which layout.
std::map<std::string, std::string> shard_metadata(const io::TensorFile& file, const std::string& tool,
                                                  const std::string& layout);

/// A word about tensors that lie in the shards and that the index doesn't name, if there are any: no result has them.
void notice_unlisted(const io::TensorFile& file, const Notice& notice);

/// Tokenizer and the like, by path relative to the folder, in order: what holds no weights. What begins with a dot stays
/// behind. Empty where `folder` is none. Throws Error, also for a link to nothing.
std::vector<std::string> other_files(const std::string& folder);

/// A tensor's bytes under a name, in parts whose memory is given back.
void copy_tensor(const io::TensorFile& file, const io::TensorInfo& tensor, const std::string& name,
                 io::SafetensorsWriter& out);

/// Loaders take every byte of block scales as a number: throws Error, at `where`, if one is NaN or a negative E4M3.
void check_scales(const std::string& where, const LayoutFormat& layout, const Quantized& q);

}  // namespace fp4scope::analysis
