// Synthetic weights and activations. Element (row, col) depends on seed and position alone (sim/random.hpp), so a
// tensor's bits do not depend on threads.
#pragma once

#include <string>

#include "analysis/matrix.hpp"

namespace fp4scope::analysis {

struct Distribution {
  std::string kind = "normal";  ///< one of distribution_names
  std::int64_t rows = 1024;
  std::int64_t cols = 1024;
  double sigma = 1;  ///< standard deviation; student_t: its scale parameter; llm: of an ordinary channel
  double dof = 5;    ///< student_t
  std::uint64_t seed = 1;
  std::string dtype = "bf16";  ///< f32, bf16 or f16: what the samples are rounded to
};

/// normal; laplace; student_t; uniform (mean 0, standard deviation sigma); llm: normal with a log-normal gain per
/// column (sigma 0.25) and 1 column in 128 eight times as large, the look of a projection beside outlier channels.
extern const std::vector<std::string> distribution_names;
extern const std::vector<std::string> sample_dtypes;

Matrix sample(const Distribution& d);
/// Rows [first, first + count) of it.
Matrix sample_rows(const Distribution& d, std::int64_t first, std::int64_t count);

/// Synthetic layer inputs [tokens, cols]: neighbouring channels correlated as correlation^|i - j| (an AR(1) process
/// along the channels), each channel with a log-normal gain, a share of the channels `outlier_gain` times as large.
struct SyntheticActivations {
  std::int64_t tokens = 256;
  double correlation = 0.9;
  double outlier_share = 0.01;
  double outlier_gain = 20;
  std::uint64_t seed = 1;
};

Matrix sample(const SyntheticActivations& a, std::int64_t cols);

}  // namespace fp4scope::analysis
