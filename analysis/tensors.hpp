// From files to matrices: which tensors can be quantized, in which shape, and the words about the others.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/matrix.hpp"
#include "io/tensor_file.hpp"

namespace fp4scope::analysis {

using Notice = std::function<void(const std::string&)>;

/// Matched by one of `include` and by none of `exclude`.
bool selected(const std::string& name, const std::vector<std::string>& include,
              const std::vector<std::string>& exclude);

/// Why a tensor can't be quantized ("" if it can): one dimension or none, no floating-point data, no elements.
std::string why_not(const io::TensorInfo& tensor);

/// [first, rest]; two dimensions stay as they are.
struct Shape2d {
  std::int64_t rows, cols;
};
Shape2d as_matrix(const io::TensorInfo& tensor);

/// Reads it as binary32, with a word when F64 data had to be rounded.
Matrix read_matrix(const io::TensorFile& file, const io::TensorInfo& tensor, const Notice& notice);

/// Rows [first, first + count) of that matrix; `changed` grows by the F64 values that had to be rounded.
Matrix read_matrix_rows(const io::TensorFile& file, const io::TensorInfo& tensor, std::int64_t first,
                        std::int64_t count, std::int64_t& changed);
/// The word about them, if there were any.
void notice_rounded(const io::TensorInfo& tensor, std::int64_t changed, const Notice& notice);

/// "FILE:NAME" as file and tensor; a name may hold colons, a file that ends in .safetensors is taken whole first.
std::pair<std::string, std::string> split_name(const std::string& text);

/// The tensor of that name, or the only one if that is "". `content` says what it should hold, in errors. Throws Error.
const io::TensorInfo& find_tensor(const io::TensorFile& file, const std::string& path, const std::string& tensor,
                                  const std::string& content);

/// The tensor of `path` called `tensor`, or its only one if that is "", as a finite matrix [tokens, cols]; of more
/// dimensions the last is cols. Throws Error.
Matrix read_activations(const std::string& path, const std::string& tensor, const Notice& notice);

}  // namespace fp4scope::analysis
