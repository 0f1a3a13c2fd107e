// Positive semidefinite matrices for Hessian searches, with their envelopes. Includes nothing of search/.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace fp4scope::blocks {

struct Matrix {
  std::string name;
  std::vector<double> h;
  std::vector<double> envelope;  ///< |h_ij| <= envelope_i * envelope_j
};

/// h_ij = entry(i, j).
template <typename Entry>
Matrix make_matrix(const char* name, int n, const Entry& entry) {
  Matrix m = {name, {}, {}};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) m.h.push_back(entry(i, j));
  }
  for (int i = 0; i < n; ++i) m.envelope.push_back(std::sqrt(m.h[static_cast<std::size_t>(i * n + i)]) * (1 + 0x1p-40));
  return m;
}

inline Matrix diagonal(const std::vector<double>& d) {
  return make_matrix("diagonal", static_cast<int>(d.size()), [&](int i, int j) { return i == j ? d[i] : 0; });
}

inline Matrix equal_correlation(int n, double variance, double covariance) {
  return make_matrix("equal correlation", n, [=](int i, int j) { return i == j ? variance : covariance; });
}

inline Matrix autoregressive(int n, double rho) {
  return make_matrix("autoregressive", n, [=](int i, int j) { return std::pow(rho, std::abs(i - j)); });
}

/// v v^T with v_i = sqrt(phase + i), alternating in sign; its rounding to binary64 is the matrix.
inline Matrix rank_one(int n, double phase) {
  const auto v = [=](int i) { return (i % 2 ? -1 : 1) * std::sqrt(phase + i + 1); };
  return make_matrix("rank one", n, [=](int i, int j) { return v(i) * v(j); });
}

/// Two directions, one a thousand times stronger at one channel.
inline Matrix outlier_channel(int n) {
  const auto v = [=](int i) { return i == n / 2 ? 1000.0 : 1 / (1.0 + i); };
  return make_matrix("outlier channel", n, [=](int i, int j) { return v(i) * v(j) + (i == j ? 0.3 : 0); });
}

inline std::vector<Matrix> matrices(int n) {
  std::vector<double> powers;
  for (int i = 0; i < n; ++i) powers.push_back(std::ldexp(1 + 0.1 * i, 40 * (i % 5) - 80));
  const auto zeros = std::vector<double>(static_cast<std::size_t>(n), 0.0);
  Matrix wide = diagonal(powers), zero = diagonal(zeros);
  wide.name = "wide diagonal";
  zero.name = "zero";
  return {autoregressive(n, 0.9), rank_one(n, 0.5), wide, outlier_channel(n), equal_correlation(n, 0.1, 0.03), zero};
}

}  // namespace fp4scope::blocks
