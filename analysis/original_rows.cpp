#include "analysis/original_rows.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "formats/error.hpp"

namespace fp4scope::analysis {

OriginalRows::OriginalRows(const io::TensorFile& file, const io::TensorInfo& tensor, std::int64_t rows,
                           std::int64_t padded_cols, int block)
    : file_(file), tensor_(tensor), rows_(rows) {
  const std::string where = tensor.file + ", tensor " + tensor.name;
  if (!tensor.readable()) {
    throw Error(where, "is " + tensor.dtype.name + ", no original of quantized weights", "F32, F16, BF16 or F64 is");
  }
  const std::int64_t first = tensor.shape.empty() ? 1 : tensor.shape[0];
  const bool fits = rows > 0 && first > 0 && rows % first == 0 && tensor.elements() % rows == 0 &&
                    padded(tensor.elements() / rows, block) == padded_cols;
  if (!fits) {
    throw Error(where, fmt::format("its shape {} is not that of the checkpoint's weight, [{}, {}] as stored",
                                   tensor.shape_text(), rows, padded_cols));
  }
  cols_ = tensor.elements() / rows;
  per_slice_ = rows / first;
}

Matrix OriginalRows::read(std::int64_t first, std::int64_t count) {
  Matrix m = {count, cols_, {}, tensor_.dtype.name};
  if (per_slice_ == 1) {
    m.data = file_.read_rows(tensor_, first, count).data;
    return m;
  }
  m.data.reserve(static_cast<std::size_t>(count * cols_));
  for (std::int64_t row = first; row < first + count;) {
    if (row / per_slice_ != slice_) {
      slice_ = row / per_slice_;
      kept_ = file_.read_rows(tensor_, slice_, 1).data;
    }
    const std::int64_t within = row % per_slice_, take = std::min(per_slice_ - within, first + count - row);
    const auto begin = kept_.begin() + within * cols_;
    m.data.insert(m.data.end(), begin, begin + take * cols_);
    row += take;
  }
  return m;
}

}  // namespace fp4scope::analysis
