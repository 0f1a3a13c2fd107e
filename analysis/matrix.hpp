// The shape that everything here computes on: rows of binary32 values, blocks along the columns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fp4scope::analysis {

/// [rows, cols], row-major.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> data;
  std::string dtype = "F32";  ///< where the values come from, as safetensors names it

  std::int64_t size() const { return rows * cols; }
  const float* row(std::int64_t r) const { return data.data() + r * cols; }
};

/// The least multiple of `block` that holds `cols`.
constexpr std::int64_t padded(std::int64_t cols, int block) { return (cols + block - 1) / block * block; }

/// The same matrix with zero columns appended up to a multiple of `block`.
Matrix pad_columns(const Matrix& m, int block);

/// [cols, rows].
Matrix transpose(const Matrix& m);

/// The first non-finite value, as "row 3, column 17 is nan (2 such values)"; "" if all are finite.
std::string describe_nonfinite(const Matrix& m);

/// FNV-1a of shape and bits, as 16 hex digits: tells whether two results are of the same data.
std::string content_hash(const Matrix& m);

}  // namespace fp4scope::analysis
