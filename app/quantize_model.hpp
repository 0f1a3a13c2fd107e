// The part of `quantize` that takes a model's folder: --as.
#pragma once

#include "analysis/quantize_model.hpp"

namespace fp4scope::app {

/// The exit code. `options` has the words; what every run has is filled in.
int run_quantize_model(analysis::QuantizeModelOptions& options, bool json);

}  // namespace fp4scope::app
