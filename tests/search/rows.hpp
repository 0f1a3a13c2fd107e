// Weights and activations for methods that look at whole rows. Includes nothing of search/.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace fp4scope::rows {

enum class Activations { autoregressive, common, outliers, independent };

inline constexpr Activations all_activations[] = {Activations::autoregressive, Activations::common,
                                                  Activations::outliers, Activations::independent};

inline std::vector<float> normal(std::int64_t count, double sigma, std::uint64_t seed) {
  std::mt19937_64 words(seed);
  std::normal_distribution<double> distribution(0, sigma);
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = static_cast<float>(distribution(words));
  return x;
}

/// [tokens, cols]: neighbours that correlate by 0.9, a direction that all columns share, columns of 20 times the size.
inline std::vector<float> activations(Activations family, std::int64_t tokens, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 words(seed);
  std::normal_distribution<double> distribution;
  std::vector<float> x;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const double shared = distribution(words);
    double before = distribution(words);
    for (std::int64_t j = 0; j < cols; ++j) {
      double value = distribution(words);
      if (family == Activations::autoregressive) value = before = 0.9 * before + std::sqrt(0.19) * value;
      if (family == Activations::common) value += shared;
      if (family == Activations::outliers && j % 16 == 7) value *= 20;
      x.push_back(static_cast<float>(value));
    }
  }
  return x;
}

}  // namespace fp4scope::rows
