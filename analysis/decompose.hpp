// `decompose`: everything that is known about the squared error of each tensor of a file.
//
// A tensor is quantized as `quantize` does it, and its error is taken apart four ways: by term (terms.hpp), by step
// (causes.hpp), by place (places.hpp) and, with layer inputs, by who made the layer's output error (layer_error.hpp).
// What would help is measured, not guessed: the tensor is quantized again with other words.
#pragma once

#include <atomic>

#include "analysis/causes.hpp"
#include "analysis/layer_error.hpp"
#include "analysis/metrics.hpp"
#include "analysis/places.hpp"
#include "analysis/tensors.hpp"
#include "analysis/terms.hpp"
#include "analysis/transform.hpp"

namespace fp4scope::analysis {

/// The same tensor quantized with other words.
struct Remedy {
  std::string words;  ///< what differs, as on the command line: "--tensor-scale amax"
  double sse = 0;
};

/// Block scales by kind. A tile counts once, a block of zeros not at all: any scale would do.
struct ScaleShares {
  std::int64_t blocks = 0;
  std::int64_t subnormal = 0;  ///< above 0 and below the least normal one; power-of-two scales have none
  std::int64_t zero = 0;
  std::int64_t largest = 0;
};

struct Decomposition {
  std::string name;
  Shape2d shape{};  ///< as quantized
  QuantizeConfig config;
  Transform transform;
  Metrics metrics;  ///< output_error by the weights alone, NaN without inputs
  Terms terms;
  Causes causes;
  Places places;
  ScaleShares scales;
  std::vector<Remedy> remedies;
  std::optional<LayerError> layer;  ///< inputs quantized too: the same format and block, naive
};

struct DecomposeOptions {
  std::string in;
  QuantizeWords words;  ///< `config` is what parse_config makes of them
  QuantizeConfig config;
  Transform transform;
  std::vector<std::string> tensors = {"*"};
  std::vector<std::string> exclude;
  std::string activations;  ///< "FILE:NAME", "" for none
  Notice notice;
  std::function<void(double done, const std::string& what)> progress;
  const std::atomic<bool>* stop = nullptr;
};

/// What is worth trying in place of these words, as words, each with its text: an amax tensor scale where there is
/// none or a given one, the scales of least squared error, both. Empty for methods with another aim than squared error.
std::vector<std::pair<std::string, QuantizeWords>> remedies_for(const QuantizeWords& words,
                                                                const QuantizeConfig& config);

struct Curvature;

/// One tensor, transformed already. `x` [tokens, cols] in the same basis, `curvature` for a Hessian method; null
/// without. Throws Error where data or stored values are not finite. Stopped: without its parts.
Decomposition decompose(const DecomposeOptions& options, const std::string& name, const Matrix& m,
                        const Matrix* x = nullptr, const Curvature* curvature = nullptr);

/// Every tensor that is chosen, in the order of the file. Interrupted: an empty list.
std::vector<Decomposition> decompose_file(const DecomposeOptions& options);

}  // namespace fp4scope::analysis
