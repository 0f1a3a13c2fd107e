// The H and the search space that tests of whole rows begin with.
#pragma once

#include "search/full_hessian.hpp"
#include "tests/search/rows.hpp"

namespace fp4scope::rows {

inline search::FullHessian hessian_of(Activations family, std::int64_t tokens, std::int64_t cols, std::uint64_t seed) {
  const std::vector<float> x = activations(family, tokens, cols, seed);
  return search::make_full_hessian(x.data(), tokens, cols);
}

/// NVFP4 with an amax tensor scale.
inline search::SearchSpace nvfp4_space(const std::vector<float>& x) {
  const float amax = sim::amax(x.data(), static_cast<std::int64_t>(x.size()));
  return search::make_space(formats::nvfp4, sim::tensor_scale(amax, 6, 448), sim::six_rule);
}

}  // namespace fp4scope::rows
