// Rows of an unquantized tensor in the shape of its quantized counterpart.
//
// A checkpoint's weight is a matrix [rows, columns padded to whole blocks]; the original has the same elements in any
// shape whose first axis divides the rows: [rows, cols] itself, or experts [E, N, K] where the matrix is [E N, K].
#pragma once

#include "analysis/tensors.hpp"

namespace fp4scope::analysis {

class OriginalRows {
 public:
  /// Throws Error where the shapes don't fit: `padded_cols` is that of the checkpoint. `file` outlives this.
  OriginalRows(const io::TensorFile& file, const io::TensorInfo& tensor, std::int64_t rows, std::int64_t padded_cols,
               int block);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  /// [count, cols]. Memory for these, and for a slice along the first axis where that holds several rows.
  Matrix read(std::int64_t first, std::int64_t count);

 private:
  const io::TensorFile& file_;
  const io::TensorInfo& tensor_;
  std::int64_t rows_, cols_ = 0;
  std::int64_t per_slice_ = 1;  ///< rows in an element of the first axis
  std::int64_t slice_ = -1;     ///< the one kept
  std::vector<float> kept_;
};

}  // namespace fp4scope::analysis
