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

/// What quantizing a tensor needs to know of the whole of it, gathered in pieces from its first row to its last.
class Survey {
 public:
  explicit Survey(std::int64_t cols) : cols_(cols) {}
  /// Of a tensor whose values are finite and of that magnitude at most.
  static Survey of_finite(std::int64_t cols, float amax);
  void add(const Matrix& piece);

  float finite_amax() const { return finite_amax_; }  ///< the largest finite magnitude
  float amax() const { return amax_; }                ///< the largest magnitude, which may be Inf; NaN left out
  bool has_nan() const { return has_nan_; }
  /// The first non-finite value, as "row 3, column 17 is nan (2 such values in all)"; "" if all are finite.
  std::string describe_nonfinite() const;

 private:
  std::int64_t cols_;
  std::int64_t seen_ = 0, nonfinite_ = 0, first_nonfinite_ = 0;
  float finite_amax_ = 0, amax_ = 0, example_ = 0;
  bool has_nan_ = false;
};

/// Survey's of a whole matrix.
std::string describe_nonfinite(const Matrix& m);

/// FNV-1a of shape and bits, as 16 hex digits: tells whether two results are of the same data. Fed in pieces as Survey.
class ContentHash {
 public:
  ContentHash(std::int64_t rows, std::int64_t cols);  ///< of the whole tensor
  void add(const Matrix& piece);
  std::string text() const;

 private:
  void mix(std::uint64_t word) { hash_ = (hash_ ^ word) * 0x100000001B3u; }
  std::uint64_t hash_ = 0xCBF29CE484222325u;
};
std::string content_hash(const Matrix& m);

}  // namespace fp4scope::analysis
